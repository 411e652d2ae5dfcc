"""AlpacaEval 2's own fit (arXiv 2404.04475), choice by choice, and how hard an instruction is.

`length_controlled_win_rate` is the same regression by plain maximum likelihood. The official code differs in
these choices, all of which `alpaca_eval_win_rate` follows:

- terms, no intercept: 1 for the model, tanh(length difference / its standard deviation over the instructions),
  the difficulty of the instruction; lengths in characters; soft preferences as two weighted rows, p and 1 - p;
- the difficulty is a fixed table for the 805 official instructions, estimated once from many models
  (instruction_difficulty.csv of the hub's tatsu-lab/alpaca_eval); it says nothing about your own prompts;
- two sets of rows of a deliberately short and a deliberately long baseline ("gamed", df_gamed.csv of the same
  place) are added with weight 0.2 / 2 each and without the model term, so that length is not blamed or praised
  more than those two justify;
- L1-penalised, C out of ten values from 1e-4 to 1e4 by five-fold cross-validation over instructions;
- its standard error is the spread of the predictions over instructions and leaves out that of the coefficients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rlhf_kit.errors import KitError
from rlhf_kit.evaluation.statistics import standard_error
from rlhf_kit.evaluation.win_rates import checked_columns

GAMED_WEIGHT = 0.2 / 2  # two gamed baselines share it


def alpaca_eval_win_rate(preference: Sequence[float], length_model: Sequence[float], length_baseline: Sequence[float],
                         instruction_difficulty: Sequence[float] | None = None,
                         gamed: Mapping[str, Sequence[float]] | None = None) -> dict[str, float]:
    """The length-controlled win rate as the official code fits it; keys as `length_controlled_win_rate`, in percent.

    preference, length_model, length_baseline (characters), instruction_difficulty: (N,) as there; without a difficulty
    this is the official "length_controlled_minimal". gamed: columns preference (in [0, 1]), std_delta_len (length of the
    baseline less the model's, over its standard deviation) and instruction_difficulty of the gamed rows;
    None is the official "length_controlled_noreg". lc_win_rate_se is the official one: too small, see above.
    `extreme_change` is the official warning. KitError for columns that do not fit (as there), equal length differences
    and gamed rows without a needed column.
    """
    columns = checked_columns(preference, length_model, length_baseline, instruction_difficulty)
    p, gap = columns["preference"], columns["length_model"] - columns["length_baseline"]
    spread = gap.std(ddof=1)
    if spread == 0:
        raise KitError("all length differences are equal, so there is no length to control; use the raw win rate")
    terms = [np.tanh(gap / spread), *([columns["instruction_difficulty"]] if instruction_difficulty is not None else [])]
    x = np.column_stack([*terms, np.ones_like(p)])  # the official order: liblinear's path depends on it
    equal_length = x.copy()
    equal_length[:, 0] = 0
    weight = np.ones_like(p)
    if gamed is not None:
        x, p, weight = _with_gamed(x, p, gamed)
    q = 1 / (1 + np.exp(-equal_length @ _l1_by_cross_validation(x, p, weight)))
    raw = columns["preference"]
    return {"win_rate": 100 * float(raw.mean()), "lc_win_rate": 100 * float(q.mean()), "win_rate_se": 100 * standard_error(raw),
            "lc_win_rate_se": 100 * standard_error(q)}


def _with_gamed(x, p, gamed):
    names = ("preference", "std_delta_len", "instruction_difficulty")[: x.shape[1]]
    missing = [name for name in names if name not in gamed]
    if missing:
        raise KitError(f"the gamed rows have no column {missing[0]!r}; they need {', '.join(names)}")
    extra = [np.asarray(gamed[name], dtype=np.float64) for name in names]
    keep = np.isfinite(np.stack(extra)).all(axis=0)  # the official file has rows without a verdict
    rows = [-np.tanh(extra[1][keep]), *(column[keep] for column in extra[2:]), np.zeros(keep.sum())]
    # The official order is gamed rows first; the folds of the cross-validation depend on it.
    return (np.vstack([np.column_stack(rows), x]), np.concatenate([extra[0][keep], p]),
            np.concatenate([np.full(keep.sum(), GAMED_WEIGHT), np.ones(len(p))]))


def _l1_by_cross_validation(x, p, weight) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold

    rows, target = np.vstack([x, x]), np.repeat([1, 0], len(p))
    soft, shares = np.concatenate([p, 1 - p]), np.concatenate([weight, weight])
    folds = list(GroupKFold(5).split(rows, target, groups=np.tile(np.arange(len(p)), 2)))

    def fit(c, index):
        model = LogisticRegression(C=c, l1_ratio=1.0, solver="liblinear", fit_intercept=False, random_state=123)
        return model.fit(rows[index], target[index], sample_weight=(soft * shares)[index]).coef_[0]

    def loss(coefficients, index):
        z = rows[index] @ coefficients
        wanted = np.where(target[index] == 1, soft[index], 1 - soft[index])
        return float(np.mean(shares[index] * (np.logaddexp(0, z) - wanted * z)))

    grid = np.logspace(-4, 4, 10)
    losses = [np.mean([loss(fit(c, train), test) for train, test in folds]) for c in grid]
    return fit(grid[int(np.argmin(losses))], np.arange(len(rows)))


def extreme_change(win_rate: float, lc_win_rate: float) -> bool:
    """The official warning: control moved the win rate (percent) so far that the regression may have failed."""
    too_small = lc_win_rate < min(win_rate * 3 / 4, win_rate - 10)
    return bool(too_small or lc_win_rate > max(win_rate + (100 - win_rate) / 4, win_rate + 10))


def estimate_difficulty(preferences: Mapping[str, Sequence[float]], lengths: Mapping[str, Sequence[float]],
                        length_baseline: Sequence[float], strength: float = 1.0) -> np.ndarray:
    """How easily the baseline is beaten on each of your own prompts, (N,), from several models on the same prompts.

    One logistic regression over all models: a term a model, its own slope of tanh(length difference), and one
    number a prompt, shrunk towards zero (`strength`: variance of the normal prior). preferences, lengths (characters):
    by model, each (N,) in the order of length_baseline. To be passed on as `instruction_difficulty`; the scale is
    logits. The paper (arXiv 2404.04475) fits slopes on the difficulty by model as well and does so once, on many models.
    KitError for fewer than two models, other models in lengths than in preferences, and columns that do not fit.
    """
    from scipy import sparse
    from sklearn.linear_model import LogisticRegression

    if len(preferences) < 2:
        raise KitError("the difficulty of prompts needs the preferences of two models or more")
    if set(preferences) != set(lengths):
        raise KitError(f"preferences are of {sorted(preferences)}, lengths of {sorted(lengths)}")
    wide = 10.0  # prior spread of the models' own terms: as good as none
    blocks, soft, count = [], [], len(length_baseline)
    for number, name in enumerate(preferences):
        columns = checked_columns(preferences[name], lengths[name], length_baseline)
        gap = columns["length_model"] - columns["length_baseline"]
        own = np.zeros((count, 2 * len(preferences)))
        own[:, 2 * number] = wide
        own[:, 2 * number + 1] = wide * (np.tanh(gap / gap.std(ddof=1)) if np.ptp(gap) else 0.0)
        blocks.append(sparse.hstack([sparse.csr_matrix(own), np.sqrt(strength) * sparse.identity(count)]))
        soft.append(columns["preference"])
    x, p = sparse.vstack(blocks).tocsr(), np.concatenate(soft)
    fit = LogisticRegression(C=1.0, fit_intercept=False, max_iter=2000, tol=1e-8)
    fit.fit(sparse.vstack([x, x]), np.repeat([1, 0], len(p)), sample_weight=np.concatenate([p, 1 - p]))
    return np.sqrt(strength) * fit.coef_[0][2 * len(preferences):]
