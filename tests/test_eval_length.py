"""AlpacaEval 2's length control: planted length bias is removed, and the official choices do what they are for."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_kit import evaluation
from rlhf_kit.errors import KitError
from rlhf_kit.evaluation.alpaca_eval import alpaca_eval_win_rate, estimate_difficulty, extreme_change


def logistic(x):
    return 1 / (1 + np.exp(-x))


def world(seed, n=805, skill=0.2, slope=1.5, slope_d=1.0, longer=150):
    """Soft preferences that follow the formula exactly: (p, length_model, length_baseline, difficulty, true LC)."""
    rng = np.random.default_rng(seed)
    baseline = rng.integers(800, 2200, n)
    model = np.maximum(baseline + rng.normal(longer, 400, n).astype(int), 1)
    difficulty = rng.normal(size=n)
    gap = (model - baseline).astype(float)
    p = logistic(skill + slope * np.tanh(gap / gap.std(ddof=1)) + slope_d * difficulty)
    return p, model, baseline, difficulty, 100 * logistic(skill + slope_d * difficulty).mean()


def test_exact_preferences_give_back_the_truth():
    p, model, baseline, difficulty, truth = world(0)
    found = evaluation.length_controlled_win_rate(p, model, baseline, difficulty)
    assert found["lc_win_rate"] == pytest.approx(truth, abs=1e-6)
    assert found["win_rate"] > truth + 5
    official = alpaca_eval_win_rate(p, model, baseline, difficulty)
    assert official["lc_win_rate"] == pytest.approx(truth, abs=0.5)  # its penalty shrinks a little
    assert official["lc_win_rate_se"] < found["lc_win_rate_se"]  # and leaves the coefficients' uncertainty out


def test_the_standard_error_covers_the_truth_and_the_official_one_does_not():
    inside = official = 0
    trials = 200
    for seed in range(trials):
        p, model, baseline, difficulty, _ = world(seed, n=150)
        truth = 100 * logistic(0.2 / np.sqrt(1 + np.pi / 8))  # over all instructions, to two digits
        wins = (np.random.default_rng(seed + 10_000).uniform(size=150) < p).astype(float)
        found = evaluation.length_controlled_win_rate(wins, model, baseline, difficulty)
        inside += abs(found["lc_win_rate"] - truth) < 1.96 * found["lc_win_rate_se"]
        predictions_only = 100 * np.std(logistic(0.2 + difficulty), ddof=1) / 150**0.5
        official += abs(found["lc_win_rate"] - truth) < 1.96 * predictions_only
    assert 0.90 <= inside / trials <= 0.99
    assert official / trials < 0.85


def test_without_the_difficulty_a_weak_model_reads_too_well():
    """Why the official table exists: short answers where the baseline is easily beaten look like a taste for brevity."""
    rng = np.random.default_rng(0)
    difficulty = rng.normal(size=3000)
    baseline = rng.integers(1500, 2500, 3000)
    # far shorter answers than the baseline's, least so where the instruction is easy
    model = (baseline * np.clip(0.45 + 0.18 * difficulty + 0.1 * rng.normal(size=3000), 0.05, 1)).astype(int)
    p = logistic(-3 + 1.5 * difficulty)
    truth = 100 * p.mean()
    with_it = evaluation.length_controlled_win_rate(p, model, baseline, difficulty)["lc_win_rate"]
    without = evaluation.length_controlled_win_rate(p, model, baseline)["lc_win_rate"]
    assert with_it == pytest.approx(truth, abs=0.1) and without > truth + 10
    assert extreme_change(truth, without) and not extreme_change(truth, with_it)


def test_gamed_rows_pull_the_slope_of_length():
    p, model, baseline, difficulty, _ = world(1, n=200, slope=0.0)
    gap = np.random.default_rng(0).normal(size=400)
    gamed = {"preference": logistic(-3 * np.tanh(gap)), "std_delta_len": gap, "instruction_difficulty": np.zeros(400)}
    gamed["preference"][0] = np.nan  # the official file has such a row
    free = alpaca_eval_win_rate(p, model, baseline, difficulty)["lc_win_rate"]
    pulled = alpaca_eval_win_rate(p, model, baseline, difficulty, gamed)["lc_win_rate"]
    assert pulled < free - 1  # length is credited for wins of the (longer) model
    with pytest.raises(KitError, match="no column 'std_delta_len'"):
        alpaca_eval_win_rate(p, model, baseline, difficulty, {"preference": [1]})
    with pytest.raises(KitError, match="no length to control"):
        alpaca_eval_win_rate([0, 1], [5, 5], [5, 5])


def test_difficulty_of_own_prompts_from_several_models():
    rng = np.random.default_rng(0)
    difficulty, baseline = rng.normal(size=120), rng.integers(100, 300, 120)
    preferences, lengths = {}, {}
    for number, skill in enumerate((-2.0, -1.0, 0.0, 0.5)):
        lengths[f"m{number}"] = rng.integers(80, 300, 120)
        gap = (lengths[f"m{number}"] - baseline).astype(float)
        preferences[f"m{number}"] = logistic(skill + difficulty + 0.7 * np.tanh(gap / gap.std(ddof=1)))
    found = estimate_difficulty(preferences, lengths, baseline)
    assert found.shape == (120,) and np.corrcoef(found, difficulty)[0, 1] > 0.97
    with pytest.raises(KitError, match="two models"):
        estimate_difficulty({"a": [1]}, {"a": [1]}, [1])
    with pytest.raises(KitError, match="lengths of"):
        estimate_difficulty({"a": [1], "b": [0]}, {"a": [1], "c": [1]}, [1])


def test_the_official_rule_for_a_suspicious_change():
    assert extreme_change(50, 63) and extreme_change(50, 37) and extreme_change(20, 41)
    assert not extreme_change(50, 60) and not extreme_change(20, 29) and not extreme_change(3, 6)
