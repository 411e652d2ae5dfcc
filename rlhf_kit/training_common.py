"""What every training call shares: our settings as TRL's arguments, batches of like length, resume, history."""

from __future__ import annotations

import math
import os
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from rlhf_kit import models
from rlhf_kit.errors import KitError
from rlhf_kit.runs import write_json

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
    world = int(os.environ.get("WORLD_SIZE", "1"))
    total = int(setting(settings, "batch_size", 32))
    micro = min(int(setting(settings, "micro_batch_size", total // world or 1)), total)
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


def lora_config(lora: Any, task_type: str):
    """peft's LoraConfig from {r, alpha, dropout, target}, or None. A reward model's head is trained in full."""
    if lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=int(setting(lora, "r", 16)),
        lora_alpha=int(setting(lora, "alpha", 32)),
        lora_dropout=float(setting(lora, "dropout", 0.0)),
        target_modules=setting(lora, "target", "all-linear"),
        task_type=task_type,
        modules_to_save=["score"] if task_type == "SEQ_CLS" else None,
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


# ---------------------------------------------------------------- batches of like length


class LengthBatches(torch.utils.data.Sampler):
    """A new order of the rows each epoch, in which a batch holds rows of like length, and batches come in random order.

    Rows are shuffled, cut into pools of a few batches, and sorted inside a pool only: little padding, yet each batch
    is still a random draw. The order depends on seed and epoch alone, so a resumed run sees the same batches.
    """

    POOL = 8  # batches sorted together

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int):
        self.lengths, self.batch_size, self.seed, self.epoch = list(lengths), batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        size = self.batch_size
        full = len(order) // size * size
        made = []
        for start in range(0, full, size * self.POOL):
            pool = sorted(order[start : min(start + size * self.POOL, full)], key=lambda i: self.lengths[i])
            made += [pool[i : i + size] for i in range(0, len(pool), size)]
        for place in torch.randperm(len(made), generator=generator).tolist():
            yield from made[place]
        yield from order[full:]  # the one batch that is not full comes last


class KitTrainer:
    """Mixed into TRL's trainers: batches of like length, no usage pings, no model card beside checkpoints."""

    kit_lengths: Sequence[int] = ()

    def _get_train_sampler(self, train_dataset=None):
        rows = self.train_dataset if train_dataset is None else train_dataset
        if len(self.kit_lengths) != len(rows):
            return super()._get_train_sampler(train_dataset)
        world = max(1, self.args.world_size)
        step = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps * world
        return LengthBatches(self.kit_lengths, step, self.args.seed)

    def _send_telemetry(self):
        pass

    def create_model_card(self, *args, **kwargs):
        pass


class _Finite(TrainerCallback):
    """Stops a run whose loss is no longer a number, instead of saving a broken model."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            raise KitError(
                f"the loss is {loss} at step {state.global_step}; lower the learning rate ({args.learning_rate:g})"
            )


# ---------------------------------------------------------------- running


def last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint (its trainer_state.json is written last); incomplete ones are removed."""
    found = []
    for checkpoint in folder.glob("checkpoint-*"):
        if (checkpoint / "trainer_state.json").is_file():
            found.append((int(checkpoint.name.rsplit("-", 1)[1]), checkpoint))
        else:
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
    checkpoint = last_checkpoint(Path(trainer.args.output_dir))
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
        "learning_rate": float(trainer.args.learning_rate),
        "seed": int(trainer.args.seed),
    }


def finish(trainer, tokenizer, out: Path, history: list[dict], facts: dict, begun: float) -> Trained:
    """Save model, tokenizer and history to `out`, remove the checkpoints."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    if trainer.is_world_process_zero():
        models.save_model(model.eval(), tokenizer, out)
        write_json(out / "history.json", history)
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    facts["weights"] = models.weights_hash(out)
    return Trained(path=out, history=history, seconds=round(time.perf_counter() - begun, 3), facts=facts)
