"""n responses a prompt from a policy, and how far that policy has moved from its reference.

Every sample has its own seed, made from (seed, iteration, prompt_id, sample): its random numbers do not
depend on the batch it falls into, so a batch size, a shard or a restart does not change what is drawn.
(Floating-point sums do change a little with padding; a draw within 1e-6 of a boundary may then differ.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_kit import chat, decoding
from rlhf_kit.batching import by_length, pad
from rlhf_kit.errors import KitError
from rlhf_kit.runs import derive_seed, stable_hash, write_json, write_rows

BATCHES_PER_SHARD = 4


def sample(
    policy_path,
    prompts: Sequence[Mapping],
    *,
    n: int,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    iteration: int = 0,
    machine,
    top_p: float = 1.0,
    batch_size: int = 256,
    name: str = "policy",
    folder: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Draw n responses to each prompt; rows come back prompt by prompt in the order given.

    policy_path: folder of the policy, or an already loaded (model, tokenizer).
    prompts: rows {"prompt_id", "prompt": messages}. temperature 0 decodes greedily (then n must be 1).
    max_new_tokens: tokens, the end token included. batch_size: sequences a batch.
    folder: where finished shards are kept, so that a killed call continues; the caller removes it when its
        rows are written. Shards made with other prompts or settings are discarded.

    Returns rows {prompt_id, iteration, sample, text, token_ids, finish_reason, logprob, seed, temperature,
    policy}. token_ids end with the end token exactly when finish_reason is "stop" (else "length").
    logprob: sum over token_ids, end token included, of the log-probability under the distribution sampled
    from (temperature and top_p applied); for greedy decoding, under the policy at temperature 1.
    Raises KitError for impossible settings, a missing backend, and a prompt too long for the model.
    """
    _check(prompts, n, temperature, top_p, max_new_tokens, batch_size)
    model, tokenizer = _open(policy_path, machine)
    prompt_ids = [chat.encode_prompt(tokenizer, row["prompt"]) for row in prompts]
    _check_lengths(model, prompts, prompt_ids, max_new_tokens)

    # One job a response, the longest prompts first: batches then hold prompts of like length (little padding)
    # and a batch size that does not fit in memory fails at once, not after an hour.
    jobs = [(p, s, derive_seed(seed, "sample", str(iteration), str(row["prompt_id"]), str(s)))
            for p, row in enumerate(prompts) for s in range(n)]
    jobs.sort(key=lambda job: (-len(prompt_ids[job[0]]), job[0], job[1]))
    batches = [jobs[i:i + batch_size] for i in range(0, len(jobs), batch_size)]
    shards = [batches[i:i + BATCHES_PER_SHARD] for i in range(0, len(batches), BATCHES_PER_SHARD)]
    plan = stable_hash([[row["prompt_id"], ids] for row, ids in zip(prompts, prompt_ids, strict=True)], n,
                       temperature, top_p, max_new_tokens, seed, iteration, batch_size, name)
    store = _Shards(folder, plan)

    rows: dict[tuple[int, int], dict] = {}
    for number, shard in enumerate(shards):
        made = store.load(number)
        if made is None:
            made = []
            for batch in shard:
                drawn = _draw(machine.backend, model, tokenizer, [prompt_ids[p] for p, _, _ in batch],
                              [s for _, _, s in batch], temperature, top_p, max_new_tokens)
                for (p, s, row_seed), (token_ids, logprob) in zip(batch, drawn, strict=True):
                    stopped = bool(token_ids) and token_ids[-1] in chat.stop_ids(tokenizer)
                    made.append({
                        "prompt_id": prompts[p]["prompt_id"], "iteration": iteration, "sample": s,
                        "text": chat.decode_response(tokenizer, token_ids), "token_ids": token_ids,
                        "finish_reason": "stop" if stopped else "length", "logprob": logprob,
                        "seed": row_seed, "temperature": float(temperature), "policy": name,
                    })
            store.save(number, made)
        for (p, s, _), row in zip([job for batch in shard for job in batch], made, strict=True):
            rows[p, s] = row
    return [rows[p, s] for p in range(len(prompts)) for s in range(n)]


def _draw(backend: str, model, tokenizer, prompt_ids, seeds, temperature, top_p, max_new_tokens):
    """One batch on one backend -> [(token_ids, logprob)] in the order given; a new backend is one branch."""
    if backend == "transformers":
        return decoding.draw(model, tokenizer, prompt_ids, seeds, temperature, top_p, max_new_tokens)
    raise KitError(f"sampling backend {backend!r} is not available; set sampling.backend to transformers")


def response_logprobs(policy_path, prompts: Sequence, token_ids: Sequence[Sequence[int]], machine,
                      batch_size: int = 64) -> np.ndarray:
    """Sum of log pi(token | prompt, earlier tokens) over each response, at temperature 1: (N,) float64.

    prompts: one per response, as messages or as a row with "prompt".
    """
    model, tokenizer = _open(policy_path, machine)
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
    policy, tokenizer = _open(policy_path, machine)
    reference, reference_tokenizer = _open(reference_path, machine)
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


class _Shards:
    """Finished shards of one `sample` call on disk; does nothing without a folder."""

    def __init__(self, folder, plan: str):
        self.folder = Path(folder) if folder is not None else None
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        note = self.folder / "plan.json"
        if not note.exists() or json.loads(note.read_text(encoding="utf-8")) != {"plan": plan}:
            for old in self.folder.glob("rows-*.parquet"):
                old.unlink()
            write_json(note, {"plan": plan})

    def load(self, number: int) -> list[dict] | None:
        if self.folder is None or not (path := self.folder / f"rows-{number:03d}.parquet").exists():
            return None
        import pyarrow.parquet

        return pyarrow.parquet.read_table(path).to_pylist()

    def save(self, number: int, rows: list[dict]) -> None:
        if self.folder is not None:
            write_rows(self.folder, rows, file=f"rows-{number:03d}.parquet")


def _open(policy, machine):
    """A folder or a loaded (model, tokenizer) -> the pair, in evaluation mode."""
    if isinstance(policy, tuple):
        model, tokenizer = policy
    else:
        from rlhf_kit.models import load_policy

        model, tokenizer = load_policy(policy, machine)
    return model.eval(), tokenizer


def _messages(prompt):
    return prompt["prompt"] if isinstance(prompt, Mapping) else prompt


def _check(prompts, n, temperature, top_p, max_new_tokens, batch_size) -> None:
    if not prompts:
        raise KitError("sample got no prompts")
    if len({row["prompt_id"] for row in prompts}) != len(prompts):
        raise KitError("two prompts have the same prompt_id; their samples could not be told apart")
    for label, value in (("n", n), ("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise KitError(f"sampling {label} is {value}; it must be at least 1")
    if temperature < 0:
        raise KitError(f"sampling temperature is {temperature}; it must be zero (greedy) or more")
    if temperature == 0 and n != 1:
        raise KitError(f"temperature 0 gives the same response {n} times; use n=1 or a temperature above 0")
    if not 0 < top_p <= 1:
        raise KitError(f"sampling top_p is {top_p}; it must be above 0 and at most 1")


def _check_lengths(model, prompts, prompt_ids, max_new_tokens) -> None:
    limit = getattr(model.config, "max_position_embeddings", None)
    for row, ids in zip(prompts, prompt_ids, strict=True):
        if limit is not None and len(ids) + max_new_tokens > limit:
            raise KitError(
                f"prompt {row['prompt_id']!r} has {len(ids)} tokens; with max_new_tokens={max_new_tokens} it "
                f"does not fit into the model's {limit} positions; leave it out or lower max_new_tokens"
            )
