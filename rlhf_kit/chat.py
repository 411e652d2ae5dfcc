"""The only place that applies a chat template or counts BOS, EOS and pad.

A conversation is cut into pieces where the speaker changes, and each piece is tokenised alone. So the tokens of a
prompt are the first tokens of the same prompt with its answer, for every template and tokenizer: no token can grow
across the border. At sampling time the model sees exactly the tokens it was trained on.
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
_PROBE = [{"role": "user", "content": "probe"}]


def prepare_tokenizer(tokenizer):
    """Make a tokenizer fit for training: a pad token that is not EOS, a chat template, an end-of-turn token as EOS.

    Changes it in place and returns it; every change is a sentence in `tokenizer.kit_notes`. Twice is as good as once.
    A new pad token makes the vocabulary one longer: the model's embeddings must follow (`models.load_policy` sees to
    it). KitError without an EOS token, or when the template cannot show where an answer ends.
    """
    notes = list(getattr(tokenizer, "kit_notes", []))
    if tokenizer.eos_token_id is None:
        raise KitError(
            f"the tokenizer {tokenizer.name_or_path or ''} has no end-of-sequence token; set eos_token in its "
            "tokenizer_config.json"
        )
    if not tokenizer.chat_template:
        tokenizer.chat_template = PLAIN_TEMPLATE
        notes.append("no chat template: a plain Human/Assistant one was added, turns end with the EOS token")
    end = _template_end(tokenizer)
    if end is not None and end != tokenizer.eos_token:
        notes.append(
            f"EOS was {tokenizer.eos_token!r}, but the template ends a turn with {end!r}: EOS is now {end!r}"
        )
        tokenizer.eos_token = end
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in (
        tokenizer.eos_token_id,
        tokenizer.bos_token_id,
    ):
        before = tokenizer.pad_token
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
        notes.append(
            f"pad was {before!r}: a pad token <|pad|> of its own was added, so that EOS is never masked"
        )
    tokenizer.kit_notes = notes
    return tokenizer


def _template_end(tokenizer) -> str | None:
    """The special token with which the template ends an assistant turn; None when it writes none."""
    start = _render(tokenizer, _PROBE, True)
    whole = _render(tokenizer, [*_PROBE, {"role": "assistant", "content": "answer"}], False)
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


def neutralise(tokenizer, text: str) -> str:
    """`text` with every control token broken by a space ("<end>" becomes "< end>"), so that it is plain text."""
    for token in control_tokens(tokenizer):
        if len(token) > 1:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def _render(tokenizer, messages, add_generation_prompt: bool) -> str:
    return tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=add_generation_prompt
    )


def _pieces(tokenizer, messages: Sequence[dict]) -> list[tuple[str, bool]]:
    """The rendered conversation as (text, is an assistant's answer with its end token) pieces, in order."""
    tokens = control_tokens(tokenizer)
    clean = []
    for message in messages:
        content = message["content"]
        if any(token in content for token in tokens):
            content = neutralise(tokenizer, content)
        clean.append({"role": message["role"], "content": content})
    eos, done, pieces = tokenizer.eos_token, "", []
    for k, message in enumerate(clean):
        if message["role"] != "assistant":
            continue
        if k == 0:
            raise KitError(
                "a conversation must start with a user turn, this one starts with an assistant turn"
            )
        head = _render(tokenizer, clean[:k], True)
        whole = _render(tokenizer, clean[: k + 1], False)
        if not head.startswith(done) or not whole.startswith(head):
            raise KitError(
                "the chat template writes earlier turns differently once more turns follow; the tokens of a "
                "prompt would not be the first tokens of prompt and answer"
            )
        answer = whole[len(head) :]
        if eos in answer:
            answer = answer[: answer.rfind(eos) + len(eos)]
            pieces += [(head[len(done) :], False), (answer, True)]
            done = head + answer
        else:  # a template without an end token: every answer gets one, as it must be learnt
            pieces += [(head[len(done) :], False), (answer + eos, True)]
            done = whole
    if clean[-1]["role"] != "assistant":
        head = _render(tokenizer, clean, True)
        if not head.startswith(done):
            raise KitError("the chat template writes earlier turns differently once more turns follow")
        pieces.append((head[len(done) :], False))
    return pieces


def _glue(tokenizer) -> list[int]:
    """Tokens of a line break where the tokenizer puts a space before every text it is given (SentencePiece), else [].

    Pieces are then tokenised behind a line break which is cut off again: a piece in the middle gets no space.
    """
    found = getattr(tokenizer, "_kit_glue", None)
    if found is None:
        alone, newline, both = (
            tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a", "\n", "\na")
        )
        found = newline if both[: len(newline)] == newline and both[len(newline) :] != alone else []
        tokenizer._kit_glue = found
    return found


def _ids(tokenizer, text: str) -> list[int]:
    glue = _glue(tokenizer)
    ids = tokenizer("\n" + text if glue else text, add_special_tokens=False, verbose=False)["input_ids"]
    if not glue:
        return list(ids)
    if ids[: len(glue)] == glue:
        return list(ids[len(glue) :])
    return list(
        tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    )  # the text itself starts with a break


def _adds_bos(tokenizer) -> bool:
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][0] == bos


def encode_turns(tokenizer, messages: Sequence[dict]) -> tuple[list[int], list[bool]]:
    """(token ids, is this token an assistant's, its end token included) of a conversation; both of the same length."""
    if not messages:
        raise KitError("a conversation needs at least one message")
    ids: list[int] = []
    mask: list[bool] = []
    for text, answer in _pieces(tokenizer, messages):
        piece = _ids(tokenizer, text)
        ids += piece
        mask += [answer] * len(piece)
    bos = tokenizer.bos_token_id
    if bos is not None and bos != tokenizer.eos_token_id and ids[0] != bos and _adds_bos(tokenizer):
        ids, mask = [bos, *ids], [False, *mask]
    return ids, mask


def encode_prompt(tokenizer, messages: Sequence[dict]) -> list[int]:
    """Token ids of a prompt up to the assistant's header: one BOS at most; the next token is the answer's first.

    KitError when the last message is the assistant's.
    """
    if messages and messages[-1]["role"] == "assistant":
        raise KitError("a prompt must end with a user turn, this one ends with an assistant turn")
    ids = encode_turns(tokenizer, messages)[0]
    bos = tokenizer.bos_token_id
    if bos is not None and bos != tokenizer.eos_token_id and ids.count(bos) > 1:
        raise KitError("the chat template writes more than one BOS token; remove one from the template")
    return ids


def encode_conversation(tokenizer, messages: Sequence[dict]) -> list[int]:
    """Token ids of prompt and answer; `encode_prompt` of the prompt is how it begins, and EOS is its last token.

    Each assistant turn ends with EOS exactly once. KitError when the last message is not the assistant's.
    """
    if not messages or messages[-1]["role"] != "assistant":
        raise KitError("a conversation must end with an assistant turn")
    ids = encode_turns(tokenizer, messages)[0]
    check_ids(tokenizer, ids, "a conversation")
    return ids


def decode_response(tokenizer, ids: Sequence[int]) -> str:
    """The text of a response: what stands before the first EOS, without control tokens."""
    ids = [int(i) for i in ids]
    if tokenizer.eos_token_id in ids:
        ids = ids[: ids.index(tokenizer.eos_token_id)]
    glue = _glue(tokenizer)  # in context, so that a first space is neither lost nor invented
    text = tokenizer.decode([*glue, *ids], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    text = text[text.index("\n") + 1 :] if glue else text
    return text.removeprefix(_answer_opening(tokenizer))


def _answer_opening(tokenizer) -> str:
    """What the template itself writes before an answer's text, such as one space: not a part of the answer."""
    found = getattr(tokenizer, "_kit_opening", None)
    if found is None or found[0] != tokenizer.chat_template:
        start = _render(tokenizer, _PROBE, True)
        whole = _render(tokenizer, [*_PROBE, {"role": "assistant", "content": "answer"}], False)
        found = (tokenizer.chat_template, whole[len(start) :].split("answer", 1)[0])
        tokenizer._kit_opening = found
    return found[1]


def check_ids(tokenizer, ids: Sequence[int], where: str) -> None:
    """KitError, naming `where`, when a finished conversation has two BOS, no EOS at its end, or pad inside it."""
    bos, eos, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    if pad is None or pad == eos:
        raise KitError(
            f"{where}: the pad token must exist and differ from EOS; pass the tokenizer through prepare_tokenizer"
        )
    if bos is not None and bos != eos and (ids.count(bos) > 1 or bos in ids[1:]):
        raise KitError(
            f"{where}: {ids.count(bos)} BOS tokens, there must be one, at the start; tokenise templated text "
            "without adding special tokens"
        )
    if not ids or ids[-1] != eos:
        raise KitError(f"{where}: it does not end with the EOS token {tokenizer.eos_token!r}")
    if pad in ids:
        raise KitError(f"{where}: a pad token stands inside it")


# ---------------------------------------------------------------- the pairwise preference model


def pair_prompt(context_messages: Sequence[dict], a: str, b: str) -> str:
    """The text that the pairwise model reads: context and two responses, in the format of the paper's released model.

    The line breaks are those of the released template as Jinja renders it with `trim_blocks`.
    """
    turns = "".join(f"\n<turn> {message['role']}\n {message['content']}" for message in context_messages)
    return f"[CONTEXT] \n{turns}\n [RESPONSE A] {a} [RESPONSE B] {b} \n"


def pair_messages(context_messages: Sequence[dict], a: str, b: str) -> list[dict]:
    """`pair_prompt` as the one user turn to which the model answers with the letter A or B."""
    return [{"role": "user", "content": pair_prompt(context_messages, a, b)}]


def letter_ids(tokenizer) -> tuple[int, int]:
    """Token ids of the answers A and B right behind the assistant's header; KitError unless each is one token."""
    found = []
    for letter in "AB":
        ids, mask = encode_turns(tokenizer, [*_PROBE, {"role": "assistant", "content": letter}])
        answer = [i for i, own in zip(ids, mask, strict=True) if own]
        if len(answer) != 2 or answer[1] != tokenizer.eos_token_id:
            raise KitError(
                f"the tokenizer writes the answer {letter!r} as {len(answer) - 1} tokens; the pairwise model "
                "needs one token a letter"
            )
        found.append(answer[0])
    if found[0] == found[1]:
        raise KitError(
            "the tokenizer gives the letters A and B the same token; the pairwise model cannot tell them apart"
        )
    return found[0], found[1]
