"""Two promises of the whole package: 95 % intervals cover 93 to 97 times in a hundred, and the oracle attains every ceiling."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_kit import evaluation, rewards, world
from rlhf_kit.evaluation.benches import pocket_bench, run_bench


def logistic(x):
    return 1 / (1 + np.exp(-x))


def cluster_bootstrap(rng, seed):
    """Two samples a prompt that share its difficulty."""
    skill = np.repeat(rng.beta(2, 1, 100), 2)
    wins = (rng.uniform(size=200) < skill).astype(float)
    found = evaluation.win_rate_of(wins, np.repeat(np.arange(100), 2), n_resamples=200, seed=seed)
    return found["low"], found["high"], 2 / 3


def paired_t(rng, seed):
    hard = rng.normal(size=40)
    found = evaluation.compare_policies(np.clip(0.5 + 0.1 * hard + 0.04 * rng.normal(size=40), 0, 1), np.clip(0.5 + 0.1 * hard, 0, 1))
    return found["low"], found["high"], 0.0


def seeds(rng, seed):
    found = evaluation.mean_interval(rng.normal(1.0, 2.0, 8))
    return found.low, found.high, 1.0


def length_controlled(rng, seed):
    baseline = rng.integers(500, 1500, 200)
    model = baseline + rng.normal(100, 300, 200).astype(int)
    gap = (model - baseline).astype(float)
    wins = (rng.uniform(size=200) < logistic(0.3 + 1.2 * np.tanh(gap / gap.std(ddof=1)))).astype(float)
    found = evaluation.length_controlled_win_rate(wins, model, baseline)
    half = 1.96 * found["lc_win_rate_se"]
    return found["lc_win_rate"] - half, found["lc_win_rate"] + half, 100 * logistic(0.3)


def sampled_kl(rng, seed):
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    drawn = rng.choice(3, size=300, p=p)
    found = evaluation.sampled_kl(np.log(p)[drawn], np.log(q)[drawn])
    return found["kl"] - 1.96 * found["se"], found["kl"] + 1.96 * found["se"], float((p * np.log(p / q)).sum())


@pytest.mark.parametrize("interval", [cluster_bootstrap, paired_t, seeds, length_controlled, sampled_kl])
def test_intervals_cover_as_often_as_they_say(interval):
    trials = 500
    rng = np.random.default_rng(11)
    inside = 0
    for seed in range(trials):
        low, high, truth = interval(rng, seed)
        inside += low <= truth <= high
    assert 0.93 <= inside / trials <= 0.97, f"{interval.__name__}: {inside} of {trials}"


def test_the_oracle_attains_every_ceiling():
    rows = world.prompts("eval", 40)
    prompts, ids = [row["prompt"] for row in rows], [row["prompt_id"] for row in rows]
    items = pocket_bench(40)
    assert run_bench("pocket", items, rewards.Gold())["Average"] == 100
    assert run_bench("pocket", items, evaluation.ScalarJudge(rewards.Gold()))["Average"] == 100
    best, other = [world.best_answer(p) for p in prompts], [item.rejected[0] for item in items]
    golds = [world.gold_utility(prompts, texts) for texts in (best, other)]
    assert evaluation.win_rate(*golds, ids)["win_rate"] == 1
    assert evaluation.reward_accuracy(*golds, *golds, ids)["accuracy"] == 1
    verdicts = evaluation.ScalarJudge(rewards.Gold()).compare(prompts, best, other)
    assert evaluation.agreement(verdicts.preference, (golds[0] > golds[1]).astype(float))["accuracy"] == 1
    battles = verdicts.battles("oracle", "other", ids)
    assert {b["winner"] for b in battles} == {"left"} and len(battles) == 40
    assert evaluation.bradley_terry(battles, prior=1)["oracle"] > 0.97
    grid = np.random.default_rng(0).normal(size=(20, 16))
    for row in evaluation.best_of_n_curve(grid, grid, [1, 4, 16]):
        assert row["gold"] == row["oracle"]
    p = np.random.default_rng(1).uniform(size=50_000)
    label = np.random.default_rng(2).uniform(size=50_000) < p
    assert np.mean((p > 0.5) == label) == pytest.approx(evaluation.bayes_accuracy(p), abs=0.005)
    assert evaluation.expected_calibration_error(p, label) < 0.01
