"""Means, standard errors and intervals against scipy, statsmodels, closed forms, and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_kit import evaluation
from rlhf_kit.errors import KitError


def test_a_mean_has_the_standard_error_and_interval_of_scipy_and_statsmodels():
    from scipy import stats
    from statsmodels.stats.weightstats import DescrStatsW

    for n in (2, 5, 400):
        values = np.random.default_rng(n).normal(3.0, 2.0, n)
        assert evaluation.standard_error(values) == pytest.approx(stats.sem(values), rel=1e-12)
        for confidence in (0.95, 0.8):
            found = evaluation.mean_interval(values, confidence)
            wanted = stats.t.interval(confidence, n - 1, loc=values.mean(), scale=stats.sem(values))
            assert found == pytest.approx((values.mean(), *wanted), rel=1e-12)
            assert found[1:] == pytest.approx(DescrStatsW(values).tconfint_mean(1 - confidence), rel=1e-9)
    assert evaluation.mean_interval([1.5] * 3) == (1.5, 1.5, 1.5)


def test_a_paired_difference_is_the_mean_interval_of_the_differences():
    a, b = np.random.default_rng(0).normal(size=(2, 30))
    assert evaluation.paired_difference(a, b)[:3] == pytest.approx(evaluation.mean_interval(a - b), rel=1e-12)


def test_a_share_has_the_wilson_interval_of_scipy():
    from scipy.stats import binomtest

    for hits, n in ((0, 7), (5, 5), (13, 40)):
        wanted = binomtest(hits, n).proportion_ci(method="wilson")
        found = evaluation.share_of([1] * hits + [0] * (n - hits))
        assert found == pytest.approx((hits / n, wanted.low, wanted.high), abs=1e-12)
    assert evaluation.share_of([0.5, 0.5]) == evaluation.share_of([1, 0])  # a tie is half a hit


def test_without_the_means_of_their_groups_values_are_the_residuals_of_a_regression_on_groups():
    values, groups = np.random.default_rng(1).normal(size=9), list("abcabbaca")
    dummies = (np.array(groups)[:, None] == np.array(["a", "b", "c"])).astype(float)
    fit = dummies @ np.linalg.lstsq(dummies, values, rcond=None)[0]
    assert evaluation.without_means(values, groups) == pytest.approx(values - fit, abs=1e-12)


def test_mean_interval_and_paired_difference_in_closed_form():
    found = evaluation.mean_interval([1.0, 2.0, 3.0])
    half = 4.302652729911275 / 3**0.5  # t quantile with two degrees of freedom
    assert found == pytest.approx((2.0, 2 - half, 2 + half))
    paired = evaluation.paired_difference([3.0, 5.0, 7.0], [2.0, 3.0, 4.0])
    assert paired[:3] == pytest.approx((2.0, 2 - half, 2 + half))
    assert paired.p == pytest.approx(0.0741799, abs=1e-6)  # t = 2 sqrt(3), two degrees of freedom
    grouped = evaluation.paired_difference([3, 3, 5, 5, 7, 7], [2, 2, 3, 3, 4, 4], list("aabbcc"))
    assert grouped == pytest.approx(paired)
    assert evaluation.paired_difference([1, 2], [1, 2]) == (0, 0, 0, 1)
    for call, message in ((lambda: evaluation.mean_interval([]), "no values"),
                          (lambda: evaluation.mean_interval([1.0, np.nan]), "value 1 is nan"),
                          (lambda: evaluation.paired_difference([1.0], [2.0]), "at least two pairs"),
                          (lambda: evaluation.paired_difference([1, 2], [1]), "not 2 and 1")):
        with pytest.raises(KitError, match=message):
            call()


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    boot, seeds, trials = 0, 0, 200
    prompts = np.repeat(np.arange(50), rng.integers(1, 6, 50))
    for trial in range(trials):
        skill = rng.beta(2, 1, 50)[prompts]  # a prompt's samples share its difficulty; the mean is 2/3
        wins = (rng.uniform(size=len(prompts)) < skill).astype(float)
        _, low, high = evaluation.cluster_interval(wins, prompts, n_resamples=300, seed=trial)
        boot += low <= 2 / 3 <= high
        _, low, high = evaluation.mean_interval(rng.normal(1.0, 2.0, 8))
        seeds += low <= 1.0 <= high
    assert 0.90 <= boot / trials <= 0.99
    assert 0.90 <= seeds / trials <= 0.99


def test_a_single_cluster_or_value_says_nothing_about_spread():
    mean, low, high = evaluation.mean_interval([2.0])
    assert mean == 2 and np.isnan([low, high, evaluation.standard_error([2.0])]).all()
    found = evaluation.cluster_interval([1, 2, 3], ["p"] * 3)
    assert found.mean == 2 and np.isnan(found.low) and np.isnan(found.high)


def test_the_interval_of_many_values_needs_little_memory():
    """BCa leaves out one cluster after the other; all at once that would be a square matrix of 800 MB."""
    import tracemalloc

    values = (np.random.default_rng(0).random(10_000) < 0.9).astype(float)
    tracemalloc.start()
    found = evaluation.cluster_interval(values, n_resamples=50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.low < values.mean() < found.high and peak < 300e6
