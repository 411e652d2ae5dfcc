"""The loop itself: who samples, who is the reference, where training starts. No model is needed to check
that."""

from __future__ import annotations

import pytest

from rlhf_kit import online
from rlhf_kit.errors import KitError


def traced():
    """Steps over strings that note what they were given: a policy's name is its whole history."""
    calls = []

    def sample(policy, prompts, t):
        calls.append(("sample", policy, prompts, t))
        return f"answers of {policy} to {prompts}"

    def train(start, reference, pairs, t):
        calls.append(("train", start, reference, pairs, t))
        return f"policy-{t}"

    steps = online.Steps(sample, lambda r: f"rewards of {r}", lambda r, s: ("pairs", r, s), train)
    return steps, calls


def of(calls, kind):
    return [call[1:] for call in calls if call[0] == kind]


def test_online_samples_the_newest_policy_on_new_prompts():
    steps, calls = traced()
    made = online.loop("sft", ["a", "b", "c"], steps)
    assert of(calls, "sample") == [("sft", "a", 1), ("policy-1", "b", 2), ("policy-2", "c", 3)]
    assert [one.number for one in made] == [1, 2, 3]
    assert [one.policy for one in made] == ["policy-1", "policy-2", "policy-3"]
    assert made[1].responses == "answers of policy-1 to b"
    assert made[1].pairs == ("pairs", made[1].responses, made[1].scores)


def test_each_iteration_trains_on_its_own_new_pairs_only():
    steps, calls = traced()
    online.loop("sft", ["a", "b"], steps)
    assert [call[2] for call in of(calls, "train")] == [
        ("pairs", "answers of sft to a", "rewards of answers of sft to a"),
        ("pairs", "answers of policy-1 to b", "rewards of answers of policy-1 to b"),
    ]


def test_offline_differs_from_online_in_the_sampler_alone():
    steps, calls = traced()
    online.loop("sft", ["a", "b", "c"], steps, sampler="sft")
    assert [call[0] for call in of(calls, "sample")] == ["sft"] * 3
    assert [call[:2] for call in of(calls, "train")] == [
        ("sft", "sft"),
        ("policy-1", "sft"),
        ("policy-2", "sft"),
    ]


@pytest.mark.parametrize(
    ("reference", "warm_start", "expected"),
    [
        ("sft", True, [("sft", "sft"), ("policy-1", "sft"), ("policy-2", "sft")]),  # the paper
        ("previous", True, [("sft", "sft"), ("policy-1", "policy-1"), ("policy-2", "policy-2")]),
        ("sft", False, [("sft", "sft")] * 3),
        ("previous", False, [("sft", "sft"), ("sft", "policy-1"), ("sft", "policy-2")]),
    ],
)
def test_start_and_reference_of_each_training(reference, warm_start, expected):
    steps, calls = traced()
    online.loop("sft", ["a", "b", "c"], steps, reference=reference, warm_start=warm_start)
    assert [call[:2] for call in of(calls, "train")] == expected


def test_unknown_switches_are_refused_before_any_work():
    steps, calls = traced()
    with pytest.raises(KitError, match="sampler is 'nobody'"):
        online.loop("sft", ["a"], steps, sampler="nobody")
    with pytest.raises(KitError, match="reference is 'last'"):
        online.loop("sft", ["a"], steps, reference="last")
    assert calls == []
