"""What a tokenizer needs before the kit uses it: a pad token, a chat template, end tokens; and which tokens control.

`chat` is the only place that turns conversations into tokens; this file only gets tokenizers ready for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_kit.errors import KitError

PLAIN_TEMPLATE = (
    "{{- bos_token if bos_token and bos_token != eos_token else '' -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{- '\\n\\nAssistant:\\n' -}}{%- generation -%}{{- message['content'] + eos_token -}}{%- endgeneration -%}"
    "{%- elif message['role'] == 'system' -%}"
    "{{- 'System:\\n' + message['content'] + '\\n\\n' -}}"
    "{%- else -%}"
    "{{- '\\n\\nHuman:\\n' if not loop.first and messages[loop.index0 - 1]['role'] != 'system' else 'Human:\\n' -}}"
    "{{- message['content'] -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '\\n\\nAssistant:\\n' -}}{%- endif -%}"
)
# What the paper's SFT code sets for Llama-3, whose base model comes without a template: contents are trimmed, the first
# turn brings BOS, every turn ends with <|eot_id|>.
LLAMA3_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- bos_token if loop.first else '' -}}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] | trim + '<|eot_id|>' -}}{%- endgeneration -%}"
    "{%- else -%}{{- message['content'] | trim + '<|eot_id|>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"
)
# Control tokens that no text uses: one of them as pad keeps the embeddings as long as they are.
_SPARE_TOKENS = ("<|finetune_right_pad_id|>", "<|reserved_special_token_0|>", "[PAD]", "<pad>")
# Tokens that end a text or a turn in common model families; a policy may end with any that its tokenizer knows.
_END_TOKENS = ("<|eot_id|>", "<|end_of_text|>", "<|im_end|>", "<|endoftext|>", "<end_of_turn>", "<eos>", "</s>")
PROBE = [{"role": "user", "content": "probe"}]


def prepare_tokenizer(tokenizer, *, template_required: bool = False):
    """Make a tokenizer fit for training: a pad token that is not EOS, a chat template, an end-of-turn token as EOS.

    Changes it in place and returns it; every change is a sentence in `tokenizer.kit_notes`. Twice is as good as once.
    A missing pad becomes a control token that no text uses where there is one (Llama-3's reserved ones). Else a new
    token makes the vocabulary one longer: the model's embeddings must follow (`models.load_policy` sees to it).
    template_required: do not make up a chat template; a judge is only right about the text that it was trained on.
    KitError without an EOS token, without a required template, or when it cannot show where an answer ends.
    """
    notes = list(getattr(tokenizer, "kit_notes", []))
    if tokenizer.eos_token_id is None:
        raise KitError(
            f"the tokenizer {tokenizer.name_or_path or ''} has no end-of-sequence token; set eos_token in its "
            "tokenizer_config.json"
        )
    if not tokenizer.chat_template:
        if template_required:
            raise KitError(
                f"the tokenizer {tokenizer.name_or_path or ''} has no chat template, so the text that the model was "
                "trained on is not known; put its chat_template.jinja into the folder"
            )
        if {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"} <= set(control_tokens(tokenizer)):
            tokenizer.chat_template = LLAMA3_TEMPLATE
            notes.append("no chat template: Llama-3's was added, turns end with <|eot_id|>")
        else:
            tokenizer.chat_template = PLAIN_TEMPLATE
            notes.append("no chat template: a plain Human/Assistant one was added, turns end with the EOS token")
    end = template_end(tokenizer)
    if end is not None and end != tokenizer.eos_token:
        notes.append(
            f"EOS was {tokenizer.eos_token!r}, but the template ends a turn with {end!r}: EOS is now {end!r}"
        )
        tokenizer.eos_token = end
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in (
        tokenizer.eos_token_id,
        tokenizer.bos_token_id,
    ):
        before, known = tokenizer.pad_token, set(control_tokens(tokenizer))
        used = (tokenizer.eos_token, tokenizer.bos_token)
        spare = next((token for token in _SPARE_TOKENS if token in known and token not in used), None)
        if spare:
            tokenizer.pad_token = spare
            notes.append(f"pad was {before!r}: the unused token {spare} is now pad, so that EOS is never masked")
        else:
            tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
            notes.append(
                f"pad was {before!r}: a pad token <|pad|> of its own was added, so that EOS is never masked"
            )
    tokenizer.kit_notes = notes
    return tokenizer


def template_end(tokenizer) -> str | None:
    """The special token with which the template ends an assistant turn; None when it writes none."""
    start = render(tokenizer, PROBE, True)
    whole = render(tokenizer, [*PROBE, {"role": "assistant", "content": "answer"}], False)
    if not whole.startswith(start) or "answer" not in whole[len(start) :]:
        raise KitError(
            "the chat template writes a prompt differently once it is answered; give the tokenizer a template "
            "whose prompt (with add_generation_prompt) is how the answered conversation begins"
        )
    tail = whole[len(start) :].split("answer", 1)[1]
    found = [(tail.find(token), -len(token), token) for token in control_tokens(tokenizer) if token in tail]
    return min(found)[2] if found else None


def control_tokens(tokenizer) -> list[str]:
    """The strings that the tokenizer turns into control tokens wherever they stand."""
    return [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]


def stop_ids(tokenizer) -> list[int]:
    """Token ids that end a response: EOS first, then the other end tokens of its family that the tokenizer knows.

    Llama-3 models end a turn with <|eot_id|> and now and then with <|end_of_text|>; sampling must stop at both.
    """
    found = getattr(tokenizer, "_kit_stop", None)
    if found is None or found[0] != tokenizer.eos_token_id:
        known = set(control_tokens(tokenizer))
        more = [tokenizer.convert_tokens_to_ids(token) for token in _END_TOKENS if token in known]
        found = list(dict.fromkeys([tokenizer.eos_token_id, *more]))
        tokenizer._kit_stop = found
    return list(found)


def neutralise(tokenizer, text: str) -> str:
    """`text` with every control token broken by a space ("<end>" becomes "< end>"), so that it is plain text."""
    for token in control_tokens(tokenizer):
        if len(token) > 1:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def render(tokenizer, messages, add_generation_prompt: bool) -> str:
    """The conversation as the chat template writes it."""
    return tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=add_generation_prompt
    )


def without_control_tokens(tokenizer, messages: Sequence[dict]) -> list[dict]:
    """The messages with every control token in their contents turned into plain text (`neutralise`)."""
    tokens = control_tokens(tokenizer)
    clean = []
    for message in messages:
        content = message["content"]
        if any(token in content for token in tokens):
            content = neutralise(tokenizer, content)
        clean.append({"role": message["role"], "content": content})
    return clean
