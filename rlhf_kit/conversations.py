"""Demonstrations and prompts out of a user's own file: single conversations, as `preferences` reads pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rlhf_kit.errors import KitError
from rlhf_kit.fields import (
    BadRow,
    Message,
    Row,
    field_of,
    message_of,
    messages_of,
    prompt_of,
    text_of,
    transcript_of,
)
from rlhf_kit.reading import open_source
from rlhf_kit.runs import Ledger


def load_conversations(source: Any) -> tuple[list[list[Message]], Ledger]:
    """Whole conversations that end with an answer, for SFT.

    A row has `messages` (or `conversations`, ShareGPT), a `transcript` in hh-rlhf's layout, or a prompt
    (`prompt`, `question`, `instruction` + `input`) with its `response` (`output`, `completion`, `answer`).
    Raises KitError naming the place of a row that cannot be read; rows without an answer are dropped and
    counted.
    """
    return _read(source, _conversation, "demonstrations-read")


def load_prompts(source: Any) -> tuple[list[list[Message]], Ledger]:
    """Prompts: the turns up to the last user turn. Rows as above without the answer, or a bare `prompt`."""
    return _read(source, _prompt, "prompts-read")


def _conversation(row: Row) -> list[Message]:
    turns = _turns(row)
    if turns is None:
        answer = field_of(row, "response", "output", "completion", "answer")
        answer = (
            message_of(answer, "response")
            if isinstance(answer, dict)
            else {"role": "assistant", "content": text_of(answer, "response")}
        )
        turns = [*prompt_of(row), answer]
    return _checked(turns, "assistant")


def _prompt(row: Row) -> list[Message]:
    turns = _turns(row)
    turns = list(prompt_of(row) if turns is None else turns)
    if turns and turns[-1]["role"] == "assistant":
        turns.pop()
    return _checked(turns, "user")


def _turns(row: Row) -> list[Message] | None:
    for name in ("messages", "conversations", "conversation"):
        if row.get(name) is not None:
            return messages_of(row[name], name)
    return transcript_of(row["transcript"], "transcript") if row.get("transcript") is not None else None


def _checked(turns: list[Message], last: str) -> list[Message]:
    if not turns or not all(turn["content"] for turn in turns):
        raise BadRow("empty", "has an empty turn")
    roles = [turn["role"] for turn in turns if turn["role"] != "system"]
    if roles != [("user", "assistant")[i % 2] for i in range(len(roles))] or not roles or roles[-1] != last:
        raise BadRow("turns", f"has turns that do not run user, assistant, ... up to a turn of the {last}")
    return turns


def _read(
    source: Any, convert: Callable[[Row], list[Message]], stage: str
) -> tuple[list[list[Message]], Ledger]:
    found: list[list[Message]] = []
    dropped = {"empty": 0, "turns": 0}
    for part in open_source(source):
        for place, row in part.rows:
            try:
                if isinstance(row, BadRow):
                    raise row
                found.append(convert(row))
            except BadRow as bad:
                if bad.reason not in dropped:
                    raise KitError(f"{part.name}, {place}: {bad}; mend or remove the row") from None
                dropped[bad.reason] += 1
    if not found:
        raise KitError(f"{source}: no usable row in it")
    return found, Ledger(stage, len(found) + sum(dropped.values()), len(found), dropped).check()
