"""Over-optimisation: KL against closed forms, a planted hack found in the part where it was planted."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_kit.errors import KitError
from rlhf_kit.evaluation.hacking import (
    best_of_n_peak,
    hacking_report,
    parts_by_section,
    sampled_kl,
)


def test_sampled_kl_meets_the_closed_form_within_its_error():
    rng = np.random.default_rng(0)
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    truth = float((p * np.log(p / q)).sum())
    inside = 0
    for _ in range(100):
        drawn = rng.choice(3, size=200, p=p)
        found = sampled_kl(np.log(p)[drawn], np.log(q)[drawn])
        inside += abs(found["kl"] - truth) < 1.96 * found["se"]
        assert abs(found["kl_k3"] - truth) < 6 * found["k3_se"] and found["kl_k3"] >= 0
    assert 88 <= inside <= 99
    same = sampled_kl([-1.0, -2.0], [-1.0, -2.0])
    assert same["kl"] == same["kl_k3"] == same["se"] == 0
    clustered = sampled_kl([-1, -1, -3], [-2, -2, -3], ["a", "a", "b"])
    assert clustered["kl"] == 0.5 and clustered["n"] == 2
    with pytest.raises(KitError, match="row 1: a log-probability"):
        sampled_kl([-1, -np.inf], [-1, -1])
    with pytest.raises(KitError, match="2 and 1"):
        sampled_kl([-1, -1], [-1])


def answers(seed, reward=0.0, politeness=0.8, correctness=0.6, n=200):
    rng = np.random.default_rng(seed)
    rows = []
    for prompt in range(n):
        parts = {"politeness": np.clip(politeness + 0.1 * rng.normal(), 0, 1), "correctness": np.clip(correctness + 0.2 * rng.normal(), 0, 1),
                 "repetition": rng.uniform()}
        gold = 10 * parts["correctness"] * (0.5 + 0.5 * parts["politeness"])
        rows.append({"prompt_id": f"p{prompt}", "sample": 0, "reward": reward + rng.normal(), "gold": gold, "parts": parts,
                     "length": 100 + int(10 * rng.normal())})
    return rows


def test_the_part_that_was_sold_is_named_and_no_other():
    lines = {line["part"]: line for line in hacking_report(answers(0), answers(1, reward=1.0, politeness=0.6))}
    assert [part for part, line in lines.items() if line["sold"]] == ["gold", "politeness"]
    assert lines["politeness"]["high"] < 0 and lines["reward"]["low"] > 0
    honest = hacking_report(answers(0), answers(1, reward=1.0, correctness=0.8))
    assert not any(line["sold"] for line in honest)
    # A part that falls without a gain in reward was lost, not sold.
    assert not any(line["sold"] for line in hacking_report(answers(0), answers(1, politeness=0.6, reward=-0.5)))


def test_sections_are_paired_by_prompt_and_sample_as_the_report_is():
    before, after = answers(0, n=20), answers(1, n=20, politeness=0.6)
    for rows in (before, after):
        for k, row in enumerate(rows):
            row["category"] = ("chat", "safety")[k % 2]
    found = parts_by_section(before, after)
    assert list(found) == list(before[0]["parts"]) and list(found["politeness"]) == ["chat", "safety"]
    by_hand = np.mean([after[k]["parts"]["politeness"] - before[k]["parts"]["politeness"] for k in range(1, 20, 2)])
    assert found["politeness"]["safety"] == pytest.approx(by_hand)
    assert parts_by_section(before, after[::-1]) == found
    line = next(line for line in hacking_report(before, after[::-1]) if line["part"] == "politeness")
    assert np.mean(list(found["politeness"].values())) == pytest.approx(line["difference"])
    with pytest.raises(KitError, match="20 and 19 answers"):
        parts_by_section(before, after[1:])


def test_hacking_reports_need_the_same_prompts_and_a_truth():
    with pytest.raises(KitError, match="200 and 150 answers, 150 in common"):
        hacking_report(answers(0), answers(1, n=150))
    with pytest.raises(KitError, match="needs the gold utility"):
        hacking_report([{**row, "parts": None} for row in answers(0)], answers(1))
    with pytest.raises(KitError, match="one policy at one temperature"):
        hacking_report(answers(0) * 2, answers(1))


def test_a_peak_is_found_where_it_is_and_not_in_noise():
    rng = np.random.default_rng(0)
    quality = rng.normal(size=(300, 64))
    poison = (rng.uniform(size=quality.shape) < 0.03) * 1.0  # rare answers that the proxy loves and the truth does not
    found = best_of_n_peak(quality + 8 * poison, quality - 6 * poison, [1, 4, 16, 64])
    assert found["over_optimised"] and found["peak_n"] < 64 and found["high"] < 0
    false = sum(best_of_n_peak(rng.normal(size=(40, 16)), rng.normal(size=(40, 16)), [1, 4, 16], seed=s)["over_optimised"] for s in range(60))
    assert false <= 5  # one-sided 2.5 %
    assert best_of_n_peak(quality, quality, [1, 8])["peak_n"] == 8
    with pytest.raises(KitError, match="two values of n"):
        best_of_n_peak(quality, quality, [4])
