"""SFT, reward model and pairwise preference model: our settings and rows -> TRL's trainers -> a model folder.

settings: anything with the attributes of a profile's section (epochs, learning_rate, batch_size, ...).
machine: device, dtype, autocast_bf16. max_length: tokens of prompt and response together; rows that are longer are
dropped or cut (`settings.truncation`, see `trainers.rows`) and counted in `facts`. lora: {r, alpha, dropout, target,
quantization} or None; adapters are then trained and saved in `out/adapter`, and `out` holds the merged model. Each call
writes `out/` (model, tokenizer, history.json). `rlhf_kit.processes.launch.train` runs the same calls in several processes.
DPO stands in `trainers.dpo`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from rlhf_kit import models
from rlhf_kit.batching import pad
from rlhf_kit.chat import letter_ids
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
from rlhf_kit.trainers.dpo import train_dpo
from rlhf_kit.trainers.lora import finish_lora, float_adapters, load_4bit, lora_config, quantized
from rlhf_kit.trainers.memory import tells_memory
from rlhf_kit.trainers.packing import check_packing, packed
from rlhf_kit.trainers.rows import encode_rows, pairwise_encoder, reward_encoder, sft_encoder

__all__ = ["Trained", "train_dpo", "train_pairwise", "train_reward", "train_sft"]


class _SFT(KitTrainer, SFTTrainer):
    pass


class _Reward(KitTrainer, RewardTrainer):
    pass


# ---------------------------------------------------------------- SFT


@tells_memory
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
    settings.packing: several rows in one sequence of max_length tokens (see `trainers.packing`); batch_size then counts
    such sequences. Source: paper section 3.1, appendix B.3. KitError for bad paths and rows, and when no row is left.
    """
    begun, out = time.perf_counter(), Path(out)
    model, tokenizer = _open_policy(model_path, training_machine(machine, lora), seed, lora)
    limit, cut = max_length_of(settings, max_length), Counter()
    encode = sft_encoder(tokenizer, limit, setting(settings, "truncation", "drop"), cut)
    columns, ledger = encode_rows(rows, encode, "sft")
    facts = {"ledger": ledger.to_dict(), "truncated": dict(cut)}
    return _train_lm(
        model, tokenizer, columns, facts, model_path, out, settings, machine, seed, limit, lora, progress, callbacks, begun
    )


@tells_memory
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
    model, tokenizer = _open_policy(model_path, training_machine(machine, lora), seed, lora)
    limit, cut = max_length_of(settings, max_length), Counter()
    encode = pairwise_encoder(tokenizer, limit, seed, orders, setting(settings, "truncation", "drop"), cut)
    columns, ledger = encode_rows(rows, encode, "pairwise")
    letter_a = letter_ids(tokenizer)[0]
    share = sum(labels[-1] == letter_a for labels in columns["labels"]) / len(columns["labels"])
    facts = {
        "ledger": ledger.to_dict(), "truncated": dict(cut), "orders": orders, "share_answered_a": round(share, 4)
    }
    return _train_lm(
        model, tokenizer, columns, facts, model_path, out, settings, machine, seed, limit, lora, progress, callbacks, begun
    )


def _open_policy(model_path: Any, machine: Any, seed: int, lora: Any):
    if isinstance(model_path, str | Path):
        return load_4bit(model_path, machine) if quantized(lora) else models.load_policy(model_path, machine)
    if quantized(lora):
        raise KitError("a new model cannot be trained with model.lora.quantization; its weights are still to be learnt")
    init = model_path.model_dump() if hasattr(model_path, "model_dump") else dict(model_path)
    if "tokenizer" not in init:
        raise KitError("a new model needs a tokenizer: give {hidden_size, layers, heads, tokenizer: folder}")
    return models.new_model(init, init["tokenizer"], seed)


def _train_lm(
    model, tokenizer, columns, facts, base, out, settings, machine, seed, limit, lora, progress, callbacks, begun
) -> Trained:
    data, more = Dataset.from_dict(columns), {"packing": False}
    if setting(settings, "packing", False):
        data, facts["packing"] = packed(data, limit)
        more["padding_free"] = True
    lengths = [len(ids) for ids in data["input_ids"]]
    facts["attention"] = choose_attention([model], machine, settings, max(lengths))
    if "packing" in facts:
        facts["packing"]["leak"] = check_packing(model, tokenizer, data)
    args = trainer_args(SFTConfig, out, settings, machine, seed, len(lengths), progress, **more)
    trainer = _SFT(
        model=model,
        processing_class=tokenizer,
        train_dataset=data,
        args=args,
        peft_config=lora_config(lora, "CAUSAL_LM"),
    )
    float_adapters(trainer, lora)
    history, run = run_trainer(trainer, lengths, progress, callbacks)
    facts = {**facts, **run}
    if lora is None:
        return finish(trainer, tokenizer, out, history, facts, begun, machine.dtype)
    where = base if isinstance(base, str | Path) else None
    return finish_lora(
        trainer, tokenizer, out, history, facts, begun, lora=lora, base=where,
        open_base=lambda: models.load_policy(where, replace(machine, device="cpu"))[0], rows=columns["input_ids"][:4],
    )[0]


# ---------------------------------------------------------------- Bradley-Terry reward model


@tells_memory
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
    if quantized(lora):
        raise KitError("model.lora.quantization is for policies; train the reward model with plain LoRA (none)")
    loading = training_machine(machine, lora)
    model, tokenizer = models.new_reward_model(model_path, loading, seed)
    without_dropout(model)
    limit, cut = max_length_of(settings, max_length), Counter()
    encode = reward_encoder(tokenizer, limit, setting(settings, "truncation", "drop"), cut)
    columns, ledger = encode_rows(rows, encode, "reward")
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
    facts = {"ledger": ledger.to_dict(), "truncated": dict(cut), "attention": attention, **facts}
    if lora is not None:
        trained, kept = finish_lora(
            trainer, tokenizer, out, history, facts, begun, lora=lora, base=model_path,
            open_base=lambda: models.new_reward_model(model_path, replace(loading, device="cpu"), seed)[0], rows=probe,
        )
    else:
        before = _scores(trainer.model_wrapped, tokenizer, probe) if sharded() else None  # all processes take part
        trained = finish(trainer, tokenizer, out, history, facts, begun, machine.dtype)
        kept = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        kept = before if before is not None else kept
    if trainer.is_world_process_zero():
        trained.facts["probe_scores"] = _check_reload(kept, tokenizer, probe, out, machine)
    trainer.accelerator.wait_for_everyone()
    return trained


def _scores(model, tokenizer, rows: Sequence[Sequence[int]]) -> list[float]:
    ids, mask = pad(rows, tokenizer.pad_token_id, "right", next(model.parameters()).device)
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=mask).logits[:, 0].float().cpu().tolist()


def _check_reload(model, tokenizer, probe, out: Path, machine) -> list[float]:
    """Scores of the saved model on `probe`; KitError unless they are those of `model` (or are these scores)."""
    before = model if isinstance(model, list) else _scores(models.float_head(model.eval()), tokenizer, probe)
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


