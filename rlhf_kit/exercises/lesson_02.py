"""Lesson 02: the loss of the learnt tokens, labels when pad is EOS, sampling probabilities."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from rlhf_kit.exercises.compare import Mistake, compare


def exercise_1(sft_loss, logits_seen=None, ids_seen=None, learnt_seen=None) -> str:
    """Nats a token, from (logits (B, T, V), ids (B, T), learnt (B, T)); `..._seen`, if given: a row of the reader's run."""
    coin = torch.Generator().manual_seed(3)
    logits, ids = 2 * torch.randn(2, 7, 11, generator=coin), torch.randint(0, 11, (2, 7), generator=coin)
    learnt = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1]], dtype=torch.bool)
    right = _transformers_loss(logits, ids, learnt)
    logp = logits.log_softmax(-1)
    next_ = logp[:, :-1].gather(2, ids[:, 1:, None])[..., 0]  # of token t, given those before it
    same_place = logp.gather(2, ids[..., None])[..., 0]
    own, late = learnt[:, 1:], learnt[:, :-1]
    rows = torch.stack([-lp[m].mean() for lp, m in zip(next_, own, strict=True)])
    likely = (
        (-same_place[learnt].mean(), "the shift is missing: the logits at position t are about token t + 1"),
        (-next_.mean(), "the prompt is learnt too: only tokens with `learnt` count"),
        (-same_place.mean(), "two things: the shift is missing (the logits at position t are about token t + 1), and the prompt is learnt too"),
        (-next_[own].sum(), "that is the sum over the learnt tokens; the loss is their mean"),
        (rows.mean(), "that is the mean of the rows' means: a token of a short answer then weighs more; take one mean over all learnt tokens"),
        (-next_[late].mean(), "the mask is not shifted along: cut it like the ids, learnt[:, 1:]"),
        ((-next_ * own).mean(), "the sum of the learnt tokens is divided by the number of *all* tokens; divide by that of the learnt ones"),
        (next_[own].mean(), "the minus sign is missing"),
        (-next_[:, :-1][own[:, :-1]].mean(), "the last token of each row, the end of the turn, is left out: the policy would not learn to stop"),
        (-logits[:, :-1].gather(2, ids[:, 1:, None])[..., 0][own].mean(), "those are logits, not log-probabilities: log_softmax is missing"),
        (right.exp(), "that is the perplexity, exp of the loss"),
    )  # fmt: skip
    compare(sft_loss(logits.clone(), ids.clone(), learnt.clone()), right, likely, "the loss")
    said = f"{float(right):.6f} nats a token over {int(learnt.sum())} learnt tokens of two rows, equal to transformers' own loss"
    if logits_seen is None:
        return said
    own = [x.detach().cpu().clone() for x in (logits_seen, ids_seen, learnt_seen)]
    theirs = _transformers_loss(*own)
    compare(sft_loss(*own), theirs, what="the loss of your policy on the example", tolerance=1e-4)
    return said + f"; on the example of section 1 your policy has {float(theirs):.4f}"


def _transformers_loss(logits, ids, learnt) -> torch.Tensor:
    from transformers.loss.loss_utils import ForCausalLMLoss

    return ForCausalLMLoss(logits, ids.masked_fill(~learnt, -100), vocab_size=logits.shape[-1])


def exercise_2(make_labels) -> str:
    """Labels (B, T), from (ids (B, T), prompt_lengths (B,), lengths (B,)); here pad and EOS are token 2."""
    ids = torch.tensor([[1, 7, 8, 2, 5, 6, 9, 2, 2, 2], [1, 4, 2, 3, 5, 2, 2, 2, 2, 2], [1, 6, 6, 6, 2, 7, 8, 9, 4, 2]])
    start, length = torch.tensor([4, 3, 5]), torch.tensor([8, 6, 10])
    at = torch.arange(10)
    keep = lambda low, high: ids.masked_fill(~((at >= low[:, None]) & (at < high[:, None])), -100)  # noqa: E731
    right = keep(start, length)
    likely = (
        (right.masked_fill(ids == 2, -100), "every EOS is masked, since it is the same token as pad: the policy would never learn to stop; mask by position"),
        (keep(start, length - 1), "the last token of the answer, its EOS, is masked: the policy would never learn to stop"),
        (keep(start, length + 1), "one pad token is learnt: positions run up to length - 1"),
        (keep(start, length * 0 + 10), "the padding is learnt: after the answer's own EOS everything is -100"),
        (keep(start * 0, length), "the prompt is learnt: the user's turn is read, not imitated"),
        (keep(start * 0, length).masked_fill(ids == 2, -100), "the prompt is learnt and every EOS masked: go by position on both sides"),
        (keep(start + 1, length), "the first token of the answer is masked: it is the first one *behind* the prompt"),
        (keep(start - 1, length), "the last token of the prompt is learnt: the answer starts at position prompt_length"),
        (torch.where(right == -100, torch.zeros_like(ids), ids), "masked places are 0, which is a token; -100 is the label that the loss leaves out"),
        (torch.where(right == -100, torch.full_like(ids, 2), ids), "masked places hold the pad token, and the loss would teach it; -100 is what it leaves out"),
        (F.pad(right[:, 1:], (0, 1), value=-100), "the labels are shifted by one; the model shifts them itself, so leave them in place"),
        (right != -100, "that is the mask; labels are the ids themselves, with -100 elsewhere"),
    )  # fmt: skip
    before = ids.clone()
    found = make_labels(ids, start.clone(), length.clone())
    if not torch.equal(ids, before):
        raise Mistake("the ids themselves were changed, and the model would read -100 as a token; work on a copy")
    compare(found, right, likely, "the labels")
    return f"three rows, {int((right != -100).sum())} learnt tokens, three of them EOS, although pad is EOS too"


def exercise_3(next_token_probabilities) -> str:
    """Probabilities (B, V), from (logits (B, V), temperature, top_p)."""
    logits = torch.tensor([[2.0, 1.0, 0.1, -1.0, 0.6], [0.0, 3.0, -2.0, 1.4, 2.3]])
    t, p = 0.7, 0.8
    right = _warped(logits, t, p)
    order = lambda x, top: _nucleus(x.softmax(-1), top)  # noqa: E731
    early, cold = order(logits, p) > 0, (logits / t).softmax(-1)
    likely = (
        (_renormal(order(logits * t, p)), "the logits are multiplied by the temperature; they are divided by it"),
        ((logits / t).masked_fill(~early, -torch.inf).softmax(-1), "top-p is taken before the temperature, which changes the probabilities; it comes after"),
        (_renormal(early * logits.softmax(-1)), "the temperature is not used"),
        (order(logits / t, p), "what is left does not sum to 1: divide by the sum of the kept tokens"),
        (_renormal(_nucleus(cold, p, crossing=False)), "the token that crosses top_p is dropped too; it stays, so that the kept ones hold *at least* top_p"),
        ((logits / t).softmax(-1), "top_p is not used"),
        (logits.softmax(-1), "neither temperature nor top_p is used"),
        ((cold > 1 - p) * cold, "a token is kept by its place in the running sum, not by its own probability"),
        (_sorted(right), "the probabilities stand in sorted order; put each back to its token"),
    )  # fmt: skip
    compare(next_token_probabilities(logits.clone(), t, p), right, likely, "the probabilities")
    compare(next_token_probabilities(logits.clone(), t, 1.0), (logits / t).softmax(-1), what="the probabilities at top_p = 1")
    peak = torch.tensor([[9.0, 0.0, 0.0]])
    compare(next_token_probabilities(peak, 1.0, 0.5), [[1.0, 0.0, 0.0]],
            [([[0.0, 0.0, 0.0]], "where one token alone passes top_p nothing is left: the likeliest token always stays")],
            "the probabilities of a sure policy")  # fmt: skip
    frozen = next_token_probabilities(logits.clone(), 0.0, 1.0)
    if not torch.isfinite(torch.as_tensor(frozen)).all():
        raise Mistake("temperature 0 divides by zero; it means greedy decoding, all probability on the likeliest token")
    compare(frozen, [[1.0, 0, 0, 0, 0], [0, 1.0, 0, 0, 0]], what="the probabilities at temperature 0")
    kept = ", ".join(str(int(n)) for n in (right > 0).sum(1))
    return f"equal to what transformers samples from, at temperature {t} and top_p {p} ({kept} of 5 tokens kept); greedy at temperature 0"


def _warped(logits, temperature, top_p) -> torch.Tensor:
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    return TopPLogitsWarper(top_p)(None, TemperatureLogitsWarper(temperature)(None, logits)).softmax(-1)


def _nucleus(p, top_p, crossing=True) -> torch.Tensor:
    """Probabilities of the tokens kept by top-p, not renormalised."""
    sorted_, index = p.sort(descending=True)
    above = sorted_.cumsum(-1) - (sorted_ if crossing else 0)
    return torch.zeros_like(p).scatter(1, index, sorted_ * (above < top_p))


def _renormal(p) -> torch.Tensor:
    return p / p.sum(-1, keepdim=True)


def _sorted(p) -> torch.Tensor:
    return p.sort(descending=True)[0]
