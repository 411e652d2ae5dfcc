"""The plan of a profile before anything starts: values with sources, memory, tokens, hours, disk, licences, commands.

Works on any machine and offline. Numbers come from sizes alone (`architectures`, `memory`, `flops`); what cannot be
known is said and not guessed. `plan` gives plain data, `rlhf_kit.planning.plan_text` prints it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rlhf_kit import profiles
from rlhf_kit.errors import KitError
from rlhf_kit.planning import flops, memory, plan_advice, provenance
from rlhf_kit.planning.architectures import Shape, licence, shape_of
from rlhf_kit.planning.memory import CARDS, Adapter, Card, Formats
from rlhf_kit.profiles import Profile

# Expected response in tokens: the mean of the paper's main model on Arena-Hard (table 4).
RESPONSE = 656
# A row of the pocket world (prompt, response): about 50 tokens with its template.
WORLD = (22, 26)
LESSONS = {"sft": "02", "reward": "03", "pairwise": "04", "iteration": "08", "evaluation": "09"}


def lengths(profile: Profile) -> tuple[float, float, float]:
    """Expected tokens of (prompt, preferred, rejected): the pocket world's, or table 5's means over all pairs."""
    if profile.data.kind == "world":
        return float(WORLD[0]), float(WORLD[1]), float(WORLD[1])
    table = provenance.recipe()["lengths"]
    pairs = sum(row[1] for row in table)
    return tuple(sum(row[1] * row[i] for row in table) / pairs for i in (2, 3, 4))


def card_of(profile: Profile, name: str | None = None) -> Card | None:
    """The card that the plan reckons with: `name`, or the profile's launch.card; None for a CPU profile."""
    name = name or profile.launch.card
    if name is None:
        return None
    if name not in CARDS:
        raise KitError(f"unknown card {name!r}; known: {', '.join(CARDS)}")
    return CARDS[name]


def plan(
    name_or_path: str | Path, overrides: dict[str, Any] | None = None, card: str | None = None
) -> dict[str, Any]:
    """The whole plan as plain data: {profile, card, values, steps, hours, disk, licences, problems, commands, ...}.

    Bytes, tokens, hours as (least, most). problems: sentences on what will not work as it stands. KitError for a
    profile that does not load and for an unknown card.
    """
    profile = profiles.load_profile(name_or_path, overrides)
    on = card_of(profile, card)
    steps, unknown = _steps(profile, on)
    named = sorted({n for s in steps for n in s["models"]})
    known = {n: licence(n) for n in named}
    return {
        "profile": profile.name,
        "card": asdict(on) if on else None,
        "processes": profile.launch.processes,
        "values": [asdict(v) for v in provenance.values(name_or_path, overrides)],
        "beside": provenance.recipe()["beside"],
        "steps": steps,
        "hours": _sum_hours(steps),
        "disk": plan_advice.disk(profile, steps),
        "host_memory": plan_advice.host_memory(profile, steps),
        "licences": {n: text for n, text in known.items() if text},
        "unknown": unknown,
        "problems": plan_advice.problems(profile, steps, on),
        "commands": plan_advice.commands(profile, on, name_or_path, overrides, [n for n, t in known.items() if t]),
    }


def _formats(profile: Profile, on: Card | None, training: bool = False) -> Formats:
    """As `machine.resolve` sets them: half-precision weights for the GPU profiles, float32 else.

    Training all weights wants float32 ones: bf16 is too coarse for the updates. FSDP2 and DeepSpeed keep those
    themselves.
    """
    if not profile.requires_gpu:
        return Formats(4, on is not None and on.bf16)
    masters = training and not profile.model.lora and profile.launch.strategy in ("none", "ddp")
    return Formats(4 if masters else 2, True)


def _adapter(profile: Profile) -> Adapter | None:
    lora = profile.model.lora
    return Adapter(lora.r, lora.target, lora.quantization == "nf4") if lora else None


def _start(profile: Profile, section: Any) -> Any:
    model = profile.model
    return section.start or model.path or {**model.init.model_dump(), "tokenizer": model.tokenizer}


def _steps(profile: Profile, on: Card | None) -> tuple[list[dict], list[str]]:
    data, (prompt, chosen, rejected) = profile.data, lengths(profile)
    unknown: list[str] = []

    def look(source: Any, scalar: bool | None = None) -> Shape | None:
        try:
            return shape_of(source, scalar)
        except KitError as error:
            if str(error) not in unknown:
                unknown.append(str(error))
            return None

    steps = []
    policy = profile.sft.released or _start(profile, profile.sft)
    conversation, both = prompt + chosen, prompt + chosen + rejected
    if profile.sft.released:
        steps.append(_stands("sft", policy, look(policy)))
    else:
        steps.append(_train(profile, on, "sft", policy, look(policy), data.sft_rows, conversation, 1))
    reward = profile.reward.released or _start(profile, profile.reward)
    judge = look(reward, True)
    if profile.reward.released:
        steps.append(_stands("reward", reward, judge))
    else:
        each = prompt + (chosen + rejected) / 2
        steps.append(_train(profile, on, "reward", reward, judge, data.preference_pairs, each, 2))
    pairwise = profile.pairwise.released or _start(profile, profile.pairwise)
    if profile.pairwise.released:
        steps.append(_stands("pairwise", pairwise, look(pairwise)))
    else:
        steps.append(_train(profile, on, "pairwise", pairwise, look(pairwise), data.preference_pairs, both, 1))
    if data.kind == "file" and not profile.sft.released:
        unknown.append(
            f"how many rows {data.sft or 'the chosen responses'} has: SFT is reckoned with data.sft_rows "
            f"({data.sft_rows:,}), the most it takes, each as long as a chosen conversation of table 5"
        )
    answer = min(RESPONSE if data.kind != "world" else WORLD[1], profile.sampling.max_new_tokens)
    shape = look(policy)
    for t in range(1, data.iterations + 1):
        count = data.prompts_per_iteration
        steps.append(_sample(profile, on, f"sample-{t}", policy, shape, count, profile.sampling.n, prompt, answer))
        steps.append(_score(profile, on, f"score-{t}", reward, judge, count * profile.sampling.n, prompt + answer))
        pairs = min(count, profile.labeling.max_pairs or count)
        steps.append(_train(profile, on, f"dpo-{t}", policy, shape, pairs, prompt + answer, 2))
    draws = (1 + data.iterations) * data.eval_prompts
    steps.append(
        _sample(
            profile, on, "evaluation", policy, shape, draws, profile.evaluation.samples + 1, prompt, answer
        )
    )
    return steps, unknown


def _stands(name: str, model: str, shape: Shape | None) -> dict:
    return {
        "name": name, "kind": "released", "models": [model], "parameters": shape and shape.parameters,
        "lesson": LESSONS[name],
    }  # fmt: skip


def _train(
    profile: Profile,
    on: Card | None,
    name: str,
    model: Any,
    shape: Shape | None,
    rows: int,
    row_tokens: float,
    sides: int,
) -> dict:
    """One training: `rows` rows of `sides` sequences of `row_tokens` expected tokens."""
    section = getattr(profile, name.split("-")[0])
    limit, launch, adapter = section.max_length or profile.model.max_length, profile.launch, _adapter(profile)
    each = min(row_tokens, limit)
    tokens = rows * sides * each * section.epochs
    units = rows * each / limit if section.packing else rows
    micro = section.micro_batch_size or max(1, section.batch_size // launch.processes)
    step = {
        "name": name,
        "kind": "training",
        "models": [model] if isinstance(model, str) else [],
        "parameters": shape and shape.parameters,
        "lesson": LESSONS.get(name, LESSONS["iteration"]),
        "rows": rows,
        "tokens": tokens,
        "optimizer_steps": math.ceil(units * section.epochs / section.batch_size),
        "micro_batch": micro,
        "length": limit,
        "accumulation": max(1, section.batch_size // (micro * launch.processes)),
    }
    if shape is None:
        return step
    if adapter:
        step["trained"] = shape.lora_parameters(adapter.r, adapter.target) + (shape.hidden if shape.scalar else 0)
    else:
        step["trained"] = shape.parameters
    step["memory"] = memory.training(
        shape,
        _formats(profile, on, training=True),
        sequences=micro * sides,
        length=limit,
        checkpointing=section.gradient_checkpointing,
        adapter=adapter,
        strategy=launch.strategy,
        processes=launch.processes,
        reference=name.startswith("dpo"),
    )
    step["full_logits"] = 0 if shape.scalar else memory.full_logits(shape, micro * sides * limit)
    step["checkpoint"] = _checkpoint(profile, step["trained"])
    step["saved"] = memory.weights(shape, _formats(profile, on))
    if on:
        work = flops.training(shape, tokens, each, section.gradient_checkpointing, adapter is not None)
        work += flops.forward(shape, tokens / section.epochs, each) if name.startswith("dpo") else 0
        step["operations"] = work
        step["hours"] = flops.hours(work, on, launch.processes, flops.TRAINING)
    return step


def _checkpoint(profile: Profile, trained: int) -> int:
    """Bytes of the one checkpoint that a training keeps: what is trained, and AdamW's states."""
    zero = profile.launch.strategy in ("zero2", "zero3") and not profile.model.lora
    return (14 if zero else 12) * trained  # float32 weights and moments; DeepSpeed's bf16 weights on top


def _sample(
    profile: Profile,
    on: Card | None,
    name: str,
    model: Any,
    shape: Shape | None,
    prompts: int,
    n: int,
    prompt: float,
    answer: float,
) -> dict:
    formats, split = _formats(profile, on), profile.sampling.vllm.tensor_parallel
    backend = "transformers" if profile.sampling.backend == "transformers" or not profile.requires_gpu else "vllm"
    step = {
        "name": name, "kind": "sampling", "models": [model] if isinstance(model, str) else [],
        "parameters": shape and shape.parameters, "lesson": LESSONS.get(name, LESSONS["iteration"]),
        "rows": prompts * n, "tokens": prompts * n * answer, "backend": backend,
    }  # fmt: skip
    if shape is None:
        return step
    engines = profile.launch.processes
    if on and backend == "vllm":  # an engine over several cards works as one that is as much larger
        share, engines = profile.sampling.vllm.gpu_memory, max(1, engines // split)
        on = replace(on, memory=on.memory * split, tflops=on.tflops * split, bandwidth=on.bandwidth * split)
    longest = profile.model.max_length if backend == "vllm" else prompt + profile.sampling.max_new_tokens
    if on and backend == "vllm":
        step["fits_at_once"] = memory.room(shape, formats, on.memory, int(longest), share)
        at_once = memory.room(shape, formats, on.memory, int(prompt + answer), share)
    else:
        at_once = min(profile.sampling.batch_size, prompts * n)
    step["at_once"] = at_once
    step["kv_token"] = memory.kv_token(shape, formats)
    parts = memory.sampling(shape, formats, at_once, int(prompt + answer))
    step["memory"] = {k: v if k == "context" or backend != "vllm" else v // split for k, v in parts.items()}
    if on and at_once:
        step["hours"] = flops.sampling_hours(
            shape, formats, on, engines, prompts=prompts, n=n, prompt_tokens=prompt,
            response_tokens=answer, at_once=at_once, backend=backend,
        )  # fmt: skip
    return step


def _score(
    profile: Profile, on: Card | None, name: str, model: Any, shape: Shape | None, rows: int, each: float
) -> dict:
    step = {
        "name": name, "kind": "scoring", "models": [model] if isinstance(model, str) else [],
        "parameters": shape and shape.parameters, "lesson": LESSONS["iteration"], "rows": rows, "tokens": rows * each,
    }  # fmt: skip
    if shape is None:
        return step
    step["memory"] = memory.scoring(shape, _formats(profile, on), 1, profile.model.max_length)
    if on:
        work = flops.forward(shape, rows * each, each)
        step["operations"] = work
        step["hours"] = flops.hours(work, on, profile.launch.processes, flops.FORWARD)
    return step


def _sum_hours(steps: list[dict]) -> tuple[float, float] | None:
    found = [s["hours"] for s in steps if "hours" in s]
    return (sum(h[0] for h in found), sum(h[1] for h in found)) if found else None
