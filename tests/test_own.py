"""Your own model and file: a tiny Llama without pad token or chat template, and transcripts as hh-rlhf's."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest

from rlhf_kit import cli, stages
from rlhf_kit.course import source_key
from rlhf_kit.errors import KitError
from rlhf_kit.runs import Ledger, write_rows

REAL = Path(__file__).resolve().parents[2] / "shared" / "realdata"
SIZES = {
    "model.max_length": 256, "sampling.max_new_tokens": 12, "sampling.n": 4, "data.heldout_pairs": 16,
    "data.prompts_per_iteration": 12, "data.choose_prompts": 6, "data.eval_prompts": 10,
    "sft.learning_rate": 1e-2, "evaluation.bootstrap": 50, "evaluation.best_of": "[1, 2]",
    "evaluation.best_of_prompts": 4,
}  # fmt: skip


def transcript(*turns):
    speakers = ("Human", "Assistant")
    return "".join(f"\n\n{speakers[i % 2]}: {text}" for i, text in enumerate(turns))


def pair(question, good, bad):
    return {"chosen": transcript(question, good), "rejected": transcript(question, bad)}


@pytest.fixture(scope="module")
def own_model(tmp_path_factory):
    """As stories260K is: BOS and EOS, but no pad token and no chat template."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers import models as tokenizer_models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

    raw = Tokenizer(tokenizer_models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    raw.train_from_iterator(["tell me of the red thing and the blue one"] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("own") / "model"
    tokenizer.save_pretrained(folder)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def own_pairs(tmp_path_factory):
    """108 sound pairs and one each: too long, no shared prompt, no answer, equal answers."""
    colours = ("red", "blue", "green", "black", "white", "grey")
    things = ("cat", "lamp", "bird", "boat", "tree", "road")
    rows = [
        pair(f"{ask} the {a} {b}.", f"It is {a}.", "No." + " No." * (len(a) % 3))
        for ask in ("Tell me of", "Draw", "Find") for a in colours for b in things
    ]  # fmt: skip
    rows += [
        pair("Say much. " + "And more. " * 40, "Fine.", "No."),
        {"chosen": transcript("One?", "Yes."), "rejected": transcript("Two?", "No.")},
        pair("Silent?", "Yes.", ""),
        pair("Same?", "Yes.", "Yes."),
    ]
    path = tmp_path_factory.mktemp("own-pairs") / "pairs.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as handle:
        handle.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def go(model, pairs, *arguments, **sets):
    sets = {"model.path": model, "data.preferences": pairs, **sets}
    options = (x for name, value in sets.items() for x in ("--set", f"{name}={value}"))
    return cli.main(["run", "--profile", "byo", *arguments, *options])


def test_two_lessons_run_on_an_own_model_and_file(own_model, own_pairs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RLHF_KIT_RUNS", str(tmp_path))
    monkeypatch.setenv("RLHF_KIT_THREADS", "1")
    status = go(own_model, own_pairs, "--only", "01,09", **SIZES)
    said = capsys.readouterr().out
    assert status == 0, said
    assert "112 rows, 109 usable pairs" in said
    assert "do not share all turns before the last one (line 110)" in said
    assert "no chat template" in said and "<|pad|>" in said
    faults = "1 prompt_mismatch, 1 empty_response, 1 identical_responses"
    assert f"preferences: 112 rows in, 109 out, dropped: {faults}" in said
    assert "1 longer than model.max_length" in said
    for name in ("01_preferences", "09_evaluation"):
        book = nbformat.read(tmp_path / "byo" / "notebooks" / f"{name}.ipynb", 4)
        outputs = [o for c in book.cells if c.cell_type == "code" for o in c.outputs]
        text = "".join(o.get("text", "") for o in outputs)
        assert not [o for o in outputs if o.output_type == "error"]
        assert "nan" not in text.split()
    assert "reward model on held-out labels" in text and "chance" in text
    assert "Not known: whether people would prefer the new answers" in text


def test_pad_is_not_eos_and_eos_is_learnt(own_model, own_pairs, tmp_path):
    own = {"model.path": str(own_model), "data.preferences": str(own_pairs), "sft.epochs": 8}
    overrides = {**SIZES, **own, "evaluation.best_of": [1, 2]}
    course = stages.start("byo", run="own", root=tmp_path, overrides=overrides, quiet=True)
    sft = stages.sft(course)
    from rlhf_kit import models

    tokenizer = models.load_tokenizer(stages.model_folder(sft))
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id, tokenizer.bos_token_id)
    ended = [row["finish_reason"] == "stop" for row in stages.responses(course, sft, "choose").rows()]
    assert sum(ended) > len(ended) / 2
    # rows in = rows out + dropped, and the long prompt is asked of nobody
    cleaning, split = (Ledger(**one).check() for one in stages.preferences(course).manifest["ledger"])
    assert (cleaning.rows_in, cleaning.rows_out, split.rows_in) == (112, 109, 109)
    asked = stages.prompt_table(course).rows()["prompt"]
    assert len(asked) == 28 and not [p for p in asked if p[-1]["content"].startswith("Say much")]
    reasons = [one.reason for one in stages.left_out(course, 9)]
    assert reasons == ["prompt_mismatch", "empty_response", "identical_responses"]


STOP = {"data.bad_rows": "stop"}
GOOD, ALSO_GOOD = (json.dumps(pair(question, "So.", "No.")) for question in ("How?", "Why?"))


@pytest.mark.parametrize(
    ("line", "sets", "message"),
    [
        (b'{"chosen": "\\n\\nHuman', {}, "pairs.jsonl, line 3: is not valid JSON"),
        (json.dumps({"chosen": transcript("a", "b")}).encode(), {}, "pairs.jsonl, line 3: has no 'rejected'"),
        (b'{"chosen": "caf\xe9"}', {}, "pairs.jsonl, line 3: is not UTF-8 text"),
        (json.dumps(pair("a", "b", "")).encode(), STOP, "line 3: has an empty 'rejected' answer"),
        (json.dumps(pair("a", "b", "b")).encode(), STOP, "line 3: has equal chosen and rejected"),
        (
            json.dumps({"chosen": transcript("a", "b"), "rejected": transcript("c", "b")}).encode(),
            STOP,
            "line 3: has chosen and rejected conversations that differ before their last turn",
        ),
        (GOOD.encode(), {"data.prefrences": 1}, "'data.prefrences'; did you mean 'data.preferences'?"),
        (GOOD.encode(), {"model.path": "/nowhere/model"}, "the model path /nowhere/model does not exist"),
        (GOOD.encode(), {"data.preferences": "/nowhere/p.jsonl"}, "/nowhere/p.jsonl: no such file or folder"),
        (GOOD.encode(), {"model.max_length": 1024}, "has 256 positions; --set model.max_length=256"),
        (GOOD.encode(), {}, "pairs.jsonl: 2 of its 2 usable pairs fit into model.max_length = 256 tokens"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    own_model, tmp_path, monkeypatch, capsys, line, sets, message
):
    monkeypatch.setenv("RLHF_KIT_RUNS", str(tmp_path / "runs"))
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"\n".join([GOOD.encode(), ALSO_GOOD.encode(), line]) + b"\n")
    assert go(own_model, path, **{"model.max_length": 256, **sets}) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def plain_pairs(n):
    return "".join(json.dumps({"prompt": f"What is thing {i}?", "chosen": f"It is {i}.", "rejected": "No."}) + "\n" for i in range(n))


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([f"Else {i}?" for i in range(3)] * 9, "it holds 3 different prompts; sampling, choosing and testing need 30: give more"),
        ([f"What is thing {i}?" for i in range(60)], "0 of its 60 different prompts are not in"),
    ],
)
def test_prompts_that_cannot_be_dealt_are_refused_at_the_start(own_model, tmp_path, monkeypatch, capsys, prompts, message):
    monkeypatch.setenv("RLHF_KIT_RUNS", str(tmp_path / "runs"))
    (tmp_path / "pairs.jsonl").write_text(plain_pairs(80))
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": one}) + "\n" for one in prompts))
    assert go(own_model, tmp_path / "pairs.jsonl", **{**SIZES, "data.prompts": tmp_path / "prompts.jsonl"}) == 2
    error = capsys.readouterr().err
    assert f"prompts.jsonl: {message}" in error and error.count("\n") == 1 and not (tmp_path / "runs").exists()


def test_repeated_pairs_are_told_where_too_few_are_left(own_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RLHF_KIT_RUNS", str(tmp_path / "runs"))
    (tmp_path / "pairs.jsonl").write_text(plain_pairs(1) * 80)
    assert go(own_model, tmp_path / "pairs.jsonl", **SIZES) == 2
    error = capsys.readouterr().err
    assert "1 of its 1 usable pairs" in error and "(left out 79: " in error and error.count("\n") == 1


def test_the_ablation_is_refused_where_its_second_iteration_would_find_no_prompts(own_model, tmp_path):
    from rlhf_kit import inputs, profiles

    (tmp_path / "pairs.jsonl").write_text(plain_pairs(80))
    own = {"model.path": str(own_model), "data.preferences": str(tmp_path / "pairs.jsonl")}
    with pytest.raises(KitError, match="--param ABLATION=true trains for two iterations, and data.iterations is 1"):
        inputs.check_ablation(profiles.load_profile("byo", own))
    for fine in ({"data.iterations": 2}, {"data.prompts": "prompts.jsonl"}):
        inputs.check_ablation(profiles.load_profile("byo", {**own, **fine}))
    inputs.check_ablation(profiles.load_profile("laptop", {"data.iterations": 1}))


def test_the_ablation_of_one_iteration_starts_nothing(own_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RLHF_KIT_RUNS", str(tmp_path / "runs"))
    (tmp_path / "pairs.jsonl").write_text(plain_pairs(80))
    assert go(own_model, tmp_path / "pairs.jsonl", "--only", "08", "--param", "ABLATION=true", **SIZES) == 2
    error = capsys.readouterr().err
    assert "add --set data.iterations=2, or leave ABLATION out" in error and error.count("\n") == 1 and not (tmp_path / "runs").exists()


def test_bad_rows_can_be_counted_instead(own_pairs, own_model, tmp_path):
    from rlhf_kit import inputs, profiles

    path = tmp_path / "pairs.jsonl"
    with gzip.open(own_pairs, "rb") as handle:
        path.write_bytes(handle.read() + b"not json\n")
    values = {"model.path": str(own_model), "model.max_length": 256, "data.preferences": str(path)}
    with pytest.raises(KitError, match="line 113: is not valid JSON.*data.bad_rows=drop"):
        inputs.check(profiles.load_profile("byo", values))
    told = inputs.check(profiles.load_profile("byo", values | {"data.bad_rows": "drop"}))
    assert "113 rows, 109 usable pairs" in told[1] and "the row cannot be parsed (line 113)" in told[1]


@pytest.mark.skipif(not REAL.is_dir(), reason="the public data files ../shared/realdata are not here")
def test_real_files_are_looked_at_before_the_run(stories_folder):
    from rlhf_kit import inputs, profiles

    def look(name):
        values = {"model.path": str(stories_folder), "data.preferences": str(REAL / name)}
        return inputs.check(profiles.load_profile("byo", values))

    model, pairs = look("hh-rlhf/harmless-base-test.jsonl.gz")
    assert "2,312 rows, 2,299 usable pairs" in pairs
    assert "left out 5: chosen and rejected do not share all turns before the last one" in pairs
    assert "no chat template" in model and "pad" in model
    with pytest.raises(KitError, match="21 of its 294 usable pairs fit into model.max_length = 512"):
        look("llama-factory/dpo_en_demo.json")  # long answers, and a vocabulary of 512
    with pytest.raises(KitError, match="unpaired labels"):
        look("llama-factory/kto_en_demo.json")


# ---------------------------------------------------------------- sets in the hub's format, one for each iteration


def parquet(folder, rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    for index in range(2):
        path = folder / f"train-{index:05d}-of-00002.parquet"
        pq.write_table(pa.Table.from_pylist(rows[index::2]), path)


def talk(question, answer=None):
    turns = [{"content": question, "role": "user"}]
    return [*turns, {"content": answer, "role": "assistant"}] if answer else turns


@pytest.fixture
def released(tmp_path, monkeypatch):
    """Copies of the released sets as the profiles colab, gpu and paper name them."""
    root = tmp_path / "copies"
    pairs = [{"rejected": talk(f"pair {i}", "no"), "rejected_score": None, "chosen_score": None,
              "chosen": talk(f"pair {i}", "yes")} for i in range(80)]  # fmt: skip
    parquet(root / "hendrydong" / "preference_700K" / "data", pairs)
    for t in (1, 2, 3, 4):
        rows = [{"context_messages": talk(f"set {t} prompt {i}")} for i in range(12)]
        rows += [{"context_messages": talk(said)} for said in ("pair 3", "set 1 prompt 5")]
        parquet(root / f"RLHFlow--iterative-prompt-v1-iter{t}-20K" / "data", rows)
    demonstrations = [{"messages": talk(f"demo {i}", "so")} for i in range(9)]
    demonstrations += [{"messages": talk(f"set {t} prompt {i}", "so")} for t in (1, 4) for i in range(12)]
    parquet(root / "RLHFlow" / "RLHFlow-SFT-Dataset-ver2" / "data", demonstrations)
    monkeypatch.setenv("RLHF_KIT_DATA", str(root))
    return root


def start(own_model, tmp_path, **sets):
    named = {
        "data.preferences": "hendrydong/preference_700K", "data.sft": "RLHFlow/RLHFlow-SFT-Dataset-ver2",
        "data.prompts": "RLHFlow/iterative-prompt-v1-iter{iteration}-20K", "data.prompts_per_iteration": 8,
        "data.sft_rows": 5, "data.iterations": 3, "model.path": str(own_model),
    }  # fmt: skip
    overrides = {**SIZES, "evaluation.best_of": [1, 2], **named, **sets}
    return stages.start("byo", run="hub", root=tmp_path / "runs", overrides=overrides, quiet=True)


def by_split(course):
    found = {}
    for row in stages.prompt_table(course).rows():
        found.setdefault(row["split"], []).append(row["prompt"][-1]["content"])
    return found


def test_each_iteration_has_its_own_set_and_the_next_one_serves_for_testing(own_model, tmp_path, released):
    course = start(own_model, tmp_path)
    told = inputs_check(course)
    assert told  # the model is looked at; the sets are left to the run
    found = by_split(course)
    assert {split: len(prompts) for split, prompts in found.items()} == {
        "iteration-1": 8, "iteration-2": 8, "iteration-3": 8, "eval": 7, "choose": 4}  # fmt: skip
    for split, prompts in found.items():
        number = {"eval": "4", "choose": "4"}.get(split, split[-1])
        assert {said.split()[1] for said in prompts} == {number}
    ledgers = [Ledger(**one).check() for one in stages.prompt_table(course).manifest["ledger"]]
    read = [one for one in ledgers if one.stage.startswith("prompts-read-")]
    # "pair 3" is in every set: an iteration may ask it again unless it is held out, a test may not ask it at all
    train = {row["prompt"][-1]["content"] for row in stages.preferences(course).rows("train.parquet")}
    held = [int("pair 3" not in train)] * 4
    assert [one.dropped["also in the preference pairs"] for one in read] == held
    assert "pair 3" not in found["eval"] + found["choose"]
    assert [one.dropped["repeated"] for one in read] == [1, 1, 1, 1]
    demos = stages.demonstrations(course)
    said = [row["messages"][0]["content"] for row in demos.rows()]
    assert len(said) == 5 and not [text for text in said if text in found["eval"]]
    stages.assert_disjoint(course)


def test_iterations_may_ask_what_training_pairs_ask_and_tests_may_not(own_model, tmp_path, released):
    """The paper's prompt sets come from the sources of its preference data: nearly all of a set may stand in the pairs."""
    for t in (1, 2, 3, 4):
        rows = [{"context_messages": talk(f"pair {i}")} for i in range(t, 80, 4)]
        rows += [{"context_messages": talk(f"set {t} prompt {i}")} for i in range(12 if t == 4 else 0)]
        folder = released / f"RLHFlow--iterative-prompt-v1-iter{t}-20K" / "data"
        shutil.rmtree(folder)
        parquet(folder, rows)
    course = start(own_model, tmp_path)
    found, pairs = by_split(course), stages.preferences(course)
    train, held = ({row["prompt"][-1]["content"] for row in pairs.rows(f"{name}.parquet")} for name in ("train", "heldout"))
    assert [len(found[f"iteration-{t}"]) for t in (1, 2, 3)] == [8, 8, 8]
    asked = {said for t in (1, 2, 3) for said in found[f"iteration-{t}"]}
    assert asked <= train and not asked & held
    assert not {*found["eval"], *found["choose"]} & (train | held)
    ledger = Ledger(**stages.prompt_table(course).manifest["ledger"][-2]).check()
    assert ledger.stage == "prompts-to-test" and ledger.dropped["opens like a preference pair"] > 10
    stages.assert_disjoint(course)


def test_without_a_further_set_testing_takes_its_prompts_first(own_model, tmp_path, released):
    local_sets = str(tmp_path / "mine" / "iter{iteration}.jsonl")
    (tmp_path / "mine").mkdir()
    for t in (1, 2, 3):
        rows = [{"prompt": f"set {t} prompt {i}"} for i in range(20)]
        (tmp_path / "mine" / f"iter{t}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = by_split(start(own_model, tmp_path, **{"data.prompts": local_sets}))
    assert {split: len(prompts) for split, prompts in found.items()} == {
        "iteration-1": 8, "iteration-2": 8, "iteration-3": 8, "eval": 10, "choose": 6}  # fmt: skip
    assert {said.split()[1] for split in ("eval", "choose") for said in found[split]} == {"1", "2", "3"}
    assert sum(map(len, found.values())) == len({said for prompts in found.values() for said in prompts})
    key = stages.prompt_table(start(own_model, tmp_path, **{"data.prompts": local_sets})).key
    with open(tmp_path / "mine" / "iter3.jsonl", "a") as handle:
        handle.write('{"prompt": "one more"}\n')
    assert stages.prompt_table(start(own_model, tmp_path, **{"data.prompts": local_sets})).key != key


def test_a_later_turn_of_a_dialogue_that_trains_neither_tests_nor_chooses(own_model, tmp_path):
    """Of data.prompts: turns of the pairs' dialogues, dialogues at two of their turns, and single questions."""
    def turns(opening, *more):
        return [{"role": role, "content": said} for role, said in
                zip(("user", "assistant", "user"), (opening, *more), strict=False)]  # fmt: skip

    pairs = [pair(f"pair {i}", "yes", "no") for i in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    asked = [turns(f"pair {i}", "yes", "go on") for i in range(20)]
    asked += [turns(f"talk {i}", *more) for i in range(20) for more in ((), ("well", "and then?"))]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": one}) + "\n" for one in asked))
    sets = {"data.preferences": str(tmp_path / "pairs.jsonl"), "data.prompts": str(tmp_path / "prompts.jsonl")}
    course = start(own_model, tmp_path, **sets, **{"data.sft": "null", "data.iterations": 1})
    splits: dict[str, list] = {}
    for row in stages.prompt_table(course).rows():
        splits.setdefault(row["split"], []).append(row["prompt"][0]["content"])
    tests = [*splits["eval"], *splits["choose"]]
    assert len(tests) == len(set(tests)) > 4 and not [said for said in tests if said.startswith("pair")]
    assert splits["iteration-1"] and not set(splits["iteration-1"]) & set(tests)
    ledger = next(Ledger(**one).check() for one in stages.prompt_table(course).manifest["ledger"] if one["stage"] == "prompts-to-test")
    assert ledger.dropped == {"opens like a preference pair": 20, "another turn of the same dialogue": 20}
    stages.assert_disjoint(course)
    # a leak in what was written is found, and told by the dialogue's first words
    table, long = stages.prompt_table(course), f"pair 40 {'word ' * 20}"
    train, rows = stages.preferences(course).rows("train.parquet").to_list(), table.rows().to_list()
    leaks = ((train[0]["prompt"][0]["content"], "training"), (long, "iteration-1"))
    for opening, where in leaks:
        leak = [{**rows[0], "split": "eval", "prompt": turns(opening, "yes", "go on")}]
        leak += [{**rows[0], "split": where, "prompt": turns(opening)}] if where != "training" else []
        write_rows(table.path, [*rows, *leak])
        said = f"leak: a dialogue of 'eval' has another turn in '{where}'; it opens with {opening[:60]!r}"
        with pytest.raises(KitError, match=re.escape(said)):
            stages.assert_disjoint(course)


def test_more_iterations_than_the_profile_has_are_known_by_all_their_sets(own_model, tmp_path):
    sets = {"data.prompts": str(tmp_path / "iter{iteration}.jsonl"), "data.iterations": 1}
    sets |= {"data.preferences": str(tmp_path / "pairs.jsonl"), "data.sft": "null"}
    pairs = [pair(f"pair {i}", "yes", "no") for i in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    for t in (1, 2, 3):
        rows = [{"prompt": f"set {t} prompt {i}"} for i in range(20)]
        (tmp_path / f"iter{t}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    key = stages.prompt_table(start(own_model, tmp_path, **sets), iterations=3).key
    with open(tmp_path / "iter3.jsonl", "a") as handle:
        handle.write('{"prompt": "one more"}\n')
    assert stages.prompt_table(start(own_model, tmp_path, **sets), iterations=3).key != key


def test_a_folder_is_known_by_all_files_that_decide_what_it_is(tmp_path):
    """As a data set's copy (rows below the top, splits in the README), and as a model's."""
    seen = set()
    for name, text in (("config.json", "{}"), ("data/train-0.parquet", "1"), ("data/train-0.parquet", "2"), ("rows.jsonl.xz", "1"),
                       ("data-0.arrow", "1"), ("policy.gguf", "1"), ("merges.txt", "a b"), ("merges.txt", "b a")):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        os.utime(tmp_path / name, (len(seen), len(seen)))
        seen.add(source_key(str(tmp_path)))
    assert len(seen) == 8
    for name in (".cache/rows.json", "notes.txt", "README.md"):  # a model's card says nothing to the programs
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
        assert source_key(str(tmp_path)) in seen
    (tmp_path / "config.json").unlink()
    with_readme = source_key(str(tmp_path))
    (tmp_path / "README.md").write_text("other splits")
    assert source_key(str(tmp_path)) != with_readme


def test_a_set_that_is_not_here_is_one_sentence(own_model, tmp_path, released):
    course = start(own_model, tmp_path, **{"data.prompts": "RLHFlow/none-iter{iteration}"})
    with pytest.raises(KitError, match="RLHFlow/none-iter1 is not on this machine, and HF_HUB_OFFLINE forbids"):
        stages.prompt_table(course)


def inputs_check(course):
    from rlhf_kit import inputs

    return inputs.check(course.profile)
