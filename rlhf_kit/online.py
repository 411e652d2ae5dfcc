"""The online loop: sample -> score -> pair -> DPO -> next policy (arXiv 2405.07863, Algorithm 2).

`loop` is the algorithm and nothing else; it is given the four steps as functions, so the course can hand it
cached stages and `folder_steps` can hand it plain calls over model folders. Both run the very same lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_kit.errors import KitError
from rlhf_kit.runs import derive_seed


@dataclass(frozen=True)
class Iteration:
    """What iteration `number` (from 1) made: responses -> scores -> pairs -> policy. A *policy* is whatever
    the steps pass around: a cached stage in the course, a model folder in `online_dpo`."""

    number: int
    name: str
    policy: Any
    responses: Any
    scores: Any
    pairs: Any


@dataclass(frozen=True)
class Steps:
    """The four steps of an iteration; `t` is its number, from which each step derives its seed."""

    sample: Callable[[Any, Any, int], Any]  # (policy, prompts, t) -> responses
    score: Callable[[Any], Any]  # (responses) -> rewards
    pair: Callable[[Any, Any], Any]  # (responses, rewards) -> pairs
    train: Callable[[Any, Any, Any, int], Any]  # (start, reference, pairs, t) -> policy


def loop(
    sft: Any,
    batches: Sequence[Any],
    steps: Steps,
    *,
    sampler: str = "policy",
    reference: str = "sft",
    warm_start: bool = True,
    name: str = "online",
) -> list[Iteration]:
    """One policy per batch of prompts; every iteration trains on its own new pairs only.

    sampler: who answers the prompts. "policy" = the newest policy (online); "sft" = the initial policy in
        every iteration (offline), with everything else the same. The first iterations of the two are
        therefore equal.
    reference: the model in the DPO loss that the policy is held to. "sft" = the initial policy throughout
        (paper); "previous" = the policy of the iteration before.
    warm_start: training starts from the last policy (paper), or else from the initial one.
    """
    for label, value, known in (
        ("sampler", sampler, ("policy", "sft")),
        ("reference", reference, ("sft", "previous")),
    ):
        if value not in known:
            raise KitError(f"{label} is {value!r}; it must be one of {', '.join(known)}")
    policy, made = sft, []
    for t, prompts in enumerate(batches, start=1):
        responses = steps.sample(policy if sampler == "policy" else sft, prompts, t)
        rewards = steps.score(responses)
        pairs = steps.pair(responses, rewards)
        policy = steps.train(policy if warm_start else sft, sft if reference == "sft" else policy, pairs, t)
        made.append(Iteration(t, f"{name}-{t}", policy, responses, rewards, pairs))
    return made


def folder_steps(
    scorer: Any,
    out: str | Path,
    *,
    sampling: Any,
    labeling: Any,
    dpo: Any,
    machine: Any,
    max_length: int,
    seed: int = 0,
    lora: Any = None,
) -> Steps:
    """The steps as plain calls: policies are model folders, responses and pairs are lists of rows.

    scorer: anything with `score(prompts, responses)`. sampling, labeling, dpo: those sections of a profile; lora: its `model.lora`.
    Policies are written to `out/policy-<t>`; max_length is in tokens, prompt and response together.
    """
    from rlhf_kit import labeling as label
    from rlhf_kit import sampling as draw

    asked: dict[str, Any] = {}  # prompt_id -> messages; responses carry the id alone

    def sample(policy, prompts, t):
        asked.update({row["prompt_id"]: row["prompt"] for row in prompts})
        return draw.sample(
            policy,
            prompts,
            n=sampling.n,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_new_tokens=sampling.max_new_tokens,
            seed=derive_seed(seed, "sampling"),
            iteration=t,
            machine=machine,
            batch_size=sampling.batch_size,
            name=Path(policy).name,
        )

    def score(responses):
        return scorer.score(
            [asked[row["prompt_id"]] for row in responses], [row["text"] for row in responses]
        )

    def pair(responses, rewards):
        prompts = [{"prompt_id": key, "prompt": messages} for key, messages in asked.items()]
        return label.select_pairs(
            responses,
            rewards,
            labeling.rule,
            labeling.length_penalty,
            labeling.length_unit,
            labeling.min_margin,
            seed=seed,
            prompts=prompts,
        )[: labeling.max_pairs]

    def train(start, reference, pairs, t):
        from datasets import Dataset

        from rlhf_kit.training import train_dpo

        return train_dpo(
            start,
            reference,
            Dataset.from_list(pairs),
            Path(out) / f"policy-{t}",
            dpo,
            machine,
            derive_seed(seed, "dpo", t),
            max_length,
            lora=lora,
        ).path

    return Steps(sample, score, pair, train)


def online_dpo(
    sft: str | Path,
    scorer: Any,
    batches: Sequence[Sequence[dict]],
    out: str | Path,
    *,
    sampling: Any,
    labeling: Any,
    dpo: Any,
    machine: Any,
    max_length: int,
    seed: int = 0,
    lora: Any = None,
    sampler: str = "policy",
) -> list[Iteration]:
    """The whole recipe over model folders, without a course: `loop` with `folder_steps`.

    sft: folder of the initial policy. batches: one list of prompt rows {"prompt_id", "prompt"} an iteration.
    lora: the profile's `model.lora`, to train adapters instead of whole policies.
    Raises KitError for an unknown sampler or reference, and whatever the steps raise.
    """
    steps = folder_steps(
        scorer,
        out,
        sampling=sampling,
        labeling=labeling,
        dpo=dpo,
        machine=machine,
        max_length=max_length,
        seed=seed,
        lora=lora,
    )
    return loop(sft, batches, steps, sampler=sampler, reference=dpo.reference, warm_start=dpo.warm_start)
