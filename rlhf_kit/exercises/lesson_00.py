"""Lesson 00: a win rate with ties, how many prompts a verdict needs, the loop written out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rlhf_kit.exercises.compare import Mistake, compare, numbers


def exercise_1(win_rate) -> str:
    """A share of (before, after), the gold utilities of the same prompts under two policies."""
    before = [6.0, 2.0, 5.0, 5.0, 9.0, 1.0, 4.0, 4.0, 7.0, 3.0]
    after = [6.0, 8.0, 5.0, 4.5, 9.0, 9.5, 4.0, 4.5, 7.0, 3.0]
    b, a = np.array(before), np.array(after)
    wins, ties = float((a > b).mean()), float((a == b).mean())
    likely = (
        (wins, "ties count as losses here: an unchanged answer is half a win, or a policy that changes nothing would lose"),
        (wins + ties, "ties count as whole wins here: an unchanged answer is half a win"),
        (wins / (1 - ties), "the ties are left out, which hides that most answers did not change; count each as half"),
        (1 - wins - ties / 2, "the direction is flipped: it is the share of prompts on which *after* is better"),
        (float((a - b).mean()), "that is the mean gain of utility; a win rate counts prompts, however large the gain"),
        (wins - (1 - wins - ties), "that is wins minus losses, from -1 to 1; a win rate runs from 0 to 1"),
        (float((a[:, None] > b).mean() + (a[:, None] == b).mean() / 2), "every answer is compared with every other; compare those to the same prompt"),
        (10 * (wins + ties / 2), "that is a count; divide by the number of prompts"),
        (10 * wins, "that counts the wins; divide by the number of prompts, and count each tie as half a win"),
        (100 * (wins + ties / 2), "that is in percent; a share runs from 0 to 1"),
    )  # fmt: skip
    compare(win_rate(list(before), list(after)), wins + ties / 2, likely, "the win rate")
    compare(win_rate([1.0, 2.0], [1.0, 2.0]), 0.5, what="the win rate of a policy against itself")
    return "0.60 on ten prompts: three wins, six ties, one loss; a policy against itself gives 0.50"


def exercise_2(prompts_needed, differences: Sequence[float] | None = None) -> str:
    """A number of prompts from (differences, half_width); `differences` of the reader's run, if given, are told."""
    sample = np.random.default_rng(7).normal(0.3, 2.0, 400)
    half, s = 0.1, float(sample.std(ddof=1))
    right = (1.96 * s / half) ** 2
    likely = (
        (1.96 * s / half, "the square is missing: to halve an interval takes four times the prompts"),
        ((s / half) ** 2, "1.96 is missing: one standard error to each side covers 68 %, not 95 %"),
        ((2 * 1.96 * s / half) ** 2, "the whole width is taken for the half: the interval reaches half_width to *each* side"),
        ((1.96 * s / (2 * half)) ** 2, "half of half_width's precision: the interval reaches half_width to *each* side"),
        ((1.96 * s**2 / half) ** 2, "the variance stands where the standard deviation belongs"),
        ((1.96 * s / half) ** 2 / len(sample), "that divides by the number of prompts you had; the spread of one prompt's difference is what counts"),
        (1.96 * s / math.sqrt(len(sample)), "that is the half-width of the prompts you have; solve the formula for n"),
        (1.96 * s * math.sqrt(len(sample)) / half, "a half-width shrinks with the *square root* of n: scale the prompts by the square of the ratio"),
        ((2 * s / half) ** 2, "2 stands where 1.96 belongs; near, and on the safe side, but not what was asked"),
        ((1.96 * float(sample.mean()) / half) ** 2, "the mean difference stands where the standard deviation belongs"),
        ((1.64 * s / half) ** 2, "1.64 belongs to a 90 % interval; 95 % takes 1.96"),
    )  # fmt: skip
    likely = [(n, sentence) for wrong, sentence in likely for n in (wrong, math.ceil(wrong))]
    compare(prompts_needed(sample.tolist(), half), math.ceil(right), likely, "the number of prompts", tolerance=0.006)
    whole = float(numbers(prompts_needed(sample.tolist(), half)))
    if whole != int(whole):
        raise Mistake("a number of prompts is whole: round it up")
    four = [2.0, 2.0, -2.0, -2.0]  # 15.4 prompts by the one standard deviation, 20.5 by the other
    if float(numbers(prompts_needed(list(four), 1.0))) in (15, 20):
        raise Mistake("rounded down, or to the nearest: with one prompt too few the interval is wider than asked, so round *up*")
    said = f"{whole:,.0f} prompts for a half-width of {half}, where one prompt's difference spreads by {s:.2f}"
    if differences is not None and len(differences) > 1:
        mine = float(numbers(prompts_needed([float(x) for x in differences], half)))
        said += f"; on your run it takes {mine:,.0f}, and this lesson had {len(differences)}"
    return said


def exercise_3(online) -> str:
    """A loop of (sft, batches, sample, score, pair, train); the four steps only write down what they are given."""
    batches, seen = ["batch 1", "batch 2", "batch 3"], []

    def is_policy(x) -> bool:
        return isinstance(x, str) and (x == "sft" or x.startswith("policy"))

    def sample(policy, prompts):
        if not is_policy(policy) or prompts not in batches:
            raise Mistake("sample is called with something else than (a policy, one batch of prompts), in this order")
        seen.append({"sampler": policy, "batch": prompts})
        return ("answers", len(seen))

    def score(answers):
        if not seen or answers != ("answers", len(seen)):
            raise Mistake("score takes the answers that were sampled in this round")
        return ("rewards", len(seen))

    def pair(answers, rewards):
        if answers != ("answers", len(seen)) or rewards != ("rewards", len(seen)):
            raise Mistake("pair takes the answers and then the rewards of this round")
        return ("pairs", len(seen))

    def train(start, reference, pairs):
        if not is_policy(start) or not is_policy(reference):
            raise Mistake("train takes (a policy to start from, the reference policy, the pairs), in this order")
        if pairs != ("pairs", len(seen)):
            raise Mistake("train takes the pairs of this round alone")
        seen[-1] |= {"start": start, "reference": reference}
        return f"policy {len(seen)}"

    policies = online("sft", list(batches), sample, score, pair, train)
    if not seen:
        raise Mistake("nothing was sampled: the loop goes once over the batches of prompts")
    if any("start" not in one for one in seen):
        raise Mistake("a round ends without training: sample, score, pair and train belong to every round")
    column = {name: [one[name] for one in seen] for name in ("sampler", "batch", "start", "reference")}
    if len(seen) != len(batches):
        raise Mistake(f"there were {len(seen)} rounds of sampling for {len(batches)} batches of prompts; it takes one each")
    if column["batch"] != batches:
        raise Mistake("the rounds do not take the batches one after the other: new prompts each round, or the policy is asked what it was trained on")
    newest = ["sft", "policy 1", "policy 2"]
    if column["sampler"] == ["sft"] * 3:
        raise Mistake("every round samples from the SFT policy: that is the offline baseline; online means the newest policy")
    if column["sampler"] != newest:
        raise Mistake(f"the answers come from {', '.join(column['sampler'])}; each round must sample from the newest policy")
    if column["reference"] == newest:
        raise Mistake("the reference moves along with the policy; the paper holds every round to the SFT policy, or the drift of the rounds adds up unseen")
    if column["reference"] != ["sft"] * 3:
        raise Mistake(f"the reference is {', '.join(column['reference'])}; it is the SFT policy in every round")
    if column["start"] == ["sft"] * 3:
        raise Mistake("every training starts from SFT again and forgets the rounds before; the paper goes on from the newest policy")
    if column["start"] != newest:
        raise Mistake(f"training starts from {', '.join(column['start'])}; each round starts from the newest policy")
    made = ["policy 1", "policy 2", "policy 3"]
    if policies is None:
        raise Mistake("nothing is returned: is the `return` missing?")
    if isinstance(policies, str) and policies != made[-1]:
        raise Mistake(f"one policy is returned, {policies!r}; return those that the rounds made, one each")
    if isinstance(policies, str):
        raise Mistake("only the last policy is returned; return all of them, since lesson 08 looks at the way and not only at its end")
    if list(policies) == ["sft", *made]:
        raise Mistake("the SFT policy stands in the list too; return the policies that the rounds made")
    if list(policies) != made:
        raise Mistake(f"returned were {policies!r}; expected is the policy of each round, in order")
    return f"{len(batches)} rounds: sampled from and started at sft, policy 1, policy 2; held to sft each time"
