"""Write a Llama policy as a GGUF file, llama.cpp's one-file format: metadata, tokenizer and weights.

The layout is llama.cpp's own (the key names and types are those of the `gguf` package). Two things are easy to get
silently wrong and are checked by `exporting`: the rows of the query and key projections stand in another order there
(rotary pairs side by side), and the tokenizer must be told how text was split before its merges were learnt.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from rlhf_kit import chat
from rlhf_kit.errors import KitError

DTYPES = ("float32", "float16", "bfloat16")
_GPT2_SPLIT = "gpt-2"
# transformers' names of weights -> GGUF's, {n} a layer
_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "model.layers.{n}.input_layernorm.weight": "blk.{n}.attn_norm.weight",
    "model.layers.{n}.post_attention_layernorm.weight": "blk.{n}.ffn_norm.weight",
    "model.layers.{n}.self_attn.q_proj.weight": "blk.{n}.attn_q.weight",
    "model.layers.{n}.self_attn.k_proj.weight": "blk.{n}.attn_k.weight",
    "model.layers.{n}.self_attn.v_proj.weight": "blk.{n}.attn_v.weight",
    "model.layers.{n}.self_attn.o_proj.weight": "blk.{n}.attn_output.weight",
    "model.layers.{n}.mlp.gate_proj.weight": "blk.{n}.ffn_gate.weight",
    "model.layers.{n}.mlp.up_proj.weight": "blk.{n}.ffn_up.weight",
    "model.layers.{n}.mlp.down_proj.weight": "blk.{n}.ffn_down.weight",
}


def write(model, tokenizer, path: str | Path, dtype: str = "float16", name: str = "policy") -> Path:
    """Write a Llama causal language model and its byte-level BPE tokenizer to `path`; returns it.

    dtype: of the matrices (float32, float16, bfloat16); norms stay float32, as llama.cpp wants them.
    KitError for another architecture, scaled rotary positions, biases, or a tokenizer of another kind.
    """
    import gguf
    import torch

    if dtype not in DTYPES:
        raise KitError(f"a GGUF file is written in one of {', '.join(DTYPES)}, not {dtype!r}")
    config = model.config
    _check_architecture(config)
    tokens = vocabulary(tokenizer, model.get_input_embeddings().weight.shape[0])
    writer = gguf.GGUFWriter(str(path), "llama")
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name(name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(len(tokens))
    kinds = gguf.LlamaFileType
    types = {"float32": kinds.ALL_F32, "float16": kinds.MOSTLY_F16, "bfloat16": kinds.MOSTLY_BF16}
    writer.add_file_type(types[dtype])
    _add_tokenizer(writer, tokenizer, tokens)
    try:
        for weight, array, packed in _tensors(model, torch, dtype):
            writer.add_tensor(weight, array, raw_dtype=gguf.GGMLQuantizationType.BF16 if packed else None)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return Path(path)


def _check_architecture(config) -> None:
    if config.model_type != "llama":
        raise KitError(f"GGUF export knows the Llama architecture, not {config.model_type}; use llama.cpp's converter")
    if config.rope_parameters.get("rope_type", "default") != "default":
        raise KitError(
            f"GGUF export does not know rotary positions of type {config.rope_parameters['rope_type']!r} (Llama 3.1 and "
            "later); use llama.cpp's converter"
        )
    if config.attention_bias or config.mlp_bias:
        raise KitError("GGUF export knows Llama models without biases; use llama.cpp's converter")


def _tensors(model, torch, dtype: str):
    """(GGUF name, numpy array, is it bfloat16 in bytes) of every weight."""
    config = model.config
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    tied = bool(config.tie_word_embeddings)
    for name, weight in model.named_parameters():
        if name == "lm_head.weight" and tied:
            continue
        layer = re.search(r"layers\.(\d+)\.", name)
        pattern = name.replace(f"layers.{layer[1]}.", "layers.{n}.") if layer else name
        if pattern not in _NAMES:
            raise KitError(f"GGUF export does not know the weight {name}; use llama.cpp's converter")
        values = weight.detach().cpu()
        for part, count in heads.items():
            if part in name:
                values = interleaved(values, count)
        target = getattr(torch, dtype) if values.dim() > 1 else torch.float32
        values = values.to(target).contiguous()
        packed = target == torch.bfloat16
        array = (values.view(torch.uint8) if packed else values).numpy()
        yield _NAMES[pattern].format(n=layer[1] if layer else ""), array, packed


def interleaved(weight, heads: int):
    """Rows of a query or key projection from transformers' order (halves) to GGUF's (pairs), head by head."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


# ---------------------------------------------------------------- the tokenizer


def vocabulary(tokenizer, rows: int) -> list[str]:
    """Token texts by id, as many as the embedding has rows; ids without a token get a name that no text has."""
    by_id = {number: text for text, number in tokenizer.get_vocab().items()}
    if max(by_id) >= rows:
        raise KitError(f"the tokenizer has ids up to {max(by_id)}, the model {rows} embeddings; save them together")
    return [by_id.get(number, f"[PAD{number}]") for number in range(rows)]


def _add_tokenizer(writer, tokenizer, tokens: list[str]) -> None:
    import gguf

    raw = json.loads(tokenizer.backend_tokenizer.to_str())
    pre = split_name(raw)
    if raw["model"]["type"] != "BPE" or pre is None:
        raise KitError(
            "GGUF export knows byte-level BPE tokenizers that split text as GPT-2, Llama-3 or Qwen-2 do, not this one; "
            "use llama.cpp's converter"
        )
    known, control = set(tokenizer.get_vocab()), set(chat.control_tokens(tokenizer))
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    kinds = [
        gguf.TokenType.UNUSED if token not in known
        else gguf.TokenType.CONTROL if token in control
        else gguf.TokenType.USER_DEFINED if token in added
        else gguf.TokenType.NORMAL
        for token in tokens
    ]  # fmt: skip
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in raw["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    # The template writes BOS itself; a program that adds one of its own would give the model two.
    writer.add_add_bos_token(chat.adds_bos(tokenizer))
    writer.add_chat_template(plain_template(tokenizer))


def split_name(raw: dict) -> str | None:
    """llama.cpp's name for how a tokenizer.json splits text before the merges; None when it is not one we know."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    if raw.get("normalizer") not in (None, {"type": "NFC"}):
        return None
    step = raw.get("pre_tokenizer") or {}
    if step.get("type") == "ByteLevel" and step.get("use_regex") and not step.get("add_prefix_space"):
        return _GPT2_SPLIT if raw.get("normalizer") is None and not raw["model"].get("ignore_merges") else None
    steps = step.get("pretokenizers") or []
    if [one["type"] for one in steps] != ["Split", "ByteLevel"] or steps[1].get("use_regex"):
        return None
    pattern = steps[0]["pattern"].get("Regex")
    for name in ("llama-bpe", "qwen2"):
        if GGUF_PRE_TOKENIZER_SPLITS.get(name) == pattern:
            return name
    return None


def plain_template(tokenizer) -> str:
    """The chat template without the marks of what is trained, a word of transformers' that other programs lack."""
    template = tokenizer.chat_template
    plain = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template)
    talk = [
        {"role": "user", "content": " a "}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"},
    ]  # fmt: skip
    for generation_prompt in (False, True):
        texts = {
            tokenizer.apply_chat_template(
                talk, chat_template=one, tokenize=False, add_generation_prompt=generation_prompt
            )
            for one in (template, plain)
        }
        if len(texts) > 1:
            raise KitError("the chat template changes when its generation marks are removed; remove them by hand")
    return plain
