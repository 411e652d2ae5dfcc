"""Lesson 04: a probability from two orders, what the place decides, the best and the worst with few questions."""

from __future__ import annotations

import math

import numpy as np
import torch

from rlhf_kit import losses, rewards
from rlhf_kit.exercises.compare import Mistake, compare, parts


def exercise_1(preference) -> str:
    """P(first answer wins), from (logits, swapped (B, V), letter_a, letter_b)."""
    coin = torch.Generator().manual_seed(5)
    one, two = 1.5 * torch.randn(4, 9, generator=coin), 1.5 * torch.randn(4, 9, generator=coin)
    a, b = 6, 2
    p = losses.pairwise_probability(one[:, a], one[:, b])
    q = losses.pairwise_probability(two[:, a], two[:, b])  # of the second answer, which is shown as A there
    right = (p + 1 - q) / 2
    whole = lambda x, letter: x.softmax(-1)[:, letter]  # noqa: E731
    likely = (
        ((p + q) / 2, "in the second order the letter A means the *other* answer: take 1 - P(A) there"),
        (p, "only one order is used; the place pulls, and the mean of both takes that out"),
        (1 - q, "only the swapped order is used; take the mean of both"),
        (1 - right, "that is the probability that the second answer wins"),
        ((whole(one, a) + whole(two, b)) / 2, "the softmax runs over the whole vocabulary; divide by the mass of the two letters alone"),
        (torch.sigmoid((one[:, a] - one[:, b] + two[:, b] - two[:, a]) / 2), "the logits are averaged; average the two *probabilities*, as the kit does"),
        (((p > 0.5).float() + (q < 0.5).float()) / 2, "those are votes; keep the probabilities, which say how sure the judge is"),
        (p * (1 - q), "the two orders are multiplied as if they were two judges; take their mean"),
        (torch.stack([right, 1 - right], 1), "two probabilities a pair; return that of the first answer alone"),
        (p + 1 - q, "that is the sum of the two orders; take their mean"),
    )  # fmt: skip
    compare(preference(one.clone(), two.clone(), a, b), right, likely, "the probabilities")
    given, other = preference(one.clone(), two.clone(), a, b), preference(two.clone(), one.clone(), a, b)
    compare(torch.as_tensor(given) + torch.as_tensor(other), torch.ones(4), what="P(first) + P(second)")
    return f"{', '.join(f'{x:.3f}' for x in right.tolist())} on four pairs; with the answers exchanged both sum to 1"


def exercise_2(order_report, first=None, second=None) -> str:
    """(flip rate, mean probability of place A), from (p, q): P(letter A) in the first and in the swapped order.

    first, second: if given, the same probabilities of the reader's own model, which are then told.
    """
    p = np.array([0.9, 0.8, 0.3, 0.7, 0.2, 0.6, 0.45, 0.95])
    q = np.array([0.2, 0.7, 0.6, 0.4, 0.4, 0.55, 0.9, 0.3])
    flips, place = rewards.flip_rate(p, q), float(np.concatenate([p, q]).mean())
    agree = float(np.mean((p > 0.5) == (q > 0.5)))
    assert flips == agree
    rate, side = "the flip rate", "the pull of place A"
    found = order_report(p.copy(), q.copy())
    found = parts(found, 2, "return two numbers: (flip rate, mean probability of place A)")
    compare(found[0], flips, (
        (1 - agree, "the other pairs are counted: where the *letter* changes with the order, the *answer* stays the same, and nothing flips"),
        (100 * flips, "that is in percent; a share runs from 0 to 1"),
        (float(np.mean(np.abs(p - (1 - q)))), "that is how far the two orders are apart on average; the flip rate counts pairs with another winner"),
        (float(np.mean(np.abs(p - q))), "that is a mean distance of two probabilities; the flip rate counts pairs with another winner"),
        (float(np.sum((p > 0.5) == (q > 0.5))), "that is a count; divide by the number of pairs"),
        (float(np.mean((p > 0.5) & (q > 0.5))), "only flips towards A are counted; a judge may follow place B as well"),
    ), rate)  # fmt: skip
    compare(found[1], place, (
        (float(((p + 1 - q) / 2).mean()), "that is the mean preference for the first answer; the place is A in *both* orders, so average p and q as they are"),
        (float(p.mean()), "only one order is used: if the first answers are better, they look like a pull of the place"),
        (float(q.mean()), "only the swapped order is used; average over both"),
        (place - 0.5, "one half is taken off; return the mean probability itself, 0.5 for a judge without a side"),
        (float((np.concatenate([p, q]) > 0.5).mean()), "that is the share of A verdicts; take the mean of the probabilities"),
        (1 - place, "that is place B"),
    ), side)  # fmt: skip
    said = f"flip rate {flips:.3f}, as the kit counts it, and place A {place:.4f} on eight pairs"
    if first is None:
        return said
    own, right = order_report(first.copy(), second.copy()), (rewards.flip_rate(first, second), np.concatenate([first, second]).mean())
    compare(own, right, what="the report on your own model")
    return said + f"; your model flips {right[0]:.1%} of its verdicts and gives place A {right[1]:.3f}"


def exercise_3(best_and_worst) -> str:
    """(best, worst) of n answers, from (prefer, n), with at most ceil(3n/2) - 2 questions."""
    strengths = {8: [5.0, 3.0, 8.0, 1.0, 2.0, 7.0, 4.0, 6.0], 7: [2.0, 6.0, 4.0, 0.5, 7.0, 3.0, 5.0], 3: [1.0, 3.0, 2.0], 2: [0.0, 1.0]}
    counts = []
    for n, strength in strengths.items():
        questions = []

        def prefer(i, j, n=n, strength=strength, questions=questions):
            if not all(isinstance(k, int | np.integer) and 0 <= k < n for k in (i, j)):
                raise Mistake(f"prefer({i!r}, {j!r}) was asked, but the answers are numbered 0 ... {n - 1}")
            if i == j:
                raise Mistake("an answer is compared with itself")
            questions.append((i, j))
            if len(questions) > 4 * n * n:
                raise Mistake(f"more than {4 * n * n} questions for {n} answers: the search does not end")
            return 1 / (1 + math.exp(strength[j] - strength[i]))

        found = best_and_worst(prefer, n)
        best, worst = int(np.argmax(strength)), int(np.argmin(strength))
        found = parts(found, 2, "return two numbers of answers: (best, worst)")
        if tuple(found) == (worst, best):
            raise Mistake("best and worst are swapped: prefer(i, j) is the probability that i *beats* j")
        if found[0] != best:
            raise Mistake(f"of {n} answers the best was missed: compare each newcomer with the best so far, not with its neighbour")
        if found[1] != worst:
            raise Mistake(f"of {n} answers the worst was missed: compare each newcomer with the worst so far, not with its neighbour")
        limit, asked = math.ceil(3 * n / 2) - 2, len(questions)
        counts.append(asked)
        if asked >= n * (n - 1) / 2 and asked > limit:
            raise Mistake(f"{asked} questions for {n} answers: that asks every pair, and {limit} are enough")
        if asked > limit:
            raise Mistake(
                f"{asked} questions for {n} answers where {limit} are enough: pair them first; the best is among the "
                "winners, the worst among the losers"
            )
    return f"best and worst of eight with {counts[0]} questions instead of 28, {2 * counts[0]} reads of the model in both orders instead of 56"
