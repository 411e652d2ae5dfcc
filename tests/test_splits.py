"""Equal prompts, splits that share none, and the numbers about a data set."""

from __future__ import annotations

import datasets
import pytest
from talk import assistant, pair, user

from rlhf_kit.errors import KitError
from rlhf_kit.preferences import (
    describe,
    load_preferences,
    opening_key,
    prompt_key,
    prompts_of,
    split_by_prompt,
)


def test_equal_prompts_share_a_key_whatever_case_and_spaces():
    assert prompt_key([user("What  is\nthis?")]) == prompt_key([user("what is ＴＨＩＳ?")])
    assert prompt_key([user("what is this")]) != prompt_key([user("what is this?")])
    assert prompt_key([user("a"), assistant("b"), user("c")]) != prompt_key([user("a")])
    assert opening_key([user("A"), assistant("b"), user("c")]) == opening_key(
        [{"role": "system", "content": "s"}, user("a")]
    )


def test_prompts_of_gives_each_prompt_once():
    found = prompts_of(load_preferences([pair(1), pair(2), pair(1, "Yes")]), split="heldout")
    assert [p["prompt"] for p in found] == [[user("question 1?")], [user("question 2?")]]
    assert {(p["category"], p["split"]) for p in found} == {("other", "heldout")}
    assert len({p["prompt_id"] for p in found}) == 2


@pytest.mark.parametrize("by", ["opening", "prompt"])
def test_splits_are_disjoint_stable_and_about_the_right_size(by):
    rows = [pair(i // 2, f"yes {i}") for i in range(2000)]
    data, longer = (
        load_preferences(rows),
        load_preferences(rows + [pair(i, "new") for i in range(5000, 6000)]),
    )
    parts = split_by_prompt(data, {"train": 0.7, "heldout": 0.2, "test": 0.1}, seed=3, by=by)
    keys = {name: {prompt_key(p) for p in part["prompt"][:]} for name, part in parts.items()}
    assert sum(map(len, keys.values())) == 1000  # each prompt in one part only
    assert sum(map(len, parts.values())) == 2000
    assert 0.65 < len(parts["train"]) / 2000 < 0.75  # a binomial over 1,000 prompts, sd 0.014
    later = split_by_prompt(longer, {"train": 0.7, "heldout": 0.2, "test": 0.1}, seed=3, by=by)
    assert all(keys[name] <= {prompt_key(p) for p in later[name]["prompt"][:]} for name in keys)
    other = split_by_prompt(data, {"train": 0.7, "heldout": 0.3}, seed=4, by=by)
    assert {prompt_key(p) for p in other["train"]["prompt"][:]} != keys["train"]


def test_conversations_that_continue_each_other_stay_together():
    rows = []
    for i in range(200):
        start = [user(f"opening {i}"), assistant("hello"), user("and then?")]
        rows += [
            {"prompt": start[:1], "chosen": "a", "rejected": "b"},
            {"prompt": start, "chosen": "a", "rejected": "b"},
        ]
    parts = split_by_prompt(load_preferences(rows), {"train": 0.5, "heldout": 0.5})
    openings = [{p[0]["content"] for p in part["prompt"][:]} for part in parts.values()]
    assert not openings[0] & openings[1]
    apart = split_by_prompt(load_preferences(rows), {"train": 0.5, "heldout": 0.5}, by="prompt")
    assert {p[0]["content"] for p in apart["train"]["prompt"][:]} & {
        p[0]["content"] for p in apart["heldout"]["prompt"]
    }


@pytest.mark.parametrize(
    "fractions", [{}, {"train": 0.5}, {"train": 1.2, "heldout": -0.2}, {"a": float("nan")}]
)
def test_fractions_must_sum_to_one(fractions):
    with pytest.raises(KitError, match="sum to 1"):
        split_by_prompt(load_preferences([pair(1), pair(2), pair(3)]), fractions)


def test_an_empty_part_is_an_error():
    with pytest.raises(KitError, match="part '.*' .* gets no row"):
        split_by_prompt(load_preferences([pair(1)]), {"train": 0.5, "heldout": 0.5})


def test_describe_by_hand():
    rows = [
        pair(1, "four", "a"),
        {"prompt": [user("ab"), assistant("c"), user("de")], "chosen": "x", "rejected": "yy"},
        pair(1, "five", "4444", source="mine"),
    ]
    assert describe(load_preferences(rows)) == {
        "pairs": 3,
        "prompts": 2,
        "user_turns": 4 / 3,
        "most_user_turns": 2,
        "prompt_characters": (11 + 5 + 11) / 3,
        "chosen_characters": 3.0,
        "rejected_characters": 7 / 3,
        "chosen_longer": 0.5,
        "sources": {"rows": 2, "mine": 1},
    }


def test_rows_in_another_format_are_refused():
    with pytest.raises(KitError, match="column 'prompt'"):
        describe(datasets.Dataset.from_list([{"text": "a"}]))
