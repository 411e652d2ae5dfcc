"""Somebody's own labels of pairs: how often they agree with other judges, and what a small reward model learns from them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_kit.evaluation.statistics import share_of

FEATURES = ("longer", "words of the prompt", "says it twice", "friendly words", "refuses")
_FRIENDLY = re.compile(r"\b(please|thank|thanks|nice|hope|glad|welcome|help|happy)\b", re.I)
_REFUSES = re.compile(r"\b(sorry|cannot|can't|will not|won't|unable)\b", re.I)


def features(prompt: Sequence[Mapping], text: str) -> np.ndarray:
    """What the small reward model sees of an answer, (FEATURES,): characters / 100, share of the prompt's longer words that it
    uses, 1 if a sentence stands twice, 1 for friendly words, 1 for a refusal."""
    words = lambda s: set(re.findall(r"\w{4,}", s.lower()))  # noqa: E731
    asked = words(str(prompt[-1]["content"])) if prompt else set()
    pieces = [p.strip().lower() for p in re.split(r"[.!?\n]+", text) if p.strip()]
    return np.array([len(text) / 100, len(asked & words(text)) / max(1, len(asked)), float(len(set(pieces)) < len(pieces)),
                     float(bool(_FRIENDLY.search(text))), float(bool(_REFUSES.search(text)))])  # fmt: skip


def fit(differences: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """Weights of a linear Bradley-Terry model: logistic regression without intercept on (winner minus loser) features.

    differences: (labels, FEATURES), each divided by the feature's spread. strength: of the ridge penalty; twenty labels
    alone would fit themselves. Returns (FEATURES,); zeros where all differences are zero.
    """
    from sklearn.linear_model import LogisticRegression

    if not np.any(differences):
        return np.zeros(differences.shape[1])
    both, sides = np.concatenate([differences, -differences]), np.repeat([1, 0], len(differences))
    return (
        LogisticRegression(C=1 / (2 * strength), fit_intercept=False, max_iter=1000).fit(both, sides).coef_[0]
    )


def compared(pairs: Sequence[Mapping], taken: Mapping[str, str]) -> dict[str, Any]:
    """Your labels beside the others'. taken: pair id -> "chosen" or "rejected" (the file's names of the two answers).

    agreement: judge -> (share, low, high, n) on the labelled pairs, equal answers of a judge left out; weights: judge ->
    (FEATURES,) of the small model fitted to that judge on the same pairs; elsewhere: how well your small model orders
    all other pairs; against: the pairs on which you and the truth (without it, the file's label) differ, worst first.
    """
    vectors = np.array(
        [features(p["prompt"], p["chosen"]) - features(p["prompt"], p["rejected"]) for p in pairs]
    )
    spread = vectors.std(axis=0)
    vectors = vectors / np.where(spread > 1e-9, spread, 1.0)  # equal numbers may differ in their last digit
    mine = np.array([{"chosen": 1.0, "rejected": -1.0}.get(taken.get(p["pair"], ""), 0.0) for p in pairs])
    judges = {"the file's label": np.ones(len(pairs))}
    for name, key in (("the truth", "gold"), ("the reward model", "reward")):
        if all(p.get(f"chosen_{key}") is not None for p in pairs):
            judges[name] = np.sign([p[f"chosen_{key}"] - p[f"rejected_{key}"] for p in pairs])
    labelled = np.flatnonzero(mine)
    agreement, weights = {}, {"these labels": fit(vectors[labelled] * mine[labelled, None])}
    for name, says in judges.items():
        both = labelled[says[labelled] != 0]
        if len(both):
            agreement[name] = (*share_of(mine[both] == says[both]), len(both))
            weights[name] = fit(vectors[both] * says[both, None])
    judge = "the truth" if "the truth" in judges else "the file's label"
    rest = np.flatnonzero((mine == 0) & (judges[judge] != 0))
    guess = np.sign(vectors[rest] @ weights["these labels"])
    elsewhere = (
        (*share_of((guess * judges[judge][rest] + 1) / 2), len(rest)) if len(rest) else None
    )
    size = lambda i: abs(pairs[i]["chosen_gold"] - pairs[i]["rejected_gold"]) if judge == "the truth" else 0.0  # noqa: E731
    against = sorted((int(i) for i in labelled if judges[judge][i] * mine[i] < 0), key=lambda i: -size(i))
    return {
        "agreement": agreement,
        "weights": weights,
        "elsewhere": elsewhere,
        "judge": judge,
        "against": against,
        "labels": len(labelled),
    }
