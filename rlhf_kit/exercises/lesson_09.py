"""Lesson 09: gained and lost skills, a win rate with an honest interval, the win rate at equal length."""

from __future__ import annotations

import numpy as np

from rlhf_kit import evaluation
from rlhf_kit.evaluation import skills
from rlhf_kit.exercises.compare import Mistake, compare, numbers, parts


def exercise_1(skills_test) -> str:
    """(gained, lost, p) of whether each task was solved (before (N,), after (N,))."""
    before = np.repeat([True, True, False, False], [60, 14, 4, 22])
    after = np.repeat([True, False, True, False], [60, 14, 4, 22])
    mixed = np.random.default_rng(9).permutation(100)
    before, after = before[mixed], after[mixed]
    gained, lost, p = _as_the_kit_does(before, after)
    from scipy import stats

    two = stats.fisher_exact([[before.sum(), (~before).sum()], [after.sum(), (~after).sum()]]).pvalue
    share = (before.mean() + after.mean()) / 2
    z = (before.mean() - after.mean()) / np.sqrt(share * (1 - share) * 2 / 100)
    chi = (gained - lost) ** 2 / (gained + lost)
    corrected = (abs(gained - lost) - 1) ** 2 / (gained + lost)
    independent = "that compares two shares as if other tasks had been solved before and after; the same tasks were, so only those that changed sides count"
    likely = (
        (two, independent), (2 * stats.norm.sf(abs(z)), independent),
        (stats.ttest_ind(before.astype(float), after.astype(float)).pvalue, independent),
        (p / 2, "that is one tail; a difference in either direction would have been news: two-sided"),
        (stats.binomtest(lost, gained + lost, alternative="less").pvalue,
         "that is one tail, of as many gains or more; a difference in either direction would have been news: two-sided"),
        (stats.binomtest(gained, 100).pvalue, "tasks that did not change sides are in it; they say nothing about the direction: n is gained + lost"),
        (stats.binomtest(gained + lost, 100).pvalue, "that asks whether many tasks changed; the question is whether gains and losses are equally "
         "likely among those that did"),
        (stats.chi2.sf(chi, 1), f"that is the chi-square approximation; with {gained + lost} changes the exact binomial test costs nothing"),
        (stats.chi2.sf(corrected, 1), f"that is the chi-square approximation (corrected); with {gained + lost} changes the exact binomial test costs "
         f"nothing"),
        (stats.ttest_rel(after.astype(float), before.astype(float)).pvalue,
         "that is a paired t test; it is near, but for right or wrong the binomial test is exact"),
    )  # fmt: skip
    three = "three numbers are expected: gained, lost and the p value"
    found = parts(skills_test(before.copy(), after.copy()), 3, three)
    compare(found[:2], [gained, lost], (
        ([lost, gained], "gained and lost have changed places: gained is wrong before and right after"),
        ([after.sum(), before.sum()], "those are the tasks solved after and before; count the ones that changed sides"),
        ([after.sum() - before.sum(), 0], "that is the difference; what was gained and what was lost are two numbers"),
    ), "(gained, lost)")  # fmt: skip
    compare(found[2], p, likely, "the p value")
    even = np.array([True, False, True, False, True])
    third = parts(skills_test(even, ~even | np.array([False] * 4 + [True])), 3, three)
    if numbers(third[2], "the p value") > 1 + 1e-9:
        raise Mistake(f"with two gained and two lost the p value is {float(third[2]):.3f}; both tails overlap there, and a probability is at most 1")
    compare(third, _as_the_kit_does(even, ~even | np.array([False] * 4 + [True])), what="with two gained and two lost the answer")
    try:
        unchanged = skills_test(even, even.copy())
    except Mistake:  # binomtest and every division refuse zero changes, each in words of its own
        raise Mistake("where no task changed sides there is no coin to toss (gained + lost is 0): return 0, 0 and p = 1.0 before the test is asked") from None
    if np.isnan(numbers(parts(unchanged, 3, three)[2], "the p value")).any():
        raise Mistake("where no task changed sides p is nan (not a number): nothing speaks against the coin, so p is 1.0")
    compare(unchanged, [0, 0, 1.0], what="when nothing changed, the answer")
    return f"{gained} gained, {lost} lost: p = {p:.4f}, as skills.compare_skills; as if the tasks were not the same it would have been {two:.2f}"


def _as_the_kit_does(before, after) -> tuple[int, int, float]:

    def one(values):
        return {"task": {"metric": "acc", "samples": {i: ("", float(v)) for i, v in enumerate(values)}}}

    row = skills.compare_skills(one(before), one(after))[0]
    return row["gained"], row["lost"], row["p"]


def exercise_2(win_rate, ours_seen=None, theirs_seen=None) -> str:
    """(rate, low, high) of (ours (N,), theirs (N,), prompt_ids (N,)), a judge's values of two answers to the same prompt.

    `..._seen`, if given: rows of answers of the reader's own policies.
    """
    draw, prompts, samples = np.random.default_rng(3), 60, 9
    level = np.repeat(draw.normal(0.35, 1.0, prompts), samples)  # on an easy prompt nearly all samples win
    ours = np.round(5 + level + draw.normal(0, 0.25, prompts * samples))
    theirs = np.full(prompts * samples, 5.0)
    ids = np.repeat([f"prompt {i}" for i in draw.permutation(prompts)], samples)
    mixed = draw.permutation(len(ids))
    ours, theirs, ids = ours[mixed], theirs[mixed], ids[mixed]
    won = (np.sign(ours - theirs) + 1) / 2
    right = evaluation.win_rate(ours, theirs, list(ids))
    half = (right["high"] - right["low"]) / 2
    naive = 1.96 * won.std(ddof=1) / np.sqrt(len(won))
    found = win_rate(ours.copy(), theirs.copy(), ids.copy())
    found = parts(found, 3, "three numbers are expected: the win rate, and the low and high end of its 95 % interval")
    compare(found[0], right["win_rate"], (
        ((won == 1).mean(), "ties count as losses; a tie is half a win, or a policy that always draws would lose to itself"),
        ((won >= 0.5).mean(), "ties count as wins; a tie is half a win"),
        (won[won != 0.5].mean(), "ties are left out; then a judge that seldom decides looks as sure as one that always does: half a win each"),
        (100 * right["win_rate"], "that is in percent; return a share between 0 and 1"),
        (1 - right["win_rate"], "that is the other policy's win rate"),
        ((ours - theirs).mean(), "that is the mean difference of the values; a win rate looks only at which one is higher"),
    ), "the win rate")  # fmt: skip
    low, high = (float(numbers(x, "an end of the interval")) for x in found[1:])
    if not low < found[0] < high:
        raise Mistake(f"the interval [{low:.3f}, {high:.3f}] does not hold the win rate {float(found[0]):.3f}: return the rate, then the low end, "
         f"then the high one")
    mine = (high - low) / 2
    if (low, high) == (0.0, 1.0):
        raise Mistake("0 and 1 are quantiles of single verdicts; the interval is one of the *mean*: resample, take the mean each time, then its quantiles")
    if abs(mine / naive - 1) < 0.25:
        raise Mistake(f"the interval is {half / mine:.1f} times too narrow: the samples of one prompt share its luck, so resample whole prompts and not rows")
    if abs(mine * 1.96 / half - 1) < 0.15:
        raise Mistake("that is one standard error on either side; a 95 % interval goes from the 2.5 % to the 97.5 % quantile")
    if abs(mine * 1.96 / 1.645 / half - 1) < 0.1:
        raise Mistake("that is a 90 % interval; 95 % goes from the 2.5 % to the 97.5 % quantile")
    if not 0.85 < mine / half < 1.15:
        raise Mistake(f"half the interval is {mine:.4f} and should be about {half:.4f} (a bootstrap that draws {prompts} prompts of {prompts}, again "
         f"and again)")
    if not np.array_equal(numbers(win_rate(ours.copy(), theirs.copy(), ids.copy())), numbers(found)):
        raise Mistake("a second call gives another interval: seed the generator inside the function, so that a report can be made again")
    said = (f"{right['win_rate']:.3f} [{low:.3f}, {high:.3f}]; evaluation.win_rate says [{right['low']:.3f}, {right['high']:.3f}], "
            f"and rows as if independent would have claimed plus or minus {naive:.3f}")  # fmt: skip
    if ours_seen is None:
        return said
    mine, base = (np.array([row["reward"] for row in rows]) for rows in (ours_seen, theirs_seen))
    ids = np.array([row["prompt_id"] for row in ours_seen])
    own = numbers(win_rate(mine, base, ids), "the win rate of your own policy")
    compare(own[0], evaluation.win_rate(mine, base, list(ids))["win_rate"], what="the win rate of your own policy")
    return said + f"; your policy against SFT, by the reward model that taught it: {own[0]:.3f} [{own[1]:.3f}, {own[2]:.3f}]"


def exercise_3(equal_length_win_rate) -> str:
    """A win rate in percent of (preference (N,), ours (N,), theirs (N,)): probabilities, and lengths in characters."""
    from scipy.optimize import minimize

    draw, rows = np.random.default_rng(12), 90
    theirs = draw.integers(80, 200, rows)
    ours = theirs + draw.normal(45, 60, rows).round()
    difference = ours - theirs
    x = difference / difference.std(ddof=1)
    preference = 1 / (1 + np.exp(-(-0.2 + 1.5 * np.tanh(x) + draw.normal(0, 0.8, rows))))
    right = evaluation.length_controlled_win_rate(preference, ours, theirs)["lc_win_rate"]

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    def fitted(column, weight=0.0, wanted=preference):
        """Coefficients (model, length) of the logistic fit to `wanted`; weight is that of a ridge penalty."""

        def loss(c):
            z = c[0] + c[1] * column
            return (np.logaddexp(0, z) - wanted * z).sum() + weight / 2 * c[1] ** 2

        return minimize(loss, np.zeros(2), tol=1e-10).x

    line = np.polyfit(np.tanh(x), preference, 1)[1]
    close = np.abs(difference) < 20
    model, length = fitted(np.tanh(x))
    won = (preference > 0.5).astype(float)
    rounded = "the preferences are rounded to wins and losses; fit the probabilities as they are, a narrow win counts less than a clear one"
    likely = (
        (100 * preference.mean(), "that is the plain win rate: the predictions are averaged with the lengths as they are. Set the length difference "
         "to zero, then predict"),
        (right / 100, "that is a share; return percent"),
        (100 * line, "a straight line was fitted; preferences are probabilities, fit a logistic function"),
        (100 * sigmoid(fitted(x)[0]), "tanh is missing: without it a few very long answers steer the fit"),
        (100 * sigmoid(fitted(np.tanh(difference))[0]), "the difference is not divided by its standard deviation: tanh of a number of characters is 1 "
         "or -1 almost everywhere"),
        (100 * sigmoid(fitted(np.tanh(x - x.mean()))[0]), "the differences are centred: zero then means the mean difference, and nothing is "
         "controlled; do not subtract the mean"),
        (100 * preference[close].mean(), "that is the win rate of pairs of about equal length: honest, but it throws most of the data away; fit all of them"),
        (100 * sigmoid(length), "that is the coefficient of the length; the model's own is the one that is left at zero difference"),
        (100 * sigmoid(fitted(np.tanh(x), 0.0, won)[0]), rounded),
        (100 * sigmoid(fitted(np.tanh(x), 1.0, won)[0]), rounded),
        (100 * won.mean(), "that is the share of pairs preferred by more than one half, with the lengths as they are"),
        (model, "that is the coefficient, in logits; put it through the sigmoid"),
        (100 * sigmoid(fitted(np.tanh(x), 1.0)[0]), "the fit is shrunk by a penalty (the default of many libraries); the length's coefficient must be free"),
    )  # fmt: skip
    told = compare(equal_length_win_rate(preference.copy(), ours.copy(), theirs.astype(float)), right, likely, "the win rate at equal length", 2e-3)
    return (f"{float(told):.1f} % at equal length, as evaluation.length_controlled_win_rate; {100 * preference.mean():.1f} % as the lengths are: the "
            f"rest was bought with {difference.mean():.0f} characters more")
