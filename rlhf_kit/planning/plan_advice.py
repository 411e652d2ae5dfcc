"""What follows from a plan's numbers: disk, the machine's memory, sentences on what does not fit, commands."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from rlhf_kit.files import tool
from rlhf_kit.planning.architectures import licence
from rlhf_kit.planning.memory import GIB, Card
from rlhf_kit.processes.launch import accelerate_options
from rlhf_kit.profiles import Profile
from rlhf_kit.runs import project_path

# Bytes of data sets where the hub's page names them.
DATA_BYTES = {"hendrydong/preference_700K": 2.8e9}


def disk(profile: Profile, steps: list[dict]) -> dict[str, Any]:
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


def host_memory(profile: Profile, steps: list[dict]) -> int:
    """Bytes of the machine's own memory while models are loaded: each process opens its policy (and DPO's reference)
    there before the GPUs share them."""
    most = max((s["saved"] * (1 + s["name"].startswith("dpo")) for s in steps if "saved" in s), default=0)
    return most * profile.launch.processes


def problems(profile: Profile, steps: list[dict], on: Card | None) -> list[str]:
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


def launcher(profile: Profile, on: Card | None) -> list[str]:
    """The line that a lesson starts a training of several processes with; JOB is the job's folder in the run."""
    launch = profile.launch
    if launch.processes == 1:
        return []
    precision = "no" if on is None else "bf16" if on.bf16 else "fp16"
    options = accelerate_options(f"data/accelerate/{launch.strategy}.yaml", launch.processes, precision)
    return [tool("accelerate"), "launch", *options, "-m", "rlhf_kit.processes.worker", "JOB/job.json"]


def run_words(name_or_path: str | Path, overrides: dict | None = None) -> list[str]:
    """The words of the command that runs a profile with its values."""
    sets = [w for k, v in (overrides or {}).items() for w in ("--set", f"{k}={'null' if v is None else v}")]
    return [tool("python"), "-m", "rlhf_kit", "run", "--profile", str(name_or_path), *sets]


def commands(
    profile: Profile, on: Card | None, name_or_path: str | Path, overrides: dict | None, gated: list[str]
) -> list[dict]:
    """[{why, command}] in order."""
    run, made = run_words(name_or_path, overrides), []
    if profile.requires_gpu:
        made.append({"why": "the packages, once", "command": "make env"})
    if profile.launch.strategy.startswith("zero"):
        made.append(
            {"why": "once; fsdp2 does without", "command": f"{tool('python')} -m pip install deepspeed==0.19.8"}
        )
    for name in gated:
        made.append(
            {"why": f"once, after accepting {licence(name)} on its page", "command": f"{tool('hf')} download {name} --dry-run"}
        )
    if gated:
        made.insert(len(made) - len(gated), {"why": "once, with your own token", "command": f"{tool('hf')} auth login"})
    for lesson, why in (
        ("02", "the initial policy"), ("03", "the reward model"), ("04", "the pairwise model"),
        ("08", "the online iterations"), ("09", "evaluation"),
    ):  # fmt: skip
        made.append({"why": f"{why} (lesson {lesson})", "command": shlex.join([*run, "--only", lesson])})
    made.append({"why": "or all lessons in order, going on where it stopped", "command": shlex.join(run)})
    if launcher(profile, on):
        made.append({"why": "not to be typed: so the lessons start their trainings", "command": shlex.join(launcher(profile, on))})
    return made
