"""Intervals. What is drawn at random decides: prompts (clusters of samples) or seeds (whole runs)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlhf_kit.errors import KitError


class Interval(NamedTuple):
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float


class Difference(NamedTuple):
    """A mean difference, its confidence interval and the two-sided p value of "no difference"."""

    mean: float
    low: float
    high: float
    p: float


def cluster_interval(values: Sequence[float], clusters: Sequence | None = None, n_resamples: int = 1000,
                     confidence: float = 0.95, seed: int = 0) -> Interval:
    """Mean of `values` (N,) with a bootstrap interval (BCa) that resamples whole clusters, such as prompts.

    clusters: (N,) labels; None makes every value its own cluster. Where all clusters have the same mean
    resampling says nothing: shares that are all 0 or all 1 then get the Wilson interval over clusters,
    anything else an interval of no width. One cluster alone gives nan bounds.
    """
    from scipy import stats

    values, clusters = _finite(values), _clusters(values, clusters)
    mean = float(values.mean())
    _, index = np.unique(clusters, return_inverse=True)
    sums, sizes = np.bincount(index, weights=values), np.bincount(index).astype(float)
    if len(sums) == 1:
        return Interval(mean, float("nan"), float("nan"))
    means = sums / sizes
    if np.ptp(means) < 1e-12:
        if mean in (0.0, 1.0):
            return Interval(mean, *map(float, share_interval(mean, len(sums), confidence)))
        return Interval(mean, mean, mean)

    def ratio(s, k, axis=-1):
        return s.sum(axis=axis) / k.sum(axis=axis)

    batch = max(1, 2**22 // len(sums))  # resamples at once: bounds the memory, also that of BCa's jackknife
    found = stats.bootstrap((sums, sizes), ratio, paired=True, vectorized=True, n_resamples=n_resamples, batch=batch,
                            confidence_level=confidence, method="BCa", rng=np.random.default_rng(seed))
    low, high = found.confidence_interval
    if not (np.isfinite(low) and np.isfinite(high)):  # BCa has no answer when nearly all clusters agree
        tail = (1 - confidence) / 2
        low, high = np.quantile(found.bootstrap_distribution, [tail, 1 - tail])
    return Interval(mean, float(low), float(high))


def share_interval(share: Sequence[float], n: Sequence[int], confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) of shares of n independent cases, by Wilson: it has a width also where no case or every case counts.

    share: (N,) in 0 to 1; n: (N,) or one number for all. Cases that belong to one prompt want `cluster_interval`.
    """
    from statsmodels.stats.proportion import proportion_confint

    share, n = np.broadcast_arrays(np.asarray(share, dtype=float), np.asarray(n, dtype=float))
    low, high = proportion_confint(share * n, n, alpha=1 - confidence, method="wilson")
    return np.minimum(low, share), np.maximum(high, share)  # an end at 0 or 1 is off by rounding


def seeds_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean over independent runs with Student's t interval; needs two runs or more."""
    from scipy import stats

    values = _finite(values)
    if len(values) < 2:
        raise KitError("an interval over seeds needs at least two seeds")
    half = stats.sem(values) * stats.t.ppf((1 + confidence) / 2, len(values) - 1)
    return Interval(float(values.mean()), float(values.mean() - half), float(values.mean() + half))


def paired_difference(a: Sequence[float], b: Sequence[float], clusters: Sequence | None = None,
                      confidence: float = 0.95) -> Difference:
    """Mean of a - b with the paired t interval and p value.

    a, b: (N,) values of the same prompts (or seeds) in the same order. clusters: labels of rows that belong
    together (several samples of a prompt); the test is then over cluster means, each cluster counting once.
    """
    from scipy import stats

    a, b = _finite(a), _finite(b)
    if len(a) != len(b):
        raise KitError(f"a paired difference needs equally many values, not {len(a)} and {len(b)}")
    difference = a - b
    if clusters is not None:
        _, index = np.unique(_clusters(difference, clusters), return_inverse=True)
        difference = np.bincount(index, weights=difference) / np.bincount(index)
    if len(difference) < 2:
        raise KitError("a paired difference needs at least two pairs")
    mean = float(difference.mean())
    if np.ptp(difference) == 0:  # no spread: no t statistic
        return Difference(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    test = stats.ttest_1samp(difference, 0.0)
    low, high = test.confidence_interval(confidence)
    return Difference(mean, float(low), float(high), float(test.pvalue))


def _finite(values: Sequence[float]) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64).ravel()
    if not len(values):
        raise KitError("there is nothing to average: no values were given")
    if not np.isfinite(values).all():
        place = int(np.flatnonzero(~np.isfinite(values))[0])
        raise KitError(f"value {place} is {values[place]}, not a finite number")
    return values


def _clusters(values, clusters) -> np.ndarray:
    if clusters is None:
        return np.arange(len(values))
    if len(clusters) != len(values):
        raise KitError(f"{len(values)} values but {len(clusters)} cluster labels")
    return np.array([str(label) for label in clusters])
