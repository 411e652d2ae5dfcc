"""Cleaning with a balanced ledger: each reason, any rows at all, and public files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from talk import assistant, pair, user

from rlhf_kit.errors import KitError
from rlhf_kit.preferences import (
    describe,
    examine,
    load_preferences,
    load_with_ledger,
    opening_key,
    split_by_prompt,
)
from rlhf_kit.sources.adapters import ADAPTERS
from rlhf_kit.sources.cleaning import REASONS
from rlhf_kit.sources.fields import STRUCTURAL

REAL = Path(__file__).resolve().parents[2] / "shared" / "realdata"
real_data = pytest.mark.skipif(
    not REAL.is_dir(), reason="the public data files ../shared/realdata are not here"
)


# ---------------------------------------------------------------- cleaning

Q = [user("q")]
DIRTY = {
    "prompt_mismatch": {"chosen": [user("q"), assistant("a")], "rejected": [user("r"), assistant("b")]},
    "roles_not_alternating": {"chosen": [*Q, *Q, assistant("a")], "rejected": [*Q, *Q, assistant("b")]},
    "empty_response": {"chosen": [*Q, assistant(" \n")], "rejected": [*Q, assistant("b")]},
    "empty_turn": {"chosen": [user(" "), assistant("a")], "rejected": [user(" "), assistant("b")]},
    "identical_responses": {"chosen": [*Q, assistant("a ")], "rejected": [*Q, assistant("a")]},
    "score_contradicts": {"chosen": [*Q, assistant("a")], "rejected": [*Q, assistant("b")], "margin": -1},
    "tie": {
        "chosen": [*Q, assistant("a")],
        "rejected": [*Q, assistant("b")],
        "chosen_score": 3,
        "rejected_score": 3,
    },
    "small_margin": {"chosen": [*Q, assistant("a")], "rejected": [*Q, assistant("b")], "margin": 0.4},
    "too_long": {"chosen": [*Q, assistant("a" * 50)], "rejected": [*Q, assistant("b")]},
    "unknown_role": {"chosen": [*Q, {"role": "tool", "content": "a"}], "rejected": [*Q, assistant("b")]},
    "not_text": {"chosen": [*Q, {"role": "assistant", "content": [{"type": "image"}]}], "rejected": Q},
    "duplicate": {"chosen": [user("first"), assistant("a")], "rejected": [user("first"), assistant("b")]},
}
FIRST = DIRTY["duplicate"]
LIMITS = {"min_margin": 0.5, "max_characters": 40}


@pytest.mark.parametrize("reason", DIRTY)
def test_each_fault_is_counted_once_and_named_when_strict(reason):
    found, ledger = load_with_ledger([FIRST, DIRTY[reason]], **LIMITS)
    assert len(found) == 1
    assert (ledger.rows_in, ledger.rows_out, ledger.dropped) == (2, 1, {reason: 1})
    with pytest.raises(KitError, match=rf"the rows, row 2: .*\({reason}\)"):
        load_preferences([FIRST, DIRTY[reason]], strict=True, **LIMITS)


def test_all_faults_together_balance_and_examine_shows_them():
    rows = [FIRST, *DIRTY.values()]
    _, ledger = load_with_ledger(rows, **LIMITS)
    assert ledger.dropped == dict.fromkeys(DIRTY, 1)
    of_public_sets = {"one_response", "unscored", "small_ratio", "both_unsafe", "ambiguous", "many_pairs",
                      "in_another_set", "evaluation_prompt"}  # fmt: skip
    assert set(REASONS) - set(DIRTY) == of_public_sets  # tried in test_public_sets and test_mixtures
    seen = list(examine(rows, **LIMITS))
    assert [one.place for one in seen] == [f"row {i}" for i in range(1, len(rows) + 1)]
    assert [one.reason for one in seen] == [None, *DIRTY]
    assert all((one.pair is None) == bool(one.detail) for one in seen)


def test_limits_are_off_by_default_and_opposite_pairs_are_no_duplicates():
    assert len(load_preferences([DIRTY["small_margin"], DIRTY["too_long"]])) == 2
    assert len(load_preferences([pair(1), pair(1, "no", "yes")])) == 2


def test_ranked_lists_count_by_pair():
    rows = [
        {"prompt": "q", "responses": ["a", "b", "c"], "scores": [1, 1, 0]},
        {"prompt": "r", "responses": ["a"], "scores": [1]},
    ]
    _, best = load_with_ledger(rows)
    assert (best.rows_in, best.rows_out, best.dropped) == (2, 1, {"one_response": 1})
    found, every = load_with_ledger(rows, adapter="ranked_all")
    assert (every.rows_in, every.rows_out, every.dropped) == (4, 2, {"tie": 1, "one_response": 1})
    assert found["margin"][:] == [1.0, 1.0]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(
        ["\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: c", "user", "assistant", "\ud800"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "type", "text", "score", "rank"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant", "system", "gpt", "tool"]),
            "content": st.text(max_size=3),
        }
    ),
    max_size=4,
)
NAMES = [
    "prompt",
    "chosen",
    "rejected",
    "conversations",
    "messages",
    "chosen_messages",
    "rejected_messages",
    "responses",
    "scores",
    "ranks",
    "completions",
    "label",
    "margin",
    "chosen_score",
    "source",
    "system",
    "instruction",
    "input",
    "output",
    "x",
]
# Whole rows of each layout, and rows of anything, with some fields replaced by anything.
ROWS = st.sampled_from(
    [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
        {"chosen": [*Q, assistant("a")], "rejected": [*Q, assistant("b")]},
        {"conversations": Q, "chosen": assistant("a"), "rejected": assistant("b")},
        {"chosen_messages": [*Q, assistant("a")], "rejected_messages": [*Q, assistant("b")]},
        {"prompt": "q", "responses": ["a", "b", "c"], "scores": [1, 2, 2]},
        {},
    ]
)
CHANGES = st.dictionaries(st.sampled_from(NAMES) | st.integers(), VALUES | MESSAGES, max_size=3)
ANY_ROWS = st.lists(st.builds(lambda row, change: row | change, ROWS, CHANGES), max_size=6)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ANY_ROWS, st.sampled_from(["auto", *ADAPTERS]), st.sampled_from(["raise", "drop"]), st.booleans())
def test_any_rows_give_a_balanced_ledger_or_a_kit_error(rows, adapter, on_error, strict):
    try:
        found, ledger = load_with_ledger(rows, adapter, on_error=on_error, strict=strict)
    except KitError as error:
        str(error).encode("utf-8")  # can be printed
        return
    assert ledger.rows_out == len(found) > 0
    assert ledger.rows_in == ledger.rows_out + sum(ledger.dropped.values())
    assert ledger.rows_in >= len(rows) or adapter == "helpsteer"  # that joins rows
    assert set(ledger.dropped) <= set(REASONS) | set(STRUCTURAL)
    for row in found:
        assert row["chosen"][:-1] == row["rejected"][:-1] == row["prompt"]
        assert row["prompt"][-1]["role"] == "user"
        assert row["chosen"][-1]["role"] == row["rejected"][-1]["role"] == "assistant"
        assert row["chosen"] != row["rejected"]
        assert all(turn["content"] for turn in row["chosen"] + row["rejected"])


# ---------------------------------------------------------------- what nobody here wrote


@real_data
def test_hh_rlhf_loses_the_five_pairs_that_share_no_prompt():
    path = REAL / "hh-rlhf" / "harmless-base-test.jsonl.gz"
    found, ledger = load_with_ledger(path)
    assert ledger.rows_in == 2312
    assert ledger.dropped == {"prompt_mismatch": 5, "empty_response": 4, "roles_not_alternating": 4}
    with gzip.open(path, "rt", encoding="utf-8") as handle:  # another way to the same five
        before = [
            [json.loads(line)[side].rpartition("\n\nAssistant:")[0] for side in ("chosen", "rejected")]
            for line in handle
        ]
    expected = [f"line {i}" for i, (a, b) in enumerate(before, start=1) if a != b]
    assert [one.place for one in examine(path) if one.reason == "prompt_mismatch"] == expected
    assert describe(found)["most_user_turns"] == 18
    parts = split_by_prompt(found, {"train": 0.9, "heldout": 0.1})
    assert not (
        {opening_key(p) for p in parts["train"]["prompt"][:]}
        & {opening_key(p) for p in parts["heldout"]["prompt"][:]}
    )


@real_data
def test_llama_factory_pairs_and_refusals():
    folder = REAL / "llama-factory"
    found, ledger = load_with_ledger(folder / "dpo_en_demo.json")
    raw = json.loads((folder / "dpo_en_demo.json").read_text(encoding="utf-8"))
    repeated = len(raw) - len({json.dumps(row, sort_keys=True) for row in raw})
    assert (ledger.rows_in, ledger.rows_out, ledger.dropped) == (299, 294, {"duplicate": 5})
    assert repeated == 5
    found, ledger = load_with_ledger(folder / "v1_dpo_demo.jsonl")
    assert (len(found), ledger.dropped) == (10, {})
    for name, why in [("kto_en_demo.json", "unpaired labels"), ("alpaca_en_demo.json", "instruction data")]:
        with pytest.raises(KitError, match=why):
            load_preferences(folder / name)
