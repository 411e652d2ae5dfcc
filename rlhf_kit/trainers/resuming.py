"""Which checkpoint a training goes on from: the newest complete one, and of this training only."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_kit import models
from rlhf_kit.runs import read_json, stable_hash, write_json

NOTE = ".checkpoints.json"  # beside the folder of checkpoints: which training they are of
# What steers the steps, where a trainer's arguments have it; nothing of it may change in the middle of a training.
STEERING = (
    "seed", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate",
    "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "bf16", "fp16", "beta", "loss_type", "loss_weights",
    "label_smoothing", "center_rewards_coefficient",
)  # fmt: skip


def forget_others(trainer: Any) -> None:
    """Removes checkpoints of another training (other rows, start or settings) from this one's folder, with a warning.

    Going on from them would give a model of neither. One process alone may call it, the others wait.
    """
    folder = Path(trainer.args.output_dir)
    note, left = folder.parent / NOTE, sorted(folder.glob("checkpoint-*"))
    saves = str(trainer.args.save_strategy.value) != "no"
    if not left and not saves:
        return
    key = training_key(trainer)
    if left and (not note.is_file() or read_json(note) != {"training": key}):
        shutil.rmtree(folder)
        warnings.warn(f"the checkpoints in {folder} are of another training; they were removed", stacklevel=2)
    if saves:
        write_json(note, {"training": key})


def training_key(trainer: Any) -> str:
    """A hash of what a training is: the weights of its start and of its reference, its adapter, its rows of ids, and STEERING."""
    digest = hashlib.sha256()
    names = [name for name in sorted(trainer.train_dataset.column_names) if name.endswith(("ids", "labels"))]
    for batch in trainer.train_dataset.select_columns(names).with_format("arrow").iter(1000):
        for name in names:
            lists = batch.column(name).combine_chunks()
            digest.update(f"{name} {lists.value_lengths().to_pylist()}".encode())
            digest.update(np.ascontiguousarray(lists.flatten().to_numpy(zero_copy_only=False)))
    steering = {name: str(getattr(trainer.args, name, None)) for name in STEERING}
    # An adapter's scale and dropout are in none of its weights.
    adapters = {name: [one.lora_alpha, one.lora_dropout] for name, one in (getattr(trainer.model, "peft_config", None) or {}).items()}
    return stable_hash(models.weights_hash(trainer.model), trainer.kit_reference, adapters, digest.hexdigest(), steering)


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
