"""A training that does not fit into memory: one sentence that says what to lower, and the device is free again."""

from __future__ import annotations

import functools
import gc
import inspect
from collections.abc import Callable
from typing import Any

import torch

from rlhf_kit.errors import KitError
from rlhf_kit.trainers.arguments import setting
from rlhf_kit.trainers.batches import world_size


def tells_memory(train: Callable) -> Callable:
    """A training call whose lack of memory is one KitError that says what to lower. What it had on the device is freed."""
    signature = inspect.signature(train)

    @functools.wraps(train)
    def run(*args, **kwargs):
        try:
            return train(*args, **kwargs)
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            given = signature.bind(*args, **kwargs).arguments
            told = _memory_advice(train.__name__, given["settings"], given.get("lora"), error)
        # Raised outside of the handler: the traceback would keep the tensors of the failed step alive.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise KitError(told)

    return run


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        said in text for said in ("out of memory", "can't allocate memory", "cannot allocate memory")
    )


def _memory_advice(call: str, settings: Any, lora: Any, error: BaseException) -> str:
    section = call.removeprefix("train_")
    micro = int(setting(settings, "micro_batch_size", max(1, int(setting(settings, "batch_size", 32)) // world_size())))
    lower = [f"{section}.micro_batch_size below {micro}"] if micro > 1 else [f"{section}.max_length"]
    if not setting(settings, "gradient_checkpointing", False):
        lower.append(f"{section}.gradient_checkpointing=true")
    if lora is None:
        lower.append("model.lora (trains adapters alone)")
    elif setting(lora, "quantization", "none") == "none":
        lower.append("model.lora.quantization=nf4")
    first = (str(error).strip().splitlines() or ["no memory"])[0]
    return (
        f"{section}: the training does not fit into memory ({first[:160]}); try {', or '.join(lower)}, or more GPUs "
        "(launch.processes with launch.strategy fsdp2); the stages made so far are kept"
    )
