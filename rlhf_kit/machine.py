"""What follows from a profile and this machine: device, formats, threads, backend, each with its reason."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_kit.errors import KitError
from rlhf_kit.openai_client import named_servers

if TYPE_CHECKING:
    from rlhf_kit.profiles import Profile

INSTALL_VLLM = (
    "install it with `.venv/bin/pip install -r requirements-gpu.txt` beside an NVIDIA GPU, or with "
    "`python3 scripts/setup_env.py --vllm` on a Linux x86_64 machine without one"
)


@dataclass(frozen=True)
class Machine:
    """What follows from the profile and this machine; `reasons` says why, field by field."""

    device: str
    dtype: str
    autocast_bf16: bool
    threads: int
    backend: str  # of sampling: transformers, vllm, or server
    reasons: dict[str, str]
    servers: tuple[str, ...] = ()  # URLs for the server backend
    vllm: Any = None  # section `sampling.vllm` of the profile


def usable_cores() -> int:
    """Physical cores that this process may use: affinity and a container's CPU quota count."""
    import psutil

    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
        if quota != "max":
            cores = min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return max(1, cores)


def _threads() -> tuple[int, str]:
    given = os.environ.get("RLHF_KIT_THREADS")
    if given:
        if not given.isdigit() or int(given) < 1:
            raise KitError(f"RLHF_KIT_THREADS is {given!r}; it must be a whole number of 1 or more")
        return int(given), "RLHF_KIT_THREADS says so"
    cores = usable_cores()
    return min(
        cores, 8
    ), f"{cores} physical core(s) are usable here; more than 8 threads do not help models this small"


def child_environment(threads: int, offline: bool) -> dict[str, str]:
    """Environment variables for a process that computes: its threads, no telemetry, memory that is kept.

    The allocator keeps freed memory instead of handing it back after every batch (page faults were a quarter
    of the time). How long idle threads spin is set in `rlhf_kit/__init__.py`.
    """
    count = str(threads)
    env = dict.fromkeys(
        ("RLHF_KIT_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), count
    )
    env |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}
    env |= {"MALLOC_TOP_PAD_": "268435456", "MALLOC_TRIM_THRESHOLD_": "4000000000"}
    env |= {"MALLOC_MMAP_THRESHOLD_": "4000000000", "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000")}
    if offline:
        env |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return env


def cpu_bf16() -> tuple[bool, str]:
    """Whether the CPU multiplies bf16 in hardware (without that, bf16 autocast is slower than float32)."""
    import torch

    for name, label in (("_is_amx_tile_supported", "AMX"), ("_is_avx512_bf16_supported", "AVX512-BF16")):
        check = getattr(torch.cpu, name, None)
        if check is not None and check():
            return True, f"the CPU has {label}"
    return False, "the CPU has neither AMX nor AVX512-BF16, so bf16 would be slower than float32"


def resolve(profile: Profile) -> Machine:
    """Device, number formats, threads and sampling backend for this profile on this machine, with reasons.

    KitError when the profile requires a GPU and there is none, or asks for vLLM or a server and there is none.
    """
    import torch

    reasons: dict[str, str] = {}
    threads, reasons["threads"] = _threads()
    if torch.cuda.is_available():
        device, reasons["device"] = "cuda", f"found {torch.cuda.get_device_name(0)}"
    elif profile.requires_gpu:
        raise KitError(
            f"profile {profile.name} needs a CUDA GPU and this machine has none that PyTorch can use; "
            f"take the laptop profile, or see `make doctor`"
        )
    elif torch.backends.mps.is_available():
        device, reasons["device"] = "mps", "an Apple GPU and no CUDA"
    else:
        device, reasons["device"] = "cpu", "no GPU that PyTorch can use"
    if device == "cuda":
        capable = torch.cuda.get_device_capability(0)[0] >= 8
        large = profile.requires_gpu
        dtype = ("bfloat16" if capable else "float16") if large else "float32"
        autocast = capable
        reasons["dtype"] = (
            "half-precision weights, as the profile's models are large"
            if large
            else "small models keep float32 weights"
        )
        reasons["autocast_bf16"] = (
            "the GPU computes bf16" if capable else "the GPU is older than Ampere and has no bf16"
        )
    elif device == "mps":
        dtype, autocast = "float32", False
        reasons["dtype"] = reasons["autocast_bf16"] = "float32 is the safe choice on Apple GPUs"
    else:
        dtype, reasons["dtype"] = "float32", "weights stay in float32 on a CPU"
        autocast, reasons["autocast_bf16"] = cpu_bf16()
    backend, reasons["backend"], servers = _backend(profile, device)
    return Machine(device, dtype, autocast, threads, backend, reasons, servers, profile.sampling.vllm)


def _backend(profile: Profile, device: str) -> tuple[str, str, tuple[str, ...]]:
    """(sampling backend, why, URLs of servers); KitError when the wanted one is not there."""
    wanted, named = profile.sampling.backend, profile.sampling.server
    installed = find_spec("vllm") is not None
    if wanted == "server" or (wanted == "auto" and named):
        servers = named_servers(named or os.environ.get("RLHF_KIT_SERVER", ""))
        if not servers:
            raise KitError(
                "sampling.backend is server and no server is named; give sampling.server or RLHF_KIT_SERVER the URL of "
                "one (or several) such as http://host:8000"
            )
        which = "sampling.server names" if named else "RLHF_KIT_SERVER names"
        return "server", f"{which} {', '.join(servers)}", servers
    if wanted == "vllm":
        if not installed:
            raise KitError(f"sampling.backend is vllm, and vLLM is not installed here; {INSTALL_VLLM}, or say auto")
        return "vllm", "the profile asks for it", ()
    if wanted == "transformers":
        return "transformers", "the profile asks for it", ()
    if not profile.requires_gpu:
        return "transformers", "models this small sample fast enough with transformers", ()
    if device == "cuda" and installed:
        return "vllm", "vLLM is installed, and models this large sample many times faster with it", ()
    return "transformers", "vLLM is not installed (requirements-gpu.txt holds it), so sampling will be slow", ()
