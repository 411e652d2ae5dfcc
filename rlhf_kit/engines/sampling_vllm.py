"""Generation by vLLM's offline engine, on GPUs or with vLLM's CPU build.

Each engine lives in a process of its own (`rlhf_kit.engines.vllm_worker`) from `open_engines` to `close`: an engine takes over
signal handlers, thread settings and nearly all GPU memory of its process, and only the end of a process gives all of
that back before the next training starts. Its log goes to a file, so a notebook stays readable.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from rlhf_kit.engines.shards import Batch, Lost
from rlhf_kit.errors import KitError
from rlhf_kit.files import PROJECT
from rlhf_kit.machine import INSTALL_VLLM, child_environment

# Dimensions of an attention head that vLLM's CPU kernels have; it looks only when it draws, and then dies.
CPU_HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)


def installed() -> bool:
    return find_spec("vllm") is not None


class Engine:
    """One engine process on one model folder. `draw` raises `Lost` when it has died, KitError when it refuses."""

    def __init__(self, settings: dict, environment: dict, name: str):
        self.name = name
        self.log = tempfile.NamedTemporaryFile("w+", prefix="vllm-", suffix=".log", delete=False)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rlhf_kit.engines.vllm_worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment,
        )
        self._send(settings)

    def ready(self) -> str:
        """Waits until the model is loaded; vLLM's version. KitError when it cannot be."""
        try:
            return self._answer()["ready"]
        except Lost as reason:
            raise KitError(f"vLLM could not open the model ({reason})") from None

    def draw(self, batch: Batch) -> list[tuple[list[int], float, str]]:
        """[(token ids, log-probability, finish reason)] in the order of `batch.prompts`."""
        self._send({
            "prompts": [list(ids) for ids in batch.prompts], "seeds": list(batch.seeds),
            "temperature": batch.temperature, "top_p": batch.top_p, "max_new_tokens": batch.max_new_tokens,
            "stop": batch.stop,
        })
        return [(ids, logprob, reason) for ids, logprob, reason in self._answer()["drawn"]]

    def _send(self, value) -> None:
        try:
            self.process.stdin.write(json.dumps(value) + "\n")
            self.process.stdin.flush()
        except (OSError, ValueError):
            raise Lost(self._why()) from None

    def _answer(self) -> dict:
        try:
            line = self.process.stdout.readline()
        except ValueError:  # closed while we waited
            line = ""
        if not line:
            raise Lost(self._why())
        answer = json.loads(line)
        if "error" in answer:
            raise Lost(f"{answer['error']}; its log is {self.log.name}")
        return answer

    def _why(self) -> str:
        try:
            status = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            status = None
        what = "was killed by signal 9, as happens when memory runs out" if status == -9 else f"ended with status {status}"
        return f"the engine {what}; its log is {self.log.name}"

    def close(self) -> None:
        """Ends the process, which returns its memory; safe to call twice. The log of a good engine is removed."""
        process = self.process
        with contextlib.suppress(OSError):
            process.stdin.close()  # its loop ends
        try:
            status = process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        process.stdout.close()
        self.log.close()
        if status == 0:
            Path(self.log.name).unlink(missing_ok=True)


class Engines:
    """The engines of one policy: one a GPU (or group of GPUs), one on a CPU. Made by `open_engines`."""

    def __init__(self, engines: list[Engine], tokenizer, max_length: int, policy: object = None):
        self.engines, self.tokenizer, self.max_length, self.policy = engines, tokenizer, max_length, policy

    def lanes(self):
        return [(engine.name, engine.draw) for engine in self.engines]

    def close(self) -> None:
        for engine in self.engines:
            with contextlib.suppress(OSError):
                engine.process.stdin.close()  # all of them start to end
        for engine in self.engines:
            engine.close()


def open_engines(policy_path, machine, max_length: int) -> Engines:
    """Starts the engines on a policy folder (or hub id); the caller closes them.

    max_length: tokens of the longest prompt and its response together; decides how much cache a sequence may take.
    Options come from `machine.vllm` (section `sampling.vllm` of the profile). KitError when vLLM is not installed, or
    cannot open the model, with where its log is.
    """
    if isinstance(policy_path, tuple):
        raise KitError(
            "the vllm backend reads a policy from its folder; give the folder, not a loaded model (or set "
            "sampling.backend to transformers)"
        )
    if not installed():
        raise KitError(f"the sampling backend is vllm, and vLLM is not installed; {INSTALL_VLLM}")
    from rlhf_kit.models import head_dimension, load_tokenizer, resolve_model

    where, tokenizer = resolve_model(policy_path), load_tokenizer(policy_path)
    options, on_gpu = machine.vllm, machine.device == "cuda"
    groups = _groups(options, on_gpu)
    settings = {
        "model": where, "dtype": machine.dtype, "seed": 0, "max_model_len": max_length, "skip_tokenizer_init": True,
        # `vllm` and not `auto`: nothing is taken from the model's generation_config.json.
        "generation_config": "vllm",
        # After temperature and top-p: the distribution sampled from. At temperature 0 that is the model's own.
        "logprobs_mode": "processed_logprobs",
        "trust_remote_code": False, "load_format": "safetensors", "disable_log_stats": True,
        "tensor_parallel_size": getattr(options, "tensor_parallel", 1),
    }
    if on_gpu:
        _free_gpu_memory()
        settings |= {
            "gpu_memory_utilization": getattr(options, "gpu_memory", 0.9),
            "enforce_eager": getattr(options, "eager", False),
        }
    else:
        if (head := head_dimension(where)) not in (None, *CPU_HEADS):
            raise KitError(
                f"the attention heads of {policy_path} have {head} dimensions, and vLLM's CPU build takes only "
                f"{', '.join(map(str, CPU_HEADS))}; set sampling.backend to transformers"
            )
        # A prompt cut in two would draw once too often, and a CPU generator cannot be set back.
        settings |= {
            "enforce_eager": True, "enable_chunked_prefill": False, "max_num_batched_tokens": max(8192, max_length),
        }
    engines: list[Engine] = []
    try:
        for number, group in enumerate(groups):
            name = "the vLLM engine" if len(groups) == 1 else f"vLLM engine {number + 1}"
            engines.append(Engine(settings, _environment(machine, where, group, len(groups)), name))
        for engine in engines:
            engine.ready()
    except BaseException:
        Engines(engines, tokenizer, max_length).close()
        raise
    return Engines(engines, tokenizer, max_length, policy_path)


def _groups(options, on_gpu: bool) -> list[str | None]:
    """Which GPUs each engine sees (the value of CUDA_VISIBLE_DEVICES), or [None] for CPU engines."""
    wanted, parallel = getattr(options, "engines", None), getattr(options, "tensor_parallel", 1)
    if not on_gpu:
        if parallel > 1:
            raise KitError(f"sampling.vllm.tensor_parallel is {parallel}; without a GPU it must be 1")
        return [None] * (wanted or 1)
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [g for g in visible.split(",") if g] if visible else [str(i) for i in range(torch.cuda.device_count())]
    groups = [",".join(gpus[i:i + parallel]) for i in range(0, len(gpus) - parallel + 1, parallel)]
    if len(groups) < (wanted or 1):
        raise KitError(
            f"sampling.vllm asks for {wanted or 1} engine(s) of {parallel} GPU(s), and {len(gpus)} GPU(s) are visible"
        )
    return groups[:wanted]


def _environment(machine, where: str, gpus: str | None, engines: int) -> dict[str, str]:
    threads = max(1, machine.threads // engines)
    env = {**os.environ, **child_environment(threads, offline=Path(where).is_dir())}
    env |= {
        # Everything in the one process: less to start, and it ends as a whole.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1", "DO_NOT_TRACK": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
    }
    env.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if gpus is not None:
        env["CUDA_VISIBLE_DEVICES"] = gpus
    elif machine.device == "cpu":
        env.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        env.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # or engines on one machine would share a core
        env["TORCHDYNAMO_DISABLE"] = "1"  # one small function would be compiled, which wants a C++ compiler
    return env


def _free_gpu_memory() -> None:
    """What PyTorch in this process keeps for later would be missing to the engine."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
