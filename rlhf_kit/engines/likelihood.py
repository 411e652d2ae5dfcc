"""How likely responses are under a policy, and how far it has moved from its reference (teacher-forced passes)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_kit import chat
from rlhf_kit.batching import by_length, pad
from rlhf_kit.errors import KitError


def response_logprobs(policy_path, prompts: Sequence, token_ids: Sequence[Sequence[int]], machine,
                      batch_size: int = 64) -> np.ndarray:
    """Sum of log pi(token | prompt, earlier tokens) over each response, at temperature 1: (N,) float64.

    prompts: one per response, as messages or as a row with "prompt".
    """
    model, tokenizer = open_pair(policy_path, machine)
    prompt_ids = [chat.encode_prompt(tokenizer, _messages(prompt)) for prompt in prompts]
    sums = np.zeros(len(prompt_ids))
    for index, logp, targets, mask in _response_logps(model, tokenizer, prompt_ids, token_ids, batch_size):
        chosen = logp.gather(2, targets[:, :, None])[:, :, 0].double()
        sums[index] = (chosen * mask).sum(dim=1).cpu().numpy()
    return sums


def kl_rows(policy_path, reference_path, rows: Sequence[Mapping], machine,
            prompts: Sequence[Mapping] | None = None, batch_size: int = 64) -> dict[str, np.ndarray]:
    """KL(policy || reference) in nats along each sampled response: {"monte_carlo": (N,), "exact": (N,)}.

    "monte_carlo" is log pi(y|x) - log pi_ref(y|x). "exact" sums, over the sampled prefixes, the KL between
    the two next-token distributions over the whole vocabulary: the same expectation (chain rule), with less
    variance.
    rows: response rows drawn by this policy at temperature 1 and top_p 1 (else neither estimates the KL).
    prompts: prompt rows to find each row's prompt by prompt_id; not needed if the rows carry "prompt".
    """
    if not rows:
        raise KitError("the KL needs at least one sampled response")
    warm = [row for row in rows if abs(float(row.get("temperature", 1.0)) - 1.0) > 1e-9]
    if warm:
        raise KitError(f"the KL is estimated from samples at temperature 1; prompt {warm[0]['prompt_id']!r} "
                       f"was sampled at {warm[0]['temperature']}")
    policy, tokenizer = open_pair(policy_path, machine)
    reference, reference_tokenizer = open_pair(reference_path, machine)
    if reference_tokenizer.get_vocab() != tokenizer.get_vocab():
        raise KitError("policy and reference have different vocabularies; a KL between them is not defined")
    known = {row["prompt_id"]: row["prompt"] for row in prompts or []}
    try:
        messages = [row["prompt"] if row.get("prompt") else known[row["prompt_id"]] for row in rows]
    except KeyError as missing:
        raise KitError(f"prompt_id {missing} of the responses is not among the prompts of the KL") from None
    prompt_ids = [chat.encode_prompt(tokenizer, m) for m in messages]
    token_ids = [list(row["token_ids"]) for row in rows]
    result = {"monte_carlo": np.zeros(len(rows)), "exact": np.zeros(len(rows))}
    walks = zip(_response_logps(policy, tokenizer, prompt_ids, token_ids, batch_size),
                _response_logps(reference, tokenizer, prompt_ids, token_ids, batch_size), strict=True)
    for (index, logp, targets, mask), (_, logq, _, _) in walks:
        ratio = logp - logq
        sampled = ratio.gather(2, targets[:, :, None])[:, :, 0].double()
        exact = (logp.exp() * ratio).sum(dim=2).double()
        result["monte_carlo"][index] = (sampled * mask).sum(dim=1).cpu().numpy()
        result["exact"][index] = (exact * mask).sum(dim=1).cpu().numpy()
    return result


def kl_to_reference(policy_path, reference_path, rows: Sequence[Mapping], machine,
                    prompts: Sequence[Mapping] | None = None, estimator: str = "exact",
                    batch_size: int = 64) -> tuple[float, float]:
    """(mean, standard error) of KL(policy || reference) in nats a response; estimators as in `kl_rows`.

    Samples of one prompt are not independent: the standard error is over prompt means (nan for one prompt).
    """
    if estimator not in ("exact", "monte_carlo"):
        raise KitError(f"unknown KL estimator {estimator!r}; one of exact, monte_carlo")
    values = kl_rows(policy_path, reference_path, rows, machine, prompts, batch_size)[estimator]
    by_prompt: dict[Any, list[float]] = {}
    for row, value in zip(rows, values, strict=True):
        by_prompt.setdefault(row["prompt_id"], []).append(value)
    means = np.array([np.mean(v) for v in by_prompt.values()])
    error = float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else float("nan")
    return float(means.mean()), error


def _response_logps(model, tokenizer, prompt_ids, token_ids, batch_size) -> Iterator[tuple]:
    """Teacher-forced passes: yields (row index, log-probs (B, L, V) float32, targets (B, L), mask (B, L)).

    L is the longest response of the batch; position t predicts response token t. Sorted by length.
    """
    import torch

    for prompt, response in zip(prompt_ids, token_ids, strict=True):
        if not prompt or not response:
            raise KitError("a log-probability needs a prompt and at least one response token")
    lengths = [len(prompt) + len(response) for prompt, response in zip(prompt_ids, token_ids, strict=True)]
    for index in by_length(lengths, batch_size):
        # Left padding up to the last prompt token, right padding after it: the responses line up in columns.
        pad_id, device = tokenizer.pad_token_id, model.device
        left, left_mask = pad([prompt_ids[i] for i in index], pad_id, "left", device)
        right, right_mask = pad([token_ids[i] for i in index], pad_id, "right", device)
        mask = torch.cat([left_mask, right_mask], dim=1)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        with torch.inference_mode():
            logits = model(input_ids=torch.cat([left, right], dim=1), attention_mask=mask,
                           position_ids=positions, use_cache=False,
                           logits_to_keep=right.shape[1] + 1).logits[:, :-1]
        yield index, torch.log_softmax(logits.float(), dim=-1), right, right_mask


def open_pair(policy, machine):
    """A folder or a loaded (model, tokenizer) -> the pair, in evaluation mode."""
    if isinstance(policy, tuple):
        model, tokenizer = policy
    else:
        from rlhf_kit.models import load_policy

        model, tokenizer = load_policy(policy, machine)
    return model.eval(), tokenizer


def _messages(prompt):
    return prompt["prompt"] if isinstance(prompt, Mapping) else prompt
