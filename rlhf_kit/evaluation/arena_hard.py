"""Arena-Hard's score: the chance to beat the baseline, raw or with length and Markdown held equal (style control).

Each question is judged in both orders; a strong verdict (A>>B) counts three times; a score is the mean over these
verdicts, intervals resample questions (the official code resamples single verdicts, which come in pairs, and gets
narrower intervals; it prints 90 %). Style control is a logistic regression with a term a model and four style
terms, each the normalised difference between the answer and the baseline's: length, headers, lists, bold text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from rlhf_kit.errors import KitError
from rlhf_kit.evaluation.statistics import cluster_interval

STRONG = 3
# Outcome for the answer shown as A.
LABELS = {"A>>B": [1.0] * STRONG, "A>B": [1.0], "A=B": [0.5], "B=A": [0.5], "B>A": [0.0], "A<B": [0.0],
          "B>>A": [0.0] * STRONG, "A<<B": [0.0] * STRONG, "B<A": [1.0], "B<<A": [1.0] * STRONG}
STYLE = ("length", "headers", "lists", "bold")


def style_of(text: str, tokens: int | None = None) -> dict[str, int]:
    """length, headers, lists, bold of an answer; Markdown inside fenced code does not count.

    length: `tokens` if given (the official code counts them with GPT-4o's tokenizer), else words: only the relative
    difference enters, so the unit hardly matters, but it must be the same for both sides.
    """
    plain = re.sub(r"```[^`]*```", "", text)
    count = lambda pattern: len(re.findall(pattern, plain, re.MULTILINE))  # noqa: E731
    return {"length": len(text.split()) if tokens is None else int(tokens), "headers": count(r"^#{1,6}\s"),
            # [^\S\n] and not \s: that would read every run of blank lines again from each of them
            "lists": count(r"^[^\S\n]*\d+\.\s") + count(r"^[^\S\n]*[-*+]\s"),
            "bold": count(r"\*\*[^*\n]+\*\*") + count(r"__[^_\n]+__")}


def arena_hard_scores(rows: Sequence[Mapping], baseline: str, style: bool = False, n_resamples: int = 200,
                      confidence: float = 0.95, seed: int = 0) -> list[dict]:
    """One dict a model, the best first: model, score, low, high (percent), n (questions), and for the baseline 50.

    rows: dicts with model, question_id, outcomes (list of numbers in [0, 1] from both orders, strong ones repeated), and for
    `style` also style and baseline_style (`style_of` of the two answers). See `importers.read_arena_hard`. A row without
    outcomes is a KitError.
    """
    if not rows:
        raise KitError("there are no Arena-Hard verdicts to score")
    models = list(dict.fromkeys(row["model"] for row in rows))
    if baseline in models:
        raise KitError(f"the baseline {baseline!r} is among the judged models; leave its rows out")
    empty = [number for number, row in enumerate(rows) if not row["outcomes"]]
    if empty:
        raise KitError(f"Arena-Hard row {empty[0]} has no outcomes; leave rows without a verdict out")
    flat = [(models.index(row["model"]), str(row["question_id"]), float(o), number)
            for number, row in enumerate(rows) for o in row["outcomes"]]
    wrong = [number for _, _, o, number in flat if not 0 <= o <= 1]
    if wrong:
        raise KitError(f"Arena-Hard row {wrong[0]}: an outcome lies outside [0, 1]")
    member, question, outcome, origin = (np.array(x) for x in zip(*flat, strict=True))
    found, low, high = (_controlled if style else _raw)(rows, models, member, question, outcome, origin, n_resamples, confidence, seed)
    lines = [{"model": m, "score": 100 * found[i], "low": 100 * low[i], "high": 100 * high[i],
              "n": len(set(question[member == i]))} for i, m in enumerate(models)]
    lines.append({"model": baseline, "score": 50.0, "low": 50.0, "high": 50.0, "n": len(set(question))})
    return sorted(lines, key=lambda line: -line["score"])


def _raw(rows, models, member, question, outcome, origin, n_resamples, confidence, seed):
    intervals = [cluster_interval(outcome[member == i], question[member == i], max(n_resamples, 200), confidence, seed)
                 for i in range(len(models))]
    return tuple(np.array(column) for column in zip(*intervals, strict=True))


def _controlled(rows, models, member, question, outcome, origin, n_resamples, confidence, seed):
    for number, row in enumerate(rows):
        if not all(name in row.get(side, {}) for side in ("style", "baseline_style") for name in STYLE):
            raise KitError(f"Arena-Hard row {number} has no style and baseline_style with {', '.join(STYLE)}")
    own, other = (np.array([[row[side][name] for name in STYLE] for row in rows], float) for side in ("style", "baseline_style"))
    own_length, other_length = np.maximum(own[:, :1], 1), np.maximum(other[:, :1], 1)
    density, other_density = own[:, 1:] / own_length, other[:, 1:] / other_length
    features = np.hstack([(own_length - other_length) / (own_length + other_length),
                          (density - other_density) / (density + other_density + 1)])[origin]
    spread = features.std(axis=0, ddof=1)
    # Only scaled, not centred: zero must stay "the same style on both sides", where the score is read. The official
    # code centres and thereby reads its scores at the mean style of all judged answers.
    features = features[:, spread > 0] / spread[spread > 0]
    design = np.hstack([np.eye(len(models))[member], features])
    count = len(models)
    found = _probabilities(design, outcome, count)
    _, index = np.unique(question, return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(n_resamples):
        times = np.bincount(rng.integers(index.max() + 1, size=index.max() + 1), minlength=index.max() + 1)[index]
        drawn.append(_probabilities(design, outcome, count, times))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.array(drawn), [tail, 1 - tail], axis=0)
    return found, low, high


def _probabilities(design, outcome, models: int, weight=None) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    weight = np.ones(len(outcome)) if weight is None else weight.astype(float)
    # C: a penalty too weak to see, there so that a clean sweep in a resample has an answer.
    fit = LogisticRegression(C=1e4, fit_intercept=False, max_iter=1000, tol=1e-8)
    fit.fit(np.vstack([design, design]), np.repeat([1, 0], len(outcome)),
            sample_weight=np.concatenate([outcome * weight, (1 - outcome) * weight]))
    return 1 / (1 + np.exp(-fit.coef_[0][:models]))
