"""Tiny models in the file format of the released Llama-3 checkpoints: random weights, real tokenizer files and templates."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from rlhf_kit import models

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = [
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
    "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
]  # fmt: skip
_TURNS = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
)
_HEADER = "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
TEMPLATE = _TURNS + "{% if add_generation_prompt %}" + _HEADER + "{% endif %}"  # today's
FIRST_TEMPLATE = _TURNS + _HEADER  # April 2024: the assistant's header whether asked for or not
TEXT = [
    "the brave bear sat on the mat and told a story about the moon, 12 stars and 345 cats. It's fine!\n\nYes it is.",
    "user assistant system [CONTEXT] [RESPONSE A] [RESPONSE B] <turn> A B 1 2 3",
]


def save_tokenizer(folder: Path, template: str | None = TEMPLATE, pad: str | None = None, eos: str = "<|end_of_text|>"):
    """tokenizer.json and tokenizer_config.json as Llama-3 has them: byte-level BPE, its split, BOS by post-processor."""
    from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors, trainers
    from tokenizers import models as kinds

    raw = Tokenizer(kinds.BPE(ignore_merges=True))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        TEXT * 4, trainers.BpeTrainer(vocab_size=340, show_progress=False, initial_alphabet=letters)
    )
    raw.add_special_tokens([*SPECIAL, *([pad] if pad and pad not in SPECIAL else [])])
    bos = raw.token_to_id("<|begin_of_text|>")
    raw.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<|begin_of_text|> $A",
                pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
                special_tokens=[("<|begin_of_text|>", bos)],
            ),
        ]
    )
    folder.mkdir(parents=True, exist_ok=True)
    raw.save(str(folder / "tokenizer.json"))
    config = {
        "bos_token": "<|begin_of_text|>",
        "eos_token": eos,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 1000000000000000019884624838656,
        "clean_up_tokenization_spaces": True,
        "model_input_names": ["input_ids", "attention_mask"],
        **({"chat_template": template} if template else {}),
        **({"pad_token": pad} if pad else {}),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return raw


def config(vocabulary: int, **more):
    """A Llama-3 configuration in small: grouped-query attention, rope theta 500000, untied embeddings."""
    from transformers import LlamaConfig

    base = {
        "vocab_size": vocabulary, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": False, "initializer_range": 0.2,
    }  # fmt: skip
    return LlamaConfig(**{**base, **more})


def save(folder: Path, head: str = "LlamaForCausalLM", *, seed: int = 0, shards: bool = False, tokenizer=None, **more):
    """A folder with random weights: safetensors (two or more files with `shards`), config.json, tokenizer files."""
    import transformers

    raw = save_tokenizer(folder, **(tokenizer or {}))
    ids = {"bos_token_id": raw.token_to_id("<|begin_of_text|>"), "eos_token_id": raw.token_to_id("<|end_of_text|>")}
    torch.manual_seed(seed)
    model = getattr(transformers, head)(config(raw.get_vocab_size(), **ids, **more)).eval()
    with models.quiet_transformers():
        model.save_pretrained(folder, max_shard_size="100KB" if shards else "5GB")
    return model
