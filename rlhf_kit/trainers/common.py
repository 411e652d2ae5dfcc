"""What every training call shares: batches of like length, resume, history, saving."""

from __future__ import annotations

import math
import os
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from rlhf_kit import models
from rlhf_kit.errors import KitError
from rlhf_kit.runs import write_json
from rlhf_kit.trainers.batches import LengthBatches, SharedBatches
from rlhf_kit.trainers.resuming import NOTE, forget_others, last_checkpoint


@dataclass(frozen=True)
class Trained:
    """A finished training. history: rows {step, epoch, loss, ... the trainer's metrics}; facts: plain data."""

    path: Path
    history: list[dict]
    seconds: float
    facts: dict = field(default_factory=dict)


# ---------------------------------------------------------------- what all trainers share


class KitTrainer:
    """Mixed into TRL's trainers: batches of like length, the same global ones for any number of processes; each row
    weighs the same within an optimizer step; no usage pings, no model card beside checkpoints."""

    kit_lengths: Sequence[int] = ()
    kit_batches: SharedBatches | None = None
    kit_reference: str | None = None  # hash of the weights that DPO is held to
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
    if trainer.is_world_process_zero():
        forget_others(trainer)
    trainer.accelerator.wait_for_everyone()
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


def without_dropout(model: Any) -> Any:
    """The model with dropout off where it keeps the rate as a number (the attention of Llama, Mistral and Qwen): TRL's
    `disable_dropout` reaches `torch.nn.Dropout` alone. Its config, and so what is saved, stays."""
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, float) and ("dropout" in name or name == "layerdrop"):
                setattr(module, name, 0.0)
    return model


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
    (out / NOTE).unlink(missing_ok=True)
