"""Lesson 07: the implicit reward, how hard a pair pulls, why both answers may become less likely."""

from __future__ import annotations

import numpy as np
import torch

from rlhf_kit import losses
from rlhf_kit.exercises.compare import Mistake, compare, numbers


def exercise_1(implicit_reward) -> str:
    """Implicit rewards (B,) of (policy, reference, mask), each (B, T), and beta."""
    draw = torch.Generator().manual_seed(7)
    ids = torch.randint(0, 9, (3, 7), generator=draw)
    logits = [torch.randn(3, 7, 9, generator=draw) for _ in range(2)]  # of a policy and of a reference
    mask = torch.tensor([[0, 0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 0]])
    beta = 0.1
    tokens = [torch.log_softmax(x[:, :-1], dim=-1).gather(2, ids[:, 1:, None])[:, :, 0] for x in logits]
    policy, reference = tokens
    answer = mask[:, 1:]
    sums = [losses.sequence_logps(x, ids, mask) for x in logits]  # equal to TRL's, see section 3
    ratio, right = (policy - reference) * answer, beta * (sums[0] - sums[1])
    likely = (
        (beta * (policy - reference).sum(1), "the mask is not used: prompt and padding count as well"),
        (right / answer.sum(1), "that is the mean over the tokens; DPO sums them (a mean is another objective, with another beta)"),
        (sums[0] - sums[1], "beta is not used: that is the log-ratio in nats"),
        ((sums[0] - sums[1]) / beta, "divided by beta; the reward is beta times the log-ratio"),
        (beta * sums[0], "the reference is not subtracted, so an answer is paid for being common already"),
        (-right, "the sign is flipped: an answer that became more likely has a positive reward"),
        (beta * (sums[0].exp() / sums[1].exp()), "that is beta times the ratio of probabilities; take the ratio's logarithm"),
        (right.sum(), "one number came back; each answer has a reward of its own"),
        (beta * ratio, "that is one number a token; the sum over the tokens is missing"),
        (beta * ((policy * answer).mean(1) - (reference * answer).mean(1)), "that is a mean over all places of the row, padding included; DPO sums"),
    )  # fmt: skip
    compare(implicit_reward(policy.clone(), reference.clone(), answer.clone(), beta), right, likely, "the rewards")
    nowhere = torch.where(answer.bool(), policy, -torch.inf), torch.where(answer.bool(), reference, -torch.inf)
    found = numbers(implicit_reward(*(x.clone() for x in nowhere), answer.clone(), beta), "the rewards")
    if not np.isfinite(found).all():
        raise Mistake("with -inf on the padding the reward is nan: 0 times inf is nan, so a mask must choose (torch.where) and not multiply")
    compare(found, right, what="the rewards with -inf on the padding")
    return f"{', '.join(f'{x:+.4f}' for x in right.tolist())} for answers of 3, 6 and 2 tokens, as the kit's sums give them, padding of -inf included"


def exercise_2(pull, seen=None, beta_seen=None) -> str:
    """Pulls (B,) of summed log-probabilities (policy chosen, policy rejected, reference chosen, reference rejected), beta, e.

    seen, if given: four such tensors of the reader's own policy and pairs, with their beta.
    """
    four = [torch.tensor(x) for x in ([-10.0, -7.0, -14.0, 20.0], [-10.0, -12.0, -8.0, -20.0], [-10.0, -9.0, -11.0, -9.0], [-10.0, -9.0, -12.0, -9.0])]
    beta, e = 0.2, 0.1
    h = beta * ((four[0] - four[2]) - (four[1] - four[3]))
    right = _pull_by_gradient(four, beta, e)
    up = torch.sigmoid(-h)
    likely = (
        (-right, "the sign is flipped: a descent step moves against the derivative, so a positive pull makes the chosen answer more likely"),
        (right / 4, "the mean over the pairs is in it; the pull of each single pair is asked for"),
        (right / beta, "beta is missing: the chain rule brings the factor that stands before the log-ratio"),
        (beta * up, "label_smoothing is not used: with a share e of flipped labels the pair pulls the other way with weight e"),
        (beta * (torch.sigmoid(h) - e), "that grows with the margin: a pair that is already far apart must pull less, sigmoid(-h)"),
        (beta * (1 - e) * up, "only the first of the two terms has its derivative; the flipped one pulls with e times sigmoid(h)"),
        (beta * (1 - 2 * e) * up, "the flipped label's pull is e times sigmoid(h), not e times sigmoid(-h)"),
        (beta * (up - e / 2), "that splits e between the two labels, as label smoothing for classes does; here e itself is the probability of a flip"),
        (beta * (up - e).clamp(min=0), "the pull may become negative: where the margin says more certainty than the labels deserve, it must be taken back"),
        (beta * (torch.sigmoid(-beta * (four[0] - four[1])) - e), "the reference is not used: the margin h is between log-ratios"),
        (-(1 - e) * torch.log(1 - up) - e * torch.log(up), "that is the loss; its derivative is asked for"),
        (right.mean(), "one number came back; each pair has a pull of its own"),
    )  # fmt: skip
    compare(pull(*(x.clone() for x in four), beta, e), right, likely, "the pulls")
    far = [torch.tensor([-9000.0, 0.0]), torch.tensor([0.0, -9000.0]), torch.zeros(2), torch.zeros(2)]
    found = numbers(pull(*far, beta, 0.0), "the pulls")
    if not np.isfinite(found).all():
        raise Mistake("a margin of 1,800 gives no finite pull: exp overflows; torch.sigmoid does not")
    compare(found, [beta, 0.0], what="the pulls at margins of -1,800 and +1,800")
    turn = np.log((1 - e) / e)
    said = (f"equal to the gradient of the kit's loss; with e = {e} the pull turns at h = ln(0.9/0.1) = {turn:.3f}: further apart than that the loss "
            f"brings them back")
    if seen is None:
        return said
    own = [x.detach().cpu().double() for x in seen]
    told = compare(pull(*own, beta_seen, 0.0), _pull_by_gradient(own, beta_seen, 0.0), what="the pulls of your own pairs") / beta_seen
    return said + (f"; after your training the {len(told)} pairs of section 4 pull with {told.mean():.2f} beta on average, "
                   f"from {told.min():.2f} to {told.max():.2f} (0.50 before the first step)")  # fmt: skip


def _pull_by_gradient(four, beta, e) -> torch.Tensor:
    given = [x.clone().requires_grad_() for x in four]
    losses.dpo_loss(*given, beta, e)[0].backward()
    return -given[0].grad * len(four[0])


def exercise_3(after_one_step) -> str:
    """Changes of log-probability (K,) after a step: (features (K, D), weights (D,), chosen, rejected, beta, rate)."""
    # 0 the chosen answer, 1 the rejected one, which has a fault; 2 shares what sets them apart, and more of it; 3 something else
    features = torch.tensor([[1.0, 0.2, 0.0], [1.0, -0.6, 0.0], [0.8, 1.4, 0.3], [-0.5, 0.1, 1.0]], dtype=torch.float64)
    weights = torch.tensor([0.5, 0.6, 0.2], dtype=torch.float64)
    beta, rate, chosen, rejected = 0.5, 2.0, 0, 1
    step = rate * beta * (features[chosen] - features[rejected])
    before = torch.log_softmax(features @ weights, 0)

    def after(theta):
        return torch.log_softmax(features @ theta, 0) - before

    right = _moved_by_gradient(features, weights, chosen, rejected, beta, rate)
    share = before.exp()
    up = torch.sigmoid(-beta * (before[chosen] - before[rejected]))  # of a margin without the reference
    alone = features @ weights
    alone[chosen] += rate * beta / 2
    alone[rejected] -= rate * beta / 2
    likely = (
        (torch.log_softmax(alone, 0) - before, "that moves a score of its own for each answer; here all answers share the weights, so a step for two "
         "moves the others too"),
        (features @ step / 2, "that is the change of the scores; the probabilities must still add up to one, so take log_softmax before and after"),
        (after(weights - step / 2), "the step goes uphill: gradient descent subtracts the gradient of the loss"),
        (after(weights + step), "half of that step: policy and reference are the same, so the margin is 0 and the pull is beta times sigmoid(0) = beta / 2"),
        (after(weights + step / beta), "the pull is missing in the step: at margin 0 it is beta times sigmoid(0) = beta / 2"),
        (after(weights + step * up), "the reference is not in the margin: it equals the policy, so the margin is 0 and the pull beta / 2"),
        (after(weights + step / (2 * beta)), "beta is missing in the step: the pull of a pair is beta times sigmoid(-h)"),
        (after(weights + rate * beta / 2 * features[chosen]), "only the chosen answer's part is taken; the rejected one pulls too, the other way"),
        (features @ step / 2 - share @ features @ step / 2, "that is the change to first order; take the step and compute the log-probabilities anew"),
        (right + before, "those are the log-probabilities after the step; return how they changed"),
        ((right + before).exp() - share, "that is the change of the probabilities; take that of their logarithms"),
        ((right + before).exp(), "those are the probabilities after the step; return the change of their logarithms"),
        (torch.zeros(4), "nothing moved: is the reference computed from the weights that are trained? It must stand still (detach), or its gradient "
         "cancels the policy's"),
        (-right, "the sign is flipped: after minus before"),
    )  # fmt: skip
    found = after_one_step(features.clone(), weights.clone(), chosen, rejected, beta, rate)
    told = compare(found, right, likely, "the changes", 1e-4)
    other = _moved_by_gradient(features, weights, 3, 0, beta, rate)
    compare(after_one_step(features.clone(), weights.clone(), 3, 0, beta, rate), other, what="the changes for another pair", tolerance=1e-4)
    assert told[0] < 0 and told[1] < 0
    return (f"the chosen answer {told[0]:+.3f} nats, the rejected one {told[1]:+.3f}; answer 2, in no pair, {told[2]:+.3f}: "
            "it has more of what set the two apart, and takes the mass")  # fmt: skip


def _moved_by_gradient(features, weights, chosen, rejected, beta, rate) -> torch.Tensor:
    theta = weights.clone().requires_grad_()
    logps, before = torch.log_softmax(features @ theta, 0), torch.log_softmax(features @ weights, 0)

    def one(values, i):
        return values[i : i + 1]

    loss, _ = losses.dpo_loss(one(logps, chosen), one(logps, rejected), one(before, chosen), one(before, rejected), beta)
    loss.backward()
    return torch.log_softmax(features @ (weights - rate * theta.grad), 0) - before
