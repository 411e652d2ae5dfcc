"""mix1, mix2 and mixtures of one's own: order, ledgers, duplicates, leaks, and the shape of Table 5."""

from __future__ import annotations

import itertools
import json

import pyarrow as pa
import pytest
from test_public_sets import (
    ROWS,
    argilla_math,
    assistant,
    helpsteer,
    orca,
    pair_prompt,
    pku,
    shards,
    shp,
    summarize,
    ultrafeedback,
    user,
)

from rlhf_kit import preferences
from rlhf_kit.errors import KitError
from rlhf_kit.preferences import load_with_ledger
from rlhf_kit.sources import spill
from rlhf_kit.sources.mixtures import (
    COLUMNS,
    label_share,
    load_mixture,
    paper_table5,
    set_statistics,
    table5,
)
from rlhf_kit.sources.public_sets import MIXTURES, SETS
from rlhf_kit.views.tables import table


def hh(question, good="yes", bad="no"):
    return {side: f"\n\nHuman: {question}\n\nAssistant: {said}" for side, said in (("chosen", good), ("rejected", bad))}


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """A folder with one sub folder or file for each set of mix1 and mix2, as they lie on the hub."""
    root = tmp_path_factory.mktemp("sets")
    for number, folder in enumerate(SETS["hh-rlhf"].folders):
        lines(root / "hh-rlhf" / folder / "train.jsonl", [hh(f"{folder}?"), hh(f"{number}?", "same", "same")])
        lines(root / "hh-rlhf" / folder / "test.jsonl", [hh("a test question")])
    shards(root / "stanfordnlp--SHP" / "data", [shp(1, f"g{i}") for i in range(7)] + [shp(2, scores=(4, 3))])
    shards(root / "helpsteer" / "data", [helpsteer("p", f"r{i}", i) for i in range(4)] + [helpsteer("q", "r", 1)])
    lines(root / "pku-saferlhf-30k.jsonl", [pku(1), pku(2, (False, False)), pku(3, answers=("x", ""))])
    shards(root / "openbmb" / "UltraFeedback" / "data", [ultrafeedback("Why 1?"), ultrafeedback()])
    lines(root / "ultrainteract.json", [ROWS["ultrainteract"]])
    shards(root / "code-ultrafeedback", [ROWS["code_ultrafeedback"]], number=1)
    # the last row equals one of UltraFeedback
    same = {**argilla_math(4.0, 2.5), "instruction": "2+2?", "chosen_response": "answer 0", "rejected_response": "answer 1"}
    shards(root / "argilla-math" / "data", [argilla_math(), same])
    lines(root / "distilabel-orca.jsonl", [orca(), orca("tie", (9.0, 9.0))])
    lines(root / "distilabel-capybara.jsonl.gz".removesuffix(".gz"), [ROWS["distilabel_capybara"]])
    lines(root / "summarize" / "comparisons" / "train.jsonl", [summarize(0), summarize(1)])
    return root


EXPECTED = {  # set -> (comparisons, pairs, dropped)
    "hh-rlhf": (6, 3, {"identical_responses": 3}),
    "shp": (8, 5, {"many_pairs": 2, "small_ratio": 1}),
    "helpsteer": (7, 6, {"one_response": 1}),
    "pku-saferlhf-30k": (3, 2, {"empty_response": 1}),
    "ultrafeedback": (12, 10, {"tie": 2}),
    "ultrainteract": (1, 1, {}),
    "code-ultrafeedback": (1, 1, {}),
    "argilla-math": (2, 1, {"in_another_set": 1}),
    "distilabel-orca": (2, 1, {"tie": 1}),
    "distilabel-capybara": (1, 1, {}),
}


def test_mix2_is_the_ten_sets_of_table_5_with_a_balanced_ledger_each(copies):
    assert MIXTURES["mix2"] == tuple(EXPECTED) and len(paper_table5()) == 10
    mixture = load_mixture("mix2", root=copies)
    assert {name: (one.rows_in, one.rows_out, one.dropped) for name, one in mixture.ledgers.items()} == EXPECTED
    assert (mixture.total.rows_in, mixture.total.rows_out) == (43, 31) == (43, len(mixture.dataset))
    assert mixture.total.check().dropped["tie"] == 3 and mixture.total.stage == "mix2"
    assert {row["source"] for row in mixture.dataset} == set(EXPECTED)
    # by name everywhere: the same rows, in the order of the sets
    found, ledger = load_with_ledger("mix2", root=copies)
    unshuffled = load_mixture("mix2", root=copies, seed=None)
    assert found[:] == unshuffled.dataset[:] and ledger.dropped == mixture.total.dropped
    assert [s for i, s in enumerate(found["source"]) if i == 0 or s != found["source"][i - 1]] == list(EXPECTED)


def test_mix1_has_the_summaries_and_no_more_than_its_four_sets(copies):
    mixture = load_mixture("mix1", root=copies)
    assert {name: one.rows_out for name, one in mixture.ledgers.items()} == {
        "hh-rlhf": 3, "shp": 5, "ultrafeedback": 10, "summarize": 2}  # fmt: skip


def test_the_seed_alone_decides_the_order(copies):
    names = ["shp", "ultrafeedback"]
    one, again, other = (load_mixture(names, root=copies, seed=seed).dataset[:] for seed in (3, 3, 4))
    assert one == again != other
    assert sorted(map(str, one["chosen"])) == sorted(map(str, other["chosen"]))
    drawn = load_mixture(names, root=copies, seed=3, pairs=4)
    assert drawn.dataset[:] == {name: values[:4] for name, values in one.items()}
    assert drawn.total.dropped["not_drawn"] == 11 and drawn.total.check().rows_out == 4
    with pytest.raises(KitError, match="15 pairs, fewer than the 16"):
        load_mixture(names, root=copies, pairs=16)


def test_prompts_of_evaluation_sets_are_counted_and_left_out_on_demand(copies):
    evaluation = {"mine": [[user("WHY  1?")]], "other": ["how 2?", "nothing"]}
    told = load_mixture("mix2", root=copies, evaluation=evaluation)
    assert told.leaks == {"mine": 10, "other": 1} and len(told.dataset) == 31  # SHP and UltraFeedback share a prompt
    clean = load_mixture("mix2", root=copies, evaluation=evaluation, drop_leaks=True)
    assert clean.total.check().dropped["evaluation_prompt"] == 11 and len(clean.dataset) == 20
    assert not [p for p in clean.dataset["prompt"] if p[0]["content"] in ("Why 1?", "How 2?")]


def test_own_files_and_copies_by_path_join_a_mixture(copies, tmp_path):
    lines(tmp_path / "shp-elsewhere.jsonl", [shp(9), shp(8, scores=(3, 2))])
    lines(tmp_path / "mine.jsonl", [{"prompt": "Why 9?", "chosen": "a", "rejected": "b"}])
    mixture = load_mixture({"shp": tmp_path / "shp-elsewhere.jsonl", "mine": tmp_path / "mine.jsonl"})
    assert mixture.ledgers["shp"].dropped == {"small_ratio": 1}
    assert mixture.ledgers["mine"].dropped == {"in_another_set": 1}
    assert set(mixture.dataset["source"]) == {"shp"}
    lines(tmp_path / "six.jsonl", [shp(1, f"g{i}") for i in range(6)])  # the sixth is one too many for SHP
    lines(tmp_path / "again.jsonl", [{"prompt": "Why 1?", "chosen": f"g{i}", "rejected": "b"} for i in (4, 5)])
    kept = load_mixture({"shp": tmp_path / "six.jsonl", "mine": tmp_path / "again.jsonl"})
    assert kept.total.dropped == {"many_pairs": 1, "in_another_set": 1} and len(kept.dataset) == 6
    mapped = load_mixture(["shp"], root={"shp": tmp_path / "shp-elsewhere.jsonl"})
    assert mapped.dataset[:] == mixture.dataset[:]
    for call, words in (
        (lambda: load_mixture(["mine"]), "unknown set 'mine'"),
        (lambda: load_mixture({}), "at least one set"),
        (lambda: load_mixture(["shp"], root={"shp": tmp_path / "no"}), "named for the set shp"),
        (lambda: load_mixture(["shp"], root=tmp_path / "nowhere"), "no such folder"),
        (lambda: load_mixture(["shp"], root=copies, seed=None, pairs=2), "needs a seed"),
        (lambda: load_mixture(["shp"], root=copies, evaluation={"x": [3]}), "texts or lists"),
        (lambda: load_mixture({"mine": tmp_path / "no.jsonl"}), "no.jsonl: no such file"),
    ):
        with pytest.raises(KitError, match=words):
            call()


def test_statistics_by_hand_and_beside_the_paper(copies, tmp_path):
    rows = [
        {"prompt": [user("ab"), assistant("c"), user("de")], "chosen": "long", "rejected": "x", "source": "shp"},
        {"prompt": "ab", "chosen": "x", "rejected": "yyy", "source": "shp"},
        {"prompt": "q", "chosen": "aa", "rejected": "bb", "source": "own"},
    ]
    dataset, _ = load_with_ledger(rows)
    first, own, everything = set_statistics(dataset)
    assert first == {
        "set": "shp", "pairs": 2, "share": 2 / 3, "prompts": 2, "user turns": 1.5, "chosen longer": 0.5,
        "prompt chars": 3.5, "chosen chars": 2.5, "rejected chars": 2.0, "prompt tokens": None, "chosen tokens": None,
        "rejected tokens": None,
    }  # fmt: skip
    assert (own["set"], own["chosen longer"], everything["pairs"], everything["prompts"]) == ("own", 0.5, 3, 3)

    def words(texts, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [text.split() for text in texts]}

    beside = {row["set"]: row for row in table5(dataset, words)}
    assert list(beside)[:2] == ["shp", "own"] and list(beside)[-1] == "all" and len(beside) == 12
    shp_row = beside["shp"]
    assert (shp_row["prompt tokens"], shp_row["paper prompt tokens"]) == (2.0, 186.2)
    assert (shp_row["paper pairs"], shp_row["paper chosen tokens"], shp_row["paper rejected tokens"]) == (93301, 173.6, 88.8)
    assert (beside["own"]["paper pairs"], beside["ultrafeedback"]["pairs"]) == (None, None)
    assert beside["all"]["paper pairs"] == 848965 and beside["all"]["paper prompts"] == 335160
    assert beside["ultrafeedback"]["paper share"] == pytest.approx(0.4005, abs=1e-4)
    shown = table(table5(dataset), COLUMNS)
    assert "paper pairs" in shown and "93,301" in shown
    whole = table5(load_mixture("mix2", root=copies).dataset)
    assert {row["set"] for row in whole} == {*EXPECTED, "all"}  # none is missing
    with pytest.raises(KitError, match="standard preference format"):
        set_statistics(dataset.remove_columns("source"))


def test_how_often_each_letter_is_right_in_the_released_pair_prompts(tmp_path):
    rows = [pair_prompt(a=f"a{i}", letter="AAB"[i % 3]) for i in range(9)] + [pair_prompt(letter="C")]
    shards(tmp_path / "RLHFlow" / "pair_preference_model_dataset" / "data", rows)
    assert label_share("pair-preference-700k", root=tmp_path) == {"A": 6, "B": 3, "other": 1}
    assert label_share("RLHFlow/pair_preference_model_dataset", root=tmp_path, limit=3) == {"A": 2, "B": 1, "other": 0}


# ---------------------------------------------------------------- memory

def test_rows_beyond_the_limit_lie_in_a_file_and_not_in_memory(tmp_path, monkeypatch):
    text, n = "word " * 100, 3000
    rows = [{"prompt": f"question {i} {text}", "chosen": f"{text}{i}", "rejected": f"no {text}"} for i in range(n)]
    shards(tmp_path, rows, number=3)
    del rows
    in_memory, ledger = load_with_ledger(tmp_path)
    size = in_memory.data.nbytes
    content = in_memory[:]
    monkeypatch.setattr(spill, "IN_MEMORY", size // 10)
    before = pa.total_allocated_bytes()
    found, again = load_with_ledger(tmp_path)
    assert pa.total_allocated_bytes() - before < size / 4
    assert found[:] == content and found._fingerprint == in_memory._fingerprint and again == ledger
    assert found.column_names == in_memory.column_names == ["prompt", "chosen", "rejected", "source"]
    assert found.shuffle(seed=1)[:] == in_memory.shuffle(seed=1)[:]
    # what is read is not held: a thousand rows at once, and as many as the limit asks for
    first = itertools.islice(preferences.examine(tmp_path, limit=1500), 5)
    assert [one.place for one in first] == [f"row {i}" for i in range(1, 6)]
    assert len(load_with_ledger(tmp_path, limit=1250)[0]) == 1250
