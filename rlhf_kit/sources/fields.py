"""The pieces that adapters are made of: text, message, transcript, number and prompt out of the fields of
one row.

Rows are untrusted: each function returns plain checked data or raises `BadRow`, and takes time linear in
the text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

Message = dict[str, str]
Row = Mapping[str, Any]

# What can be wrong with the shape of a row. These stop the reading unless the caller asks to count them.
STRUCTURAL = {
    "corrupt_row": "the row cannot be parsed",
    "not_utf8": "the row is not UTF-8 text",
    "missing_field": "a field is missing",
    "wrong_type": "a field has the wrong type",
}

ROLES = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "system": "system",
}
PROMPT = ("prompt", "question", "instruction", "input", "query")
_MARK = re.compile(r"\n\n(Human|Assistant):")


class BadRow(Exception):
    """A row that gives no pair: `reason` is a key of the ledger, the message says e.g. "has no 'chosen'"."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


class Pair(NamedTuple):
    """Two whole conversations (prompt turns and a last answer each), the first one preferred."""

    chosen: list[Message]
    rejected: list[Message]
    chosen_score: float | None = None
    rejected_score: float | None = None
    margin: float | None = None


def text_of(value: Any, field: str) -> str:
    """A string, or a list of text parts ("..." or {type: text, text|value: ...}) joined; stripped."""
    if isinstance(value, list | tuple):
        parts = []
        for part in value:
            if isinstance(part, Mapping):
                if part.get("type", "text") != "text":
                    raise BadRow("not_text", f"holds a part of {field!r} that is not text")
                part = part.get("text") if part.get("text") is not None else part.get("value")
            parts.append(text_of(part, field) if isinstance(part, str) else None)
        if None in parts:
            raise BadRow("wrong_type", f"has a part of {field!r} without text")
        value = "\n".join(parts)
    if not isinstance(value, str):
        raise BadRow("wrong_type", f"has {kind_of(value)} under {field!r} where text is expected")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRow("not_utf8", f"has half a surrogate pair in {field!r}, which is no text") from None
    return value.strip()


def message_of(turn: Any, field: str) -> Message:
    """One {role, content} from a turn written as {role, content} or {from, value}."""
    if not isinstance(turn, Mapping):
        raise BadRow("wrong_type", f"has {kind_of(turn)} in {field!r} where a message is expected")
    role = turn.get("role") if turn.get("role") is not None else turn.get("from")
    content = turn.get("content") if turn.get("content") is not None else turn.get("value")
    if role is None or content is None:
        raise BadRow(
            "missing_field", f"has a message in {field!r} without {'role' if role is None else 'content'}"
        )
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise BadRow("unknown_role", f"has a message in {field!r} with the role {str(role)[:30]!r}")
    return {"role": ROLES[role.lower()], "content": text_of(content, field)}


def messages_of(value: Any, field: str) -> list[Message]:
    """A list of turns as messages."""
    if not isinstance(value, list | tuple):
        raise BadRow(
            "wrong_type", f"has {kind_of(value)} under {field!r} where a list of messages is expected"
        )
    return [message_of(turn, field) for turn in value]


def transcript_of(text: Any, field: str) -> list[Message]:
    """The turns of "\\n\\nHuman: ... \\n\\nAssistant: ..." in order, in linear time."""
    pieces = _MARK.split("\n\n" + text_of(text, field))
    if pieces[0].strip() or len(pieces) == 1:
        raise BadRow("wrong_type", f"has text under {field!r} that does not begin with 'Human:'")
    return [
        {"role": "user" if who == "Human" else "assistant", "content": said.strip()}
        for who, said in zip(pieces[1::2], pieces[2::2], strict=True)
    ]


def number_of(value: Any, field: str) -> float | None:
    """A finite number, written as a number or as text; None for nothing."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) < 1e100:  # so that differences stay finite; nan fails, too
        raise BadRow("wrong_type", f"has {kind_of(value)} under {field!r} where a finite number is expected")
    return number


def field_of(row: Row, *names: str) -> Any:
    """The value of the first of `names` that the row has."""
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise BadRow(
        "missing_field", f"has no {names[0]!r}" + (f" (nor {', '.join(names[1:])})" if names[1:] else "")
    )


def prompt_of(row: Row) -> list[Message]:
    """The shared turns from `prompt` (text, transcript, messages) or its synonyms, `system` in front."""
    value = field_of(row, *PROMPT)
    if isinstance(value, str):
        text = text_of(value, "prompt")
        if row.get("instruction") is value and isinstance(row.get("input"), str) and row["input"].strip():
            text += "\n" + text_of(row["input"], "input")  # Alpaca's optional context
        turns = transcript_of(text, "prompt") if is_transcript(text) else [{"role": "user", "content": text}]
        if len(turns) > 1 and turns[-1] == {"role": "assistant", "content": ""}:
            turns.pop()  # a transcript prompt ends in an open "Assistant:"
    else:
        turns = messages_of(value, "prompt")
    return with_system(row, turns)


def with_system(row: Row, turns: list[Message]) -> list[Message]:
    """The turns with the row's `system` text in front, where it has one and they do not."""
    system = row.get("system")
    if isinstance(system, str) and system.strip() and (not turns or turns[0]["role"] != "system"):
        return [{"role": "system", "content": text_of(system, "system")}, *turns]
    return turns


def is_transcript(text: str) -> bool:
    """Whether text is a dialogue as hh-rlhf writes it, and not only a question that begins with "Human:"."""
    return text.lstrip().startswith("Human:") and "\n\nAssistant:" in text


def kind_of(value: Any) -> str:
    """The kind of a value, in the words of somebody who writes JSON."""
    if isinstance(value, bool):
        return "true or false"
    if value is None:
        return "null"
    kinds = {dict: "an object", list: "a list", str: "text", int: "a number", float: "a number"}
    return kinds.get(type(value), f"a value of type {type(value).__name__}")


# ---------------------------------------------------------------- numbers, choices and lists of public sets


def rating_in(value: Any, field: str) -> float | None:
    """A score, or None for what public sets write where there is none: null, nan, an empty text, N/A."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, str) and value.strip().lower() in ("", "n/a", "none", "nan"):
        return None
    return number_of(value, field)


def rating_of(row: Row, *names: str) -> float | None:
    """The score under the first of `names` that is a column at all: a renamed column is a fault, an empty one is not."""
    for name in names:
        if name in row:
            return rating_in(row[name], name)
    raise BadRow("missing_field", f"has no {names[0]!r}")


def required_number(row: Row, field: str) -> float:
    number = number_of(field_of(row, field), field)
    if number is None:
        raise BadRow("missing_field", f"has no {field!r}")
    return number


def choice_of(row: Row, field: str) -> int:
    value = field_of(row, field)
    number = float(value) if isinstance(value, bool) else number_of(value, field)
    if number not in (0, 1):
        raise BadRow("wrong_type", f"has something other than 0 or 1 under {field!r}")
    return int(number)


def flag_of(row: Row, field: str) -> bool:
    return bool(choice_of(row, field))


def list_of(row: Row, field: str) -> list[Any]:
    value = field_of(row, field)
    if not isinstance(value, list | tuple):
        raise BadRow("wrong_type", f"has {kind_of(value)} under {field!r} where a list is expected")
    return list(value)


def objects_of(row: Row, field: str) -> list[Mapping[str, Any]]:
    found = list_of(row, field)
    if not all(isinstance(one, Mapping) for one in found):
        raise BadRow("wrong_type", f"has something other than objects in {field!r}")
    return found
