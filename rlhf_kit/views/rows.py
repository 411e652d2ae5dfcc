"""Rows of the stages, put in order for figures and tables: by prompt, by section, with more columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_kit.evaluation import cluster_interval


def by_prompt(rows: Sequence[Mapping]) -> list[list[Mapping]]:
    """One list of rows a prompt, in the order in which the prompts come."""
    groups: dict[Any, list[Mapping]] = {}
    for row in rows:
        groups.setdefault(row["prompt_id"], []).append(row)
    return list(groups.values())


def by_section(rows: Sequence[Mapping]) -> dict[str, list[int]]:
    """The places of the rows of every section, and of "all", which comes first."""
    places: dict[str, list[int]] = {"all": list(range(len(rows)))}
    for place, row in enumerate(rows):
        places.setdefault(row["category"], []).append(place)
    return places


def by_group(pairs: Sequence[Mapping], lengths: Mapping[str, Sequence[float]], key: str) -> dict[str, dict]:
    """The lengths of each group of pairs: group -> {pairs, prompts (numbers), and the lists of `lengths`}, all pairs first.

    lengths: prompt, chosen, rejected -> a length for each pair, in tokens or characters. key: the column that names the group. Where there is
    one group only, it stands alone. The first is called "all", or "all pairs" where a group of its own has that name.
    """
    places: dict[str, list[int]] = {}
    for place, row in enumerate(pairs):
        places.setdefault(row[key], []).append(place)
    if len(places) != 1:
        name = "all"
        while name in places:
            name += " pairs"
        places = {name: list(range(len(pairs))), **places}
    return {name: {"pairs": len(at), "prompts": len({pairs[i]["prompt_id"] for i in at})}
            | {part: [values[i] for i in at] for part, values in lengths.items()} for name, at in places.items()}  # fmt: skip


def same_prompts(rows: Sequence[Mapping], first: str, second: str, temperature: float) -> tuple[list, list]:
    """The answers of two policies at one temperature, in one order: prompt by prompt, sample by sample.

    rows: those of `stages.evaluation`. ValueError where the two did not answer the same prompts.
    """
    found = [[row for row in rows if (row["policy"], row["temperature"]) == (name, temperature)] for name in (first, second)]
    asked = [[(row["prompt_id"], row.get("sample", 0)) for row in answers] for answers in found]
    if asked[0] != asked[1]:
        raise ValueError(f"{first!r} and {second!r} did not answer the same prompts at temperature {temperature:g}")
    return found[0], found[1]


def token_lengths(pairs: Sequence[Mapping], tokenizer: Callable[..., Mapping]) -> dict[str, list[int]]:
    """Tokens of every pair's prompt (all its turns), chosen and rejected answer; those of a chat template do not count."""
    texts = {"prompt": [" ".join(turn["content"] for turn in row["prompt"]) for row in pairs]}
    texts |= {side: [row[side][-1]["content"] for row in pairs] for side in ("chosen", "rejected")}
    ids = {part: tokenizer(said, add_special_tokens=False)["input_ids"] for part, said in texts.items()}
    return {part: [len(row) for row in rows] for part, rows in ids.items()}


def with_columns(rows: Sequence[Mapping], **columns: Sequence | None) -> list[dict]:
    """The rows with more columns, a value a row, else ValueError; a column that is None is None in every row."""
    filled = {
        name: [None] * len(rows) if values is None else [_plain(value) for value in values]
        for name, values in columns.items()
    }
    for name, values in filled.items():
        if len(values) != len(rows):
            raise ValueError(f"{len(values)} values of {name!r} for {len(rows)} rows")
    return [{**row, **{name: values[k] for name, values in filled.items()}} for k, row in enumerate(rows)]


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def pairs_inside(
    prompt_ids: Sequence, values: Sequence[float], at_most: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(i, j), the places of all pairs of answers to one prompt whose values differ.

    at_most: so many pairs a prompt, spread over those that it has; None takes all.
    """
    places: dict[Any, list[int]] = {}
    for place, prompt in enumerate(prompt_ids):
        places.setdefault(prompt, []).append(place)
    found: list[tuple[int, int]] = []
    for group in places.values():
        pairs = [(i, j) for k, i in enumerate(group) for j in group[k + 1 :] if values[i] != values[j]]
        found += pairs if at_most is None else pairs[:: max(1, len(pairs) // at_most)][:at_most]
    i, j = np.array(found, dtype=int).reshape(-1, 2).T
    return i, j


def intervals_by_section(
    hits: Sequence[float], rows: Sequence[Mapping]
) -> dict[str, tuple[float, float, float]]:
    """(mean, low, high) of all hits, one a row, and of every section; the 95 % interval is over prompts."""
    hits = np.asarray(hits, dtype=float)
    places = by_section(rows)
    return {
        name: tuple(cluster_interval(hits[at], [rows[k]["prompt_id"] for k in at]))
        for name, at in places.items()
    }


def accuracy_by_section(found: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
    """(accuracy, low, high) of all pairs and of every section, from what `stages.reward_accuracy_fresh` and its like give."""
    parts = {"all": found, **found["by_category"]}
    return {name: (part["accuracy"], part["low"], part["high"]) for name, part in parts.items()}
