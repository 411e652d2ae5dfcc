"""LoRA and QLoRA: which weights are frozen, what the adapters are merged into, and how far that moves the model.

Across iterations the frozen weights must stay known, or the DPO reference moves without a word:
- LoRA: iteration t starts from the merged policy t-1 (a whole model in its own folder) with a fresh adapter. The
  reference is another whole model, opened from its own folder; it is never "this model with its adapter disabled",
  which in iteration 2 would be policy 1.
- QLoRA: policy and reference stand on the same 4-bit weights, those of the reference, in every iteration, and
  iteration t goes on with the adapter of iteration t-1. Quantising the merged policy again would add an error to the
  policy that the reference does not have: the first loss of iteration 1 would still be ln 2, that of iteration 2
  would be off. The merged folder holds the dequantised 4-bit weights plus the adapter: what was trained.
"""

from __future__ import annotations

import gc
import importlib.util
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from rlhf_kit import models
from rlhf_kit.batching import pad
from rlhf_kit.checkpoints import model_files, opening
from rlhf_kit.errors import KitError
from rlhf_kit.runs import project_path, read_json, write_json
from rlhf_kit.trainers.arguments import setting
from rlhf_kit.trainers.common import Trained, close, sharded

NOTE = "kit.json"  # beside the adapter: which frozen weights it belongs to
# How far merging may move the model: mean absolute difference of the probe's log-probabilities a token (nats), or of
# its rewards. Half precision rounds each merged weight to 8 bits.
MERGE_BOUND = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.05}
NOISE = 1e-5  # merging differs by so much in float32 already


def quantized(lora: Any) -> bool:
    return lora is not None and setting(lora, "quantization", "none") != "none"


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


# ---------------------------------------------------------------- QLoRA's frozen weights


def quantization_config(machine: Any):
    """The 4-bit format of the QLoRA paper (NF4, double quantisation); products in the machine's number format."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise KitError(
            "model.lora.quantization is nf4, which needs bitsandbytes (pip install -r requirements-gpu.txt); "
            "set it to none for plain LoRA"
        )
    from transformers import BitsAndBytesConfig

    if sharded():
        raise KitError("model.lora.quantization is nf4, and 4-bit weights are not divided here; use launch.strategy ddp")
    product = torch.bfloat16 if machine.autocast_bf16 else getattr(torch, machine.dtype)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=product,
    )


def load_4bit(path: str | Path, machine: Any):
    """(the policy at `path` with its linear layers in 4 bits, its tokenizer). KitError without bitsandbytes."""
    from transformers import AutoModelForCausalLM

    config = quantization_config(machine)
    where = models.resolve_model(path)
    options = model_files.check(where)
    tokenizer = models.load_tokenizer(path)
    with opening.named(path):
        model, told = AutoModelForCausalLM.from_pretrained(
            where,
            output_loading_info=True,
            **options,
            quantization_config=config,
            dtype=getattr(torch, machine.dtype),
            device_map={"": torch.cuda.current_device() if machine.device == "cuda" else machine.device},
            use_safetensors=True,
            trust_remote_code=False,
        )
    opening.check_loaded(path, told)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # At its first pass on such a CPU bitsandbytes repacks the weights in place; dequantised after that, they are
            # other numbers.
            module.support_avx512bf16_for_cpu = False
    return models._fit(model, tokenizer).eval(), tokenizer


def frozen_start(policy_path: str | Path, reference_path: str | Path, lora: Any) -> tuple[str, str | None, str]:
    """(folder of the frozen weights, adapter to go on with or None, which of three ways it is).

    "reference": the policy is the reference, a new adapter. "continued": the policy is the reference's 4-bit weights and
    an adapter, which is trained on. "merged": any other policy; its weights are frozen and get a new adapter.
    """
    stored = folder_hash(policy_path), folder_hash(reference_path)
    if str(policy_path) == str(reference_path) or (stored[0] is not None and stored[0] == stored[1]):
        return str(reference_path), None, "reference"
    note = project_path(policy_path) / "adapter" / NOTE
    if quantized(lora) and note.is_file():
        known = read_json(note)
        if known["quantization"] == setting(lora, "quantization") and known["base"] == (
            stored[1] or str(reference_path)
        ):
            if known["r"] != int(setting(lora, "r", 16)):
                raise KitError(f"{policy_path} has an adapter of rank {known['r']}, the profile says {lora}")
            return str(reference_path), str(note.parent), "continued"
    return str(policy_path), None, "merged"


def folder_hash(path: str | Path) -> str | None:
    """Hash of the weights stored in a folder; None for a hub id, whose files are not looked at."""
    return models.weights_hash(path) if project_path(path).is_dir() else None


def float_adapters(trainer, lora: Any) -> None:
    """The adapters of a 4-bit model in float32: TRL makes them bfloat16, where small updates are rounded away."""
    if quantized(lora):
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()


def with_adapter(model, adapter: str):
    """The model with a trained adapter that is to be trained on."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, adapter, is_trainable=True)


# ---------------------------------------------------------------- merging, saving


def probe(model, tokenizer, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """What merging must not change: rewards of the rows, or the log-probabilities of their tokens, in float32."""
    ids, mask = pad(rows, tokenizer.pad_token_id, "right", next(model.parameters()).device)
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask).logits.float().cpu()
    if logits.dim() == 2:
        return logits[:, 0]
    taken = torch.log_softmax(logits[:, :-1], -1).gather(2, ids.cpu()[:, 1:, None])[:, :, 0]
    return taken[mask.cpu()[:, 1:].bool()]


def _frozen(model, tokenizer, rows) -> torch.Tensor:
    """The probe without the adapter: what training started from (in QLoRA's later iterations, the reference)."""
    with model.disable_adapter():
        return probe(model, tokenizer, rows)


def finish_lora(
    trainer, tokenizer, out: Path, history: list[dict], facts: dict, begun: float, *, lora: Any,
    base: str | Path | None, open_base: Callable[[], Any], rows: Sequence[Sequence[int]],
) -> tuple[Trained, Any]:
    """Save `out/adapter` and the merged model in `out`; returns what `common.finish` does, and the model.

    base: the folder of the frozen weights, open_base: opens them whole on the CPU (needed where the trained model holds
    them in 4 bits or divided). rows: ids on which the model is compared before and after merging; KitError
    when it moved by more than MERGE_BOUND, a warning when rounding moved it by more than half of what training did.
    facts["adapter"] keeps both. Every process must call it.
    """
    accelerator = trainer.accelerator
    whole = accelerator.get_state_dict(trainer.model_wrapped) if sharded() else None
    model, merged = accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).eval(), None
    if trainer.is_world_process_zero():
        folder = out.parent / f".{out.name}.adapter"  # until the whole model is written, `out` must not look finished
        model.save_pretrained(folder, state_dict=whole, save_embedding_layers=False)
        before = None if whole is not None else probe(model, tokenizer, rows)
        moved = None if before is None else float((before - _frozen(model, tokenizer, rows)).abs().mean())
        if quantized(lora):
            merged = _merge_into(_dequantised(open_base(), model), folder)
        elif whole is not None:
            merged = _merge_into(open_base(), folder)
        else:
            merged = model.merge_and_unload()
        error = None if before is None else (probe(merged, tokenizer, rows) - before).abs()
        kept = str(next(merged.parameters()).dtype).removeprefix("torch.")
        bound = MERGE_BOUND["bfloat16" if quantized(lora) else kept]
        if error is not None and not float(error.mean()) <= bound:
            raise KitError(
                f"merging the adapter moved the model by {float(error.mean()):.3g} on average (bound {bound:g}); "
                f"the adapter alone is kept in {folder}"
            )
        if error is not None and float(error.mean()) > max(moved / 2, NOISE):
            warnings.warn(
                f"merging into {kept} moved the model by {float(error.mean()):.2g} on average, and training by {moved:.2g}: much "
                "of what was learnt is rounded away in the merged policy; train longer or at a higher learning rate, or keep "
                "the weights in float32",
                stacklevel=2,
            )
        models.save_model(merged.eval(), tokenizer, out)
        _put(folder, out / "adapter")
        facts["adapter"] = {
            "quantization": setting(lora, "quantization", "none"),
            "r": int(setting(lora, "r", 16)),
            "base": None if base is None else folder_hash(base) or str(base),  # a hub id stands for itself
            "merged_dtype": kept,
            "merge_error_mean": None if error is None else float(error.mean()),
            "merge_error_max": None if error is None else float(error.max()),
            "moved_mean": moved,  # by training, on the same probe
        }
        write_json(out / "adapter" / NOTE, facts["adapter"])
        close(trainer, out, history)
        facts["weights"] = models.weights_hash(out)
    accelerator.wait_for_everyone()
    return Trained(path=out, history=history, seconds=round(time.perf_counter() - begun, 3), facts=facts), merged


def _put(folder: Path, to: Path) -> None:
    shutil.rmtree(to, ignore_errors=True)
    folder.replace(to)


def _merge_into(whole_model, adapter: Path):
    from peft import PeftModel

    return PeftModel.from_pretrained(whole_model, str(adapter)).merge_and_unload()


def _dequantised(whole, trained):
    """The model `whole` with the very numbers that the 4-bit layers of `trained` stand for.

    Merging into 4-bit layers would round the sum to 4 bits and lose most of the adapter. transformers' own
    `dequantize()` goes through bfloat16 whatever the format asked for.
    """
    from peft.utils.integrations import dequantize_module_weight

    layers = {
        name.removeprefix("base_model.model.").removesuffix(".base_layer"): module
        for name, module in trained.named_modules()
        if type(module).__name__ == "Linear4bit"
    }
    if not layers:
        raise KitError("no layer of the model was held in 4 bits; its adapter cannot be merged as one of QLoRA")
    with torch.no_grad():
        for name, module in layers.items():
            weight = whole.get_submodule(name).weight
            weight.copy_(dequantize_module_weight(module).to(weight))
    gc.collect()
    return whole
