"""Take a policy out of a run: a safetensors folder, merged LoRA, or one GGUF file, each with a model card.

`python -m rlhf_kit export --policy FOLDER --out FOLDER --format safetensors|gguf`. What is written is opened again and
held against the policy before it gets its name: a half-written or wrong export does not stay.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlhf_kit import chat, models
from rlhf_kit.checkpoints import gguf, gguf_writing, model_card, model_files
from rlhf_kit.checkpoints.opening import named, quiet_transformers
from rlhf_kit.errors import KitError
from rlhf_kit.machine import Machine
from rlhf_kit.runs import project_path, read_json

FORMATS = ("safetensors", "gguf")
# Greedy decoding of these must give the same tokens before and after.
_PROBES = ("Hello!", "Tell me of the 3 bears, it's late.\n\nPlease be short.", "naïve ✓ 12345 <tag> {x}")
_PROBE_TOKENS = 24


def export(
    policy: str | Path,
    out: str | Path,
    format: str = "safetensors",
    *,
    dtype: str | None = None,
    base: str | None = None,
) -> Path:
    """Write a policy to the new folder `out`; returns it.

    policy: a policy's folder, a stage's folder that holds one as `model`, a LoRA adapter's folder (merged in float32),
        or a hub id. base: the adapter's base model, if not the one that its adapter_config.json names.
    format: "safetensors" (config, tokenizer, weights) or "gguf" (one file for llama.cpp and its relatives).
    dtype: of the weights written (float32, float16, bfloat16). Default: as they are, for GGUF float16.
    KitError when the folder exists and is not empty, the policy cannot be opened, or what was written does not give the
    same tokens back; nothing is left behind then.
    """
    if format not in FORMATS:
        raise KitError(f"unknown format {format!r}; one of {', '.join(FORMATS)}")
    if dtype is not None and dtype not in gguf_writing.DTYPES:
        raise KitError(f"unknown dtype {dtype!r}; one of {', '.join(gguf_writing.DTYPES)}")
    source, out = _policy_folder(policy), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise KitError(f"{out} exists already; name a new folder")
    model, tokenizer, merged = _open(source, base)
    dtype = dtype or ("float16" if format == "gguf" else _dtype_of(source, model))
    partial = out.parent / f".{out.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        if format == "gguf":
            file = partial / f"{_slug(policy)}-{dtype}.gguf"
            gguf_writing.write(model, tokenizer, file, dtype, name=_slug(policy))
            again = gguf.load(file, dtype=_torch(dtype))
        else:
            models.save_model(model.to(_torch(dtype)), tokenizer, partial)
            again = models.load_policy(partial, _cpu(dtype))
        same_policy((model, tokenizer), again, dtype)
        facts = {"format": format, "dtype": dtype, "merged": merged, "weights": models.weights_hash(again[0])}
        model_card.write(partial / "README.md", source, model, facts)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def merge_lora(adapter: str | Path, base: str | None = None):
    """(policy with its LoRA adapter merged in float32, tokenizer, name of the base model).

    The sum is made in float32 whatever the base's format: in bfloat16 most of a small update would be rounded away.
    The merged model is held against base and adapter side by side on a probe. KitError when the base cannot be opened or
    they differ.
    """
    import torch
    from peft import PeftModel

    folder = project_path(adapter)
    note = folder / "kit.json"
    if note.is_file() and read_json(note).get("quantization", "none") != "none":
        raise KitError(
            f"the adapter {adapter} was trained on 4-bit weights and fits no others; export the merged policy beside it, "
            f"{folder.parent}"
        )
    base = base or read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not base:
        raise KitError(f"{folder / 'adapter_config.json'} names no base model; give it with --base")
    model_files.check_weights([f.name for f in folder.iterdir()], str(folder))
    own = (folder / "tokenizer_config.json").is_file()
    tokenizer = models.load_tokenizer(folder if own else base)
    model, _ = models.load_policy(base, _cpu("float32"), tokenizer=tokenizer)
    with named(folder):
        lora = PeftModel.from_pretrained(model, str(folder)).eval()
    probe = torch.tensor([_probe_ids(tokenizer)[1]])
    with torch.inference_mode():
        before = lora(input_ids=probe).logits
    merged = lora.merge_and_unload().eval()
    with torch.inference_mode():
        after = merged(input_ids=probe).logits
    if not torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.abs().max())):
        raise KitError(f"merging {adapter} changed what the model computes; the adapter does not belong to {base}")
    return merged, tokenizer, str(base)


# ---------------------------------------------------------------- checks


def same_policy(policy: tuple, again: tuple, dtype: str) -> None:
    """KitError unless both (model, tokenizer) have the same weights, read the probes alike and answer alike, greedily.

    The first is rounded to `dtype` for the comparison, as the second was when it was written. Weights alone would not
    show a lost rotary base; answers alone would not show, in a small model, query rows in the wrong order. Takes memory
    for the policy twice in float32.
    """
    (model, tokenizer), (other, other_tokenizer) = policy, again
    ids, other_ids = _probe_ids(tokenizer), _probe_ids(other_tokenizer)
    # How text is split shows in the tokens only where a merge would cross a border, so the pieces are compared as well.
    if _pieces(tokenizer) != _pieces(other_tokenizer):
        raise KitError("the exported tokenizer splits a probe text differently; the export was not kept")
    if ids != other_ids or chat.stop_ids(tokenizer) != chat.stop_ids(other_tokenizer):
        raise KitError("the exported tokenizer reads a probe text differently; the export was not kept")
    if tokenizer.pad_token_id != other_tokenizer.pad_token_id:
        raise KitError("the exported tokenizer has another pad token; the export was not kept")
    rounded, written = model.to(_torch(dtype)), dict(other.named_parameters())
    for name, weight in rounded.named_parameters():
        if name not in written or not weight.equal(written[name]):
            raise KitError(f"the exported weights differ from the policy's at {name}; the export was not kept")
    rounded = rounded.float()
    for number, prompt in enumerate(ids):
        if greedy(rounded, tokenizer, prompt) != greedy(other.float(), tokenizer, prompt):
            raise KitError(f"the exported model answers probe {number} with other tokens; the export was not kept")


def greedy(model, tokenizer, prompt: Sequence[int], tokens: int = _PROBE_TOKENS) -> list[int]:
    """The tokens that a model answers with when it always takes the likeliest one."""
    import torch

    ids = torch.tensor([list(prompt)], device=model.device)
    settings = {"do_sample": False, "max_new_tokens": tokens, "pad_token_id": tokenizer.pad_token_id}
    with torch.inference_mode(), quiet_transformers():
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), eos_token_id=chat.stop_ids(tokenizer), **settings
        )
    return made[0, len(prompt):].tolist()


def _pieces(tokenizer) -> list[list[str]]:
    split = tokenizer.backend_tokenizer.pre_tokenizer
    return [[piece for piece, _ in split.pre_tokenize_str(text)] for text in _PROBES] if split else []


def _probe_ids(tokenizer) -> list[list[int]]:
    return [chat.encode_prompt(tokenizer, [{"role": "user", "content": text}]) for text in _PROBES]


# ---------------------------------------------------------------- what is exported


def _policy_folder(policy: str | Path) -> str | Path:
    """A stage's folder stands for the policy in it."""
    folder = project_path(policy)
    inner = folder / "model"
    if folder.is_dir() and not (folder / "config.json").is_file() and inner.is_dir():
        return inner
    return policy


def _open(source, base: str | None):
    """(model, tokenizer, the base that an adapter was merged into or None), on the CPU."""
    folder = project_path(source)
    if (folder / "adapter_config.json").is_file():
        return merge_lora(folder, base)
    if base is not None:
        raise KitError(f"--base is for a LoRA adapter; {source} has no adapter_config.json")
    model, tokenizer = models.load_policy(source, _cpu("float32"))
    return model, tokenizer, None


def _dtype_of(source, model) -> str:
    """The number format that the policy's own files are in, float32 where config.json does not say."""
    config = project_path(source) / "config.json"
    stated: Mapping = read_json(config) if config.is_file() else {}
    found = stated.get("dtype") or stated.get("torch_dtype")
    return found if found in gguf_writing.DTYPES else "float32"


def _torch(dtype: str):
    import torch

    return getattr(torch, dtype)


def _cpu(dtype: str) -> Machine:
    return Machine("cpu", dtype, False, 1, "transformers", {})


def _slug(policy) -> str:
    name = Path(policy).name
    return Path(policy).parent.name if name == "model" else name
