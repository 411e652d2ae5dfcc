"""Lesson 03: the Bradley-Terry loss with a margin, the token that holds the reward, invitations to hack."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from rlhf_kit import losses
from rlhf_kit.exercises.compare import Mistake, compare, same


def exercise_1(reward_loss) -> str:
    """A loss of (chosen, rejected, margin), each (B,)."""
    c, r = torch.tensor([1.2, 0.3, -0.5, 2.0]), torch.tensor([0.2, 0.8, -0.5, -1.0])
    m = torch.tensor([0.5, 0.0, 1.0, 2.5])
    right = losses.bradley_terry_loss(c, r, m)[0]
    each = -F.logsigmoid(c - r - m)
    plain = losses.bradley_terry_loss(c, r)[0]
    likely = (
        (each.sum(), "that is the sum over the pairs; the loss is their mean, or a larger batch would train faster"),
        (each, "that is the loss of each pair; the mean over the pairs is missing"),
        (-right, "the minus sign is missing: the log of a probability is negative, and a loss of it is its negative"),
        (-F.logsigmoid(r - c - m).mean(), "the gap has its sign flipped: it must be chosen minus rejected"),
        (-F.logsigmoid(c - r + m).mean(), "the margin is added to the gap; it must be subtracted, so that it is harder to earn"),
        (-F.logsigmoid(r - c + m).mean(), "the whole argument has its sign flipped: it must be chosen minus rejected minus margin"),
        (plain, "the margin is not used"),
        (-F.logsigmoid(m * (c - r)).mean(), "the gap is multiplied by the margin; the margin is subtracted from it"),
        (plain - m.mean(), "the margin stands outside the sigmoid, where it is a constant and teaches nothing"),
        (plain + m.mean(), "the margin stands outside the sigmoid, where it is a constant and teaches nothing"),
        (-torch.sigmoid(c - r - m).mean(), "the logarithm is missing: a loss in nats is -log of the probability"),
        (torch.sigmoid(c - r - m).mean(), "that is the mean probability; the loss is the mean of -log of it"),
        (-torch.sigmoid(c - r - m).mean().log(), "that is the log of the mean probability; take the log of each pair first"),
    )
    compare(reward_loss(c.clone(), r.clone(), m.clone()), right, likely, "the loss")
    far = torch.tensor([-200.0]), torch.tensor([200.0]), torch.tensor([0.0])
    if not torch.isfinite(torch.as_tensor(reward_loss(*far))).all():
        raise Mistake("a gap of -400 gives no finite loss: sigmoid becomes exactly 0 before the log; F.logsigmoid does both safely")
    compare(reward_loss(*far), 400.0, what="the loss at a gap of -400")
    given = c.clone().requires_grad_()
    loss = reward_loss(given, r.clone(), m.clone())
    if not getattr(loss, "requires_grad", False):
        raise Mistake("no gradient flows: keep the loss a tensor (no .item(), float(), .detach() or numpy on the way)")
    return f"{float(right):.6f} nats on four pairs, equal to the kit's loss with the same margins; finite at a gap of -400"


def exercise_2(read_reward) -> str:
    """Rewards (B,) of values (B, T) under a mask (B, T)."""
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 0], [1, 0, 0, 0, 0]])
    values = torch.tensor([[0.1, 0.2, 1.5, 9.0, 9.1], [8.0, 8.1, 0.3, 0.4, -0.7], [0.5, 0.6, 0.7, 0.8, 2.5],
                           [7.0, 0.9, 1.0, 1.7, 7.1], [-1.2, 6.0, 6.1, 6.2, 6.3]])  # fmt: skip
    rows, right = torch.arange(5), torch.tensor([1.5, -0.7, 2.5, 1.7, -1.2])
    length = mask.sum(1)
    last = (mask * torch.arange(5)).argmax(1)
    likely = (
        (values[:, length - 1], "(B, B) values: `values[:, last]` takes every row's column from every row; name the rows too, values[torch.arange(B), last]"),
        (values[:, last], "(B, B) values: `values[:, last]` takes every row's column from every row; name the rows too, values[torch.arange(B), last]"),
        ((values * mask)[:, -1], "that is the last column, which is padding where a row is padded on the right"),
        (values[:, -1], "that is the last column: in a row padded on the right it is the value at a pad token"),
        (values[rows, length - 1], "number of tokens minus one is the last token only where nothing is padded on the left"),
        (values[rows, length % 5], "that is the token after the last one: positions count from 0"),
        (values[rows, mask.argmin(1) - 1], "the token before the first 0 of the mask: in a row padded on the left that is no token of it"),
        (values[rows, last - 1], "one token too early: the end-of-turn token, the last one of the mask, holds the reward"),
        (values[rows, mask.argmax(1)], "that is the first token, which has seen nothing of the answer"),
        ((values * mask).sum(1), "that is the sum over the tokens; the reward is the value at one token, the last"),
        ((values * mask).sum(1) / length, "that is the mean over the tokens; the reward is the value at one token, the last"),
        (right[:, None], "each reward stands in a list of its own: (B, 1) instead of (B,), and differences of such would broadcast"),
    )  # fmt: skip
    compare(read_reward(values.clone(), mask.clone()), right, likely, "the rewards")
    return "five rows padded right, left, on both sides and not at all: 1.5, -0.7, 2.5, 1.7, -1.2, each at its last token"


def exercise_3(invitations) -> str:
    """Names of edits, from two judges that are tables here, so that every change is known."""
    prompts = [f"prompt {i}" for i in range(4)]
    texts = [f"answer {i}" for i in range(4)]
    level = np.array([-5.0, 0.0, 3.0, -4.0])  # prompts differ far more than edits do
    moves = {  # name -> (changes of reward, changes of truth)
        "both like it": ([0.9] * 4, [0.5] * 4),
        "thanks": ([0.2, 0.2, 0.2, 0.2], [0.0] * 4),
        "closing": ([0.4, 0.5, 0.6, 0.5], [-0.1] * 4),
        "shuffled": ([-1.0] * 4, [-2.0] * 4),
        "one lucky answer": ([-0.1, -0.1, -0.1, 3.5], [-0.4] * 4),
        "only the truth likes it": ([-0.3] * 4, [0.8] * 4),
    }
    edits = {name: [f"{text}, {name}" for text in texts] for name in moves}
    table = {(p, t): (x, x / 2) for p, t, x in zip(prompts, texts, level, strict=True)}
    for name, (up, gold) in moves.items():
        for i, text in enumerate(edits[name]):
            table[prompts[i], text] = (level[i] + up[i], level[i] / 2 + gold[i])

    def judge(which):
        def score(asked, answered):
            if any(pair not in table for pair in zip(asked, answered, strict=True)):
                raise Mistake("an answer was scored under another answer's prompt: keep prompts and texts in one order")
            return np.array([table[pair][which] for pair in zip(asked, answered, strict=True)])

        return score

    rises = ["one lucky answer", "closing", "thanks"]
    likely = (
        ([*rises, "both like it"], "the truth is not looked at: an edit that it likes too is an improvement"),
        (["only the truth likes it"], "the signs are flipped: the reward must rise where the truth does not"),
        (["one lucky answer", "closing"], "edits that leave the truth as it is belong to it too: it must not *rise*, it need not fall"),
        (["closing", "thanks"], "that counts answers that rise; the *mean* change also sees one answer that rises a lot"),
        ([], "no edit is found: compare each edited answer with its own unedited one, not with zero"),
        (list(moves), "every edit is returned: keep those with a rise of the reward and no rise of the truth"),
    )  # fmt: skip
    found = invitations(judge(0), judge(1), list(prompts), list(texts), {k: list(v) for k, v in edits.items()})
    if isinstance(found, dict | set | str) or found is None:
        raise Mistake("a list of names is expected, in order, and not a " + type(found).__name__)
    found = list(found)
    same(sorted(found), sorted(rises), [(sorted(names), sentence) for names, sentence in likely], "the list")
    same(found, rises, [(found, "the right names in another order: the largest rise of the reward comes first")] * (found != rises))
    return "three of six planted edits, with a mean rise of the reward of 0.8, 0.5 and 0.2 and none of the truth"
