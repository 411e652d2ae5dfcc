"""Our settings as TRL's arguments, and the attention that a model trains with."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_kit.errors import KitError
from rlhf_kit.trainers.batches import world_size

SAVE_STEPS = 200  # a checkpoint every so many optimizer steps; a shorter run makes none


def setting(settings: Any, name: str, default: Any = None) -> Any:
    """`settings.name` (or settings["name"]), and `default` where it is missing or None."""
    value = settings.get(name) if isinstance(settings, Mapping) else getattr(settings, name, None)
    return default if value is None else value


def max_length_of(settings: Any, max_length: int) -> int:
    """The stage's own limit in tokens where it has one, else the model's."""
    return int(setting(settings, "max_length", max_length))


def batches(settings: Any, rows: int) -> tuple[int, int, int]:
    """(rows on one device at once, micro batches a step, optimizer steps in all). `batch_size` is the global batch."""
    world = world_size()
    total = int(setting(settings, "batch_size", 32))
    most = max(1, total // world)
    micro = min(int(setting(settings, "micro_batch_size", most)), most)
    if total % (micro * world):
        raise KitError(
            f"batch_size {total} is not a multiple of micro_batch_size {micro} x {world} process(es)"
        )
    accumulation = total // (micro * world)
    steps = max(
        1, math.ceil(math.ceil(rows / (micro * world * accumulation)) * float(setting(settings, "epochs", 1)))
    )
    return micro, accumulation, steps


def trainer_args(
    config_class: type,
    out: Path,
    settings: Any,
    machine: Any,
    seed: int,
    rows: int,
    progress: bool,
    **more: Any,
):
    """A TRL config: fp32 or bf16 autocast as the machine says, no telemetry, no reports, nothing on standard output."""
    micro, accumulation, steps = batches(settings, rows)
    on_cpu = machine.device == "cpu"
    save = int(setting(settings, "save_steps", SAVE_STEPS))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(trl|transformers)\b.*")
        return config_class(
            output_dir=str(out / "checkpoints"),
            seed=seed,
            data_seed=seed,
            num_train_epochs=float(setting(settings, "epochs", 1)),
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=accumulation,
            learning_rate=float(setting(settings, "learning_rate", 1e-3)),
            lr_scheduler_type=setting(settings, "schedule", "cosine"),
            warmup_steps=float(setting(settings, "warmup_ratio", 0.0)),  # below 1 it is a share of the steps
            weight_decay=float(setting(settings, "weight_decay", 0.0)),
            max_grad_norm=float(setting(settings, "max_grad_norm", 1.0)),
            optim="adamw_torch",
            use_cpu=on_cpu,
            bf16=bool(machine.autocast_bf16),
            fp16=machine.dtype == "float16" and not on_cpu,
            gradient_checkpointing=bool(setting(settings, "gradient_checkpointing", False)),
            logging_strategy="steps",
            logging_steps=max(1, steps // 50),
            logging_first_step=True,
            logging_nan_inf_filter=False,  # else a loss that is no number is logged as a number
            save_strategy="steps" if steps > save else "no",
            save_steps=save,
            save_total_limit=1,
            eval_strategy="no",
            report_to="none",
            disable_tqdm=not progress,
            dataloader_num_workers=0,
            dataloader_pin_memory=not on_cpu,
            max_length=None,  # rows too long were counted and dropped before
            **more,
        )


def choose_attention(models_: Sequence, machine: Any, settings: Any, longest: int, sides: int = 1) -> str:
    """The attention that these models train with, the same in all: "sdpa", or "eager" where that is faster.

    Under bf16 autocast on a CPU, the backward pass of PyTorch's fused attention is the slowest part of training;
    written out, a 2M-parameter model trains 1.5 times as fast (48 to 160 tokens a row). The written-out attention keeps
    its weights for the backward pass, so it is taken only while they stay below half a GB. sides: sequences a row.
    """
    config = models_[0].config
    rows = int(setting(settings, "micro_batch_size", setting(settings, "batch_size", 32))) * sides
    kept = 8 * rows * config.num_attention_heads * config.num_hidden_layers * longest**2
    eager = machine.device == "cpu" and machine.autocast_bf16 and kept < 2**29
    for model in models_:
        if eager:
            model.set_attn_implementation("eager")
    return models_[0].config._attn_implementation
