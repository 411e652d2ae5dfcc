"""The only place that applies a chat template or counts BOS, EOS and pad.

A conversation is cut into pieces where the speaker changes, and each piece is tokenised alone. So the tokens of a
prompt are the first tokens of the same prompt with its answer, for every template and tokenizer: no token can grow
across the border. At sampling time the model sees exactly the tokens it was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_kit.errors import KitError
from rlhf_kit.tokens import (
    LLAMA3_TEMPLATE,
    PLAIN_TEMPLATE,
    PROBE,
    control_tokens,
    neutralise,
    prepare_tokenizer,
    render,
    stop_ids,
    without_control_tokens,
)

__all__ = [
    "LLAMA3_TEMPLATE",
    "PLAIN_TEMPLATE",
    "check_ids",
    "control_tokens",
    "decode_response",
    "encode_conversation",
    "encode_prompt",
    "encode_rendered",
    "encode_turns",
    "letter_ids",
    "neutralise",
    "pair_messages",
    "pair_prompt",
    "prepare_tokenizer",
    "stop_ids",
]


def _pieces(tokenizer, messages: Sequence[dict]) -> list[tuple[str, bool]]:
    """The rendered conversation as (text, is an assistant's answer with its end token) pieces, in order."""
    clean = without_control_tokens(tokenizer, messages)
    eos, done, pieces = tokenizer.eos_token, "", []
    for k, message in enumerate(clean):
        if message["role"] != "assistant":
            continue
        if k == 0:
            raise KitError(
                "a conversation must start with a user turn, this one starts with an assistant turn"
            )
        head = render(tokenizer, clean[:k], True)
        whole = render(tokenizer, clean[: k + 1], False)
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
        head = render(tokenizer, clean, True)
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


def adds_bos(tokenizer) -> bool:
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
    if bos is not None and bos != tokenizer.eos_token_id and ids[0] != bos and adds_bos(tokenizer):
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


def encode_rendered(tokenizer, messages: Sequence[dict], bos: bool = True) -> list[int]:
    """Token ids of a conversation exactly as its own template writes it, to the last character.

    How the released reward models are asked: the template without a generation prompt, its BOS text removed,
    ordinary tokenisation. Whatever the template writes behind the last turn (the first Llama-3 template always
    opened an assistant's turn) is kept, and the last token is the one they are read at. bos: whether one BOS stands in
    front; the released ones were trained without, their scripts ask with one (about a point of RewardBench).
    KitError when the last message is not the assistant's or the template leaves its end token out.
    """
    if not messages or messages[-1]["role"] != "assistant":
        raise KitError("a conversation must end with an assistant turn")
    text = render(tokenizer, without_control_tokens(tokenizer, messages), False)
    start = tokenizer.bos_token_id
    if start is not None and start != tokenizer.eos_token_id:
        text = text.replace(tokenizer.bos_token, "")
    ids = list(tokenizer(text, verbose=False)["input_ids"])
    if start is not None and start != tokenizer.eos_token_id:
        ids = [i for i in ids if i != start]
        ids = [start, *ids] if bos else ids
    if tokenizer.eos_token_id not in ids:
        raise KitError(f"the chat template ends no turn with {tokenizer.eos_token!r}, where a reward would be read")
    return ids


def decode_response(tokenizer, ids: Sequence[int]) -> str:
    """The text of a response: what stands before the first end token (`stop_ids`), without control tokens."""
    ids = [int(i) for i in ids]
    stop = stop_ids(tokenizer)
    ids = ids[: next((k for k, token in enumerate(ids) if token in stop), len(ids))]
    glue = _glue(tokenizer)  # in context, so that a first space is neither lost nor invented
    text = tokenizer.decode([*glue, *ids], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    text = text[text.index("\n") + 1 :] if glue else text
    return text.removeprefix(_answer_opening(tokenizer))


def _answer_opening(tokenizer) -> str:
    """What the template itself writes before an answer's text, such as one space: not a part of the answer."""
    found = getattr(tokenizer, "_kit_opening", None)
    if found is None or found[0] != tokenizer.chat_template:
        start = render(tokenizer, PROBE, True)
        whole = render(tokenizer, [*PROBE, {"role": "assistant", "content": "answer"}], False)
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
        ids, mask = encode_turns(tokenizer, [*PROBE, {"role": "assistant", "content": letter}])
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
