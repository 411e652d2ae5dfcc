"""Ratings of many models from battles between two at a time."""

from __future__ import annotations

import numpy as np

from rlhf_kit.errors import KitError

OUTCOMES = {"left": 1.0, "right": 0.0, "tie": 0.5}


def bradley_terry(battles, prior: float = 0.0) -> dict:
    """Bradley-Terry scores of the players: {player: score}, scores sum to 1, the best first.

    battles: rows with "left", "right" and "winner" ("left", "right" or "tie": half a win for each), as a
    list of dicts, a dict of columns, a pandas DataFrame or a `datasets.Dataset`.
    P(i beats j) = score_i / (score_i + score_j), by maximum likelihood.
    prior: pseudo-battles, all tied, added between every two players. Without any the likelihood has a maximum
    only if no group of players won all (or lost all) of its battles against the rest.
    Raises KitError for an unknown winner, a player against itself, and battles without a maximum.
    """
    from scipy.sparse.csgraph import connected_components

    players, wins = _wins(battles)
    count = len(players)
    wins += prior / 2 * (1 - np.eye(count))
    groups, member = connected_components(wins > 0, directed=True, connection="strong")
    if groups > 1:
        lone = [str(player) for player, group in zip(players, member, strict=True) if group == member[0]]
        raise KitError(
            f"the battles do not fix the ratings: {', '.join(lone[:5])} and the other players never both won "
            "and lost against each other, even through others; add battles or a prior such as prior=0.5"
        )
    scores = _maximum(wins)
    order = np.argsort(-scores, kind="stable")
    return {players[i]: float(scores[i]) for i in order}


def _wins(battles):
    """(players in order of appearance, wins[i, j] = how often i beat j, ties half)."""
    import pandas as pd

    table = battles.to_pandas() if hasattr(battles, "to_pandas") else pd.DataFrame(battles)
    missing = [name for name in ("left", "right", "winner") if name not in table.columns]
    if missing:
        raise KitError(f"the battles have no column {missing[0]!r}; they need left, right and winner")
    if table.empty:
        raise KitError("there are no battles to rate")
    left, right = table["left"].tolist(), table["right"].tolist()
    players = list(dict.fromkeys(player for pair in zip(left, right, strict=True) for player in pair))
    place = {player: i for i, player in enumerate(players)}
    wins = np.zeros((len(players), len(players)))
    for row, (a, b, winner) in enumerate(zip(left, right, table["winner"].tolist(), strict=True)):
        winner = getattr(winner, "value", winner)
        if winner not in OUTCOMES:
            raise KitError(f"battle {row}: winner is {winner!r}; it must be left, right or tie")
        if a == b:
            raise KitError(f"battle {row}: {a!r} meets itself")
        wins[place[a], place[b]] += OUTCOMES[winner]
        wins[place[b], place[a]] += 1 - OUTCOMES[winner]
    return players, wins


def _maximum(wins: np.ndarray) -> np.ndarray:
    """Maximum-likelihood scores (sum 1) of a strongly connected win matrix: Newton's method on log scores."""
    battles, won = wins + wins.T, wins.sum(axis=1)
    theta = np.zeros(len(wins))

    def likelihood(x):
        gap = x[:, None] - x[None, :]
        return float(-(wins * np.logaddexp(0.0, -gap)).sum())

    for _ in range(200):
        chance = 1 / (1 + np.exp(theta[None, :] - theta[:, None]))
        slope = won - (battles * chance).sum(axis=1)
        curve = battles * chance * (1 - chance)
        # The log scores are only known up to a constant: the pseudo-inverse leaves their mean alone.
        step = np.linalg.pinv(np.diag(curve.sum(axis=1)) - curve, hermitian=True) @ slope
        here, length = likelihood(theta), 1.0
        while likelihood(theta + length * step) < here - 1e-12 * abs(here) and length > 1e-6:
            length /= 2
        theta = theta + length * step
        theta -= theta.mean()
        if np.abs(step).max() < 1e-13:
            break
    scores = np.exp(theta - theta.max())
    return scores / scores.sum()
