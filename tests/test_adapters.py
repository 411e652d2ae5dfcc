"""Every layout on rows written here: what it turns into, and what is recognised or refused."""

from __future__ import annotations

import pytest

from rlhf_kit.errors import KitError
from rlhf_kit.sources import adapters
from rlhf_kit.sources.adapters import ADAPTERS, Pair, adapter_named, refusal, sniff
from rlhf_kit.sources.fields import BadRow, text_of, transcript_of
from rlhf_kit.sources.public_adapters import PUBLIC


def turns(*texts, system=None):
    """Alternating user and assistant messages."""
    said = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return ([{"role": "system", "content": system}] if system else []) + said


GOOD, BAD = turns("hi", "hello", "a joke?", "knock knock"), turns("hi", "hello", "a joke?", "no")
ONE_GOOD, ONE_BAD = turns("2+2?", "4"), turns("2+2?", "5")

# (adapter, row, chosen, rejected)
LAYOUTS = [
    (
        "hh",
        {
            "chosen": "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: a joke?\n\nAssistant: knock knock",
            "rejected": "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: a joke?\n\nAssistant: no ",
        },
        GOOD,
        BAD,
    ),
    ("strings", {"prompt": "2+2?", "chosen": "4", "rejected": "5"}, ONE_GOOD, ONE_BAD),
    ("strings", {"question": " 2+2?\n", "chosen": "4\n", "rejected": " 5"}, ONE_GOOD, ONE_BAD),
    (
        "strings",
        {"system": "Sum.", "prompt": "2+2?", "chosen": "4", "rejected": "5"},
        turns("2+2?", "4", system="Sum."),
        turns("2+2?", "5", system="Sum."),
    ),
    (
        "strings",
        {"instruction": "Add", "input": "2 2", "chosen": "4", "rejected": "5"},
        turns("Add\n2 2", "4"),
        turns("Add\n2 2", "5"),
    ),
    (
        "strings",
        {
            "prompt": "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: a joke?\n\nAssistant:",
            "chosen": "knock knock",
            "rejected": "no",
        },
        GOOD,
        BAD,
    ),
    ("strings", {"prompt": GOOD[:3], "chosen": "knock knock", "rejected": "no"}, GOOD, BAD),
    ("messages", {"chosen": GOOD, "rejected": BAD}, GOOD, BAD),
    ("messages", {"prompt": GOOD[:3], "chosen": GOOD[3:], "rejected": BAD[3:]}, GOOD, BAD),
    ("messages", {"prompt": GOOD[:3], "chosen": GOOD, "rejected": BAD}, GOOD, BAD),
    ("messages", {"prompt": "2+2?", "chosen": ONE_GOOD, "rejected": ONE_BAD}, ONE_GOOD, ONE_BAD),
    ("messages", {"prompt": "2+2?", "chosen": ONE_GOOD[1:], "rejected": ONE_BAD[1:]}, ONE_GOOD, ONE_BAD),
    (
        "turns",
        {
            "conversations": [{"from": "human", "value": "2+2?"}],
            "chosen": {"from": "gpt", "value": "4"},
            "rejected": {"from": "gpt", "value": "5"},
        },
        ONE_GOOD,
        ONE_BAD,
    ),
    ("turns", {"messages": GOOD[:3], "chosen": GOOD[3], "rejected": BAD[3]}, GOOD, BAD),
    (
        "chosen_messages",
        {
            side: [
                {"role": m["role"], "content": [{"type": "text", "value": m["content"]}], "loss_weight": 1.0}
                for m in said
            ]
            for side, said in (("chosen_messages", GOOD), ("rejected_messages", BAD))
        },
        GOOD,
        BAD,
    ),
    ("ranked", {"prompt": "2+2?", "responses": ["6", "4", "5"], "scores": [2, 3.5, 1]}, ONE_GOOD, ONE_BAD),
    (
        "ranked",
        {
            "prompt": "2+2?",
            "answers": [{"answer": "5", "rank": 3}, {"answer": "6", "rank": 2}, {"answer": "4", "rank": 1}],
        },
        ONE_GOOD,
        ONE_BAD,
    ),
    (
        "ranked",
        {
            "instruction": "2+2?",
            "completions": [{"response": "4", "overall_score": 9.0}, {"response": "5", "overall_score": 2}],
        },
        ONE_GOOD,
        ONE_BAD,
    ),
    ("ranked", {"prompt": "2+2?", "responses": ["5", "4"], "ranks": [2, 1]}, ONE_GOOD, ONE_BAD),
]


@pytest.mark.parametrize("name, row, chosen, rejected", LAYOUTS)
def test_each_layout_is_recognised_and_read(name, row, chosen, rejected):
    assert sniff(row) == name
    (pair,) = ADAPTERS[name](row)
    assert pair.chosen == chosen
    assert pair.rejected == rejected


def test_every_adapter_but_ranked_all_is_tried_above():
    assert {name for name, *_ in LAYOUTS} == set(ADAPTERS) - {"ranked_all"} - set(PUBLIC)


def test_scores_are_carried_and_ranks_become_negative_scores():
    row = {
        "prompt": "q",
        "chosen": "a",
        "rejected": "b",
        "chosen_score": 2,
        "score_rejected": "0.5",
        "margin": None,
    }
    assert adapters.strings(row)[0][2:] == (2.0, 0.5, None)
    assert adapters.ranked({"prompt": "q", "responses": ["a", "b", "c"], "scores": [1, 5, -2]})[0][2:4] == (
        5.0,
        -2.0,
    )
    assert adapters.ranked({"prompt": "q", "responses": ["a", "b"], "ranks": [4, 1]})[0][2:4] == (-1.0, -4.0)


def test_ranked_all_gives_every_pair_with_the_better_first():
    pairs = adapters.ranked_all({"prompt": "q", "responses": ["a", "b", "c", "d"], "scores": [1, 4, 2, 3]})
    found = [(pair.chosen[-1]["content"], pair.rejected[-1]["content"]) for pair in pairs]
    assert sorted(found) == [("b", "a"), ("b", "c"), ("b", "d"), ("c", "a"), ("d", "a"), ("d", "c")]
    assert all(pair.chosen_score > pair.rejected_score for pair in pairs)


@pytest.mark.parametrize(
    "row, word",
    [
        ({"messages": GOOD, "label": True}, "unpaired"),
        ({"prompt": "q", "completion": "a", "label": False}, "unpaired"),
        ({"instruction": "i", "input": "", "output": "o"}, "one answer for each prompt"),
        ({"messages": GOOD}, "one answer for each prompt"),
        ({"left": "a", "right": "b", "winner": "tie"}, "battles"),
        ({"turns": ["q1", "q2"]}, "prompts without answers"),
        ({"context_messages": GOOD[:3]}, "prompts without answers"),
        ({"prompt": "q", "response": "a", "helpfulness": 3}, "one answer for each prompt"),
        ({"conversations": [{"from": "human", "value": "q"}], "label": True}, "unpaired"),
        ({"chosen": "a", "rejected": "b"}, "no prompt"),
        ({"prompt": "q", "chosen": "a"}, "no 'rejected'"),
        ({"prompt": "q", "chosen": "a", "rejected": ["b"]}, "different kinds"),
        ({"x": 1}, "no preference layout"),
        ({}, "no preference layout"),
    ],
)
def test_what_gives_no_pairs_is_refused_with_the_reason(row, word):
    assert sniff(row) is None
    assert word in refusal(row)


@pytest.mark.parametrize(
    "name, row, reason",
    [
        ("strings", {"prompt": "q", "chosen": "a"}, "missing_field"),
        ("strings", {"chosen": "a", "rejected": "b"}, "missing_field"),
        ("strings", {"prompt": "q", "chosen": "a", "rejected": 3}, "wrong_type"),
        ("strings", {"prompt": "q", "chosen": "a", "rejected": "\ud800"}, "not_utf8"),
        ("strings", {"prompt": "q", "chosen": "a", "rejected": "b", "margin": float("nan")}, "wrong_type"),
        ("strings", {"prompt": "q", "chosen": "a", "rejected": "b", "chosen_score": 10**400}, "wrong_type"),
        ("strings", {"prompt": "q", "chosen": "a", "rejected": "b", "chosen_score": True}, "wrong_type"),
        ("hh", {"chosen": "hello", "rejected": "\n\nHuman: a\n\nAssistant: b"}, "wrong_type"),
        ("messages", {"chosen": [{"content": "a"}], "rejected": BAD}, "missing_field"),
        ("messages", {"chosen": [{"role": "tool", "content": "a"}], "rejected": BAD}, "unknown_role"),
        ("messages", {"chosen": ["a"], "rejected": BAD}, "wrong_type"),
        ("messages", {"prompt": "another", "chosen": GOOD, "rejected": BAD}, "prompt_mismatch"),
        (
            "chosen_messages",
            {
                "chosen_messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}],
                "rejected_messages": BAD,
            },
            "not_text",
        ),
        ("ranked", {"prompt": "q", "responses": ["a"], "scores": [1]}, "one_response"),
        ("ranked", {"prompt": "q", "responses": ["a", "b"], "scores": [1]}, "wrong_type"),
        ("ranked", {"prompt": "q", "responses": ["a", "b"], "scores": [1, None]}, "missing_field"),
        ("ranked", {"prompt": "q", "responses": ["a", "b"]}, "missing_field"),
    ],
)
def test_a_row_without_the_promised_shape_says_what_is_wrong(name, row, reason):
    with pytest.raises(BadRow) as caught:
        ADAPTERS[name](row)
    assert caught.value.reason == reason


def test_a_question_that_begins_with_human_is_no_transcript():
    row = {"prompt": "Human: a noun?", "chosen": "Yes.", "rejected": "No."}
    assert adapters.strings(row)[0].chosen == turns("Human: a noun?", "Yes.")


def test_a_transcript_keeps_order_and_repeated_roles():
    found = transcript_of("\n\nHuman: a\n\nAssistant: b\n\nAssistant: c", "chosen")
    assert [m["role"] for m in found] == ["user", "assistant", "assistant"]
    assert [m["content"] for m in found] == ["a", "b", "c"]


def test_text_parts_are_joined_by_lines():
    assert text_of(["a", {"type": "text", "text": "b"}, {"value": "c"}], "content") == "a\nb\nc"


def test_an_unknown_adapter_names_the_nearest():
    with pytest.raises(KitError, match="did you mean 'ranked'"):
        adapter_named("rankd")
    assert adapter_named("hh") is adapters.hh
    assert Pair(GOOD, BAD).margin is None
