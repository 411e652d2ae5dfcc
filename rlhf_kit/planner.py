"""The plan of a profile before anything starts: values with sources, memory, tokens, hours, disk, licences, commands.

Works on any machine and offline. Numbers come from sizes alone (`architectures`, `memory`, `flops`); what cannot be
known is said and not guessed. `plan` gives plain data, `rlhf_kit.plan_text` prints it.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf_kit import flops, memory, profiles, provenance
from rlhf_kit.architectures import Shape, licence, shape_of
from rlhf_kit.errors import KitError
from rlhf_kit.memory import CARDS, GIB, Adapter, Card, Formats
from rlhf_kit.profiles import Profile
from rlhf_kit.runs import project_path

# Expected response in tokens: the mean of the paper's main model on Arena-Hard (table 4).
RESPONSE = 656
# A row of the pocket world (prompt, response): about 50 tokens with its template.
WORLD = (22, 26)
# Bytes of data sets where the hub's page names them.
DATA_BYTES = {"hendrydong/preference_700K": 2.8e9}
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
    """The whole plan as plain data: {profile, values, card, steps, disk, licences, unknown, problems, commands}.

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
        "disk": _disk(profile, steps),
        "licences": {n: text for n, text in known.items() if text},
        "unknown": unknown,
        "problems": _problems(profile, steps, on),
        "commands": _commands(profile, name_or_path, overrides, [n for n, t in known.items() if t]),
    }


def _formats(profile: Profile, on: Card | None) -> Formats:
    """As `machine.resolve` sets them: half-precision weights for the GPU profiles, float32 else."""
    return Formats(2, True) if profile.requires_gpu else Formats(4, on is not None and on.bf16)


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
        _formats(profile, on),
        sequences=micro * sides,
        length=limit,
        checkpointing=section.gradient_checkpointing,
        adapter=adapter,
        strategy=launch.strategy,
        processes=launch.processes,
        reference=name.startswith("dpo"),
        packed=section.packing,
    )
    step["full_logits"] = 0 if shape.scalar else memory.full_logits(shape, micro * sides * limit)
    step["checkpoint"] = _checkpoint(profile, shape, step["trained"])
    step["saved"] = memory.weights(shape, _formats(profile, on))
    if on:
        work = flops.training(shape, tokens, each, section.gradient_checkpointing, adapter is not None)
        work += flops.forward(shape, tokens / section.epochs, each) if name.startswith("dpo") else 0
        step["operations"] = work
        step["hours"] = flops.hours(work, on, launch.processes, flops.TRAINING)
    return step


def _checkpoint(profile: Profile, shape: Shape, trained: int) -> int:
    """Bytes of the one checkpoint that a training keeps: what is trained, and AdamW's states."""
    strategy = profile.launch.strategy
    if profile.model.lora:
        return 12 * trained
    return {"none": 6, "ddp": 6, "fsdp2": 12}.get(strategy, 14) * trained


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
    launch, formats = profile.launch, _formats(profile, on)
    backend = "transformers" if profile.sampling.backend == "transformers" or not profile.requires_gpu else "vllm"
    step = {
        "name": name, "kind": "sampling", "models": [model] if isinstance(model, str) else [],
        "parameters": shape and shape.parameters, "lesson": LESSONS.get(name, LESSONS["iteration"]),
        "rows": prompts * n, "tokens": prompts * n * answer, "backend": backend,
    }  # fmt: skip
    if shape is None:
        return step
    longest = profile.model.max_length if backend == "vllm" else prompt + profile.sampling.max_new_tokens
    if on and backend == "vllm":
        step["fits_at_once"] = memory.room(shape, formats, on.memory, int(longest))
        at_once = memory.room(shape, formats, on.memory, int(prompt + answer))
    else:
        at_once = min(profile.sampling.batch_size, prompts * n)
    step["at_once"] = at_once
    step["kv_token"] = memory.kv_token(shape, formats)
    step["memory"] = memory.sampling(shape, formats, at_once, int(prompt + answer))
    if on and at_once:
        step["hours"] = flops.sampling_hours(
            shape, formats, on, launch.processes, prompts=prompts, n=n, prompt_tokens=prompt,
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


def _disk(profile: Profile, steps: list[dict]) -> dict[str, Any]:
    """Bytes on disk: downloads (of models whose size is known, of data sets that say theirs), what is saved, rows."""
    hub = {}
    for step in steps:
        for name in step["models"]:
            if step.get("parameters") and not project_path(name).exists():
                hub[name] = 2 * step["parameters"]
    sets = [d for d in (profile.data.preferences, profile.data.sft, profile.data.prompts) if d]
    sets = [d for d in sets if not project_path(d).exists()]
    rows = sum(s["tokens"] for s in steps if s["kind"] == "sampling") * 12  # text, token ids and the rest, packed
    return {
        "models_from_hub": sum(hub.values()),
        "data_from_hub": sum(DATA_BYTES.get(d, 0) for d in sets),
        "data_of_unknown_size": [d for d in sets if d not in DATA_BYTES],
        "saved_models": sum(s.get("saved", 0) for s in steps if s["kind"] == "training"),
        "largest_checkpoint": max((s.get("checkpoint", 0) for s in steps), default=0),
        "responses": int(rows),
    }


def _problems(profile: Profile, steps: list[dict], on: Card | None) -> list[str]:
    """What will not work as it stands, one sentence each, with what to change."""
    found = []
    for step in steps if on else []:
        needed, name = sum(step.get("memory", {}).values()) / GIB, step["name"]
        again = name.rsplit("-", 1)
        if len(again) == 2 and again[1].isdigit() and int(again[1]) > 1:
            continue  # the same as in the first iteration
        if step["kind"] == "sampling" and step.get("fits_at_once") == 0:
            found.append(
                f"{name}: vLLM has no room on the {on.name} for one sequence of model.max_length "
                f"({profile.model.max_length} tokens) beside the weights; lower model.max_length"
            )
        elif needed > on.memory:
            found.append(
                f"{name}: about {needed:.0f} GiB on each GPU, more than the {on.memory:.0f} of the {on.name}; "
                f"{_lower(profile, step)}"
            )
    if profile.requires_gpu and not profile.model.lora and profile.launch.strategy in ("none", "ddp"):
        found.append(
            f"launch.strategy {profile.launch.strategy} trains all weights in bf16 without a float32 copy, and a rate of "
            f"{profile.dpo.learning_rate:g} is below what bf16 weights can take up; say zero2, zero3 or fsdp2, or set "
            f"model.lora"
        )
    if on and not on.bf16:
        for name in ("sft", "pairwise"):
            if getattr(profile, name).packing and not getattr(profile, name).released:
                found.append(
                    f"{name}.packing needs FlashAttention, which the {on.name} does not run; set it to false"
                )
    return found


def _lower(profile: Profile, step: dict) -> str:
    """What to lower so that a training, sampling or scoring step fits."""
    if step["kind"] == "scoring":
        return "lower model.max_length, or take a smaller reward model"
    if step["kind"] == "sampling":
        return "lower sampling.batch_size or sampling.max_new_tokens"
    section, parts = step["name"].split("-")[0], step["memory"]
    if not getattr(profile, section).gradient_checkpointing:
        return f"set {section}.gradient_checkpointing to true"
    standing = sum(parts.get(k, 0) for k in ("weights", "gradients", "optimizer", "reference"))
    if standing > sum(parts.values()) / 2:
        if profile.launch.processes > 1:
            return "set launch.strategy to zero3 or fsdp2, raise launch.processes, or set model.lora"
        if not profile.model.lora:
            return "set model.lora, or launch.strategy zero2 on several GPUs"
        if profile.model.lora.quantization == "none":
            return "set model.lora.quantization to nf4"
        return "take a smaller model (model.path) or a larger card"
    if step["micro_batch"] > 1:
        return f"lower {section}.micro_batch_size ({step['micro_batch']})"
    return f"lower {section}.max_length ({step['length']})"


def launcher(profile: Profile) -> list[str]:
    """The words before a training script under several processes, with TRL's own accelerate configuration."""
    if profile.launch.processes == 1:
        return []
    name = {"ddp": "multi_gpu"}.get(profile.launch.strategy, profile.launch.strategy)
    config = f"$(python -c 'import trl; print(trl.__path__[0])')/accelerate_configs/{name}.yaml"
    return ["accelerate", "launch", "--config_file", config, "--num_processes", str(profile.launch.processes)]


def _commands(profile: Profile, name_or_path: str | Path, overrides: dict | None, gated: list[str]) -> list[dict]:
    """[{why, command}] in order."""
    sets = [w for k, v in (overrides or {}).items() for w in ("--set", f"{k}={'null' if v is None else v}")]
    run = ["python", "-m", "rlhf_kit", "run", "--profile", str(name_or_path), *sets]
    made = []
    if profile.requires_gpu:
        made.append({"why": "the packages, once", "command": "make env"})
    for name in gated:
        made.append(
            {"why": f"once, after accepting {licence(name)} on its page", "command": f"hf download {name} --dry-run"}
        )
    if gated:
        made.insert(len(made) - len(gated), {"why": "once, with your own token", "command": "hf auth login"})
    for lesson, why in (
        ("02", "the initial policy"), ("03", "the reward model"), ("04", "the pairwise model"),
        ("08", "the online iterations"), ("09", "evaluation"),
    ):  # fmt: skip
        made.append({"why": f"{why} (lesson {lesson})", "command": shlex.join([*run, "--only", lesson])})
    made.append({"why": "or all lessons in order, going on where it stopped", "command": shlex.join(run)})
    if launcher(profile):
        made.append(
            {"why": "trainings are started by the lessons, as", "command": " ".join([*launcher(profile), "..."])}
        )
    return made
