"""What every training call shares: our settings as TRL's arguments, batches of like length, resume, history."""

from __future__ import annotations

import functools
import gc
import inspect
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from rlhf_kit import models
from rlhf_kit.errors import KitError
from rlhf_kit.runs import write_json
from rlhf_kit.trainers.batches import LengthBatches, SharedBatches, world_size

SAVE_STEPS = 200  # a checkpoint every so many optimizer steps; a shorter run makes none


@dataclass(frozen=True)
class Trained:
    """A finished training. history: rows {step, epoch, loss, ... the trainer's metrics}; facts: plain data."""

    path: Path
    history: list[dict]
    seconds: float
    facts: dict = field(default_factory=dict)


# ---------------------------------------------------------------- settings -> arguments


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


# ---------------------------------------------------------------- what all trainers share


class KitTrainer:
    """Mixed into TRL's trainers: batches of like length, the same global ones for any number of processes; each row
    weighs the same within an optimizer step; no usage pings, no model card beside checkpoints."""

    kit_lengths: Sequence[int] = ()
    kit_batches: SharedBatches | None = None
    kit_rows = 0, 0  # rows and micro batches of the present optimizer step, where micro batches differ in size

    def _get_train_sampler(self, train_dataset=None):
        rows = self.train_dataset if train_dataset is None else train_dataset
        if len(self.kit_lengths) != len(rows):
            return super()._get_train_sampler(train_dataset)
        world = max(1, self.args.world_size)
        step = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps * world
        return LengthBatches(self.kit_lengths, step, self.args.seed)

    def get_train_dataloader(self):
        sampler = self._get_train_sampler()
        if self.args.world_size == 1 or not isinstance(sampler, LengthBatches):
            return super().get_train_dataloader()
        self.kit_batches = SharedBatches(sampler, self.args.per_device_train_batch_size, self.args.world_size)
        loader = torch.utils.data.DataLoader(
            self._remove_unused_columns(self.train_dataset, description="training"),
            batch_sampler=self.kit_batches,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

    def _run_epoch(self, *, epoch, **more):
        if self.kit_batches is not None:
            self.kit_batches.set_epoch(epoch)  # the trainer does not reach it through accelerate's wrappers on resuming
        return super()._run_epoch(epoch=epoch, **more)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        sizes = [_rows_of(batch) for batch in batches]
        # A loss that is a mean over a micro batch would count the rows of a short one more than the others.
        uneven = items is None and len(set(sizes)) > 1
        self.kit_rows = (sum(sizes), len(sizes)) if uneven else (0, 0)
        return batches, items

    def compute_loss(self, model, inputs, *args, **kwargs):
        rows, (total, count) = _rows_of(inputs), self.kit_rows
        result = super().compute_loss(model, inputs, *args, **kwargs)
        if not total or not self.is_in_train:
            return result
        weight = rows * count / total
        return (result[0] * weight, *result[1:]) if isinstance(result, tuple) else result * weight

    def _send_telemetry(self):
        pass

    def create_model_card(self, *args, **kwargs):
        pass


def _rows_of(batch: Mapping) -> int:
    return next(value.shape[0] for value in batch.values() if isinstance(value, torch.Tensor) and value.dim() > 1)


class _Finite(TrainerCallback):
    """Stops a run whose loss is no longer a number, instead of saving a broken model."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            raise KitError(
                f"the loss is {loss} at step {state.global_step}; lower the learning rate ({args.learning_rate:g})"
            )


# ---------------------------------------------------------------- running


def last_checkpoint(folder: Path, world: int = 1, remove: bool = True) -> str | None:
    """The newest complete checkpoint (its trainer_state.json is written last); incomplete ones are removed.

    With several processes each has written its random state beside it. remove: only one process may clear up.
    """
    found = []
    for checkpoint in folder.glob("checkpoint-*"):
        states = len(list(checkpoint.glob("rng_state_*.pth"))) if world > 1 else world
        if (checkpoint / "trainer_state.json").is_file() and states == world:
            found.append((int(checkpoint.name.rsplit("-", 1)[1]), checkpoint))
        elif remove:
            shutil.rmtree(checkpoint, ignore_errors=True)
    return str(max(found)[1]) if found else None


def run_trainer(
    trainer, lengths: Sequence[int], progress: bool, callbacks: Sequence = ()
) -> tuple[list[dict], dict]:
    """Train (from the last checkpoint if there is one): history rows, and facts {steps, tokens, resumed_from, ...}."""
    trainer.kit_lengths = list(lengths)
    trainer.remove_callback(PrinterCallback)
    if not progress:
        trainer.remove_callback(ProgressCallback)
    for callback in (_Finite(), *callbacks):
        trainer.add_callback(callback)
    checkpoint = last_checkpoint(
        Path(trainer.args.output_dir), trainer.args.world_size, trainer.is_world_process_zero()
    )
    trainer.accelerator.wait_for_everyone()
    begun = time.perf_counter()
    with models.quiet_transformers(), warnings.catch_warnings():
        # accelerate and torch announce changes of their own future; nothing here can act on them
        warnings.filterwarnings(
            "ignore", category=FutureWarning, module=r"(trl|transformers|accelerate|torch)\b.*"
        )
        trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.perf_counter() - begun
    history = [dict(row) for row in trainer.state.log_history if "loss" in row]
    tokens = int(history[-1].get("num_tokens", 0)) if history else 0
    return history, {
        "steps": int(trainer.state.global_step),
        "epochs": float(trainer.state.epoch or 0),
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1) if not checkpoint else None,
        "resumed_from": Path(checkpoint).name if checkpoint else None,
        **_shared(trainer),
        "learning_rate": float(trainer.args.learning_rate),
        "seed": int(trainer.args.seed),
    }


def _shared(trainer) -> dict:
    """What several processes add to the facts; nothing for one."""
    if trainer.args.world_size == 1:
        return {}
    shared = {"processes": trainer.args.world_size, "distributed": str(trainer.accelerator.distributed_type.value)}
    if trainer.kit_batches is not None:
        shared["rows_left_over_each_epoch"] = trainer.kit_batches.left_over
    return shared


# ---------------------------------------------------------------- out of memory


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


# ---------------------------------------------------------------- saving


def sharded() -> bool:
    """True where a strategy (FSDP, DeepSpeed) places and divides the weights itself; it then also keeps fp32 masters."""
    return any(os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true" for name in ("FSDP", "DEEPSPEED"))


def training_machine(machine: Any, lora: Any) -> Any:
    """The machine as weights are loaded for training on it.

    Fully trained weights are kept in float32 (with autocast): at a rate of 5e-7 the updates are far below the spacing
    of bfloat16 and would be rounded away without a word. Frozen weights under LoRA stay as they are, its adapters are
    float32. FSDP and DeepSpeed keep their own float32 masters and place the weights, which wait on the CPU.
    """
    if sharded():
        return replace(machine, device="cpu")
    return machine if lora is not None or machine.dtype == "float32" else replace(machine, dtype="float32")


def finish(
    trainer, tokenizer, out: Path, history: list[dict], facts: dict, begun: float, dtype: str = "float32"
) -> Trained:
    """Save model (in number format `dtype`), tokenizer and history to `out`, remove the checkpoints.

    Every process must call it: a divided model is put together by all, and written by the first alone.
    """
    whole = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharded() else None
    model = trainer.accelerator.unwrap_model(trainer.model)
    wanted = getattr(torch, dtype)
    if trainer.is_world_process_zero():
        if whole is not None:
            whole = {name: tensor.to(wanted) for name, tensor in whole.items()}
        elif wanted != torch.float32:
            model.to(wanted)
        models.save_model(model.eval(), tokenizer, out, state_dict=whole)
        close(trainer, out, history)
        facts["weights"] = models.weights_hash(out)
    trainer.accelerator.wait_for_everyone()
    return Trained(path=out, history=history, seconds=round(time.perf_counter() - begun, 3), facts=facts)


def close(trainer, out: Path, history: list[dict]) -> None:
    write_json(out / "history.json", history)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
