"""The losses of the recipe as pure functions of tensors, numbered as in arXiv 2405.07863.

Shapes: B pairs, N sequences of T tokens, V words. Losses are means over pairs; log-probabilities of a response are
sums over its tokens, never means (a mean would be another objective, see SimPO).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf_kit.errors import KitError


def _metrics(chosen: Tensor, rejected: Tensor) -> dict[str, float]:
    """Means over the pairs; a tie is no correct answer, as in TRL."""
    chosen, rejected = chosen.detach().float(), rejected.detach().float()
    return {
        "chosen_rewards": float(chosen.mean()),
        "rejected_rewards": float(rejected.mean()),
        "margins": float((chosen - rejected).mean()),
        "accuracy": float((chosen > rejected).float().mean()),
    }


def bradley_terry_loss(
    chosen_rewards: Tensor, rejected_rewards: Tensor, margin: Tensor | None = None
) -> tuple[Tensor, dict[str, float]]:
    """Eq. 4: -log sigmoid(r(x, chosen) - r(x, rejected)), the negative log-likelihood of the Bradley-Terry model.

    Rewards are (B,) scalars. margin (B,), in units of reward, is what the difference must exceed (0 in the paper).
    Returns (loss, metrics).
    """
    _same_shape(chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards)
    difference = chosen_rewards - rejected_rewards
    if margin is not None:
        difference = difference - margin
    return -F.logsigmoid(difference).mean(), _metrics(chosen_rewards, rejected_rewards)


def dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, dict[str, float]]:
    """Eq. 5: Bradley-Terry on the implicit reward beta * log(policy / reference); beta is the paper's eta.

    All four are (B,) sums of log-probabilities in nats. label_smoothing e is the probability that a label is
    flipped: (1 - e) * (-log sigmoid(h)) + e * (-log sigmoid(-h)), the conservative DPO of Mitchell's note.
    Returns (loss, metrics); the metrics are the implicit rewards. KitError unless 0 <= e < 0.5 and beta > 0.
    """
    if not 0 <= label_smoothing < 0.5:
        raise KitError(f"label_smoothing is {label_smoothing}; it must be at least 0 and below 0.5")
    if beta <= 0:
        raise KitError(f"beta is {beta}; it must be positive")
    _same_shape(
        policy_chosen_logps=policy_chosen_logps,
        policy_rejected_logps=policy_rejected_logps,
        reference_chosen_logps=reference_chosen_logps,
        reference_rejected_logps=reference_rejected_logps,
    )
    chosen = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected = beta * (policy_rejected_logps - reference_rejected_logps)
    h = chosen - rejected
    loss = -(1 - label_smoothing) * F.logsigmoid(h) - label_smoothing * F.logsigmoid(-h)
    return loss.mean(), _metrics(chosen, rejected)


def sequence_logps(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Log-probability of each response, (N,): the SUM over its tokens.

    logits (N, T, V): position t predicts token t + 1. ids (N, T). mask (N, T): 1 on the tokens of the response (its
    end token included), 0 on prompt and padding. The first token is never predicted, so its mask does not count.
    """
    if logits.shape[:2] != ids.shape or ids.shape != mask.shape:
        raise KitError(
            f"sequence_logps: logits {tuple(logits.shape)}, ids {tuple(ids.shape)} and mask "
            f"{tuple(mask.shape)} must agree in rows and positions"
        )
    logps = torch.log_softmax(logits[:, :-1].float(), dim=-1)
    taken = logps.gather(2, ids[:, 1:, None])[:, :, 0]
    return torch.where(mask[:, 1:].bool(), taken, 0.0).sum(dim=1)


def pairwise_probability(logit_a: Tensor, logit_b: Tensor) -> Tensor:
    """P(A is better) from the next-token logits of the letters A and B alone: a softmax over the two (section 2.1)."""
    return torch.sigmoid(logit_a - logit_b)


def kl_k1(policy_logps: Tensor, reference_logps: Tensor) -> Tensor:
    """log(policy / reference) of samples drawn from the policy; its mean is KL(policy || reference), without bias."""
    return policy_logps - reference_logps


def kl_k3(policy_logps: Tensor, reference_logps: Tensor) -> Tensor:
    """(q/p - 1) - log(q/p) with p the policy and q the reference: never negative, same mean as `kl_k1`, and less
    variance while the two are close (Schulman's note on approximating KL)."""
    ratio = reference_logps - policy_logps
    return torch.expm1(ratio) - ratio


def _same_shape(**tensors: Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        raise KitError(f"these must have one shape, a number per pair: {shapes}")
