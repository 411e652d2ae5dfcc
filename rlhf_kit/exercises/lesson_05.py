"""Lesson 05: the taste for length inside prompts, calibration, best-of-n without drawing again."""

from __future__ import annotations

from math import comb

import numpy as np

from rlhf_kit import evaluation
from rlhf_kit.exercises.compare import Mistake, compare


def exercise_1(length_taste, rewards_seen=None, lengths_seen=None, prompts_seen=None) -> str:
    """A mean correlation of (rewards, lengths, prompt_ids), each (N,); `..._seen`, if given: those of the reader's run."""
    told = [  # prompt, characters, reward: long stories earn more than sums, and inside a prompt longer earns less
        ("story", 300, 5.0), ("sum", 20, 1.0), ("fact", 100, 2.0), ("story", 340, 4.6), ("sum", 30, 1.6), ("story", 380, 4.9),
        ("fact", 120, 2.0), ("alone", 700, 9.0), ("story", 420, 4.1), ("sum", 44, 0.9), ("fact", 150, 2.0), ("story", 500, 3.9),
        ("list", 60, 1.9), ("list", 75, 1.3), ("list", 110, 1.4),
    ]  # fmt: skip
    prompts = np.array([row[0] for row in told])
    lengths, rewards = np.array([row[1] for row in told], dtype=float), np.array([row[2] for row in told])
    here = {name: prompts == name for name in ("story", "sum", "list", "fact", "alone")}

    def r(x, y):
        return float(np.corrcoef(x, y)[0, 1])

    inside = {name: r(rewards[here[name]], lengths[here[name]]) for name in ("story", "sum", "list")}
    right = evaluation.reward_length_correlation(rewards, lengths, prompts)["mean"]
    some = here["story"] | here["sum"] | here["list"]

    def mean(number):  # over the prompts that have a correlation
        return float(np.mean([number(lengths[here[name]], rewards[here[name]]) for name in inside]))

    def less(values):
        return values - sum(np.where(at, values[at].mean(), 0.0) for at in here.values())

    def rank(x):
        return np.argsort(np.argsort(x))

    pooled = r(rewards, lengths)
    likely = (
        (pooled, "that is one correlation over all answers: it says that long kinds of answers earn more, and not that length is paid for; go prompt "
         "by prompt"),
        (r(rewards[some], lengths[some]), "that is one correlation over all answers; take one in each prompt, then their mean"),
        (r(*(np.array([x[at].mean() for at in here.values()]) for x in (rewards, lengths))),
         "that correlates the prompts' means: what differs between prompts is just what must not count"),
        (np.nan, "the mean is nan: a prompt with one answer, or whose rewards are all equal, has no correlation and must be left out"),
        (sum(inside.values()) / 4, "a prompt without a correlation (all rewards equal) is counted as 0; leave it out of the mean"),
        (sum(inside.values()) / 5, "prompts without a correlation (one answer, or all rewards equal) are counted as 0; leave them out of the mean"),
        ((5 * inside["story"] + 3 * inside["sum"] + 3 * inside["list"]) / 11, "that weighs a prompt by its number of answers; each prompt counts once"),
        (r(less(rewards), less(lengths)), "that is one correlation of the differences from the prompts' means: a prompt with widely spread lengths "
         "then counts most; take one correlation a prompt"),
        (r(rank(rewards), rank(lengths)), "that is a rank correlation over all answers; take Pearson's, one a prompt"),
        (mean(lambda n, x: r(rank(n), rank(x))), "that is the rank correlation (Spearman's); the paper and the kit take Pearson's"),
        (mean(lambda n, x: np.cov(n, x)[0, 1]), "that is a covariance, in reward times characters; divide by both standard deviations (np.corrcoef does)"),
        (mean(lambda n, x: np.cov(n, x, ddof=0)[0, 1]), "that is a covariance; divide by both standard deviations (np.corrcoef does)"),
        (mean(lambda n, x: np.polyfit(n, x, 1)[0]), "that is a slope, in reward a character; a correlation has no unit"),
        (np.median(list(inside.values())), "that is the median over prompts; take the mean"),
        ([inside[name] for name in sorted(inside)], "that is one number a prompt; their mean is missing"),
    )  # fmt: skip
    with np.errstate(all="ignore"):
        compare(length_taste(rewards.copy(), lengths.copy(), prompts.copy()), right, likely, "the correlation")
    said = f"{right:+.3f} inside the three prompts that have a correlation; pooled over all answers the same rows say {pooled:+.3f}, the opposite"
    if rewards_seen is None:
        return said
    seen = [np.array(x) for x in (rewards_seen, lengths_seen, prompts_seen)]
    own = evaluation.reward_length_correlation(*seen)["mean"]
    with np.errstate(all="ignore"):
        compare(length_taste(*(x.copy() for x in seen)), own, what="the correlation of your own answers")
        return said + f"; your own fresh answers have {own:+.3f} inside prompts and {r(*seen[:2]):+.3f} pooled"


def exercise_2(calibration_error, margins_seen=None) -> str:
    """An expected calibration error of margins (N,) of labelled pairs; margins_seen, if given: those of the reader's run."""
    margins = np.random.default_rng(11).normal(0.7, 1.6, 60)
    p = 1 / (1 + np.exp(-margins))
    both, outcome = np.concatenate([p, 1 - p]), np.repeat([1.0, 0.0], len(p))
    right = evaluation.expected_calibration_error(both, outcome)
    table = evaluation.reliability_table(both, outcome)
    n, gap = np.array([row["n"] for row in table]), np.array([row["predicted"] - row["observed"] for row in table])
    middle = np.array([(row["low"] + row["high"]) / 2 - row["observed"] for row in table])
    likely = (
        (1 - p.mean(), "every pair is counted in one direction only: the outcome is then always 1, and what is left is one minus the mean promise; "
         "count (p, 1) and (1-p, 0)"),
        (np.abs(gap).mean(), "every bin counts the same; weigh a bin by the number of cases in it, or a bin of two cases decides"),
        ((n * gap).sum() / n.sum(), "the gaps are added with their signs and cancel to 0; take the absolute gap of each bin"),
        (abs((n * gap).sum()) / n.sum(), "the gaps are added with their signs and cancel to 0; take the absolute gap of each bin before the sum"),
        (np.abs(gap).max(), "that is the largest gap of a bin; the mean over the cases is asked for"),
        (np.sqrt((n * gap**2).sum() / n.sum()), "that is the root of the mean squared gap; take absolute gaps"),
        (np.abs(both - outcome).mean(), "there are no bins: a single outcome is 0 or 1 and never equals a promise of 0.8; compare means over the "
         "cases of a bin"),
        (((both - outcome) ** 2).mean(), "that is the Brier score, which also counts whether the model tells pairs apart; compare means over the "
         "cases of a bin"),
        ((n * np.abs(middle)).sum() / n.sum(), "a bin's promise is the mean of its probabilities, not the middle of the bin"),
        ((n * np.abs(gap)).sum() / len(p), "each pair makes two cases; divide by the number of cases"),
    )  # fmt: skip
    compare(calibration_error(margins.copy()), right, likely, "the calibration error")
    sure = np.concatenate([margins, np.full(20, 50.0), np.full(5, -50.0)])  # sigmoid(50) is 1 to the last digit
    q = 1 / (1 + np.exp(-sure))
    cases, ends = np.concatenate([q, 1 - q]), np.repeat([1.0, 0.0], len(q))
    kept = cases < 1
    open_ended = evaluation.expected_calibration_error(cases[kept], ends[kept])
    fallen = "a probability of exactly 1 (a margin of 50 or -50) falls into no bin; it belongs into the last one"
    try:
        found = calibration_error(sure)
    except Mistake as problem:
        raise Mistake(f"{fallen} ({problem})") from None
    compare(found, evaluation.expected_calibration_error(cases, ends), (
        (open_ended, fallen), (open_ended * kept.sum() / len(kept), fallen),
    ), "the calibration error, with certain pairs among them,")  # fmt: skip
    said = f"{right:.4f} on sixty pairs, as evaluation.expected_calibration_error; always saying one half would score 0.0000 and know nothing"
    if margins_seen is None:
        return said
    own = 1 / (1 + np.exp(-np.array(margins_seen)))
    own = evaluation.expected_calibration_error(np.concatenate([own, 1 - own]), np.repeat([1.0, 0.0], len(own)))
    compare(calibration_error(np.array(margins_seen)), own, what="the error on your held-out pairs", tolerance=1e-3)
    return said + f"; your reward model has {own:.4f} on its held-out pairs"


def exercise_3(best_of_n) -> str:
    """The expected truth of the best of n among N samples (rewards, gold), each (N,)."""
    rewards = np.array([0.3, 1.9, -0.4, 1.1, 2.6, 0.8, -1.2, 1.5])
    gold = np.array([4.0, 7.5, 3.0, 6.0, 5.0, 8.0, 2.0, 9.0])
    n, total = 3, 8

    def mean(chooser, values):
        return float(evaluation.best_of_n_mean([chooser], [values], n)[0])

    right, order = mean(rewards, gold), np.argsort(rewards)
    ranked, rank = gold[order], np.arange(1, total + 1)
    again = ranked @ ((rank / total) ** n - ((rank - 1) / total) ** n)
    slipped = sum(comb(i - 1, n - 1) / comb(total, n) * ranked[i] for i in range(1, total))
    likely = (
        (gold[np.argmax(rewards[:n])], "that looks at the first n samples only; the mean over all choices of n among the N samples uses every one of them"),
        (again, "that draws the n with repetition, so the same sample may be drawn twice: it is biased towards a smaller n; draw without"),
        (mean(gold, gold), "the truth picks the answer: that is the oracle; the reward picks, and the truth is only read off"),
        (mean(rewards, rewards), "that is the reward of the chosen answer, which rises whatever happens; return its gold"),
        (gold[np.argmax(rewards)], "that is the best of all N samples, whatever n is"),
        (mean(-rewards, gold), "the lowest reward is kept; the best of n is the highest"),
        (ranked[-n:].mean(), "that is the mean of the n best samples; one answer is kept of each n, and each n is only some of the N"),
        (gold.mean(), "that is the mean of all samples, which is best-of-1"),
        (slipped, "the weights do not add up to 1: with ranks from 1 (the lowest) the i-th is the best of C(i-1, n-1) choices, with ranks from 0 of "
         "C(i, n-1)"),
        (np.mean([gold[k : k + n][np.argmax(rewards[k : k + n])] for k in range(0, total - n + 1, n)]),
         "that cuts the samples into separate groups of n: without bias, but it wastes most of the choices and is noisier"),
        (np.mean([gold[k : k + n][np.argmax(rewards[k : k + n])] for k in range(total - n + 1)]),
         "that takes neighbouring samples only; take all choices of n among N"),
    )  # fmt: skip
    found = _same_twice(best_of_n, rewards, gold, n)
    if isinstance(found, int | float) and 1e-4 < abs(found - right) < 0.1 and not any(np.isclose(found, wrong) for wrong, _ in likely):
        raise Mistake(f"{found:.4f} is near {right:.4f} and not equal: choices drawn at random leave luck in it; the mean over all of them has none")
    told = compare(found, right, likely, "the expected gold")
    compare(best_of_n(rewards.copy(), gold.copy(), 1), gold.mean(), what="best-of-1, which is the plain mean,")
    compare(best_of_n(rewards.copy(), gold.copy(), total), 5.0, what="best-of-8 of 8 samples, which is the gold of the best,")
    tied, truth = np.array([1.0, 2.0, 2.0, 0.0]), np.array([5.0, 9.0, 1.0, 4.0])

    def by_place(i):
        return (truth[i] * 3 + truth[3 - i] * 2 + 5.0) / 6

    compare(best_of_n(tied, truth, 2), float(evaluation.best_of_n_mean([tied], [truth], 2)[0]), (
        (by_place(1), "of two equal rewards the first one always wins; equal rewards must share the chance, or the order of the samples decides"),
        (by_place(2), "of two equal rewards the last one always wins; equal rewards must share the chance, or the order of the samples decides"),
    ), "with two equal rewards the expected gold")  # fmt: skip
    return (f"{float(told):.4f}, the mean over all 56 choices of 3 among 8, and equal rewards share their chance; drawing with repetition would have "
            f"said {again:.4f}")


def _same_twice(function, *arguments):
    """The answer, after a look whether the function draws at random."""
    first, second = (function(*[a.copy() if hasattr(a, "copy") else a for a in arguments]) for _ in range(2))
    if isinstance(first, int | float) and isinstance(second, int | float) and first != second:
        raise Mistake("two calls give two numbers: no drawing is needed, the mean over all choices has a closed form")
    return first
