"""From one row of somebody's preference file to pairs of conversations: a small function for each layout.

The public data sets of the paper have functions of their own, in `public_adapters`; here are the layouts that
people keep their own pairs in, and `sniff`, which tells all of them apart.

An adapter takes a row (a mapping) and returns a list of `Pair`; it raises `BadRow` where the row does not
have the shape it promises. It never judges quality: empty, equal or mismatched answers are the business of
`cleaning`. To add a data set, write one such function and put it into `ADAPTERS`.

hh               `chosen`, `rejected`: two transcripts "\\n\\nHuman: ... \\n\\nAssistant: ..." (hh-rlhf)
strings          `prompt` (or `question`, `instruction` + `input`), `chosen`, `rejected`: three texts; the
                 prompt may be a transcript; optional `system`
messages         `chosen`, `rejected`: message lists, each a whole conversation or the answer to a `prompt`
                 (text or messages)
turns            `conversations` (or `messages`, `prompt`): the shared turns; `chosen`, `rejected`: one turn
                 each (ShareGPT pairs)
chosen_messages  `chosen_messages`, `rejected_messages`: whole conversations, content as text or text parts
ranked           `prompt`, n `responses`, n `scores` (or `ranks`, 1 = best, then score = -rank), or responses
                 as {text, score}: the best against the worst
ranked_all       the same rows, every pair of the responses; "auto" never chooses it
shp, helpsteer, pku, pku_safe, ultrafeedback, ultrainteract, code_ultrafeedback, argilla_math, distilabel_orca,
distilabel_capybara, summarize, pair_prompt
                 the public sets, each with its own filter

A message is {role, content} or {from, value}, with the roles user (human, prompter), assistant (gpt, chatgpt,
bot, model) and system. White space around a message's text is cut, as chat templates do.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from rlhf_kit.errors import KitError
from rlhf_kit.sources import public_adapters, public_schemas
from rlhf_kit.sources.fields import (
    PROMPT,
    BadRow,
    Message,
    Pair,
    Row,
    field_of,
    is_transcript,
    kind_of,
    message_of,
    messages_of,
    number_of,
    prompt_of,
    text_of,
    transcript_of,
    with_system,
)

_TURNS = ("conversations", "conversation", "messages", "prompt")
_RESPONSES = ("responses", "completions", "answers", "outputs", "candidates", "generations")
_SCORES = ("scores", "ratings", "rewards")
_RANKS = ("ranks", "ranking")
_TEXT = ("text", "content", "response", "answer", "value", "completion")


def _pair(row: Row, chosen: list[Message], rejected: list[Message]) -> Pair:
    """The pair with the scores that the row may carry."""
    margin = number_of(row.get("margin"), "margin")
    return Pair(chosen, rejected, _score(row, "chosen"), _score(row, "rejected"), margin)


def _score(row: Row, side: str) -> float | None:
    for name in (f"{side}_score", f"score_{side}", f"{side}_rating", f"rating_{side}", f"{side}_reward"):
        if isinstance(row.get(name), str) and row[name].strip().lower() == "n/a":
            return None  # as RLHFlow/CodeUltraFeedback-standard has it, whose scores are texts
        if row.get(name) is not None:
            return number_of(row[name], name)
    return None


# ---------------------------------------------------------------- adapters


def hh(row: Row) -> list[Pair]:
    return [_pair(row, *(transcript_of(field_of(row, side), side) for side in ("chosen", "rejected")))]


def strings(row: Row) -> list[Pair]:
    prompt = prompt_of(row)
    return [_pair(row, *(prompt + [_answer(field_of(row, side), side)] for side in ("chosen", "rejected")))]


def messages(row: Row) -> list[Pair]:
    """A list that begins with the assistant answers `prompt`; any other list is a whole conversation."""
    sides = [messages_of(field_of(row, side), side) for side in ("chosen", "rejected")]
    for index, turns in enumerate(sides):
        if turns and turns[0]["role"] == "assistant":
            sides[index] = prompt_of(row) + turns
        elif any(row.get(name) is not None for name in PROMPT):
            _check_prompt(prompt_of(row), turns)
    return [_pair(row, *sides)]


def turns(row: Row) -> list[Pair]:
    value = field_of(row, *_TURNS)
    shared = prompt_of({"prompt": value}) if isinstance(value, str) else messages_of(value, "conversations")
    shared = with_system(row, shared)
    return [
        _pair(row, *(shared + [message_of(field_of(row, side), side)] for side in ("chosen", "rejected")))
    ]


def chosen_messages(row: Row) -> list[Pair]:
    sides = (messages_of(field_of(row, side), side) for side in ("chosen_messages", "rejected_messages"))
    return [_pair(row, *sides)]


def ranked(row: Row) -> list[Pair]:
    prompt, scored = _ranked(row)
    best = max(scored, key=lambda item: item[1])
    worst = min(scored, key=lambda item: item[1])
    return [_scored_pair(prompt, best, worst)]


def ranked_all(row: Row) -> list[Pair]:
    prompt, scored = _ranked(row)
    if len(scored) > 64:
        raise BadRow("wrong_type", f"has {len(scored)} responses, too many for all pairs of them (64)")
    return [
        _scored_pair(prompt, *sorted(two, key=lambda item: -item[1]))
        for two in itertools.combinations(scored, 2)
    ]


ADAPTERS: dict[str, Callable[[Row], list[Pair]]] = {
    "hh": hh,
    "strings": strings,
    "messages": messages,
    "turns": turns,
    "chosen_messages": chosen_messages,
    "ranked": ranked,
    "ranked_all": ranked_all,
    **public_adapters.PUBLIC,
}


def _answer(value: Any, field: str) -> Message:
    return {"role": "assistant", "content": text_of(value, field)}


def _check_prompt(prompt: list[Message], turns: list[Message]) -> None:
    """A `prompt` beside whole conversations is either their shared turns or one of their user turns."""
    said = [turn["content"] for turn in turns if turn["role"] == "user"]
    if turns[:-1] != prompt and not (prompt and prompt[-1]["content"] in said):
        raise BadRow("prompt_mismatch", "has a 'prompt' that is not in its conversations")


def _ranked(row: Row) -> tuple[list[Message], list[tuple[Message, float]]]:
    """The prompt, and (answer, score) of every response."""
    responses = field_of(row, *_RESPONSES)
    if not isinstance(responses, list | tuple):
        raise BadRow("wrong_type", f"has {kind_of(responses)} where a list of responses is expected")
    if len(responses) < 2:
        raise BadRow("one_response", f"has {len(responses)} response(s); a pair needs two")
    if isinstance(responses[0], Mapping):
        if not all(isinstance(response, Mapping) for response in responses):
            raise BadRow("wrong_type", "mixes objects and texts in its responses")
        raw = [field_of(response, *_TEXT) for response in responses]
        by_rank = all(response.get("rank") is not None for response in responses)
        values = [
            field_of(r, *(("rank",) if by_rank else ("score", "rating", "reward", "overall_score")))
            for r in responses
        ]
    else:
        raw, by_rank = responses, all(row.get(name) is None for name in _SCORES)
        values = field_of(row, *(_RANKS if by_rank and any(name in row for name in _RANKS) else _SCORES))
        if not isinstance(values, list | tuple) or len(values) != len(responses):
            raise BadRow("wrong_type", "does not have one score for each response")
    scores = [number_of(value, "scores") for value in values]
    if None in scores:
        raise BadRow("missing_field", "has a response without a score")
    answers = [_answer(text, "responses") for text in raw]
    return prompt_of(row), [(a, -s if by_rank else s) for a, s in zip(answers, scores, strict=True)]


def _scored_pair(prompt: list[Message], best: tuple[Message, float], worst: tuple[Message, float]) -> Pair:
    return Pair(prompt + [best[0]], prompt + [worst[0]], best[1], worst[1])


# ---------------------------------------------------------------- which adapter?


def sniff(row: Row) -> str | None:
    """The adapter whose layout this row has, or None."""
    public = public_schemas.sniff(row)
    if public:
        return public
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if isinstance(chosen, str) and isinstance(rejected, str):
        if is_transcript(chosen) and is_transcript(rejected):
            return "hh"
        return "strings" if any(row.get(name) is not None for name in PROMPT) else None
    if isinstance(chosen, list | tuple) and isinstance(rejected, list | tuple):
        return "messages"
    if isinstance(chosen, Mapping) and isinstance(rejected, Mapping):
        return "turns" if any(row.get(name) is not None for name in _TURNS) else None
    if row.get("chosen_messages") is not None and row.get("rejected_messages") is not None:
        return "chosen_messages"
    if any(isinstance(row.get(name), list | tuple) for name in _RESPONSES):
        return "ranked" if any(row.get(name) is not None for name in PROMPT) else None
    return None


def refusal(row: Row) -> str:
    """Why a row of no known layout gives no pairs, in one clause."""
    names = {name for name in row if isinstance(name, str) and row[name] is not None}
    columns = (
        ", ".join(
            ascii(name[:40])[1:-1] if isinstance(name, str) else kind_of(name)
            for name in itertools.islice(row, 12)
        )
        or "none"
    )
    if "label" in names and names & {"messages", "completion", "response", "conversations"}:
        why = "unpaired labels: each row judges one answer alone (KTO data), a pair needs two"
    elif {"left", "right", "winner"} <= names:
        why = "a table of battles without texts; rate it with rlhf_kit.evaluation.bradley_terry"
    elif names & {"chosen", "rejected"}:
        missing = [name for name in ("chosen", "rejected") if name not in names]
        if missing:
            why = f"no {missing[0]!r} in its first rows"
        elif type(row["chosen"]) is not type(row["rejected"]):
            why = "'chosen' and 'rejected' of different kinds"
        else:
            why = "'chosen' and 'rejected', but no prompt that goes with them"
    elif names & {"output", "completion", "answer", "response", "messages", "conversations", "text"}:
        why = "one answer for each prompt (instruction data for SFT), a pair needs two"
    elif names & {"prompt", "turns", "question", "context_messages"}:
        why = "prompts without answers"
    else:
        why = "no preference layout that the kit knows"
    return f"{why} (columns: {columns})"


def adapter_named(name: str) -> Callable[[Row], list[Pair]]:
    """The adapter function; KitError with the nearest name for an unknown one."""
    if isinstance(name, str) and name in ADAPTERS:
        return ADAPTERS[name]
    near = difflib.get_close_matches(str(name), [*ADAPTERS, "auto"], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise KitError(f"unknown adapter {name!r}{hint} (known: auto, {', '.join(ADAPTERS)})")
