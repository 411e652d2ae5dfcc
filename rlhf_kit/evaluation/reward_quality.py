"""What a reward model gets right and what it leans on: accuracy, calibration, length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlhf_kit.errors import KitError
from rlhf_kit.evaluation.statistics import cluster_interval


def reward_accuracy(rewards_a: Sequence[float], rewards_b: Sequence[float], gold_a: Sequence[float],
                    gold_b: Sequence[float], prompt_ids: Sequence | None = None, n_resamples: int = 1000,
                    confidence: float = 0.95, seed: int = 0) -> dict[str, float]:
    """How often rewards order two answers as the truth does; equal rewards count half (RewardBench's rule).

    All (N,). Pairs of equal truth have no right order and are left out.
    Returns accuracy, low, high (bootstrap over prompts), n (pairs judged), reward_ties, gold_ties (counts).
    KitError for columns of unequal length, values that are nan, and pairs that the truth all ties.
    """
    arrays = [np.asarray(x, dtype=np.float64).ravel() for x in (rewards_a, rewards_b, gold_a, gold_b)]
    if len({len(x) for x in arrays}) > 1:
        raise KitError(f"reward accuracy needs four equally long columns, not {[len(x) for x in arrays]}")
    by_reward, by_gold = arrays[0] - arrays[1], arrays[2] - arrays[3]
    if np.isnan(by_reward).any() or np.isnan(by_gold).any():
        row = int(np.flatnonzero(np.isnan(by_reward + by_gold))[0])
        raise KitError(f"pair {row}: a reward is not a number")
    clear = by_gold != 0
    if not clear.any():
        raise KitError("no pair has a better answer by the gold scores; an accuracy is not defined")
    right = (np.sign(by_reward[clear]) * np.sign(by_gold[clear]) + 1) / 2
    ids = None if prompt_ids is None else [i for i, keep in zip(prompt_ids, clear, strict=True) if keep]
    found = cluster_interval(right, ids, n_resamples, confidence, seed)
    return {"accuracy": found.mean, "low": found.low, "high": found.high, "n": int(clear.sum()),
            "reward_ties": int((by_reward[clear] == 0).sum()), "gold_ties": int((~clear).sum())}


def bayes_accuracy(probabilities: Sequence[float]) -> float:
    """The best accuracy a model can expect on labels drawn with these (N,) probabilities: mean of max(p, 1-p).

    KitError for none, and for numbers outside [0, 1].
    """
    p = _probabilities(probabilities)
    return float(np.maximum(p, 1 - p).mean())


def reliability_table(probabilities: Sequence[float], outcomes: Sequence[float],
                      bins: int = 10) -> list[dict[str, float]]:
    """Predicted against observed, in bins of equal width; empty bins are left out.

    probabilities: (N,) predicted P(first answer preferred). outcomes: (N,) 1, 0 or 0.5 for a tie.
    Returns {low, high, n, predicted, observed} a bin. KitError for probabilities outside [0, 1] or none, and for another
    number of outcomes.
    """
    p, outcome = _probabilities(probabilities), np.asarray(outcomes, dtype=np.float64).ravel()
    if len(p) != len(outcome):
        raise KitError(f"{len(p)} probabilities but {len(outcome)} outcomes")
    index = np.minimum((p * bins).astype(int), bins - 1)
    return [{"low": k / bins, "high": (k + 1) / bins, "n": int((index == k).sum()),
             "predicted": float(p[index == k].mean()), "observed": float(outcome[index == k].mean())}
            for k in range(bins) if (index == k).any()]


def expected_calibration_error(probabilities: Sequence[float], outcomes: Sequence[float],
                               bins: int = 10) -> float:
    """Mean gap between predicted and observed over the bins of `reliability_table`, weighted by size (arXiv 1706.04599).

    Arguments and KitError as there.
    """
    table = reliability_table(probabilities, outcomes, bins)
    total = sum(row["n"] for row in table)
    return float(sum(row["n"] * abs(row["predicted"] - row["observed"]) for row in table) / total)


def reward_length_correlation(rewards: Sequence[float], lengths: Sequence[float], groups: Sequence,
                              n_resamples: int = 1000, confidence: float = 0.95, seed: int = 0) -> dict:
    """Pearson correlation of reward and length within a prompt, averaged over prompts (paper Fig. 3).

    All (N,); lengths in characters or tokens (a correlation has no unit); groups: prompt ids. Prompts whose rewards or
    lengths are all equal have no correlation; they are counted in `skipped`. Returns mean, low, high, prompts, skipped and
    by_prompt (the list to draw). KitError where no prompt is left, and for unequal columns.
    """
    rewards, lengths = (np.asarray(x, dtype=np.float64).ravel() for x in (rewards, lengths))
    if not len(rewards) == len(lengths) == len(groups):
        raise KitError(f"{len(rewards)} rewards, {len(lengths)} lengths and {len(groups)} prompt ids")
    rows: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(str(group), []).append(row)
    found = []
    for members in rows.values():
        reward, length = rewards[members], lengths[members]
        if len(members) > 1 and np.ptp(reward) > 0 and np.ptp(length) > 0:
            found.append(float(np.corrcoef(reward, length)[0, 1]))
    if not found:
        raise KitError("no prompt has responses of different reward and length; a correlation is not defined")
    interval = cluster_interval(found, None, n_resamples, confidence, seed)
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "prompts": len(found),
            "skipped": len(rows) - len(found), "by_prompt": found}


def diversity(texts_by_prompt: Sequence[Sequence[str]]) -> float:
    """Mean share of distinct texts among a prompt's samples; 1 means that no answer was drawn twice. KitError for no texts."""
    shares = [len(set(texts)) / len(texts) for texts in texts_by_prompt if len(texts)]
    if not shares:
        raise KitError("diversity needs at least one response")
    return float(np.mean(shares))


def _probabilities(values) -> np.ndarray:
    p = np.asarray(values, dtype=np.float64).ravel()
    if not len(p) or not ((p >= 0) & (p <= 1)).all():
        raise KitError("probabilities must be numbers between 0 and 1, and at least one")
    return p
