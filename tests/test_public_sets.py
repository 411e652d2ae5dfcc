"""The public sets of the paper: rows written here in each set's own columns, the right pair, each filter's reason."""

from __future__ import annotations

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf_kit.chat import pair_messages
from rlhf_kit.errors import KitError
from rlhf_kit.preferences import REASONS, examine, load_preferences, load_with_ledger
from rlhf_kit.sources import public_sets
from rlhf_kit.sources.adapters import ADAPTERS, sniff
from rlhf_kit.sources.fields import STRUCTURAL, BadRow, Pair
from rlhf_kit.sources.public_adapters import PUBLIC
from rlhf_kit.sources.public_groups import GROUPS


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


# ---------------------------------------------------------------- rows with every column that the card lists


def shp(number=1, good="a", bad="b", label=1, scores=(9, 3), ratio=None):
    sides = (good, bad) if label else (bad, good)
    return {
        "post_id": f"p{number}", "domain": "askbaking_train", "upvote_ratio": 0.98, "history": f"Why {number}?",
        "c_root_id_A": "x", "c_root_id_B": "y", "created_at_utc_A": 2, "created_at_utc_B": 1,
        "score_A": scores[0] if label else scores[1], "score_B": scores[1] if label else scores[0],
        "human_ref_A": sides[0], "human_ref_B": sides[1], "labels": label, "seconds_difference": 5.0,
        "score_ratio": scores[0] / scores[1] if ratio is None else ratio,
    }  # fmt: skip


def helpsteer(prompt, response, helpfulness, correctness=2):
    return {
        "prompt": prompt, "response": response, "helpfulness": helpfulness, "correctness": correctness,
        "coherence": 4, "complexity": 1, "verbosity": 3,
    }  # fmt: skip


def pku(number=1, safe=(True, True), better=0, safer=0, answers=("a", "b")):
    return {
        "prompt": f"How {number}?", "response_0": answers[0], "response_1": answers[1],
        "is_response_0_safe": safe[0], "is_response_1_safe": safe[1], "better_response_id": better,
        "safer_response_id": safer,
    }  # fmt: skip


def ultrafeedback(instruction="2+2?", scores=(4.0, 2.5, 3.0, 2.5), overall=1.0):
    annotation = {"Rating": "4", "Rationale": "Fine."}
    return {
        "source": "evol_instruct", "instruction": instruction, "models": ["m0", "m1"], "correct_answers": ["None"],
        "incorrect_answers": ["None"],
        "completions": [
            {"annotations": {"helpfulness": annotation, "honesty": annotation}, "custom_system_prompt": "Be brief.",
             "principle": "helpfulness", "model": f"m{i}", "response": f"answer {i}", "critique": "So.",
             "overall_score": overall, "fine-grained_score": score}
            for i, score in enumerate(scores)
        ],
    }  # fmt: skip


def ultrainteract(chosen="Step 1", rejected="Step 0"):
    return {
        "task": "Math_CoT", "dataset": "gsm8k",
        "trajectory": [{"from": "user", "value": "Solve."}, {"from": "assistant", "value": "Step ?"},
                       {"from": "user", "value": "Your answer is wrong."}],
        "chosen": chosen, "rejected": rejected, "id": "1", "parent_id": "0",
    }  # fmt: skip


def code_ultrafeedback(ratings=("4", "2", "4", "N/A")):
    models = [f"m{i}" for i in range(len(ratings))]
    return {
        "instruction": "Sort it.", "preference": "readability", "models": models,
        "responses": [{"model": m, "response": f"code of {m}"} for m in models],
        "annotations": [{"model": m, "rating": r, "rationale": "So."} for m, r in zip(models[::-1], ratings[::-1], strict=True)],
    }  # fmt: skip


def argilla_math(chosen=9.0, rejected=7.0):
    return {
        "metadata": "{}", "instruction": "3*3?", "chosen_response": "9", "chosen_rating": chosen,
        "rejected_response": "6", "rejected_rating": rejected,
    }  # fmt: skip


def orca(status="swapped", rating=(7.0, 9.0), system="Think.", chosen="yes"):
    return {
        "system": system, "input": "Is it?", "chosen": chosen, "rejected": "no", "generations": ["no", "yes"],
        "order": ["rejected", "chosen"], "labelling_model": "gpt-4-1106-preview",
        "labelling_prompt": [user("Judge.")], "raw_labelling_response": "7 9",
        "rating": None if rating is None else list(rating), "rationale": "So.", "status": status,
        "original_chosen": "no", "original_rejected": "yes", "chosen_score": 9.0, "in_gsm8k_train": False,
    }  # fmt: skip


def capybara(rating=(5, 3)):
    shared = [user("hi"), assistant("hello"), user("a joke?")]
    return {
        "source": "Airoboros", "chosen": [*shared, assistant("knock knock")], "chosen_rating": rating[0],
        "chosen_model": "original", "rejected": [*shared, assistant("no")], "rejected_rating": rating[1],
        "rejected_model": "notus-7b-v1",
    }  # fmt: skip


def summarize(choice=1):
    return {
        "info": {"id": "t3", "post": "I did.", "title": "Did I?", "subreddit": "AskReddit", "site": None, "article": None},
        "summaries": [{"text": " bad", "policy": "sup1", "note": None}, {"text": " good", "policy": "ref", "note": None}],
        "choice": choice, "worker": "w", "batch": "b", "split": "train", "extra": {"confidence": None},
    }  # fmt: skip


def pair_prompt(context=("hi", "hello", "a joke?"), a="knock", b="no", letter="B"):
    turns = [(user, assistant)[i % 2](text) for i, text in enumerate(context)]
    return {"messages": [*pair_messages(turns, a, b), assistant(letter)]}


ROWS = {
    "shp": shp(),
    "pku": pku(),
    "ultrafeedback": ultrafeedback(scores=(4.0, 2.5)),
    "ultrainteract": ultrainteract(),
    "code_ultrafeedback": code_ultrafeedback(("4", "2")),
    "argilla_math": argilla_math(),
    "distilabel_orca": orca(),
    "distilabel_capybara": capybara(),
    "summarize": summarize(),
    "pair_prompt": pair_prompt(),
}
# what the row above turns into: prompt, chosen, rejected, scores
PAIRS = {
    "shp": ([user("Why 1?")], "a", "b", (9, 3)),
    "pku": ([user("How 1?")], "a", "b", (None, None)),
    "ultrafeedback": ([user("2+2?")], "answer 0", "answer 1", (4, 2.5)),
    "ultrainteract": ([user("Solve."), assistant("Step ?"), user("Your answer is wrong.")], "Step 1", "Step 0", (None, None)),
    "code_ultrafeedback": ([user("Sort it.")], "code of m0", "code of m1", (4, 2)),
    "argilla_math": ([user("3*3?")], "9", "6", (9, 7)),
    "distilabel_orca": ([{"role": "system", "content": "Think."}, user("Is it?")], "yes", "no", (9, 7)),
    "distilabel_capybara": ([user("hi"), assistant("hello"), user("a joke?")], "knock knock", "no", (5, 3)),
    "summarize": (
        [user("SUBREDDIT: r/AskReddit\nTITLE: Did I?\nPOST: I did.\nTL;DR:")], "good", "bad", (None, None)),
    "pair_prompt": ([user("hi"), assistant("hello"), user("a joke?")], "no", "knock", (None, None)),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_each_set_is_recognised_and_gives_the_right_pair(name):
    prompt, chosen, rejected, scores = PAIRS[name]
    assert sniff(ROWS[name]) == name
    (pair,) = ADAPTERS[name](ROWS[name])
    assert pair == Pair([*prompt, assistant(chosen)], [*prompt, assistant(rejected)], *scores)
    found, ledger = load_with_ledger([ROWS[name]])
    assert (ledger.rows_in, ledger.rows_out, ledger.dropped) == (1, 1, {})
    assert found[0]["prompt"] == prompt


def test_every_public_adapter_is_tried():
    assert set(ROWS) | {"helpsteer", "pku_safe"} == set(PUBLIC)


def counts(rows, adapter="auto", **options):
    found, ledger = load_with_ledger(rows, adapter, **options)
    return len(found), ledger.check().dropped


def test_shp_wants_twice_the_score_and_takes_five_of_a_prompt():
    rows = [shp(1, f"good {i}") for i in range(7)] + [shp(2, label=0), shp(3, scores=(4, 2)), shp(3, scores=(5, 2), bad="")]
    assert counts(rows) == (6, {"many_pairs": 2, "small_ratio": 1, "empty_response": 1})
    assert counts(rows, per_prompt=9) == (8, {"small_ratio": 1, "empty_response": 1})
    (pair,) = ADAPTERS["shp"](shp(2, label=0))
    assert (pair.chosen[-1]["content"], pair.chosen_score, pair.rejected_score) == ("a", 9, 3)
    without = {k: v for k, v in shp(4).items() if k != "score_ratio"}
    assert counts([without]) == (1, {})
    assert counts([shp(1), shp(2, scores=(3, 9), ratio=3.0)]) == (1, {"score_contradicts": 1})


def test_helpsteer_compares_all_responses_of_a_prompt_wherever_they_stand(tmp_path):
    rows = [
        helpsteer("p", "best", 4, 4), helpsteer("q", "alone", 1), helpsteer("p", "worst", 0), helpsteer("p ", "middle", 3, 1),
        helpsteer("p", "middle too", 2, 2),
    ]  # fmt: skip
    assert sniff(rows[0]) == "helpsteer"
    found, ledger = load_with_ledger(rows)
    assert (ledger.rows_in, ledger.rows_out, ledger.dropped) == (7, 5, {"tie": 1, "one_response": 1})
    pairs = {(r["chosen"][-1]["content"], r["rejected"][-1]["content"], r["margin"]) for r in found}
    assert pairs == {
        ("best", "worst", 3.0), ("best", "middle", 2.0), ("best", "middle too", 2.0), ("middle", "worst", 1.0),
        ("middle too", "worst", 1.0),
    }  # fmt: skip
    assert [one.place for one in examine(rows) if one.reason == "one_response"] == ["row 2"]
    shards(tmp_path / "helpsteer", rows, number=5)  # as the hub may cut it
    over_files = load_preferences("helpsteer", root=tmp_path)
    assert over_files["chosen"][:] == found["chosen"][:] and set(over_files["source"]) == {"helpsteer"}
    assert load_preferences(tmp_path / "helpsteer")["chosen"][:] == found["chosen"][:]
    with pytest.raises(KitError, match="the rows, row 2: has no 'correctness'"):
        load_preferences([rows[0], {"prompt": "p", "response": "x", "helpfulness": 3}, rows[2]])


@pytest.mark.parametrize(
    ("safe", "better", "chosen"),
    [((True, True), 1, "b"), ((False, False), 0, "a"), ((True, False), 1, "a"), ((False, True), 0, "b")],
)
def test_pku_prefers_the_one_safe_answer_else_the_better_one(safe, better, chosen):
    row = pku(safe=safe, better=better, safer=1 - better)
    (pair,) = ADAPTERS["pku"](row)
    assert pair.chosen[-1]["content"] == chosen
    rows = [row, pku(2)]
    assert counts(rows) == (2, {})
    unsafe = {} if any(safe) else {"both_unsafe": 1}
    assert counts(rows, "pku_safe") == (2 - len(unsafe), unsafe)


def test_ultrafeedback_takes_the_fine_grained_score_and_all_pairs_but_ties():
    assert counts([ultrafeedback()]) == (5, {"tie": 1})
    rows = [ultrafeedback(scores=(4.0, None, math.nan)), ultrafeedback("one?", (3.0,)), ultrafeedback("none?", ())]
    assert counts([ultrafeedback(), *rows], "ultrafeedback") == (5, {"tie": 1, "unscored": 3, "one_response": 2})
    found = load_preferences([ultrafeedback()])
    assert set(found["source"]) == {"evol_instruct"}  # the rows' own, as nobody said that this is the public set


def test_code_ultrafeedback_joins_ratings_by_model_and_counts_what_has_none():
    assert counts([code_ultrafeedback()]) == (2, {"tie": 1, "unscored": 3})
    assert counts([code_ultrafeedback(("10", "9"))])[0] == 1
    (pair,) = ADAPTERS["code_ultrafeedback"](code_ultrafeedback(("10", "9")))
    assert pair.chosen_score == 10  # as numbers: as texts "9" is above "10"


def test_distilabel_ties_and_missing_ratings_are_left_out():
    rows = [
        orca(), orca("tie", (9.0, 9.0), chosen="1"), orca("unchanged", (8.0, 8.0), chosen="2"),
        orca("unchanged", None, chosen="3"), orca("unchanged", (9.0, 1.0), system="", chosen="4"),
    ]  # fmt: skip
    assert counts(rows) == (2, {"tie": 2, "unscored": 1})
    assert load_preferences(rows)[1]["prompt"] == [user("Is it?")]
    binarized = {**capybara(), "prompt": "a text for the judge", "rating_chosen": 5, "rating_rejected": 5}
    binarized = {k: v for k, v in binarized.items() if k not in ("chosen_rating", "rejected_rating")}
    assert sniff(binarized) == "distilabel_capybara"
    assert counts([capybara(), binarized]) == (1, {"tie": 1})
    assert counts([argilla_math(), argilla_math(7.0, 7.0), argilla_math(1.0, 7.0)]) == (
        1, {"tie": 1, "score_contradicts": 1})  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_empty_and_equal_answers_are_counted_in_every_set(name):
    good = json.dumps(ROWS[name])
    _, chosen, rejected, _ = PAIRS[name]
    if name == "pair_prompt":
        empty, equal = pair_prompt(a="", letter="B"), pair_prompt(a="no", letter="B")
    else:
        empty = json.loads(good.replace(f'"{rejected}"', '" "').replace(f'" {rejected}"', '" "'))
        equal = json.loads(good.replace(f'"{rejected}"', f'"{chosen}"').replace(f'" {rejected}"', f'"{chosen}"'))
    assert counts([ROWS[name], empty, equal], name) == (1, {"empty_response": 1, "identical_responses": 1})


def test_a_pair_prompt_is_taken_apart_as_it_was_put_together():
    context = ("a [word] <turn>", "two\nlines", "  and so")
    (pair,) = ADAPTERS["pair_prompt"](pair_prompt(context, "x\n\ny", " z ", "A"))
    assert pair.chosen == [user("a [word] <turn>"), assistant("two\nlines"), user("and so"), assistant("x\n\ny")]
    assert pair.rejected[-1] == assistant("z")
    released = "[CONTEXT] \n\n<turn> user\n How?\n [RESPONSE A] This. [RESPONSE B] That. \n"
    (pair,) = ADAPTERS["pair_prompt"]({"messages": [user(released), assistant("B")]})
    assert (pair.chosen, pair.rejected[-1]) == ([user("How?"), assistant("That.")], assistant("This."))
    rows = [pair_prompt(), pair_prompt(a="see [RESPONSE B] there")]
    assert counts(rows) == (1, {"ambiguous": 1})


# One column renamed, as a later version of the set might have it.
RENAMED = [
    ("shp", "human_ref_A"), ("shp", "history"), ("shp", "labels"), ("shp", "score_B"), ("helpsteer", "correctness"),
    ("helpsteer", "response"), ("pku", "is_response_1_safe"), ("pku", "response_0"), ("pku", "better_response_id"),
    ("ultrafeedback", "completions"), ("ultrafeedback", "completions.fine-grained_score"),
    ("ultrainteract", "trajectory"), ("ultrainteract", "chosen"), ("code_ultrafeedback", "annotations"),
    ("code_ultrafeedback", "annotations.rating"), ("code_ultrafeedback", "responses.response"),
    ("argilla_math", "chosen_rating"), ("argilla_math", "rejected_response"), ("distilabel_orca", "status"),
    ("distilabel_orca", "rating"), ("distilabel_orca", "input"), ("distilabel_capybara", "rejected_rating"),
    ("distilabel_capybara", "chosen"), ("summarize", "choice"), ("summarize", "info"), ("pair_prompt", "messages"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "path"), RENAMED)
def test_a_renamed_column_is_one_sentence_that_names_set_row_and_column(tmp_path, name, path):
    row = json.loads(json.dumps(helpsteer("p", "a", 1) if name == "helpsteer" else ROWS[name]))
    column, _, inner = path.partition(".")
    for holder in row[column] if inner else [row]:
        holder["renamed"] = holder.pop(inner or column)
    one = next(one for one in public_sets.SETS.values() if one.adapter == name)
    (tmp_path / f"{one.name}.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(KitError) as caught:
        load_preferences(one.name, root=tmp_path)
    told = str(caught.value)
    assert told.startswith(f"{one.name} ({tmp_path / one.name}.jsonl), line 1: has no {inner or column!r}")
    assert "\n" not in told


# ---------------------------------------------------------------- copies of the hub on this machine


def shards(folder, rows, split="train", number=2):
    """Parquet files as the hub names them."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        part = rows[index * len(rows) // number : (index + 1) * len(rows) // number]
        pq.write_table(pa.Table.from_pylist(part), folder / f"{split}-{index:05d}-of-{number:05d}.parquet")


@pytest.mark.parametrize("place", ["stanfordnlp/SHP", "stanfordnlp--SHP", "SHP", "shp"])
@pytest.mark.parametrize("asked", ["shp", "stanfordnlp/SHP", "stanfordnlp/shp"])
def test_a_copy_is_found_by_name_or_id_and_only_its_train_split_is_read(tmp_path, place, asked):
    shards(tmp_path / place / "data", [shp(i) for i in range(8)])
    shards(tmp_path / place / "data", [shp(100)], "test", 1)
    found, ledger = load_with_ledger(asked, root=tmp_path)
    assert found["prompt"][:] == [[user(f"Why {i}?")] for i in range(8)]
    assert (set(found["source"]), ledger.rows_in) == ({"shp"}, 8)
    assert len(load_preferences(asked, root=tmp_path, split="test")) == 1
    with pytest.raises(KitError, match="no split 'dev' .it has: 'train', 'test'"):
        load_preferences(asked, root=tmp_path, split="dev")


def test_hh_is_its_three_helpful_folders(tmp_path):
    for folder in ("helpful-base", "helpful-online", "helpful-rejection-sampled", "harmless-base"):
        (tmp_path / "hh-rlhf" / folder).mkdir(parents=True)
        for split in ("train", "test"):
            said = {side: f"\n\nHuman: {folder} {split}\n\nAssistant: {side}" for side in ("chosen", "rejected")}
            (tmp_path / "hh-rlhf" / folder / f"{split}.jsonl").write_text(json.dumps(said) + "\n")
    found = load_preferences("Anthropic/hh-rlhf", root=tmp_path)
    assert [row["prompt"][0]["content"] for row in found] == [
        "helpful-base train", "helpful-rejection-sampled train", "helpful-online train"]  # fmt: skip
    (tmp_path / "hh-rlhf" / "helpful-online" / "train.jsonl").unlink()
    (tmp_path / "hh-rlhf" / "helpful-online" / "test.jsonl").unlink()
    (tmp_path / "hh-rlhf" / "helpful-online").rmdir()
    with pytest.raises(KitError, match="has 'helpful-base' but no 'helpful-online'"):
        load_preferences("hh-rlhf", root=tmp_path)


def test_the_authors_conversion_is_read_as_it_is(tmp_path):
    rows = [{"rejected": [user("q"), assistant("b")], "chosen": [user("q"), assistant(f"a{i}")], "chosen_score": "4",
             "rejected_score": score} for i, score in enumerate(("2", "N/A"))]  # fmt: skip
    shards(tmp_path / "RLHFlow--CodeUltraFeedback-standard" / "data", rows)
    found, ledger = load_with_ledger("code-ultrafeedback", root=tmp_path, standard=True)
    assert found["chosen_score"][:] == [4.0, 4.0] and found["rejected_score"][:] == [2.0, None]
    assert set(found["source"]) == {"code-ultrafeedback"} and ledger.rows_in == 2
    assert len(load_preferences("RLHFlow/CodeUltraFeedback-standard", root=tmp_path)) == 2


def test_the_released_mixture_is_read_by_its_id(tmp_path, monkeypatch):
    rows = [{"rejected": [user(f"q{i}"), assistant("b")], "rejected_score": None if i % 2 else 1.0,
             "chosen_score": None if i % 2 else 2.0, "chosen": [user(f"q{i}"), assistant("a")]} for i in range(6)]  # fmt: skip
    shards(tmp_path / "hendrydong" / "preference_700K" / "data", rows, number=3)
    monkeypatch.setenv("RLHF_KIT_DATA", str(tmp_path))
    found = load_preferences("hendrydong/preference_700K")
    assert found["prompt"][:] == [[user(f"q{i}")] for i in range(6)]
    assert found["margin"][:] == [1.0, None] * 3
    assert len(load_preferences("hendrydong/preference_700K", limit=4)) == 4
    monkeypatch.setenv("RLHF_KIT_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(KitError, match="RLHF_KIT_DATA must be a folder"):
        load_preferences("hendrydong/preference_700K")


def test_any_hub_id_has_its_copy_under_the_root(tmp_path):
    shards(tmp_path / "me--mine", [{"prompt": "q", "chosen": "a", "rejected": "b"}], number=1)
    assert load_preferences("me/mine", root=tmp_path)["prompt"][:] == [[user("q")]]


@pytest.mark.parametrize("asked", ["shp", "openbmb/UltraFeedback", "mix2", "some/other"])
def test_without_copy_and_network_it_is_one_sentence(asked, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(KitError, match="is not on this machine, and HF_HUB_OFFLINE forbids") as caught:
        load_preferences(asked)
    assert "\n" not in str(caught.value)


def test_hub_sets_are_asked_for_with_subset_folder_and_streaming(monkeypatch):
    import datasets

    asked = []

    def load(name, subset, split, **options):
        asked.append((name, subset, split, options))
        if name == "openai/summarize_from_feedback":
            return iter([summarize()] * 3)
        said = {side: f"\n\nHuman: {len(asked)}\n\nAssistant: {side}" for side in ("chosen", "rejected")}
        return iter([said])

    monkeypatch.setattr("rlhf_kit.hub.require", lambda name: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert len(load_preferences("hh-rlhf", streaming=True)) == 3
    assert counts("summarize") == (1, {"duplicate": 2})
    folders = ("helpful-base", "helpful-rejection-sampled", "helpful-online")
    assert asked[:3] == [("Anthropic/hh-rlhf", None, "train", {"data_dir": f, "streaming": True}) for f in folders]
    branch = {"data_dir": "comparisons", "revision": "refs/convert/parquet"}
    assert asked[3] == ("openai/summarize_from_feedback", None, "train", branch)


def test_a_network_that_breaks_while_rows_stream_in_is_told_with_the_place(monkeypatch):
    import datasets

    def rows():
        yield shp(1)
        raise ConnectionError("reset\nby peer")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("rlhf_kit.hub.require", lambda name: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows())
    with pytest.raises(KitError, match=r"stanfordnlp/SHP.* cannot be reached.*\(after row 1\)"):
        load_preferences("shp", streaming=True)


# ---------------------------------------------------------------- anything at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["N/A", "tie", "A", "[CONTEXT] \n\n<turn> user\n q\n [RESPONSE A] a [RESPONSE B] b \n"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["role", "content", "from", "value", "model", "response", "rating", "text", "post", "title",
                         "fine-grained_score"]), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip
COLUMNS = sorted({name for row in [*ROWS.values(), helpsteer("p", "a", 1)] for name in row})


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([*ROWS, "helpsteer", "pku_safe"]), st.dictionaries(st.sampled_from(COLUMNS), JSON, max_size=4), JSON)
def test_no_row_makes_an_adapter_fail_with_anything_but_bad_row(name, change, anything):
    base = ROWS.get(name, helpsteer("p", "a", 1) if name == "helpsteer" else pku())
    row = {**base, **change}
    try:
        found = ADAPTERS[name](row)
    except BadRow as bad:
        assert bad.reason in REASONS or bad.reason in STRUCTURAL or bad.reason == "unknown_role"
        found = []
    assert all(isinstance(one, Pair | BadRow) for one in found)
    for _, grouped in GROUPS["helpsteer"]([("row 1", row), ("row 2", {"prompt": anything})]):
        assert isinstance(grouped, dict | BadRow)
    try:
        found, ledger = load_with_ledger([row], name, on_error="drop")
    except KitError as error:
        assert "no preference pair is left" in str(error)
    else:
        assert ledger.check().rows_out == len(found)
