"""Win rates against a baseline: raw, and with the length of the answers held equal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlhf_kit.errors import KitError
from rlhf_kit.evaluation.statistics import cluster_interval, paired_difference, standard_error


def win_rate(values_a: Sequence[float], values_b: Sequence[float], prompt_ids: Sequence | None = None,
             n_resamples: int = 1000, confidence: float = 0.95, seed: int = 0) -> dict[str, float]:
    """Share of rows where a's value is above b's, ties half, with a bootstrap interval over prompts.

    values_a, values_b: (N,) a judge's values of the two policies' answers to the same prompts, row by row.
    Returns win_rate, low, high (shares, not percent), ties (share of rows) and n (rows). KitError for unequal numbers of
    values and for a value that is nan.
    """
    a, b = (np.asarray(v, dtype=np.float64).ravel() for v in (values_a, values_b))
    if len(a) != len(b):
        raise KitError(f"a win rate compares answers one to one, not {len(a)} with {len(b)}")
    won = np.where(np.isnan(a) | np.isnan(b), np.nan, (np.sign(a - b) + 1) / 2)
    found = cluster_interval(won, prompt_ids, n_resamples, confidence, seed)
    return {"win_rate": found.mean, "low": found.low, "high": found.high, "ties": float(np.mean(won == 0.5)),
            "n": len(won)}


def win_rate_of(preference: Sequence[float], prompt_ids: Sequence | None = None, missing: str = "error",
                n_resamples: int = 1000, confidence: float = 0.95, seed: int = 0) -> dict[str, float]:
    """Win rate from a judge's verdicts, ties half, with a bootstrap interval over prompts.

    preference: (N,) probability in [0, 1] that the policy beats the baseline; nan where the judge gave no verdict.
    missing: what a nan is: "error" (default), "tie" (half a win) or "drop"; either way counted in `missing`.
    Returns win_rate, low, high, ties (share of exactly 0.5), n (rows used), missing. KitError names the row without a
    verdict (for "error") or outside [0, 1]; also for no rows, another number of ids, and another word in `missing`.
    """
    p = np.asarray(preference, dtype=np.float64).ravel()
    gone = np.isnan(p)
    if missing not in ("error", "tie", "drop"):
        raise KitError(f"missing is {missing!r}; it must be error, tie or drop")
    if gone.any() and missing == "error":
        raise KitError(f"preference, row {int(np.flatnonzero(gone)[0])}: no verdict (nan), {int(gone.sum())} in all; "
                       "say missing='tie' or missing='drop' to count them as half a win or leave them out")
    wrong = np.flatnonzero(~gone & ~((p >= 0) & (p <= 1)))
    if len(wrong):
        raise KitError(f"preference, row {int(wrong[0])}: {p[wrong[0]]} is not a probability between 0 and 1")
    ids = prompt_ids if prompt_ids is not None else range(len(p))
    if len(ids) != len(p):
        raise KitError(f"{len(p)} preferences but {len(ids)} prompt ids")
    if missing == "drop":
        ids, p = [i for i, lost in zip(ids, gone, strict=True) if not lost], p[~gone]
    if not len(p):
        raise KitError("no verdict is left to count, so there is no win rate")
    p = np.where(np.isnan(p), 0.5, p)
    found = cluster_interval(p, ids, n_resamples, confidence, seed)
    return {"win_rate": found.mean, "low": found.low, "high": found.high, "ties": float(np.mean(p == 0.5)),
            "n": len(p), "missing": int(gone.sum())}


def win_rates_by_category(preference: Sequence[float], categories: Sequence[str], prompt_ids: Sequence | None = None,
                          missing: str = "error", **options) -> list[dict]:
    """`win_rate_of` for each category in order of appearance, then for "all": one dict a line with `category`; KitError names it."""
    p = np.asarray(preference, dtype=np.float64).ravel()
    if len(p) != len(categories):
        raise KitError(f"{len(p)} preferences but {len(categories)} categories")
    ids = list(range(len(p)) if prompt_ids is None else prompt_ids)
    lines = []
    for category in [*dict.fromkeys(categories), None]:
        rows = [i for i, own in enumerate(categories) if category is None or own == category]
        try:
            found = win_rate_of(p[rows], [ids[i] for i in rows], missing, **options)
        except KitError as error:
            raise KitError(f"category {category!r}: {error}" if category is not None else str(error)) from None
        lines.append({"category": "all" if category is None else category, **found})
    return lines


def compare_policies(preference_a: Sequence[float], preference_b: Sequence[float],
                     prompt_ids: Sequence | None = None) -> dict[str, float]:
    """Two policies judged against the same baseline on the same prompts: difference of their win rates, paired.

    Both (N,), row by row the same prompt. Rows where either has no verdict (nan) are left out of both and counted.
    Returns difference (a - b), low, high (95 %, t over prompts), p, n (rows used), missing. KitError for unequal numbers of
    verdicts, and for fewer than two prompts with both.
    """
    a, b = (np.asarray(x, dtype=np.float64).ravel() for x in (preference_a, preference_b))
    if len(a) != len(b):
        raise KitError(f"a paired comparison needs the same prompts for both: {len(a)} and {len(b)} verdicts")
    both = ~(np.isnan(a) | np.isnan(b))
    ids = None if prompt_ids is None else [i for i, keep in zip(prompt_ids, both, strict=True) if keep]
    found = paired_difference(a[both], b[both], ids)
    return {"difference": found.mean, "low": found.low, "high": found.high, "p": found.p, "n": int(both.sum()),
            "missing": int((~both).sum())}


def length_controlled_win_rate(preference: Sequence[float], length_model: Sequence[float],
                               length_baseline: Sequence[float],
                               instruction_difficulty: Sequence[float] | None = None) -> dict[str, float]:
    """Win rate of a model against a baseline, raw and as it would be at equal length; all in percent.

    The regression of AlpacaEval 2 (arXiv 2404.04475) in its minimal form: preference is a logistic function
    of a model term, tanh of the length difference over its standard deviation and, if given, the difficulty
    of the instruction; no other intercept, no penalty, no added "gamed" rows. The length-controlled win rate
    is the mean prediction with the length difference set to zero. `evaluation.alpaca_eval` names what the official
    code does differently (a penalty, gamed rows) and follows it.

    The difficulty matters for models far below the baseline: on the published annotations of 48 models the
    leaderboard is met to 0.7 points on average with a difficulty and to 6.6 without; the two agree only where
    the win rate is near one half (a model that wins 3 % reads 20 % instead of 6 %). For own prompts judged for
    several models, `estimate_difficulty` makes one (1.2 points there).

    preference: (N,) probability in [0, 1] that the model beats the baseline (soft or hard, 0.5 a tie).
    length_model, length_baseline: (N,) characters. instruction_difficulty: (N,) any scale.

    Returns win_rate, lc_win_rate, win_rate_se, lc_win_rate_se. win_rate_se is the standard error of the mean;
    lc_win_rate_se the delta method on the regression's robust covariance plus the spread over instructions.
    Raises KitError for preferences outside [0, 1], unequal lengths of the inputs, and data that length alone
    separates perfectly (the regression then has no finite solution).
    """
    columns = checked_columns(preference, length_model, length_baseline, instruction_difficulty)
    preference = columns["preference"]
    rate, rate_se = preference.mean(), standard_error(preference)
    if np.ptp(preference) == 0:  # always the same verdict: length explains nothing, and 0 or 1 has no logit
        controlled, controlled_se = rate, 0.0
    else:
        difference = columns["length_model"] - columns["length_baseline"]
        controlled, controlled_se = _controlled(preference, difference, columns.get("instruction_difficulty"))
    return {"win_rate": float(100 * rate), "lc_win_rate": float(100 * controlled),
            "win_rate_se": float(100 * rate_se), "lc_win_rate_se": float(100 * controlled_se)}


def checked_columns(preference, length_model, length_baseline, instruction_difficulty=None) -> dict[str, np.ndarray]:
    """The columns of a length-controlled win rate (lengths in characters) as float arrays (N,), or a KitError naming column and row."""
    preference = np.asarray(preference, dtype=np.float64).ravel()
    columns = {"preference": preference}
    for name, values in (("length_model", length_model), ("length_baseline", length_baseline),
                         ("instruction_difficulty", instruction_difficulty)):
        if values is not None:
            columns[name] = np.asarray(values, dtype=np.float64).ravel()
    for name, values in columns.items():
        if len(values) != len(preference):
            raise KitError(f"{name} has {len(values)} rows, preference {len(preference)}")
        if not np.isfinite(values).all():
            raise KitError(f"{name}, row {int(np.flatnonzero(~np.isfinite(values))[0])}: not a finite number")
    if len(preference) < 2:
        raise KitError("a win rate with a standard error needs at least two rows")
    if preference.min() < 0 or preference.max() > 1:
        row = int(np.flatnonzero((preference < 0) | (preference > 1))[0])
        raise KitError(f"preference, row {row}: {preference[row]} is not a probability between 0 and 1")
    return columns


def _controlled(preference, difference, difficulty) -> tuple[float, float]:
    import warnings

    import statsmodels.api as sm

    spread = difference.std(ddof=1)
    columns = [np.ones_like(preference)]
    equal_length = [np.ones_like(preference)]
    if spread > 0:
        columns.append(np.tanh(difference / spread))
        equal_length.append(np.zeros_like(preference))
    if difficulty is not None:
        columns.append(difficulty)
        equal_length.append(difficulty)
    design, wanted = np.stack(columns, axis=1), np.stack(equal_length, axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # separation is recognised below
        regression = sm.GLM(preference, design, family=sm.families.Binomial())
        fit = regression.fit(cov_type="HC0", maxiter=200, tol=1e-12)
        predicted = fit.predict(wanted)
    logits = design @ fit.params
    if not np.isfinite(fit.params).all() or np.abs(logits).max() > 15:
        raise KitError("the length (or difficulty) separates wins from losses perfectly, so a win rate at "
                       "equal length is not defined; judge more prompts")
    gradient = ((predicted * (1 - predicted))[:, None] * wanted).mean(axis=0)
    rows, terms = design.shape
    robust = fit.cov_params() * rows / max(rows - terms, 1)  # small-sample factor of HC1
    variance = gradient @ robust @ gradient + predicted.var(ddof=1) / rows
    return float(predicted.mean()), float(np.sqrt(max(variance, 0.0)))
