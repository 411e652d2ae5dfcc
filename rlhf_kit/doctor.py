"""Says what this machine can do, which profile fits and what is missing."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rlhf_kit import profiles
from rlhf_kit.errors import KitError
from rlhf_kit.files import PROJECT, project_path, tool
from rlhf_kit.machine import cpu_bf16, usable_cores
from rlhf_kit.planning import plan_advice, plan_text, planner

# Gigabytes that a profile needs: memory of the machine, free disk for its run.
NEEDS = {
    "smoke": (2, 1),
    "laptop": (4, 3),
    "byo": (4, 5),
    "colab": (12, 20),
    "gpu": (64, 100),
    "paper": (512, 1000),
}


def memory_gb() -> float:
    """Memory this process may use: the machine's, or a container's limit where that is smaller."""
    import psutil

    total = psutil.virtual_memory().total
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        total = min(total, int(limit)) if limit != "max" else total
    except (OSError, ValueError):
        pass
    return total / 2**30


def _gpus() -> list[tuple[str, float, bool]]:
    import torch

    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [(p.name, p.total_memory / 2**30, p.major >= 8) for p in found]


def wrong_versions(requirements: Path = PROJECT / "requirements.txt") -> list[str]:
    """Sentences about pinned packages that are missing or have another version."""
    problems = []
    for line in requirements.read_text(encoding="utf-8").splitlines():
        name, _, wanted = line.split("#")[0].strip().partition("==")
        if not wanted:
            continue
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            problems.append(f"{name} {wanted} is not installed")
            continue
        if found.split("+")[0] != wanted:
            problems.append(f"{name} is {found}, and {wanted} is pinned")
    return problems


def missing_for(profile: profiles.Profile) -> list[str]:
    """What keeps a profile from running here, in plain sentences; empty if it fits."""
    missing = []
    memory, disk = NEEDS.get(profile.name, (4, 5))
    if memory_gb() < memory * 0.95:
        missing.append(f"{memory} GB of memory (there are {memory_gb():.0f})")
    free = shutil.disk_usage(PROJECT).free / 2**30
    if free < disk:
        missing.append(f"{disk} GB of free disk (there are {free:.0f})")
    gpus = _gpus()
    if profile.requires_gpu and not gpus:
        missing.append("a CUDA GPU (PyTorch can use none here)")
    elif profile.gpu_memory_gb and gpus and max(g[1] for g in gpus) < profile.gpu_memory_gb:
        missing.append(
            f"a GPU with {profile.gpu_memory_gb:.0f} GB (the largest has {max(g[1] for g in gpus):.0f})"
        )
    if profile.sampling.backend == "vllm" and not find_spec("vllm"):
        missing.append("vLLM, which sampling.backend asks for")
    if profile.requires_gpu and 1 < profile.launch.processes and len(gpus) < profile.launch.processes:
        missing.append(f"{profile.launch.processes} GPUs (there are {len(gpus)})")
    if profile.launch.strategy in ("zero2", "zero3") and not find_spec("deepspeed"):
        missing.append(f"DeepSpeed, which launch.strategy {profile.launch.strategy} asks for")
    for name in filter(None, (profile.model.path, profile.model.tokenizer)):
        looks_local = name.startswith((".", "/", "~", "data/")) or name.count("/") > 1
        if looks_local and not project_path(name).exists():
            missing.append(f"the model folder {name}")
    if profiles.needs_hub(profile) and os.environ.get("HF_HUB_OFFLINE") == "1":
        missing.append("the Hugging Face hub (HF_HUB_OFFLINE=1 is set)")
    return missing


def doctor(
    profile_name: str | None = None,
    overrides: dict[str, Any] | None = None,
    card: str | None = None,
    as_json: bool = False,
) -> tuple[int, str]:
    """(exit status, report); 1 if the asked profile (default: laptop) does not fit or packages are wrong.

    A named profile gets its plan as well (`rlhf_kit.planning.planner`), for the card that it or `card` names; as_json
    gives the plan alone, status 1 if it has problems. KitError for options that need a profile's name.
    """
    if profile_name is None and (overrides or card or as_json):
        raise KitError("--set, --card and --json are about a profile's plan; name it with --profile")
    if as_json:
        made = planner.plan(profile_name, overrides, card)
        return (1 if made["problems"] else 0), json.dumps(made, indent=1, ensure_ascii=False)
    problems = wrong_versions()
    lines = ["This machine", *_machine_lines()]
    lines += ["Packages: other than pinned in requirements.txt", *(f"  {p}" for p in problems)] if problems else ["Packages: as pinned in requirements.txt"]
    lines.append("Profiles: which of them this machine can run (smoke and laptop need no GPU and no network)")
    fits = {}
    for name in profiles.known():
        try:
            fits[name] = missing_for(profiles.load_profile(name))
        except KitError as error:
            fits[name] = [BYO_NEEDS] if name == "byo" else [str(error)]
        needs = f"\n{'':10}needs ".join(fits[name])
        lines.append(f"  {name:7} {f'needs {needs}' if fits[name] else 'fits'}")
    asked = profile_name or profiles.DEFAULT
    profile = None
    try:
        profile = profiles.load_profile(asked, overrides)
        machine = profiles.resolve(profile)
        lines.append(f"Profile {profile.name} would run here with")
        lines += [f"  {f'{field}: {getattr(machine, field)}':24} ({machine.reasons[field]})" for field in FIELDS]
    except KitError as error:
        if profile is None and (overrides or asked not in profiles.known()):
            raise
        lines.append(f"Profile {asked} cannot run here: {str(error).removeprefix(f'profile {asked} ').split('; take')[0]}")
    missing, faults = missing_for(profile) if profile else fits.get(asked) or ["its own values"], []
    planned = bool(profile_name and profile)
    if planned:
        made = planner.plan(asked, overrides, card)
        faults = made["problems"]
        lines += ["", plan_text.text(made), ""]
    best = next((n for n in ("paper", "gpu", "colab", "laptop", "smoke") if not fits.get(n, ["?"])), None)
    lines += ["What to do", *(f"  {one}" for one in _advice(asked, overrides, missing, faults, problems, best, planned))]
    return (1 if missing or faults or problems or not _fine_python() else 0), "\n".join(lines)


FIELDS = ("device", "dtype", "autocast_bf16", "threads", "backend")
BYO_NEEDS = "your model and your preference file: --set model.path=MODEL --set data.preferences=PAIRS.jsonl"


def _fine_python() -> bool:
    return (3, 11) <= sys.version_info[:2] <= (3, 13)


def _machine_lines() -> list[str]:
    """What is here, and what each thing means for the course."""
    python = f"  Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    lines = [python + ("" if _fine_python() else ": the kit needs 3.11 to 3.13; make env PYTHON=/path/to/python3.12")]
    free = shutil.disk_usage(PROJECT).free / 2**30
    lines.append(f"  {usable_cores()} core(s), {memory_gb():.0f} GB of memory, {free:.0f} GB of free disk")
    gpus = _gpus()
    lines += [f"  GPU: {name}, {memory:.0f} GB, {'bf16' if bf16 else 'no bf16, so float16 is taken'}" for name, memory, bf16 in gpus]
    if not gpus:
        lines.append("  GPU: none that PyTorch can use, so everything runs on the CPU")
        if shutil.which("nvidia-smi"):
            lines.append("    nvidia-smi is there, so a GPU may be too: PyTorch is a CPU build, or the driver is too old;")
            lines.append("    try: rm -rf .venv && make env")
    fast, why = cpu_bf16()
    lines.append(f"  bf16 on the CPU: {'yes' if fast else 'no'} ({why})")
    lines.append(f"  vLLM: {'installed' if find_spec('vllm') else 'not installed; profiles without a GPU sample with transformers and do not need it'}")
    return lines


def _advice(
    asked: str, overrides: dict | None, missing: list[str], faults: list[str], problems: list[str], best: str | None, planned: bool
) -> list[str]:
    """What the reader can do next, each with a command as it is typed in the project's folder.

    missing: what the machine lacks, as nouns; faults: sentences of the plan; problems: of the packages.
    """
    python, lines = tool("python"), []
    if problems:
        lines.append("install the pinned packages:       rm -rf .venv && make env")
    fits = not missing and not faults
    if missing:
        more = len(missing) + len(faults) - 1
        above = f" and {more} more (see above{', or the problems that the plan names' if planned else ''})" if more else ""
        lines.append(f"profile {asked} does not fit here: it needs {missing[0]}{above}")
    elif faults:
        more = f" (and {len(faults) - 1} more: the problems that the plan names)" if faults[1:] else ""
        lines.append(f"profile {asked} does not fit: {faults[0]}{more}")
    if planned and not fits:
        lines.append("on a machine that has what it needs: the commands of the plan above, in that order")
    run = asked if fits else best
    if run is None:
        return [*lines, "no profile fits this machine as it is"]
    lines.append(f"run the course here ({run}):".ljust(35) + shlex.join(plan_advice.run_words(run, overrides if fits else None)))
    lines.append("open the lessons in JupyterLab:".ljust(35) + "make lab")
    if not planned:
        lines.append("plan a larger run, before renting: ".ljust(35) + f"{python} -m rlhf_kit doctor --profile paper")
    return lines
