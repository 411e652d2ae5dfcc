"""Lesson 08: KL from samples, the loss before the first step, the loop with a brake."""

from __future__ import annotations

import math

import numpy as np
import torch

from rlhf_kit import losses, online
from rlhf_kit.exercises.compare import Mistake, compare, numbers, same


def exercise_1(kl_samples) -> str:
    """(k1, k3), each (N,), of log-probabilities of whole answers under policy and reference, each (N,)."""
    p, q = np.array([0.55, 0.25, 0.15, 0.05]), np.array([0.25, 0.25, 0.30, 0.20])  # a policy and a reference with four answers
    policy, reference = torch.tensor(p).log(), torch.tensor(q).log()
    gap = policy - reference
    k1, k3 = losses.kl_k1(policy, reference), losses.kl_k3(policy, reference)
    exact = float(p @ gap.numpy())
    assert abs(float(p @ k3.numpy()) - exact) < 1e-12
    turned = torch.expm1(gap) - gap
    found = kl_samples(policy.clone(), reference.clone())
    if not isinstance(found, tuple | list | torch.Tensor | np.ndarray) or len(found) != 2:
        raise Mistake("two arrays are expected: k1 and k3 of every sample")
    compare(found[0], k1, (
        (-gap, "the sign of k1 is flipped: it is log(policy / reference), since the samples are the policy's"),
        (gap.abs(), "single values of k1 may be negative: only their mean is a KL; an absolute value makes the mean too large"),
        (gap.clamp(min=0), "single values of k1 may be negative: only their mean is a KL; cutting them off makes the mean too large"),
        (gap.mean(), "k1 is one number; return it for every sample, the mean comes later"),
        (policy.exp() * gap, "k1 is weighed with the probability; samples of the policy come as often as they are likely already"),
        (gap.exp(), "that is the ratio; k1 is its logarithm"),
    ), "k1")  # fmt: skip
    compare(found[1], k3, (
        (turned, f"the ratio of k3 is upside down: for samples of the policy it is reference / policy; yours has a mean of {p @ turned.numpy():.3f}, "
         f"and the KL is {exact:.3f}"),
        (torch.expm1(-gap), "the term log(policy / reference) is missing in k3; what is left has the mean 0"),
        (torch.expm1(-gap) - gap, "the sign of the logarithm in k3 is flipped: (ratio - 1) - log(ratio), with the ratio reference / policy"),
        (gap**2 / 2, "that is k2, half of the squared log-ratio, whose mean is not the KL"),
        (k3 + 1, "the 1 is missing: (ratio - 1) - log(ratio) is 0 where the two agree"),
        (k3.mean(), "k3 is one number; return it for every sample"),
        (k1, "that is k1 once more"),
    ), "k3")  # fmt: skip
    equal = kl_samples(policy.clone(), policy.clone())
    compare(np.concatenate([numbers(equal[0]).ravel(), numbers(equal[1]).ravel()]), np.zeros(8), what="k1 and k3 of a policy that equals its reference")

    def spread(k):
        return math.sqrt(p @ (k.numpy() - exact) ** 2)

    return (f"both have the mean {exact:.4f}, the exact KL of the four answers; one sample scatters by {spread(k1):.3f} with k1 and by "
            f"{spread(k3):.3f} with k3")


def exercise_2(first_losses) -> str:
    """Losses before the first step, one an iteration, of (logps: [{name: (chosen (B,), rejected (B,))}], beta)."""
    draw, beta = torch.Generator().manual_seed(8), 0.2
    logps = []
    for t in range(3):
        told, now = {}, (-20 + 3 * torch.randn(4, generator=draw), -20 + 3 * torch.randn(4, generator=draw))
        for k, name in enumerate(("sft", "policy-1", "policy-2", "policy-3")):  # each a little further on the way
            told[name] = (now[0] + (0.5 + t) * k * torch.rand(4, generator=draw), now[1] - 1.5 * k * torch.rand(4, generator=draw))
        logps.append(told)

    def name(t):
        return f"policy-{t}" if t else "sft"

    def loss(t, policy, reference):
        return float(losses.dpo_loss(*logps[t][policy], *logps[t][reference], beta)[0])

    right = [loss(t, name(t), "sft") for t in range(3)]

    def gap(t):
        return beta * ((logps[t][name(t)][0] - logps[t]["sft"][0]) - (logps[t][name(t)][1] - logps[t]["sft"][1]))

    likely = (
        ([math.log(2)] * 3, "ln 2 in every iteration: policy and reference are one model. Either the reference has moved along, or each training "
         "started from SFT again"),
        ([loss(t, name(t + 1), "sft") for t in range(3)], "that is the loss after each training: iteration t starts from the policy of iteration t-1"),
        ([loss(t, name(t + 1), name(t)) for t in range(3)], "that is the loss after each training, against a reference that moves; both are to be "
         "looked at before the first step"),
        ([loss(t, name(max(0, t - 1)), "sft") for t in range(3)], "one iteration behind: iteration 2 starts from policy-1, iteration 3 from policy-2"),
        ([loss(t, "sft", name(t)) for t in range(3)], "policy and reference have changed places"),
        ([loss(0, name(t), "sft") for t in range(3)], "all iterations are measured on the pairs of iteration 1; each trains on its own new pairs: logps[t]"),
        ([4 * x for x in right], "that is the sum over the pairs; the loss is their mean"),
        ([float(losses.dpo_loss(*logps[t][name(t)], *logps[t]["sft"], 1.0)[0]) for t in range(3)], "beta is not used"),
        ([math.log1p(math.exp(-float(gap(t).mean()))) for t in range(3)], "that is the loss of the mean gap; take the loss of each pair, then the mean"),
        ([float(torch.sigmoid(-gap(t)).mean()) for t in range(3)], "the logarithm is missing: -log sigmoid(h)"),
        ([float(losses.bradley_terry_loss(*(beta * x for x in logps[t][name(t)]))[0]) for t in range(3)], "the reference is not used"),
    )  # fmt: skip
    copied = [{key: tuple(x.clone() for x in both) for key, both in told.items()} for told in logps]
    compare(first_losses(copied, beta), right, likely, "the losses")
    return f"{', '.join(f'{x:.4f}' for x in right)}: ln 2 = {math.log(2):.4f} in iteration 1 and not after, the mark of a warm start with a fixed reference"


def exercise_3(loop_with_brake) -> str:
    """(policies made, best policy) of (sft, batches, steps, judge); the steps write down how they are called."""
    values = {"sft": 5.0, "policy-1": 5.6, "policy-2": 6.1, "policy-3": 5.9, "policy-4": 7.0}
    batches = [f"prompts {t}" for t in (1, 2, 3, 4)]
    calls, judged = _run(loop_with_brake, batches, values)[1:]
    wanted: list = []
    made = [one.policy for one in online.loop("sft", batches[:3], _symbolic(wanted))]
    _look_at_the_calls(calls, wanted)
    found = _run(loop_with_brake, batches, values)[0]
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise Mistake("two things are expected: the list of the policies made, and the best policy")
    same(list(found[0]) if isinstance(found[0], tuple | list) else found[0], made, (
        (made[:2], "the policy that ended the loop was made, too; it belongs in the list"),
        (["sft", *made], "the SFT policy was not made by the loop; it may be the best, but does not belong in the list"),
        (made[-1], "a list of all policies made is expected first"),
    ), "the list of policies")  # fmt: skip
    same(found[1], "policy-2", (
        ("policy-3", "the last policy came back; the best one by the judge is policy-2, the last has just fallen"),
        (6.1, "the value of the best policy came back; return the policy itself"),
    ), "the best policy")  # fmt: skip
    if "sft" not in judged:
        raise Mistake("the judge never saw the SFT policy: without it, a first training that hurts cannot be noticed")
    for worse, ending in ((5.0, "is no better than"), (4.0, "is worse than")):
        made, best = _run(loop_with_brake, batches, {**values, "policy-1": worse})[0]
        same(best, "sft", what=f"the best policy when the first one {ending} SFT")
        same(list(made), ["policy-1"], what=f"the list of policies when the first one {ending} SFT")
    rising = {**values, "policy-3": 6.5}
    made, best = _run(loop_with_brake, batches, rising)[0]
    same((list(made), best), ([f"policy-{t}" for t in (1, 2, 3, 4)], "policy-4"), what="what comes back when every policy is better than the one before")
    return "the calls are those of online.loop, the third policy pulls the brake, and policy-2 is kept; SFT is kept when nothing beats it"


def _symbolic(calls: list) -> online.Steps:
    """Steps that train nothing and write down their arguments."""

    def note(kind, *arguments):
        calls.append((kind, *arguments))
        return (kind, *arguments)

    def train(start, reference, pairs, t):
        note("train", start, reference, pairs, t)
        return f"policy-{sum(call[0] == 'train' for call in calls)}"  # whatever t says

    return online.Steps(
        lambda policy, prompts, t: note("sample", policy, prompts, t), lambda responses: note("score", responses),
        lambda responses, rewards: note("pair", responses, rewards), train,
    )  # fmt: skip


def _run(loop, batches, values):
    """(what the loop returns, the calls of its steps, the policies that were judged)."""
    calls, judged = [], []

    def judge(policy):
        if policy not in values:
            raise Mistake(f"the judge was given {str(policy)[:60]!r}; it judges policies")
        judged.append(policy)
        return values[policy]

    return loop("sft", list(batches), _symbolic(calls), judge), calls, judged


def _look_at_the_calls(calls, wanted) -> None:
    """Raises the sentence of what differs first between the loop's calls and the right ones."""
    trained, sampled = ([call for call in calls if call[0] == kind] for kind in ("train", "sample"))
    if not trained or not sampled:
        raise Mistake("nothing was sampled or trained: call steps.sample, steps.score, steps.pair and steps.train, in this order, for each batch")
    if [call[1] for call in sampled[1:]] == ["sft"] * (len(sampled) - 1) and len(sampled) > 1:
        raise Mistake("SFT answers the prompts of every iteration: that is the offline arm; let the newest policy answer")
    if any(call[2] != "sft" for call in trained):
        raise Mistake("the reference moves: it must be the SFT policy in every iteration, or the KL is counted from another place each time")
    if [call[1] for call in trained[1:]] == ["sft"] * (len(trained) - 1) and len(trained) > 1:
        raise Mistake("every training starts from SFT again: start from the newest policy")
    if [call[3] for call in sampled] == list(range(len(sampled))):
        raise Mistake("t begins at 0; iterations count from 1, and their seeds follow from that number")
    if len({call[2] for call in sampled}) < len(sampled):
        raise Mistake("a batch of prompts was used twice: every iteration has its own new prompts")
    if any(not isinstance(call[3], tuple) or call[3][0] != "pair" for call in trained):
        raise Mistake("train wants the pairs that steps.pair made from this iteration's responses and rewards, and these alone")
    if len(trained) == 4:
        raise Mistake("the loop goes on after the judged value has fallen (6.1, then 5.9): stop there, the fourth batch must not be spent")
    if len(trained) < 3:
        raise Mistake(f"the loop ended after {len(trained)} training(s), while the judged value was still rising: 5.0, 5.6, 6.1")
    if calls != wanted:
        at, (one, other) = next((k, both) for k, both in enumerate(zip(calls, wanted, strict=False)) if both[0] != both[1])
        raise Mistake(f"step {at + 1} should be {_words(other)}, and is {_words(one)}")


def _words(call) -> str:
    text = f"{call[0]}({', '.join(str(a) if isinstance(a, str | int) else f'what {a[0]} gave' if isinstance(a, tuple) and a else '...' for a in call[1:])})"
    return text[:140]
