"""Rows of answers and of verdicts, picked and summed up for the figures and tables of a report (lesson 09)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_kit.errors import KitError
from rlhf_kit.evaluation.alpaca_eval import estimate_difficulty
from rlhf_kit.evaluation.judges import Verdicts, position_bias
from rlhf_kit.evaluation.statistics import Interval, cluster_interval, paired_difference, standard_error
from rlhf_kit.evaluation.win_rates import length_controlled_win_rate, win_rates_by_category


def pick(rows: Iterable[Mapping], **wanted: Any) -> list:
    """The rows that have all of these values: pick(rows, policy="sft", temperature=1.0)."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def flat(groups: Mapping[str, Iterable[Mapping]], label: str, **shared: Any) -> list[dict]:
    """Groups of rows as one list, each row with its group's name in the column `label`."""
    return [{**shared, label: name, **row} for name, rows in groups.items() for row in rows]


def records(table: Mapping[str, Mapping], columns: Sequence[str], **shared: Any) -> list[dict]:
    """A table {model: {head: value}} as rows with `model`, whose values take plain names in their order."""
    return [{**shared, "model": model, **dict(zip(columns, row.values(), strict=True))} for model, row in table.items()]


def mean_of(rows: Sequence[Mapping], key: str) -> Interval:
    """Mean of the column `key` over rows with prompt_id, whole prompts resampled (`cluster_interval`); KitError for no rows."""
    return cluster_interval([row[key] for row in rows], [row["prompt_id"] for row in rows])


# ---------------------------------------------------------------- judges


def win_rates(rows: Sequence[Mapping], said: Verdicts) -> list[dict]:
    """`win_rates_by_category` of one judge on one policy's battles, section by section, then for "all".

    rows: of `stages.verdicts`, all of one judge, policy and temperature; said: (N,) their verdicts. Pairs that the judge could
    not read are left out and counted in `lost`; a judge that read none has no rows.
    """
    read = np.flatnonzero(np.isfinite(said.preference))
    if not len(read):
        return []
    shared = {key: rows[0][key] for key in ("judge", "policy", "temperature")}
    categories, ids = ([rows[i][key] for i in read] for key in ("category", "prompt_id"))
    found = {line["category"]: line for line in win_rates_by_category(said.preference[read], categories, ids)}
    return [{**shared, "lost": len(rows) - len(read), **line} for line in found.values()]


def on_ties(said: Verdicts, truth: Verdicts, prompt_ids: Sequence) -> dict[str, Any]:
    """What a judge gives the policy where gold calls a tie: n_tied, tied, tied_low, tied_high (shares, 95 %).

    The shares are None where fewer than two prompts are tied. flips: how often the judge's winner changes with the order in
    which it sees the answers; None where it sees none.
    """
    level = (truth.preference == 0.5) & np.isfinite(said.preference)
    ids = np.asarray(prompt_ids)[level]
    share = cluster_interval(said.preference[level], ids) if len(set(ids)) > 1 else (None, None, None)
    flips = None if said.shown_first is None else position_bias(said, prompt_ids)["flip_rate"]
    return {"n_tied": int(level.sum()), **dict(zip(("tied", "tied_low", "tied_high"), share, strict=True)), "flips": flips}


def arena_battles(verdicts: Iterable[Mapping], judge: str) -> list[dict]:
    """One judge's verdicts on sampled answers as battles for `arena_hard_scores`."""
    return [
        {"model": row["policy"], "question_id": row["prompt_id"], "outcomes": [row["preference"]],
         "style": row["style_a"], "baseline_style": row["style_b"]}
        for row in pick(verdicts, judge=judge, temperature=1.0)
    ]  # fmt: skip


# ---------------------------------------------------------------- length


def lengths(verdicts: Iterable[Mapping], judge: str, policy: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(preference, the policy's length, the baseline's length in characters), each (N,), one sampled answer a prompt.

    One answer, since the length-controlled fit wants independent rows; answers without a verdict are left out.
    """
    mine = pick(verdicts, judge=judge, policy=policy, temperature=1.0, sample=0)
    read = [row for row in mine if row["preference"] is not None]
    preference, own, base = (np.array([row[key] for row in read]) for key in ("preference", "length_a", "length_b"))
    return preference, own, base


def controlled(
    preference: np.ndarray, own: np.ndarray, base: np.ndarray, difficulty: np.ndarray | None = None
) -> dict[str, Any]:
    """`length_controlled_win_rate` of (N,) verdicts and lengths in characters; where length alone decides, its controlled rate is
    None instead of an error."""
    try:
        return dict(length_controlled_win_rate(preference, own, base, difficulty))
    except KitError:
        raw = {"win_rate": 100 * float(np.mean(preference)), "win_rate_se": 100 * standard_error(preference)}
        return {**raw, "lc_win_rate": None, "lc_win_rate_se": None}


def length_control(mine: Sequence[np.ndarray], others: Mapping[str, Sequence[np.ndarray]]) -> dict[str, Any]:
    """Raw and length-controlled win rate in percent, and hard_win_rate (with its _se), given the prompts' difficulty as well.

    mine: `lengths` of the policy. others: those of the policies that the difficulty is estimated from; it needs two that were
    judged on all prompts, else hard_win_rate is None.
    """
    plain, met = controlled(*mine), {name: columns for name, columns in others.items() if len(columns[0])}
    harder: dict[str, Any] = {}
    same_prompts = {len(columns[0]) for columns in met.values()} == {len(mine[0])}
    if plain["lc_win_rate"] is not None and len(met) > 1 and same_prompts:
        preferences, own = ({name: columns[k] for name, columns in met.items()} for k in (0, 1))
        harder = controlled(*mine, estimate_difficulty(preferences, own, mine[2]))
    return {**plain, "hard_win_rate": harder.get("lc_win_rate"), "hard_win_rate_se": harder.get("lc_win_rate_se")}


# ---------------------------------------------------------------- what a run can say


def ended(rows: Sequence[Mapping]) -> float:
    """Share of the answers that came to an end by themselves, instead of being cut at the longest length."""
    return len(pick(rows, finish_reason="stop")) / len(rows)


def beyond_length(pairs: Sequence[Mapping]) -> dict[str, Any]:
    """Does a reward model know more than the better of "the longer answer wins" and "the shorter one wins"?

    pairs: rows of `stages.reward_test`. Returns rule ("longer" or "shorter"), accuracy (of that rule; ties half), and
    difference, low, high: the reward model's accuracy less that, paired by prompt, 95 %.
    """
    reward, length = (
        np.array([(np.sign(row[f"chosen_{key}"] - row[f"rejected_{key}"]) + 1) / 2 for row in pairs])
        for key in ("reward", "length")
    )
    rule, right = max(("longer", length), ("shorter", 1 - length), key=lambda one: one[1].mean())
    found = paired_difference(reward, right, [row["prompt_id"] for row in pairs])
    return {"rule": rule, "accuracy": float(right.mean()), "difference": found.mean, "low": found.low, "high": found.high}
