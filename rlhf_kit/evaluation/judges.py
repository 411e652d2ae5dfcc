"""Judges behind one face: `judge.compare(prompts, a, b)` -> `Verdicts`, whatever does the judging.

The truth of the pocket world and any scalar reward model are `ScalarJudge(rewards.Gold())`,
`ScalarJudge(rewards.BradleyTerry(...))`; the pairwise preference model is `PairwiseJudge(rewards.Pairwise(...))`; a
plain rule is `RuleJudge(longer)`; any OpenAI-compatible server is `endpoint_judge.EndpointJudge(...)`.
A judge that saw the training signal flatters: judge with another one than labelled the pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlhf_kit.errors import KitError
from rlhf_kit.evaluation.arena_hard import style_of
from rlhf_kit.evaluation.statistics import cluster_interval
from rlhf_kit.evaluation.win_rates import win_rate_of
from rlhf_kit.runs import Ledger


@dataclass(frozen=True)
class Verdicts:
    """What a judge said of N pairs.

    preference: (N,) probability in [0, 1] that a beats b, 0.5 a tie, the two orders averaged; nan where the judge
    gave no usable verdict (see ledger). shown_first, shown_second: P(a over b) with a shown first and
    second, (N,) each; None for judges that see no order. ledger: pairs in, judged, and lost by reason.
    report: the judge's own counts (flip_rate, tokens, cost, ...).
    """

    judge: str
    preference: np.ndarray
    ledger: Ledger
    shown_first: np.ndarray | None = None
    shown_second: np.ndarray | None = None
    report: dict[str, Any] = field(default_factory=dict)

    def win_rate(self, prompt_ids: Sequence | None = None, missing: str = "error", **options: Any) -> dict:
        """Win rate of a with ties half and an interval over prompts; see `win_rates.win_rate_of`."""
        return win_rate_of(self.preference, prompt_ids, missing, **options)

    def battles(self, left: str, right: str, prompt_ids: Sequence | None = None) -> list[dict]:
        """The verdicts as battles for `bradley_terry` and `elo`: left is a's name, right b's, above 0.5 a wins.

        Pairs without a verdict are no battles; their number is N less the length of the list.
        """
        names = {1.0: "left", -1.0: "right", 0.0: "tie"}
        ids = range(len(self.preference)) if prompt_ids is None else prompt_ids
        return [{"left": left, "right": right, "winner": names[float(np.sign(p - 0.5))], "prompt_id": i}
                for i, p in zip(ids, self.preference, strict=True) if np.isfinite(p)]


class ScalarJudge:
    """The higher of two scores wins; equal scores tie. scorer: anything with `score(prompts, texts)` and `name`.

    soft: the Bradley-Terry probability sigmoid(score a - score b) instead of a hard verdict; only sensible for a
    reward model trained with that loss. margin: scores this near to each other tie (hard verdicts).
    """

    def __init__(self, scorer, soft: bool = False, margin: float = 0.0):
        self.scorer, self.soft, self.margin, self.name = scorer, soft, margin, scorer.name

    def compare(self, prompts: Sequence, a: Sequence[str], b: Sequence[str]) -> Verdicts:
        same_number(prompts, a, b)
        gap = np.asarray(self.scorer.score(prompts, a), dtype=np.float64) - self.scorer.score(prompts, b)
        if not np.isfinite(gap).all():
            raise KitError(f"judge {self.name!r} gave no finite score for pair {int(np.flatnonzero(~np.isfinite(gap))[0])}")
        hard = np.where(np.abs(gap) <= self.margin, 0.5, gap > 0)
        preference = 1 / (1 + np.exp(-np.clip(gap, -500, 500))) if self.soft else hard
        return Verdicts(self.name, preference, Ledger(f"judge {self.name}", len(gap), len(gap)))


class PairwiseJudge:
    """The pairwise preference model: both orders of showing, averaged; the flip rate stands in the report."""

    def __init__(self, model):
        self.model, self.name = model, model.name

    def compare(self, prompts: Sequence, a: Sequence[str], b: Sequence[str]) -> Verdicts:
        same_number(prompts, a, b)
        first, second = self.model.both_orders(prompts, a, b)
        ledger = Ledger(f"judge {self.name}", len(first), len(first))
        return Verdicts(self.name, (first + second) / 2, ledger, first, second, dict(self.model.last_report))


class RuleJudge:
    """A verdict by rule: `rule(prompt, a, b)` -> probability that a beats b (1, 0, or 0.5 for a tie)."""

    def __init__(self, rule: Callable[[Any, str, str], float], name: str | None = None):
        self.rule, self.name = rule, name or rule.__name__

    def compare(self, prompts: Sequence, a: Sequence[str], b: Sequence[str]) -> Verdicts:
        same_number(prompts, a, b)
        found = np.array([float(self.rule(p, x, y)) for p, x, y in zip(prompts, a, b, strict=True)])
        wrong = np.flatnonzero(~((found >= 0) & (found <= 1)))
        if len(wrong):
            raise KitError(f"rule {self.name!r} gave {found[wrong[0]]} for pair {int(wrong[0])}; it must give a number in [0, 1]")
        return Verdicts(self.name, found, Ledger(f"judge {self.name}", len(found), len(found)))


def longer(prompt, a: str, b: str) -> float:
    """The control that every judge should be compared with: the longer answer (in characters) wins."""
    return (np.sign(len(a) - len(b)) + 1) / 2


def shorter(prompt, a: str, b: str) -> float:
    """The shorter answer wins."""
    return 1 - longer(prompt, a, b)


def judge_policies(rows: Sequence[Mapping], prompts: Mapping[str, Any], judge, policy: str, baseline: str,
                   temperature: float) -> tuple[Verdicts, dict[str, list]]:
    """A judge on the answers of two policies to the same prompts, as `stages.evaluation` leaves them.

    rows: policy, temperature, prompt_id, sample, text, length, category (and gold). prompts: {prompt_id: messages}.
    Returns the verdicts (policy is a, baseline is b) and the columns in their order: prompt_id, sample, category, length_a, length_b,
    style_a, style_b (`style_of`, lengths in characters), gold_a, gold_b (None without a known truth). KitError when the two
    did not answer the same prompts and samples.
    """
    sides = []
    for name in (policy, baseline):
        mine = [row for row in rows if row["policy"] == name and row["temperature"] == temperature]
        sides.append({(row["prompt_id"], row["sample"]): row for row in mine})
        if not mine:
            known = ", ".join(sorted({f"{row['policy']} at {row['temperature']:g}" for row in rows}))
            raise KitError(f"policy {name!r} was not evaluated at temperature {temperature:g}; there is {known or 'nothing'}")
        if len(sides[-1]) != len(mine):
            raise KitError(f"policy {name!r} answered a prompt twice with the same sample number")
    if set(sides[0]) != set(sides[1]):
        raise KitError(f"{policy!r} and {baseline!r} did not answer the same prompts: {len(sides[0])} and {len(sides[1])} answers, "
                       f"{len(set(sides[0]) & set(sides[1]))} in common")
    keys = list(sides[0])
    unknown = [key[0] for key in keys if key[0] not in prompts]
    if unknown:
        raise KitError(f"the prompt {unknown[0]!r} of an answer is not among the prompts")
    a, b = ([side[key] for key in keys] for side in sides)
    verdicts = judge.compare([prompts[key[0]] for key in keys], [row["text"] for row in a], [row["text"] for row in b])
    columns: dict[str, list] = {"prompt_id": [key[0] for key in keys], "sample": [key[1] for key in keys],
                                "category": [row.get("category") for row in a]}
    for side, own in (("a", a), ("b", b)):
        columns[f"length_{side}"] = [len(row["text"]) for row in own]
        columns[f"style_{side}"] = [style_of(row["text"], len(row["text"])) for row in own]
        columns[f"gold_{side}"] = [row.get("gold") for row in own]
    return verdicts, columns


# ---------------------------------------------------------------- what is wrong with a judge


def position_bias(verdicts: Verdicts, prompt_ids: Sequence | None = None, n_resamples: int = 1000, seed: int = 0) -> dict:
    """How much a judge follows the place: flip_rate, first_place with low and high (95 %), n, biased.

    flip_rate: share of pairs whose winner changes with the order. first_place: mean probability given to the
    answer shown first, over both orders: 0.5 without bias, since each answer is shown first once. biased: the
    interval leaves 0.5 out. A noisy judge flips too but has no side; only first_place tells the two apart.
    """
    if verdicts.shown_first is None or verdicts.shown_second is None:
        raise KitError(f"judge {verdicts.judge!r} does not show its answers in an order, so it has no position bias to measure")
    usable = np.isfinite(verdicts.shown_first) & np.isfinite(verdicts.shown_second)
    if not usable.any():
        raise KitError(f"judge {verdicts.judge!r} gave no pair a verdict in both orders")
    first, second = verdicts.shown_first[usable], verdicts.shown_second[usable]
    ids = None if prompt_ids is None else [i for i, keep in zip(prompt_ids, usable, strict=True) if keep]
    flips = np.sign(first - 0.5) * np.sign(second - 0.5) < 0
    favoured = cluster_interval((first + 1 - second) / 2, ids, n_resamples, seed=seed)
    return {"flip_rate": float(flips.mean()), "first_place": favoured.mean, "low": favoured.low, "high": favoured.high,
            "n": int(usable.sum()), "biased": bool(favoured.low > 0.5 or favoured.high < 0.5)}


def length_bias(preference: Sequence[float], length_a: Sequence[float], length_b: Sequence[float],
                quality: Sequence[float] | None = None, prompt_ids: Sequence | None = None) -> dict:
    """Does length sway the verdict at equal quality? slope with low and high (95 %), p, n, biased.

    Logistic regression of the preference on the length difference over its standard deviation and, if given, on
    `quality` (N,): how much better a truly is (gold a - gold b). Without it a slope may be honest: longer answers may
    be better. Robust errors, by prompt where ids are given. Rows without a verdict (nan) are left out and counted.
    """
    import warnings

    import statsmodels.api as sm

    columns = [np.asarray(x, dtype=np.float64).ravel() for x in (preference, length_a, length_b)]
    if quality is not None:
        columns.append(np.asarray(quality, dtype=np.float64).ravel())
    if len({len(x) for x in columns}) > 1:
        raise KitError(f"length bias needs columns of one length, not {[len(x) for x in columns]}")
    usable = np.isfinite(columns[0])
    gap = (columns[1] - columns[2])[usable]
    if usable.sum() < 10 or np.ptp(gap) == 0:
        raise KitError("length bias needs ten verdicts or more on answers whose length differences are not all equal")
    terms = [np.ones(len(gap)), gap / gap.std(ddof=1)]
    if quality is not None and np.ptp(columns[3][usable]) > 0:
        terms.append(columns[3][usable] / columns[3][usable].std(ddof=1))
    options: dict[str, Any] = {"cov_type": "HC1"}
    if prompt_ids is not None:
        _, groups = np.unique([str(i) for i, keep in zip(prompt_ids, usable, strict=True) if keep], return_inverse=True)
        options = {"cov_type": "cluster", "cov_kwds": {"groups": groups}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # separation (a judge that only measures length) is recognised below
        fit = sm.GLM(columns[0][usable], np.stack(terms, axis=1), family=sm.families.Binomial()).fit(**options, maxiter=100)
        separated = bool(np.abs(fit.fittedvalues - columns[0][usable]).max() < 1e-4)
    slope, (low, high), p = float(fit.params[1]), fit.conf_int()[1], float(fit.pvalues[1])
    if separated:  # no finite estimate; the sign is certain
        slope, low, high, p = float(np.sign(slope) * np.inf), *((0.0, np.inf) if slope > 0 else (-np.inf, 0.0)), 0.0
    return {"slope": slope, "low": float(low), "high": float(high), "p": p, "n": int(usable.sum()),
            "left_out": int((~usable).sum()), "biased": bool(p < 0.05)}


def agreement(preference: Sequence[float], truth: Sequence[float], prompt_ids: Sequence | None = None, **options: Any) -> dict:
    """How often a judge's winner is the true one: accuracy, low, high, n. Ties of the judge count half.

    truth: (N,) same scale as preference; pairs that the truth ties, or that have no verdict, are left out and counted.
    """
    p, t = (np.asarray(x, dtype=np.float64).ravel() for x in (preference, truth))
    if len(p) != len(t):
        raise KitError(f"{len(p)} verdicts but {len(t)} truths")
    clear = np.isfinite(p) & np.isfinite(t) & (t != 0.5)
    if not clear.any():
        raise KitError("no pair has both a verdict and a better answer, so agreement is not defined")
    right = (np.sign(p[clear] - 0.5) * np.sign(t[clear] - 0.5) + 1) / 2
    ids = None if prompt_ids is None else [i for i, keep in zip(prompt_ids, clear, strict=True) if keep]
    found = cluster_interval(right, ids, **options)
    return {"accuracy": found.mean, "low": found.low, "high": found.high, "n": int(clear.sum()),
            "left_out": int((~clear).sum())}


def same_number(prompts: Sequence, a: Sequence[str], b: Sequence[str]) -> None:
    if not len(prompts) == len(a) == len(b):
        raise KitError(f"a judge compares answers one to one: {len(prompts)} prompts, {len(a)} answers of a, {len(b)} of b")
