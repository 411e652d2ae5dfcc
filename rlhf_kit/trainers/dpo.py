"""DPO: a policy, a reference that stays, pairs -> TRL's trainer -> the next policy (paper eq. 5)."""

from __future__ import annotations

import gc
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from rlhf_kit import models
from rlhf_kit.batching import by_length
from rlhf_kit.errors import KitError
from rlhf_kit.trainers.arguments import choose_attention, max_length_of, setting, trainer_args
from rlhf_kit.trainers.common import (
    KitTrainer,
    Trained,
    finish,
    run_trainer,
    sharded,
    training_machine,
    without_dropout,
)
from rlhf_kit.trainers.lora import (
    finish_lora,
    float_adapters,
    folder_hash,
    frozen_start,
    load_4bit,
    lora_config,
    quantized,
    with_adapter,
)
from rlhf_kit.trainers.memory import tells_memory
from rlhf_kit.trainers.rows import dpo_encoder, encode_rows


class _DPO(KitTrainer, DPOTrainer):
    """DPO on finished ids, with the reference's log-probabilities computed once and kept in memory."""

    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset  # TRL would apply the chat template again

    def _precompute_ref_logps(self, dataset, name, batch_size):
        # TRL keeps these on disk under a key of data and weights, not of the number format; in memory nothing can be
        # stale. Sorted by length they also cost less padding.
        rows = dataset.to_list()
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        shares = list(by_length([_dpo_length(row) for row in rows], batch_size))
        found = []
        # The policy waits on the CPU, so that the two are never on one GPU together.
        waits = self.args.device.type == "cuda" and not sharded() and not getattr(self.model, "is_quantized", False)
        if waits:
            self.model.to("cpu")
        for turn in range(0, len(shares), world):
            # Divided models compute together: a process without a share repeats the last one, and keeps nothing of it.
            own = turn + rank < len(shares)
            index = shares[turn + rank] if own else shares[-1]
            batch = self._prepare_inputs(self.data_collator([rows[i] for i in index]))
            sums = [values.tolist() for values in self.compute_ref_log_probs(self.ref_model, batch)]
            if own:
                found += list(zip(index, *sums, strict=True))
        if waits:
            torch.cuda.empty_cache()
            self.model.to(self.args.device)
        if world > 1:
            found = gather_object(found)
        found.sort()
        if [i for i, _, _ in found] != list(range(len(rows))):
            raise KitError(
                f"{len(found)} reference log-probabilities came back for {len(rows)} pairs; each must have exactly one"
            )
        chosen, rejected = [c for _, c, _ in found], [r for _, _, r in found]
        return dataset.add_column("ref_chosen_logps", chosen).add_column("ref_rejected_logps", rejected)


def _dpo_length(row: Mapping) -> int:
    return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


@tells_memory
def train_dpo(
    policy_path: str | Path,
    reference_path: str | Path,
    pairs: Any,
    out: str | Path,
    settings: Any,
    machine: Any,
    seed: int,
    max_length: int,
    *,
    lora: Any = None,
    progress: bool = False,
    callbacks: Sequence = (),
) -> Trained:
    """DPO (paper eq. 5) on pairs {prompt, chosen, rejected}: training starts at `policy_path`, against `reference_path`.

    The reference is always a model of its own, opened from its own folder. Its log-probabilities are computed before
    the first step, each pair exactly once, and the reference is freed before the policy's optimizer is made: while
    training, one model is in memory. facts: `reference` (hash of its weights, before and after), `step_zero` (loss,
    margin in units of beta, log-ratios before the first step), `start`. Where policy and reference have the same
    weights the first loss must be ln 2. `settings.label_smoothing` under loss "sigmoid" is the conservative DPO loss
    (TRL's own `sigmoid` leaves it out). With `lora` see `trainers.lora` for what is frozen in which iteration.
    """
    begun, out = time.perf_counter(), Path(out)
    loading = training_machine(machine, lora)
    start, adapter, how = str(policy_path), None, "full"
    if lora is not None:
        start, adapter, how = frozen_start(policy_path, reference_path, lora)
    load = load_4bit if quantized(lora) else models.load_policy
    policy, tokenizer = load(start, loading)
    reference, reference_tokenizer = load(reference_path, loading)
    _check_alike(policy, reference, tokenizer, reference_tokenizer)
    without_dropout(policy)
    if adapter is not None:
        policy = with_adapter(policy, adapter)
    same, before, stored = models.weights_hash(policy), models.weights_hash(reference), folder_hash(reference_path)
    limit, cut = max_length_of(settings, max_length), Counter()
    encode = dpo_encoder(tokenizer, limit, setting(settings, "truncation", "drop"), cut)
    columns, ledger = encode_rows(pairs, encode, "dpo")
    data = Dataset.from_dict(columns)
    lengths = [_dpo_length(row) for row in data.to_list()]
    attention = choose_attention([policy, reference], machine, settings, max(lengths), sides=2)
    trainer = _DPO(
        model=policy,
        ref_model=reference,
        processing_class=tokenizer,
        train_dataset=data,
        args=trainer_args(
            DPOConfig,
            out,
            settings,
            machine,
            seed,
            len(lengths),
            progress,
            disable_dropout=True,
            precompute_ref_log_probs=True,
            beta=float(setting(settings, "beta", 0.1)),
            **dpo_loss_args(settings),
        ),
        peft_config=lora_config(lora, "CAUSAL_LM") if adapter is None else None,
    )
    trainer.kit_reference = before
    float_adapters(trainer, lora)
    after = before if sharded() else models.weights_hash(reference)  # a divided model has no hash; its file has
    trainer.ref_model = reference = None
    _free()
    if sharded():
        # The policy is placed when training starts; its first step is looked at before anything is saved.
        first = _FirstStep(trainer, same == before)
        callbacks = [first, *callbacks]
    else:
        step_zero = _step_zero(trainer)
        if same == before:
            _check_ln2(step_zero["loss"], trainer.loss_types)
    history, facts = run_trainer(trainer, lengths, progress, callbacks)
    if after != before or folder_hash(reference_path) != stored:
        raise KitError(
            f"the reference {reference_path} changed during training (weights {before} -> {after}, stored {stored} -> "
            f"{folder_hash(reference_path)})"
        )
    facts = {
        "ledger": ledger.to_dict(),
        "truncated": dict(cut),
        **facts,
        "attention": attention,
        "beta": trainer.beta,
        "step_zero": first.seen if sharded() else step_zero,
        "reference": {"path": str(reference_path), "before": before, "after": after, "stored": stored},
        "start": {"path": str(policy_path), "weights": same, "is_reference": same == before, "how": how},
    }
    if lora is None:
        return finish(trainer, tokenizer, out, history, facts, begun, machine.dtype)
    probe = [p + c for p, c in zip(columns["prompt_ids"][:4], columns["chosen_ids"][:4], strict=True)]
    return finish_lora(
        trainer, tokenizer, out, history, facts, begun, lora=lora, base=start,
        open_base=lambda: models.load_policy(start, replace(loading, device="cpu"))[0], rows=probe,
    )[0]


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def dpo_loss_args(settings: Any) -> dict:
    """DPOConfig's loss arguments. Conservative DPO is built from two of TRL's losses.

    With s = -log sigmoid(h), f = -log sigmoid(-h) and smoothing e, conservative DPO is (1 - e) s + e f and TRL's
    `robust` is ((1 - e) s - e f) / (1 - 2 e); so it equals 2 (1 - e) `sigmoid` - (1 - 2 e) `robust`.
    """
    loss, e = setting(settings, "loss", "sigmoid"), float(setting(settings, "label_smoothing", 0.0))
    if not 0 <= e < 0.5:
        raise KitError(f"dpo.label_smoothing is {e}; it must be at least 0 and below 0.5")
    if loss == "sigmoid" and e > 0:
        return {
            "loss_type": ["sigmoid", "robust"],
            "loss_weights": [2 * (1 - e), -(1 - 2 * e)],
            "label_smoothing": e,
        }
    return {"loss_type": [loss], "label_smoothing": e}


def _check_alike(policy, reference, tokenizer, reference_tokenizer) -> None:
    formats = {p.dtype for p in policy.parameters()}, {p.dtype for p in reference.parameters()}
    if formats[0] != formats[1]:
        raise KitError(f"policy and reference have different number formats: {formats[0]} and {formats[1]}")
    if tokenizer.get_vocab() != reference_tokenizer.get_vocab():
        raise KitError(
            "policy and reference have different vocabularies; DPO compares their log-probabilities token by token"
        )


def _step_zero(trainer) -> dict[str, float]:
    """Loss and mean log-ratios (policy to reference, nats) on the first rows, before any step.

    The trainer prepared the reference for mixed precision already, the policy not before it trains: autocast puts both
    into one number format, or two equal models would differ by rounding.
    """
    rows = [trainer.train_dataset[i] for i in range(min(32, len(trainer.train_dataset)))]
    at_once = trainer.args.per_device_train_batch_size
    at_once = len(rows) if at_once >= 8 else at_once  # where a step takes few rows, memory is short
    half = torch.float16 if trainer.args.fp16 else torch.bfloat16
    autocast = torch.autocast(trainer.args.device.type, dtype=half, enabled=trainer.args.bf16 or trainer.args.fp16)
    trainer.model.eval()
    seen = {"loss": 0.0, "rewards/margins": 0.0, "rewards/chosen": 0.0, "rewards/rejected": 0.0}
    for start in range(0, len(rows), at_once):
        part = rows[start : start + at_once]
        batch = trainer._prepare_inputs(trainer.data_collator(part))
        with torch.no_grad(), autocast, trainer.compute_loss_context_manager():
            loss = float(trainer.compute_loss(trainer.model, batch))
        metrics = {key: values[-1] for key, values in trainer._metrics["eval"].items()} | {"loss": loss}
        seen = {key: value + metrics[key] * (len(part) / len(rows)) for key, value in seen.items()}
        trainer._metrics["eval"].clear()
    trainer.model.train()
    return {
        "loss": seen["loss"],
        "rows": len(rows),
        "margin": seen["rewards/margins"] / trainer.beta,
        "chosen_log_ratio": seen["rewards/chosen"] / trainer.beta,
        "rejected_log_ratio": seen["rewards/rejected"] / trainer.beta,
    }


def _check_ln2(loss: float, loss_types: Sequence[str]) -> None:
    if set(loss_types) <= {"sigmoid", "robust"} and abs(loss - math.log(2)) > 1e-3:
        raise KitError(
            f"policy and reference have the same weights, but the first DPO loss is {loss:.5f} and not ln 2 = 0.69315; "
            "the reference is not the model it is said to be"
        )


class _FirstStep(TrainerCallback):
    """What `_step_zero` tells, from the log of the first step, whose loss is that of the untrained policy."""

    def __init__(self, trainer, is_reference: bool):
        self.trainer, self.is_reference, self.seen = trainer, is_reference, None

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.seen is not None or state.global_step != 1 or "loss" not in (logs or {}):
            return
        beta = self.trainer.beta
        self.seen = {
            "loss": logs["loss"],
            "rows": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            "margin": logs["rewards/margins"] / beta,
            "chosen_log_ratio": logs["rewards/chosen"] / beta,
            "rejected_log_ratio": logs["rewards/rejected"] / beta,
        }
        if self.is_reference:
            _check_ln2(self.seen["loss"], self.trainer.loss_types)
