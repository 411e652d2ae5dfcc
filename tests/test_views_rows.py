"""Rows put in order for the figures of lessons 03, 04 and 06, and what is said of them."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from rlhf_kit.evaluation import cluster_interval
from rlhf_kit.views import proxy_labels, rows, words

ROWS = [{"prompt_id": p, "category": c, "text": t}
        for p, c, t in (("p", "chat", "1"), ("q", "safety", "2"), ("p", "chat", "3"), ("r", "chat", "4"), ("q", "safety", "5"))]  # fmt: skip


def test_prompts_and_sections_keep_the_order_of_the_rows():
    assert [[row["text"] for row in group] for group in rows.by_prompt(ROWS)] == [
        ["1", "3"],
        ["2", "5"],
        ["4"],
    ]
    assert list(rows.by_section(ROWS).items()) == [
        ("all", [0, 1, 2, 3, 4]),
        ("chat", [0, 2, 3]),
        ("safety", [1, 4]),
    ]
    assert rows.by_prompt([]) == [] and rows.by_section([]) == {"all": []}


def test_all_pairs_stand_beside_a_group_of_that_name():
    pairs = [{"prompt_id": i, "source": source} for i, source in enumerate(("all", "all", "b"))]
    found = rows.by_group(pairs, {"chosen": [1, 2, 3]}, "source")
    assert {name: of["chosen"] for name, of in found.items()} == {"all pairs": [1, 2, 3], "all": [1, 2], "b": [3]}
    assert list(found)[0] == "all pairs"
    assert list(rows.by_group(pairs[:2], {}, "source")) == ["all"]


def test_two_policies_are_compared_on_the_same_prompts_only():
    answers = [{"policy": p, "temperature": t, "prompt_id": i} for p in ("sft", "online") for t in (1.0, 0.0) for i in range(12)]
    before, after = rows.same_prompts(answers, "sft", "online", 0.0)
    assert [row["prompt_id"] for row in before] == [row["prompt_id"] for row in after] == list(range(12))
    assert {(row["policy"], row["temperature"]) for row in after} == {("online", 0.0)}
    with pytest.raises(ValueError, match="'sft' and 'online' did not answer the same prompts at temperature 1"):
        rows.same_prompts(answers[1:], "sft", "online", 1.0)


def test_token_lengths_of_pairs_count_all_turns_of_the_prompt_and_the_last_of_each_side():
    def words(texts, add_special_tokens=True):
        return {"input_ids": [[0] * add_special_tokens + text.split() for text in texts]}

    said = lambda *texts: [{"content": text} for text in texts]  # noqa: E731
    pair = {"prompt": said("one two", "three"), "chosen": said("one two", "a b c d"), "rejected": said("one two", "e")}
    assert rows.token_lengths([pair, pair], words) == {"prompt": [3, 3], "chosen": [4, 4], "rejected": [1, 1]}


def test_columns_are_plain_numbers_and_must_fit():
    made = rows.with_columns(ROWS, reward=np.arange(5, dtype=np.float32), gold=None)
    assert [(row["text"], row["reward"], row["gold"]) for row in made[:2]] == [
        ("1", 0.0, None),
        ("2", 1.0, None),
    ]
    assert type(made[0]["reward"]) is float and "reward" not in ROWS[0]
    with pytest.raises(ValueError, match="4 values of 'reward' for 5 rows"):
        rows.with_columns(ROWS, reward=[1, 2, 3, 4])


def test_pairs_stay_inside_a_prompt_and_leave_ties_out():
    prompts, values = ["p", "q", "p", "p", "q", "r"], [1.0, 5.0, 2.0, 1.0, 5.0, 0.0]
    i, j = rows.pairs_inside(prompts, values)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [(0, 2), (2, 3)]
    i, j = rows.pairs_inside(["p"] * 6 + ["q"], np.arange(7), at_most=2)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [
        (0, 1),
        (1, 4),
    ]  # the first and the eighth of fifteen
    assert [len(places) for places in rows.pairs_inside(["p", "q"], [1, 2])] == [0, 0]


def test_intervals_by_section_are_over_prompts():
    asked = [{"prompt_id": k // 2, "category": "chat" if k < 12 else "safety"} for k in range(24)]
    hits = [float(k // 2 % 3 > 0) for k in range(24)]
    found = rows.intervals_by_section(hits, asked)
    assert list(found) == ["all", "chat", "safety"]
    assert found["chat"] == tuple(cluster_interval(hits[:12], [row["prompt_id"] for row in asked[:12]]))
    assert found["chat"] != tuple(cluster_interval(hits[:12]))


def test_accuracy_by_section_puts_all_pairs_first():
    part = {"accuracy": 0.8, "low": 0.7, "high": 0.9, "n": 4}
    found = rows.accuracy_by_section({**part, "accuracy": 0.5, "by_category": {"chat": part}})
    assert list(found.items()) == [("all", (0.5, 0.7, 0.9)), ("chat", (0.8, 0.7, 0.9))]


def test_wrong_labels_by_section_keep_the_order_that_is_asked_for():
    told = [{"prompt_id": p} for p in "qprs"]
    found = proxy_labels.wrong_by_section(
        [1, 0, 0.5, 1], told, {"p": "chat", "x": "maths", "q": "safety", "r": "chat", "s": "safety"}
    )
    assert [(row["category"], row["wrong"], row["n"]) for row in found] == [
        ("chat", 0.25, 2),
        ("safety", 1.0, 2),
    ]
    assert found[0]["low"] <= 0.25 <= found[0]["high"]


def test_margins_alone_and_lengths_in_words():
    fig = proxy_labels.draw_margins([0.5, 1.0, 3.0])
    assert (
        sum(bar.get_height() for bar in fig.axes[0].patches) == 3
        and fig.axes[0].get_title("left") == "Margins of the pairs"
    )
    plt.close(fig)
    said = proxy_labels.say_lengths({"penalty": 0.05, "chosen": 40.0, "rejected": 88.04})
    assert (
        said
        == "at 0.050 per character, chosen answers are 48.0 characters shorter on average than rejected ones"
    )
    assert "2.0 characters longer" in proxy_labels.say_lengths(
        {"penalty": 0.0, "chosen": 42.0, "rejected": 40.0}
    )


def test_labels_beside_truth_say_which_agrees_more():
    found = {"accuracy": 0.745, "gold_accuracy": 0.805, "gold_low": 0.768, "gold_high": 0.836}
    first, second = words.labels_and_truth(found).splitlines()
    assert first == "agreement with the labels 0.745, with the true order 0.805 [0.768, 0.836]"
    assert second.startswith("the model agrees more often with the truth")
    assert "agrees not more often" in words.labels_and_truth({**found, "gold_accuracy": 0.745})
