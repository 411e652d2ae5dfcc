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
    players, left, right, outcome = _columns(battles)
    count = len(players)
    wins = _win_matrix(left, right, outcome, count) + prior / 2 * (1 - np.eye(count))
    groups, member = _groups(wins)
    if groups > 1:
        lone = [str(player) for player, group in zip(players, member, strict=True) if group == member[0]]
        raise KitError(
            f"the battles do not fix the ratings: {', '.join(lone[:5])} and the other players never both won "
            "and lost against each other, even through others; add battles or a prior such as prior=0.5"
        )
    scores = _maximum(wins)
    order = np.argsort(-scores, kind="stable")
    return {players[i]: float(scores[i]) for i in order}


def bradley_terry_intervals(battles, clusters=None, prior: float = 0.0, n_resamples: int = 500, confidence: float = 0.95,
                            seed: int = 0) -> list[dict]:
    """Bradley-Terry with percentile bootstrap intervals: one dict a player, the best first.

    Keys: player, score (as `bradley_terry`), rating, low, high (400 log10 of the score over the players' geometric mean,
    as in Elo: 400 points are ten to one), battles. clusters: labels of battles that belong together, such as prompts;
    whole clusters are resampled. Resamples in which the ratings have no maximum are drawn again, up to a tenth;
    beyond that a KitError asks for a prior.
    """
    players, left, right, outcome = _columns(battles)
    scores = bradley_terry(battles, prior)
    groups = np.arange(len(left)) if clusters is None else np.unique([str(c) for c in clusters], return_inverse=True)[1]
    if len(groups) != len(left):
        raise KitError(f"{len(left)} battles but {len(groups)} cluster labels")
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])
    rng, drawn, failed = np.random.default_rng(seed), [], 0
    while len(drawn) < n_resamples:
        rows = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        wins = _win_matrix(left[rows], right[rows], outcome[rows], len(players)) + prior / 2 * (1 - np.eye(len(players)))
        if not _has_maximum(wins):
            failed += 1
            if failed > max(5, n_resamples // 10):
                raise KitError("too many resamples do not fix the ratings; collect more battles or give a prior such as prior=0.5")
            continue
        drawn.append(_rating(_maximum(wins, 1e-6)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.array(drawn), [tail, 1 - tail], axis=0)
    found = _rating(np.array([scores[player] for player in players]))
    count = np.bincount(np.concatenate([left, right]), minlength=len(players))
    order = np.argsort(-found, kind="stable")
    return [{"player": players[i], "score": scores[players[i]], "rating": float(found[i]), "low": float(low[i]),
             "high": float(high[i]), "battles": int(count[i])} for i in order]


def elo(battles, k: float = 4.0, initial: float = 1000.0, scale: float = 400.0, base: float = 10.0) -> dict:
    """Elo ratings by one pass over the battles in their order: {player: rating}, the best first.

    After each battle the winner gains k * (outcome - expected), expected = 1 / (1 + base^((other - own) / scale)); a tie is
    half a win. The order of the battles matters and the last ones count most: for models that do not change,
    Bradley-Terry is the better estimate. battles as for `bradley_terry`; KitError as there for a missing column or value.
    """
    players, left, right, outcome = _columns(battles)
    ratings = np.full(len(players), float(initial))
    for i, j, won in zip(left, right, outcome, strict=True):
        gain = k * (won - 1 / (1 + base ** ((ratings[j] - ratings[i]) / scale)))
        ratings[i] += gain
        ratings[j] -= gain
    return {players[i]: float(ratings[i]) for i in np.argsort(-ratings, kind="stable")}


def _columns(battles):
    """(players in order of appearance, left and right as indices, outcome for the left: 1, 0 or 0.5)."""
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
    outcome = np.empty(len(left))
    for row, (a, b, winner) in enumerate(zip(left, right, table["winner"].tolist(), strict=True)):
        winner = getattr(winner, "value", winner)
        if winner not in OUTCOMES:
            raise KitError(f"battle {row}: winner is {winner!r}; it must be left, right or tie")
        if a == b:
            raise KitError(f"battle {row}: {a!r} meets itself")
        outcome[row] = OUTCOMES[winner]
    return players, np.array([place[a] for a in left]), np.array([place[b] for b in right]), outcome


def _win_matrix(left, right, outcome, count: int) -> np.ndarray:
    """wins[i, j]: how often i beat j, ties half."""
    size = count * count
    wins = np.bincount(left * count + right, outcome, size) + np.bincount(right * count + left, 1 - outcome, size)
    return wins.reshape(count, count)


def _groups(wins: np.ndarray) -> tuple[int, np.ndarray]:
    from scipy.sparse.csgraph import connected_components

    return connected_components(wins > 0, directed=True, connection="strong")


def _has_maximum(wins: np.ndarray) -> bool:
    return _groups(wins)[0] == 1


def _rating(scores: np.ndarray) -> np.ndarray:
    logs = np.log10(scores)
    return 400 * (logs - logs.mean())


def _maximum(wins: np.ndarray, tolerance: float = 1e-13) -> np.ndarray:
    """Maximum-likelihood scores (sum 1) of a strongly connected win matrix: Newton's method on log scores."""
    from scipy.special import expit

    battles, won = wins + wins.T, wins.sum(axis=1)
    theta = np.zeros(len(wins))

    def likelihood(x):
        gap = x[:, None] - x[None, :]
        return float(-(wins * np.logaddexp(0.0, -gap)).sum())

    for _ in range(200):
        chance = expit(theta[:, None] - theta[None, :])
        slope = won - (battles * chance).sum(axis=1)
        curve = battles * chance * (1 - chance)
        # The log scores are only known up to a constant; the added 1 fixes their mean, where the slope is 0.
        hessian = np.diag(curve.sum(axis=1)) - curve + 1.0
        try:
            step = np.linalg.solve(hessian, slope)
        except np.linalg.LinAlgError:  # players so far apart that a float sees no curvature between them
            step = np.linalg.pinv(hessian, hermitian=True) @ slope
        here, length = likelihood(theta), 1.0
        while likelihood(theta + length * step) < here - 1e-12 * abs(here) and length > 1e-6:
            length /= 2
        theta = theta + length * step
        theta -= theta.mean()
        if np.abs(step).max() < tolerance:
            break
    scores = np.exp(theta - theta.max())
    return scores / scores.sum()
