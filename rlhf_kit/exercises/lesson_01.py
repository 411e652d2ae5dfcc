"""Lesson 01: the ceiling of noisy labels, a split that does not leak, measuring an annotator."""

from __future__ import annotations

import numpy as np

from rlhf_kit import evaluation
from rlhf_kit.exercises.compare import Mistake, compare, numbers


def _sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, dtype=float)))


def exercise_1(ceiling) -> str:
    """The best accuracy on labels, from (gaps, temperature, carelessness)."""
    gaps, t, c = np.array([3.0, -1.0, 0.4, -2.5, 0.0, -0.7]), 0.8, 0.2
    p0 = _sigmoid(gaps / t)
    p = (1 - c) * p0 + c / 2
    right = evaluation.bayes_accuracy(p)
    wins = lambda q: float(np.maximum(q, 1 - q).mean())  # noqa: E731
    likely = (
        (float(p.mean()), "that is the mean probability that the *first* answer is picked; the best judge may name either, so take max(p, 1 - p) of each pair"),
        (max(float(p.mean()), 1 - float(p.mean())), "the maximum is taken of the mean; take max(p, 1 - p) of each pair first, then the mean"),
        (wins(_sigmoid(gaps / t)), "carelessness is left out: in that share of the pairs the label is a coin toss"),
        (wins((1 - c) * p0 + c * (1 - p0)), "a careless label is not a wrong label but a coin toss: it is right half of the time"),
        ((1 - c) * wins(p0), "a careless label is not always wrong: as a coin toss it adds carelessness / 2"),
        (wins(p0) - c / 2, "that takes carelessness / 2 off; mix the coin in: (1 - carelessness) * p + carelessness / 2"),
        (wins(p0) - c, "carelessness is taken off, as if a careless label were always wrong; a coin is right half of the time"),
        (wins((1 - c) * _sigmoid(gaps * t) + c / 2), "the gap is multiplied by the temperature; it is divided by it, so that a high temperature means noise"),
        (wins((1 - c) * _sigmoid(gaps) + c / 2), "the temperature is not used"),
        (float((_sigmoid(np.abs(gaps) / t) > 0.5).mean()), "that asks whether the better answer is likelier at all; the ceiling is how likely it is"),
        (100 * right, "that is in percent; a share runs from 0 to 1"),
    )  # fmt: skip
    compare(ceiling(gaps.copy(), t, c), right, likely, "the ceiling")
    compare(ceiling(np.array([2.0, -2.0]), 0.5, 1.0), 0.5, what="the ceiling of an annotator who is careless all the time")
    return f"{right:.6f} on six pairs, equal to the kit's `bayes_accuracy`; pure carelessness leaves 0.5"


def _names(code) -> set[str]:
    """The global names that a function and the comprehensions in it use."""
    inner = [c for c in code.co_consts if hasattr(c, "co_names")]
    return {*code.co_names}.union(*map(_names, inner))


def exercise_2(held_out) -> str:
    """True for each held-out row, from (prompt_ids, share, seed)."""
    ids = [f"prompt {i}" for i in range(1500) for _ in range(1 + i % 3)]
    ask = lambda rows, share=0.2, seed=0: [bool(x) for x in numbers(held_out(list(rows), share, seed), "the result").ravel()]  # noqa: E731
    chosen = ask(ids)
    if len(chosen) != len(ids):
        raise Mistake(f"{len(chosen)} values for {len(ids)} rows: return one True or False a row")
    if "hash" in _names(getattr(held_out, "__wrapped__", held_out).__code__):
        raise Mistake("Python's hash() of a text differs from process to process, and so would the split; seed a random.Random with the text, or use hashlib")
    sides = {}
    for name, side in zip(ids, chosen, strict=True):
        sides.setdefault(name, set()).add(side)
    both = sum(len(s) == 2 for s in sides.values())
    if both:
        raise Mistake(f"{both} prompts have rows on both sides: decide by prompt and not by row, or the test has been seen in training")
    if len({s for one in sides.values() for s in one}) == 1:
        raise Mistake("all rows are on one side")
    again = ask(ids)
    if again != chosen:
        raise Mistake("the same call gives another split: every draw must follow from seed and prompt")
    turned = dict(zip(ids[::-1], ask(ids[::-1]), strict=True))
    if any(turned[name] != side for name, side in zip(ids, chosen, strict=True)):
        raise Mistake("the rows in another order give another split: the side must follow from the prompt, not from its place")
    grown = dict(zip(["a new prompt", *ids], ask(["a new prompt", *ids]), strict=True))
    if any(grown[name] != side for name, side in zip(ids, chosen, strict=True)):
        raise Mistake("one new prompt in the file moves old ones to the other side: draw for each prompt by itself, not from the list of all")
    if ask(ids, seed=1) == chosen:
        raise Mistake("the seed changes nothing")
    part = sum(True in s for s in sides.values()) / len(sides)
    if abs(part - 0.8) < 0.05:
        raise Mistake("the sides are swapped: True marks the held-out rows, a share of 0.2 of the prompts here")
    if abs(part - 0.2) > 0.05:
        raise Mistake(f"{part:.0%} of the prompts are held out where 20 % were asked for")
    return f"{part:.1%} of 1,500 prompts held out, none on both sides, unmoved by another order and by a new row"


def measured(gaps, longer, wins, penalty: float = 0.0, intercept: bool = False) -> np.ndarray:
    """Weights of a logistic regression of `wins` on gap and 100 characters, by Newton's steps; the penalty spares the intercept."""
    x = np.column_stack([gaps, np.asarray(longer) / 100, np.ones(len(gaps))])[:, : 3 if intercept else 2]
    w, shrink = np.zeros(x.shape[1]), penalty * np.array([1.0, 1.0, 0.0])[: x.shape[1]]
    for _ in range(50):
        p = _sigmoid(x @ w)
        pull = x.T @ (wins - p) - shrink * w
        w = w + np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + np.diag(shrink), pull)
    return w[:2]


def exercise_3(measure) -> str:
    """(temperature, verbosity) of an annotator, from (gaps, longer, wins)."""
    coin = np.random.default_rng(11)
    gaps, longer = coin.normal(0, 2, 250), np.round(coin.normal(20, 90, 250))
    wins = (coin.random(250) < _sigmoid((gaps + 1.5 * longer / 100) / 0.8)).astype(float)
    a, b = measured(gaps, longer, wins)
    right = np.array([1 / a, b / a])
    shrunk, shifted = measured(gaps, longer, wins, penalty=1.0), measured(gaps, longer, wins, intercept=True)
    both = measured(gaps, longer, wins, penalty=1.0, intercept=True)
    alone = measured(gaps, np.zeros(250) + 1e-9, wins, penalty=1e-12)[0]
    likely = (
        ([a, b], "those are the weights of the regression; the first is 1 / temperature, and the second verbosity / temperature"),
        ([1 / a, b], "the second weight is verbosity / temperature: divide it by the first"),
        ([a, b / a], "the first weight is 1 / temperature: turn it over"),
        ([1 / a, b / a / 100], "verbosity is worth so much utility per *100* characters, and this is per character"),
        ([1 / a, 100 * b / a], "verbosity is per 100 characters, and this is a hundred times as much: divide the lengths by 100 once"),
        ([1 / shrunk[0], shrunk[1] / shrunk[0]], "the weights are shrunk: a penalty is at work (scikit-learn's LogisticRegression has C=1; C=np.inf is none)"),
        ([1 / shifted[0], shifted[1] / shifted[0]], "an intercept was fitted: it is a taste for place A, which this annotator has not (fit_intercept=False)"),
        ([1 / both[0], both[1] / both[0]], "shrunk weights and an intercept, as scikit-learn does unasked: C=np.inf, fit_intercept=False"),
        ([1 / alone, 0.0], "length was left out: its pull then hides in the temperature"),
        (right[::-1], "the two are swapped: temperature first, then verbosity"),
        ([1 / a, -b / a], "the sign of verbosity is flipped: `longer` is how much longer A is, and wins is 1 where A won"),
    )  # fmt: skip
    compare(measure(gaps.copy(), longer.copy(), wins.copy()), right, likely, "(temperature, verbosity)", tolerance=2e-3)
    return f"temperature {right[0]:.3f} and verbosity {right[1]:.3f} from 250 labels of an annotator with 0.8 and 1.5: the likeliest pair of dials"
