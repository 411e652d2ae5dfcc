"""Sizes of a model without its weights: built on PyTorch's meta device from the numbers in its config.

A local folder's config.json is read; for released ids the numbers stand here, as their config.json files give them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rlhf_kit.errors import KitError
from rlhf_kit.runs import project_path

_LLAMA3_8B = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False,
    "max_position_embeddings": 8192,
}  # fmt: skip
_QWEN25_05B = {
    "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864,
    "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True,
    "max_position_embeddings": 32768,
}  # fmt: skip
_QWEN3_06B = {
    "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072,
    "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
    "tie_word_embeddings": True, "max_position_embeddings": 40960,
}  # fmt: skip

# id -> (numbers, True for a scalar head). A reward model's own vocabulary may be a row or two longer (a pad token).
RELEASED: dict[str, tuple[dict, bool]] = {
    "meta-llama/Meta-Llama-3-8B": (_LLAMA3_8B, False),
    "meta-llama/Meta-Llama-3-8B-Instruct": (_LLAMA3_8B, False),
    "RLHFlow/LLaMA3-SFT": (_LLAMA3_8B, False),
    "RLHFlow/LLaMA3-SFT-v2": (_LLAMA3_8B, False),
    "RLHFlow/LLaMA3-iterative-DPO-final": (_LLAMA3_8B, False),
    "RLHFlow/pair-preference-model-LLaMA3-8B": (_LLAMA3_8B, False),
    "Salesforce/LLaMA-3-8B-SFR-SFT-R": (_LLAMA3_8B, False),
    "Salesforce/LLaMA-3-8B-SFR-Iterative-DPO-R": (_LLAMA3_8B, False),
    "Salesforce/SFR-Iterative-DPO-LLaMA-3-8B-R": (_LLAMA3_8B, False),
    "TriAiExperiments/SFR-Iterative-DPO-LLaMA-3-8B-R": (_LLAMA3_8B, False),
    "sfairXC/FsfairX-LLaMA3-RM-v0.1": (_LLAMA3_8B, True),
    "Salesforce/LLaMA-3-8B-SFR-RM-R": (_LLAMA3_8B, True),
    "Qwen/Qwen2.5-0.5B": (_QWEN25_05B, False),
    "Qwen/Qwen2.5-0.5B-Instruct": (_QWEN25_05B, False),
    "Skywork/Skywork-Reward-V2-Qwen3-0.6B": (_QWEN3_06B, True),
}
# Owners whose models ask for a licence to be accepted on the hub before they can be downloaded.
GATED = {"meta-llama": "the Meta Llama 3 licence"}


@dataclass(frozen=True)
class Shape:
    """Sizes of one model. Counts are parameters; `blocks` are the linear layers of the decoder, head left out.

    parameters: all, tied weights once. multiplied: those that take part in a matrix product for every token.
    blocks: (module name, inputs, outputs) of each linear layer. scalar: the head is one number (a reward model).
    """

    parameters: int
    multiplied: int
    blocks: tuple[tuple[str, int, int], ...]
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    qk_norm: bool
    scalar: bool
    whence: str

    @property
    def block_parameters(self) -> int:
        return sum(i * o for _, i, o in self.blocks)

    def targeted(self, target: str = "all-linear") -> list[tuple[str, int, int]]:
        """The linear layers that get an adapter; target as peft reads it (all-linear, or an expression)."""
        chosen = [b for b in self.blocks if target == "all-linear" or re.fullmatch(target, b[0])]
        if not chosen:
            raise KitError(f"model.lora.target {target!r} fits no linear layer; try all-linear")
        return chosen

    def lora_parameters(self, r: int, target: str = "all-linear") -> int:
        """Parameters of LoRA's factors A (r x in) and B (out x r)."""
        return sum(r * (i + o) for _, i, o in self.targeted(target))


def licence(name: str) -> str | None:
    """What must be accepted on the hub before `name` can be downloaded, None if nothing that the kit knows of."""
    return None if project_path(name).exists() else GATED.get(name.split("/")[0])


def shape_of(source: str | Any, scalar: bool | None = None) -> Shape:
    """Sizes of a local model folder, a released id of the table, or a new model's `Init` section.

    scalar: True counts it with a scalar head in place of its language-model head (a reward model trained from it);
    None takes its own head. KitError, with the way out, for an id whose config is not at hand: nothing is guessed.
    """
    if not isinstance(source, str):
        from rlhf_kit.models import resolve_model

        folder = resolve_model(source["tokenizer"], needs="tokenizer.json")
        return _new(source["hidden_size"], source["layers"], source["heads"], folder, bool(scalar))
    if (project_path(source) / "config.json").is_file():
        return _folder(str(project_path(source)), scalar)
    if source in RELEASED:
        numbers, head = RELEASED[source]
        return _built(tuple(sorted(numbers.items())), head if scalar is None else scalar, "the kit's table")
    raise KitError(
        f"the number of parameters of {source} is not known: it is no folder here and not in the kit's table; "
        f"download it and give its folder instead (model.path, or the section's start or released)"
    )


def _folder(path: str, scalar: bool | None) -> Shape:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        raise KitError(f"the config.json in {path} cannot be read: {str(error).splitlines()[0]}") from None
    own = any(name.endswith("ForSequenceClassification") for name in config.architectures or [])
    return _measure(config, own if scalar is None else scalar, "its config.json")


def _new(hidden: int, layers: int, heads: int, tokenizer: str, scalar: bool) -> Shape:
    import json
    from pathlib import Path

    # as rlhf_kit.models.new_model builds it
    vocabulary = json.loads((Path(tokenizer) / "tokenizer.json").read_text(encoding="utf-8"))
    ids = [*vocabulary["model"]["vocab"].values(), *(t["id"] for t in vocabulary["added_tokens"])]
    numbers = {
        "model_type": "llama", "vocab_size": max(ids) + 1, "hidden_size": hidden, "num_hidden_layers": layers,
        "intermediate_size": round(hidden * 8 / 3 / 16) * 16, "num_attention_heads": heads,
        "num_key_value_heads": heads, "tie_word_embeddings": True,
    }  # fmt: skip
    return _built(tuple(sorted(numbers.items())), scalar, "model.init")


@lru_cache(maxsize=16)
def _built(numbers: tuple, scalar: bool, whence: str) -> Shape:
    from transformers import AutoConfig

    return _measure(AutoConfig.for_model(**dict(numbers)), scalar, whence)


def _measure(config: Any, scalar: bool, whence: str) -> Shape:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    if scalar:
        config.num_labels = 1
    kind = AutoModelForSequenceClassification if scalar else AutoModelForCausalLM
    try:
        with torch.device("meta"):
            model = kind.from_config(config, trust_remote_code=False)
    except Exception as error:
        raise KitError(f"a model with {whence} cannot be built: {str(error).splitlines()[0]}") from None
    text = config.get_text_config()
    parameters = sum(p.numel() for p in model.parameters())
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings() if not scalar else None
    tied = head is not None and head.weight is embedding
    blocks = tuple(
        (name, m.in_features, m.out_features)
        for name, m in model.named_modules()
        if isinstance(m, torch.nn.Linear) and m is not head and name.split(".")[-1] not in ("score", "classifier")
    )
    heads = text.num_attention_heads
    return Shape(
        parameters=parameters,
        multiplied=parameters - (0 if tied else embedding.numel()),
        blocks=blocks,
        vocabulary=embedding.shape[0],
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        layers=text.num_hidden_layers,
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        qk_norm=any(name.endswith("q_norm") for name, _ in model.named_modules()),
        scalar=scalar,
        whence=whence,
    )
