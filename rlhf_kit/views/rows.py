"""Rows of the stages, put in order for figures and tables: by prompt, by section, with more columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_kit.evaluation import cluster_interval, share_interval


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


def with_columns(rows: Sequence[Mapping], **columns: Sequence | None) -> list[dict]:
    """The rows with more columns, a value a row; a column that is None is None in every row."""
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


def share_of(hits: Sequence[float]) -> tuple[float, float, float]:
    """(share, low, high) of ones, zeros and halves that are independent cases, with Wilson's 95 % interval."""
    mean = float(np.mean(hits))
    return mean, *map(float, share_interval(mean, len(hits)))


def accuracy_by_section(found: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
    """(accuracy, low, high) of all pairs and of every section, from what `stages.reward_accuracy_fresh` and its like give."""
    parts = {"all": found, **found["by_category"]}
    return {name: (part["accuracy"], part["low"], part["high"]) for name, part in parts.items()}


def without_means(values: Sequence[float], groups: Sequence[str]) -> np.ndarray:
    """Each value minus the mean of its group: what is left is the comparison inside the group."""
    values = np.asarray(values, dtype=float)
    _, place = np.unique([str(group) for group in groups], return_inverse=True)
    return values - (np.bincount(place, values) / np.bincount(place))[place]
