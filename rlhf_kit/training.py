"""SFT, reward model, pairwise preference model and DPO: our settings and rows -> TRL's trainers -> a model folder.

settings: anything with the attributes of a profile's section (epochs, learning_rate, batch_size, ...).
machine: device, dtype, autocast_bf16. max_length: tokens of prompt and response together; longer rows are dropped
before training and counted in `facts["ledger"]`. Each call writes `out/` (model, tokenizer, history.json).
"""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from rlhf_kit import models
from rlhf_kit.batching import by_length, pad
from rlhf_kit.chat import letter_ids
from rlhf_kit.errors import KitError
from rlhf_kit.training_common import (
    KitTrainer,
    Trained,
    choose_attention,
    finish,
    lora_config,
    max_length_of,
    run_trainer,
    setting,
    trainer_args,
)
from rlhf_kit.training_rows import dpo_encoder, encode_rows, pairwise_encoder, reward_encoder, sft_encoder

__all__ = ["Trained", "train_dpo", "train_pairwise", "train_reward", "train_sft"]


class _SFT(KitTrainer, SFTTrainer):
    pass


class _Reward(KitTrainer, RewardTrainer):
    pass


class _DPO(KitTrainer, DPOTrainer):
    """DPO on finished ids, with the reference's log-probabilities computed once and kept in memory."""

    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset  # TRL would apply the chat template again

    def _precompute_ref_logps(self, dataset, name, batch_size):
        # TRL keeps these on disk under a key of data and weights, not of the number format; in memory nothing can be
        # stale. Sorted by length they also cost less padding.
        rows = dataset.to_list()
        chosen, rejected = [0.0] * len(rows), [0.0] * len(rows)
        for index in by_length([_dpo_length(row) for row in rows], batch_size):
            batch = self._prepare_inputs(self.data_collator([rows[i] for i in index]))
            for store, values in zip(
                (chosen, rejected), self.compute_ref_log_probs(self.ref_model, batch), strict=True
            ):
                for i, value in zip(index, values.tolist(), strict=True):
                    store[i] = value
        return dataset.add_column("ref_chosen_logps", chosen).add_column("ref_rejected_logps", rejected)


def _dpo_length(row: Mapping) -> int:
    return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


# ---------------------------------------------------------------- SFT


def train_sft(
    model_path: Any,
    rows: Any,
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
    """Supervised fine-tuning on rows {messages}; the loss is on the assistant's turns, end tokens included.

    model_path: a model folder or hub id, or a new model as {hidden_size, layers, heads, tokenizer: folder}.
    Source: paper section 3.1. KitError for bad paths and rows, and when no row is left.
    """
    begun, out = time.perf_counter(), Path(out)
    model, tokenizer = _open_policy(model_path, machine, seed)
    columns, ledger = encode_rows(rows, sft_encoder(tokenizer, max_length_of(settings, max_length)), "sft")
    return _train_lm(
        model, tokenizer, columns, ledger, out, settings, machine, seed, lora, progress, callbacks, begun, {}
    )


def train_pairwise(
    model_path: Any,
    rows: Any,
    out: str | Path,
    settings: Any,
    machine: Any,
    seed: int,
    max_length: int,
    *,
    orders: str = "random",
    lora: Any = None,
    progress: bool = False,
    callbacks: Sequence = (),
) -> Trained:
    """Pairwise preference model: reads context and two responses, answers with the letter of the better (paper 2.1).

    rows as for `train_reward`. orders: "random" shows each pair in one order drawn with `seed`, "both" in both.
    The loss is on the letter alone. KitError when the tokenizer does not write A and B as one token each.
    """
    begun, out = time.perf_counter(), Path(out)
    model, tokenizer = _open_policy(model_path, machine, seed)
    encode = pairwise_encoder(tokenizer, max_length_of(settings, max_length), seed, orders)
    columns, ledger = encode_rows(rows, encode, "pairwise")
    letter_a = letter_ids(tokenizer)[0]
    share = sum(labels[-1] == letter_a for labels in columns["labels"]) / len(columns["labels"])
    facts = {"orders": orders, "share_answered_a": round(share, 4)}
    return _train_lm(
        model,
        tokenizer,
        columns,
        ledger,
        out,
        settings,
        machine,
        seed,
        lora,
        progress,
        callbacks,
        begun,
        facts,
    )


def _open_policy(model_path: Any, machine: Any, seed: int):
    if isinstance(model_path, str | Path):
        return models.load_policy(model_path, machine)
    init = model_path.model_dump() if hasattr(model_path, "model_dump") else dict(model_path)
    if "tokenizer" not in init:
        raise KitError("a new model needs a tokenizer: give {hidden_size, layers, heads, tokenizer: folder}")
    return models.new_model(init, init["tokenizer"], seed)


def _train_lm(
    model, tokenizer, columns, ledger, out, settings, machine, seed, lora, progress, callbacks, begun, facts
) -> Trained:
    lengths = [len(ids) for ids in columns["input_ids"]]
    facts["attention"] = choose_attention([model], machine, settings, max(lengths))
    trainer = _SFT(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict(columns),
        args=trainer_args(SFTConfig, out, settings, machine, seed, len(lengths), progress, packing=False),
        peft_config=lora_config(lora, "CAUSAL_LM"),
    )
    history, more = run_trainer(trainer, lengths, progress, callbacks)
    return finish(trainer, tokenizer, out, history, {"ledger": ledger.to_dict(), **facts, **more}, begun)


# ---------------------------------------------------------------- Bradley-Terry reward model


def train_reward(
    model_path: str | Path,
    rows: Any,
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
    """Bradley-Terry reward model (paper eq. 4) on rows {chosen, rejected}, starting from a causal model's backbone.

    chosen and rejected: whole conversations, or with `prompt` the answers as messages or text. The reward is read at
    the end-of-turn token. After saving, the model is opened again and must give the same scores on a few rows.
    """
    begun, out = time.perf_counter(), Path(out)
    model, tokenizer = models.new_reward_model(model_path, machine, seed)
    columns, ledger = encode_rows(
        rows, reward_encoder(tokenizer, max_length_of(settings, max_length)), "reward"
    )
    lengths = [
        max(len(c), len(r)) for c, r in zip(columns["chosen_ids"], columns["rejected_ids"], strict=True)
    ]
    attention = choose_attention([model], machine, settings, max(lengths), sides=2)
    center = float(setting(settings, "center_coefficient", 0.0))
    trainer = _Reward(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict(columns),
        args=trainer_args(
            RewardConfig,
            out,
            settings,
            machine,
            seed,
            len(lengths),
            progress,
            disable_dropout=True,
            center_rewards_coefficient=center or None,
        ),
        peft_config=lora_config(lora, "SEQ_CLS"),
    )
    history, facts = run_trainer(trainer, lengths, progress, callbacks)
    probe = columns["chosen_ids"][:4] + columns["rejected_ids"][:4]
    facts = {"ledger": ledger.to_dict(), "attention": attention, **facts}
    trained = finish(trainer, tokenizer, out, history, facts, begun)
    kept = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    kept = kept.get_base_model() if hasattr(kept, "get_base_model") else kept
    trained.facts["probe_scores"] = _check_reload(kept, tokenizer, probe, out, machine)
    return trained


def _scores(model, tokenizer, rows: Sequence[Sequence[int]]) -> list[float]:
    ids, mask = pad(rows, tokenizer.pad_token_id, "right", model.device)
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=mask).logits[:, 0].float().cpu().tolist()


def _check_reload(model, tokenizer, probe, out: Path, machine) -> list[float]:
    """Scores of the saved model on `probe`; KitError unless they are those of the model in memory."""
    before = _scores(model.eval(), tokenizer, probe)
    opened, opened_tokenizer = models.load_reward_model(out, machine)
    after = _scores(opened, opened_tokenizer, probe)
    worst = max(abs(a - b) for a, b in zip(before, after, strict=True))
    if opened_tokenizer.pad_token_id != tokenizer.pad_token_id or not worst <= (
        1e-4 if machine.dtype == "float32" else 0.05
    ):
        raise KitError(
            f"the reward model saved in {out} scores up to {worst:.3g} away from the one that was trained"
        )
    return after


# ---------------------------------------------------------------- DPO


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

    The reference is always a model of its own, opened from its own folder. facts: `reference` (hash of its weights,
    before and after), `step_zero` (loss, margin in units of beta, log-ratios before the first step). Where policy and
    reference have the same weights the first loss must be ln 2. `settings.label_smoothing` under loss "sigmoid" is the
    conservative DPO loss (TRL's own `sigmoid` leaves it out).
    """
    begun, out = time.perf_counter(), Path(out)
    policy, tokenizer = models.load_policy(policy_path, machine)
    reference, reference_tokenizer = models.load_policy(reference_path, machine)
    _check_alike(policy, reference, tokenizer, reference_tokenizer)
    same, before = models.weights_hash(policy), models.weights_hash(reference)
    columns, ledger = encode_rows(pairs, dpo_encoder(tokenizer, max_length_of(settings, max_length)), "dpo")
    data = Dataset.from_dict(columns)
    lengths = [_dpo_length(row) for row in data.to_list()]
    attention = choose_attention([policy, reference], machine, settings, max(lengths), sides=2)
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
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
            precompute_ref_log_probs=alone,
            beta=float(setting(settings, "beta", 0.1)),
            **dpo_loss_args(settings),
        ),
        peft_config=lora_config(lora, "CAUSAL_LM"),
    )
    step_zero = _step_zero(trainer)
    if same == before:
        _check_ln2(step_zero["loss"], trainer.loss_types)
    if alone:
        reference.to("cpu")  # its log-probabilities are known; the memory is the policy's
    history, facts = run_trainer(trainer, lengths, progress, callbacks)
    after = models.weights_hash(reference)
    if after != before:
        raise KitError(
            f"the reference {reference_path} changed during training (weights {before} -> {after})"
        )
    return finish(
        trainer,
        tokenizer,
        out,
        history,
        {
            "ledger": ledger.to_dict(),
            **facts,
            "attention": attention,
            "beta": trainer.beta,
            "step_zero": step_zero,
            "reference": {"path": str(reference_path), "before": before, "after": after},
            "start": {"path": str(policy_path), "weights": same, "is_reference": same == before},
        },
        begun,
    )


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
    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    trainer.model.eval()
    autocast = torch.autocast(trainer.args.device.type, dtype=torch.bfloat16, enabled=trainer.args.bf16)
    with torch.no_grad(), autocast, trainer.compute_loss_context_manager():
        loss = float(trainer.compute_loss(trainer.model, batch))
    metrics = {key: values[-1] for key, values in trainer._metrics["eval"].items()}
    trainer._metrics["eval"].clear()
    trainer.model.train()
    return {
        "loss": loss,
        "rows": len(rows),
        "margin": metrics["rewards/margins"] / trainer.beta,
        "chosen_log_ratio": metrics["rewards/chosen"] / trainer.beta,
        "rejected_log_ratio": metrics["rewards/rejected"] / trainer.beta,
    }


def _check_ln2(loss: float, loss_types: Sequence[str]) -> None:
    if set(loss_types) <= {"sigmoid", "robust"} and abs(loss - math.log(2)) > 1e-3:
        raise KitError(
            f"policy and reference have the same weights, but the first DPO loss is {loss:.5f} and not ln 2 = 0.69315; "
            "the reference is not the model it is said to be"
        )
