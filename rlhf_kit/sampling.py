"""n responses a prompt from a policy: by transformers, by vLLM, or by servers.

Every sample has its own seed, made from (seed, iteration, prompt_id, sample): its random numbers do not
depend on the batch it falls into, so a batch size, a shard or a restart does not change what is drawn.
(Floating-point sums do change a little with padding and batching; a draw within 1e-6 of a boundary may then differ.)
The backends draw the same distribution, not the same samples: each makes its own random numbers of a seed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_kit import chat, models
from rlhf_kit.engines import decoding
from rlhf_kit.engines.likelihood import kl_rows, kl_to_reference, open_pair, response_logprobs
from rlhf_kit.engines.shards import Batch, Store, check_temperature, deal
from rlhf_kit.errors import KitError
from rlhf_kit.runs import derive_seed, stable_hash

__all__ = ["kl_rows", "kl_to_reference", "opened", "response_logprobs", "sample"]

BATCHES_PER_SHARD = 4  # transformers and vLLM; a server gets one batch at a time, so that many servers share evenly


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

    policy_path: folder of the policy, an already loaded (model, tokenizer), or what `opened` gives.
    prompts: rows {"prompt_id", "prompt": messages}. temperature 0 decodes greedily (then n must be 1).
    max_new_tokens: tokens, the end token included. batch_size: sequences a batch.
    machine: its `backend` is "transformers", "vllm" (engines of this call's own) or "server" (`machine.servers`).
    folder: where finished shards are kept, so that a killed call continues; the caller removes it when its
        rows are written. Shards made with other prompts or settings are discarded.

    Returns rows {prompt_id, iteration, sample, text, token_ids, finish_reason, logprob, seed, temperature,
    policy}. token_ids end with the end token exactly when finish_reason is "stop" (else "length"); the end tokens are
    those of `chat.stop_ids`, whatever other ids the model's generation_config.json names.
    logprob: sum over token_ids, end token included, of the log-probability under the distribution sampled
    from (temperature and top_p applied); for greedy decoding, under the policy at temperature 1.
    Raises KitError for impossible settings, a missing backend, a prompt too long for the model, and when engines or
    servers are lost before all is drawn.
    """
    _check(prompts, n, temperature, top_p, max_new_tokens, batch_size)
    if machine.backend != "transformers":
        check_temperature(temperature)
    with contextlib.ExitStack() as stack:
        tokenizer, limit, start = _look(policy_path, machine, stack)
        prompt_ids = [chat.encode_prompt(tokenizer, row["prompt"]) for row in prompts]
        longest = max(map(len, prompt_ids)) + max_new_tokens
        _check_lengths(limit, prompts, prompt_ids, max_new_tokens)

        # One job a response, the longest prompts first: batches then hold prompts of like length (little padding)
        # and a batch size that does not fit in memory fails at once, not after an hour.
        jobs = [(p, s, derive_seed(seed, "sample", str(iteration), str(row["prompt_id"]), str(s)))
                for p, row in enumerate(prompts) for s in range(n)]
        jobs.sort(key=lambda job: (-len(prompt_ids[job[0]]), job[0], job[1]))
        batches = [jobs[i:i + batch_size] for i in range(0, len(jobs), batch_size)]
        size = 1 if machine.backend == "server" else BATCHES_PER_SHARD
        shards = [batches[i:i + size] for i in range(0, len(batches), size)]
        plan = stable_hash([[row["prompt_id"], ids] for row, ids in zip(prompts, prompt_ids, strict=True)], n,
                           _policy_key(policy_path) if folder is not None else None,
                           temperature, top_p, max_new_tokens, seed, iteration, batch_size, name, machine.backend)
        store = Store(folder, plan)

        rows: dict[tuple[int, int], dict] = {}

        def keep(number, made):
            for (p, s, _), row in zip([job for batch in shards[number] for job in batch], made, strict=True):
                rows[p, s] = row

        def finish(number, drawn):
            made = []
            for (p, s, row_seed), (token_ids, logprob, reason) in zip(
                [job for batch in shards[number] for job in batch], drawn, strict=True
            ):
                where = f"sample {s} of prompt {prompts[p]['prompt_id']!r}"
                made.append({
                    "prompt_id": prompts[p]["prompt_id"], "iteration": iteration, "sample": s,
                    "text": chat.decode_response(tokenizer, token_ids), "token_ids": token_ids,
                    "finish_reason": _ending(token_ids, logprob, reason, chat.stop_ids(tokenizer), max_new_tokens, where),
                    "logprob": logprob, "seed": row_seed, "temperature": float(temperature), "policy": name,
                })
            store.save(number, made)
            keep(number, made)

        left = {}
        for number, shard in enumerate(shards):
            made = store.load(number)
            if made is None:
                left[number] = shard
            else:
                keep(number, made)
        if left:
            policy = start(longest)
            if machine.backend == "transformers":
                for number, shard in left.items():
                    finish(number, [drawn for batch in shard
                                    for drawn in _draw(policy, prompt_ids, batch, temperature, top_p, max_new_tokens)])
            else:
                _deal(policy, prompt_ids, left, temperature, top_p, max_new_tokens, finish)
    if len(rows) != len(prompts) * n:
        raise KitError(f"sampling made {len(rows)} rows of {len(prompts)} prompts with {n} samples each; a row was lost")
    return [rows[p, s] for p in range(len(prompts)) for s in range(n)]


def _policy_key(policy) -> str:
    """What tells a policy from another in the plan of kept shards: a hash of its weights, a hub id or server name as it is."""
    from rlhf_kit.checkpoints.weights import weights_hash

    policy = getattr(policy, "policy", policy)  # of opened engines and servers
    if isinstance(policy, tuple):
        return weights_hash(policy[0])
    try:
        return weights_hash(policy)
    except KitError:
        return str(policy)


@contextlib.contextmanager
def opened(policy_path, machine, max_length: int) -> Iterator[Any]:
    """A policy opened once for several `sample` calls, and closed (its memory given back) at the end of the block.

    With vLLM an engine takes from seconds to minutes to start. max_length: tokens of prompt and response together.
    """
    if machine.backend == "transformers":
        yield open_pair(policy_path, machine)
        return
    policy = _open_remote(policy_path, machine, max_length)
    try:
        yield policy
    finally:
        policy.close()


def _look(policy, machine, stack):
    """(tokenizer, most positions or None, a function: longest -> the opened policy, which `stack` will close).

    Engines are started only when a shard is left to draw, and for the longest prompt there is.
    """
    if machine.backend == "transformers":
        model, tokenizer = pair = open_pair(policy, machine)
        return tokenizer, getattr(model.config, "max_position_embeddings", None), lambda longest: pair
    if hasattr(policy, "lanes"):  # from `opened`: whoever opened it closes it
        return policy.tokenizer, policy.max_length, lambda longest: policy
    if machine.backend == "vllm" and not isinstance(policy, tuple):

        def start(longest):
            engines = _open_remote(policy, machine, longest)
            stack.callback(engines.close)
            return engines

        return (*models.tokenizer_and_positions(policy), start)
    servers = _open_remote(policy, machine, 0)
    stack.callback(servers.close)
    return servers.tokenizer, servers.max_length, lambda longest: servers


def _open_remote(policy, machine, max_length: int):
    if machine.backend == "vllm":
        from rlhf_kit.engines.sampling_vllm import open_engines

        return open_engines(policy, machine, max_length)
    if machine.backend == "server":
        from rlhf_kit.engines.sampling_server import open_servers

        return open_servers(policy, machine)
    raise KitError(f"unknown sampling backend {machine.backend!r}; one of transformers, vllm, server")


def _draw(pair, prompt_ids, batch, temperature, top_p, max_new_tokens):
    """One batch by transformers: [(token_ids, logprob, finish reason not told)]."""
    drawn = decoding.draw(*pair, [prompt_ids[p] for p, _, _ in batch], [s for _, _, s in batch],
                          temperature, top_p, max_new_tokens)
    return [(token_ids, logprob, None) for token_ids, logprob in drawn]


def _deal(policy, prompt_ids, left, temperature, top_p, max_new_tokens, finish) -> None:
    """All shards that are left, by the policy's engines or servers; `finish` gets each one's draws."""
    stop = chat.stop_ids(policy.tokenizer)
    if hasattr(policy, "check_logprobs"):
        policy.check_logprobs(temperature, top_p, prompt_ids[0], stop)
    batches = {}
    for number, shard in left.items():
        jobs = [job for batch in shard for job in batch]
        batches[number] = Batch([prompt_ids[p] for p, _, _ in jobs], [s for _, _, s in jobs], float(temperature),
                                float(top_p), max_new_tokens, stop)
    deal(batches, policy.lanes(), finish)


def _ending(token_ids, logprob, reason, stop, max_new_tokens, where) -> str:
    """"stop" or "length"; KitError when tokens, their number and what the backend says do not agree."""
    stopped = bool(token_ids) and token_ids[-1] in stop
    found = "stop" if stopped else "length"
    whole = stopped or len(token_ids) == max_new_tokens
    early = any(token in stop for token in token_ids[:-1])
    if not token_ids or early or not whole or len(token_ids) > max_new_tokens or reason not in (None, found):
        raise KitError(
            f"{where} has {len(token_ids)} tokens of at most {max_new_tokens}, {'with' if stopped or early else 'without'} "
            f"an end token ({stop}), and ended by {reason!r}; a response ends with its one end token or at its full length"
        )
    if not math.isfinite(logprob) or logprob > 1e-3:
        raise KitError(f"{where} has the log-probability {logprob}, which none can be")
    return found


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


def _check_lengths(limit, prompts, prompt_ids, max_new_tokens) -> None:
    for row, ids in zip(prompts, prompt_ids, strict=True):
        if limit is not None and len(ids) + max_new_tokens > limit:
            raise KitError(
                f"prompt {row['prompt_id']!r} has {len(ids)} tokens; with max_new_tokens={max_new_tokens} it "
                f"does not fit into the model's {limit} positions; leave it out or lower max_new_tokens"
            )
