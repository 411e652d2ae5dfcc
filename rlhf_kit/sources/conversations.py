"""Demonstrations and prompts: single conversations out of a user's own file or a public set, as `preferences` reads
pairs.

The public ones: for SFT RLHFlow/RLHFlow-SFT-Dataset-ver2 and RLHFlow/SFT-OpenHermes-2.5-Standard (`messages`, as the
authors' sft.py reads it; the columns of ver2 are not verified); for prompts RLHFlow/iterative-prompt-v1-iter1-20K and
its sisters and RLHFlow/test_generation_2k (`context_messages`, which may hold earlier answers of an assistant), Arena-Hard
(`prompt`) and MT-Bench (`turns`, of which the first is the prompt).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_kit.errors import KitError
from rlhf_kit.runs import Ledger
from rlhf_kit.sources.fields import (
    BadRow,
    Message,
    Row,
    field_of,
    kind_of,
    message_of,
    messages_of,
    prompt_of,
    text_of,
    transcript_of,
)
from rlhf_kit.sources.public_sets import locate
from rlhf_kit.sources.reading import is_hub_id, open_source

_CONVERSATIONS = ("messages", "conversations", "conversation")
# Why a readable row is left out; any other fault ends the reading.
REASONS = {
    "empty": "a turn is empty",
    "turns": "the turns do not run user, assistant, ... up to the wanted one",
    "unknown_role": "a turn's role is none of user, assistant, system (a tool's, for example)",
    "not_text": "a turn holds an image or another part that is not text",
}


class Turns(NamedTuple):
    """One row of a source: its turns, or the reason why there are none."""

    place: str
    turns: list[Message] | None
    reason: str | None = None


def load_conversations(source: Any, **options: Any) -> tuple[list[list[Message]], Ledger]:
    """Whole conversations that end with an answer, for SFT.

    A row has `messages` (or `conversations`, ShareGPT), a `transcript` in hh-rlhf's layout, or a prompt
    (`prompt`, `question`, `instruction` + `input`) with its `response` (`output`, `completion`, `answer`).
    options: those of `read`. Raises KitError naming the place of a row that cannot be read; rows without an
    answer, and others of `REASONS`, are dropped and counted.
    """
    return _load(source, conversation, "demonstrations-read", options)


def load_prompts(source: Any, **options: Any) -> tuple[list[list[Message]], Ledger]:
    """Prompts: the turns up to the last user turn. Rows as above without the answer, or a bare `prompt`, or
    `context_messages`, or `turns` (the first one)."""
    return _load(source, prompt, "prompts-read", options)


def read(
    source: Any,
    convert: Callable[[Row], list[Message]],
    *,
    split: str | None = None,
    subset: str | None = None,
    root: str | Path | Mapping[str, Any] | None = None,
    streaming: bool = False,
) -> Iterator[Turns]:
    """Every row of `source` in order, one at a time, through `convert` (`conversation` or `prompt`).

    source, split, subset, streaming: as in `reading.open_source`; root: a folder with copies of hub data sets, as in
    `public_sets.locate`. KitError naming the place of a row that has not the fields.
    """
    named = is_hub_id(source) and not Path(source).expanduser().exists()
    found = locate((source,), root) if named else None
    for part in open_source(found or source, split=split, subset=subset, streaming=streaming):
        for place, row in part.rows:
            try:
                if isinstance(row, BadRow):
                    raise row
                yield Turns(place, convert(row))
            except BadRow as bad:
                if bad.reason not in REASONS:
                    raise KitError(f"{part.name}, {place}: {bad}; mend or remove the row") from None
                yield Turns(place, None, bad.reason)


def conversation(row: Row) -> list[Message]:
    """The turns of a row that ends with an answer; BadRow."""
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


def prompt(row: Row) -> list[Message]:
    """The turns of a row up to its last user turn; BadRow."""
    turns = messages_of(row["context_messages"], "context_messages") if row.get("context_messages") else _turns(row)
    if turns is None and isinstance(row.get("turns"), list | tuple):
        turns = [_first_turn(row["turns"])]
    turns = list(prompt_of(row) if turns is None else turns)
    if turns and turns[-1]["role"] == "assistant":
        turns.pop()
    return _checked(turns, "user")


def _first_turn(turns: list | tuple) -> Message:
    """The first of a benchmark's questions, a text or {content}: those after it wait for an answer."""
    first = turns[0] if turns else ""
    if isinstance(first, Mapping):
        first = field_of(first, "content")
    if not isinstance(first, str):
        raise BadRow("wrong_type", f"has {kind_of(first)} under 'turns' where a question is expected")
    return {"role": "user", "content": text_of(first, "turns")}


def _turns(row: Row) -> list[Message] | None:
    for name in _CONVERSATIONS:
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


def _load(
    source: Any, convert: Callable[[Row], list[Message]], stage: str, options: Mapping[str, Any]
) -> tuple[list[list[Message]], Ledger]:
    found: list[list[Message]] = []
    dropped = {"empty": 0, "turns": 0}
    for one in read(source, convert, **options):
        if one.turns is None:
            dropped[one.reason] = dropped.get(one.reason, 0) + 1
        else:
            found.append(one.turns)
    if not found:
        raise KitError(f"{source}: no usable row in it")
    return found, Ledger(stage, len(found) + sum(dropped.values()), len(found), dropped).check()
