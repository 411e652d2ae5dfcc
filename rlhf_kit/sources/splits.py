"""Prompts of a preference data set: when two are equal, splits that share none, and numbers about the rows.

`rlhf_kit.preferences` offers these functions too.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import unicodedata
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rlhf_kit.errors import KitError
from rlhf_kit.sources.fields import Message

if TYPE_CHECKING:
    from datasets import Dataset


def normalised(text: str) -> str:
    """Text for comparing prompts: compatibility forms, case and runs of white space do not count."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def prompt_key(prompt: list[Message]) -> str:
    """16 hex digits that equal prompts share, after `normalised`; the id of a prompt read from a file."""
    return _digest([[turn["role"], normalised(turn["content"])] for turn in prompt])


def opening_key(prompt: list[Message]) -> str:
    """The same for the first user turn alone: shared by every prompt that continues one conversation."""
    return _digest(next((normalised(turn["content"]) for turn in prompt if turn["role"] == "user"), ""))


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=8).hexdigest()


def prompts_of(dataset: Dataset, split: str = "preference") -> list[dict[str, Any]]:
    """The distinct prompts in order, as prompt rows: prompt_id, prompt, category ("other"), split."""
    found: dict[str, dict[str, Any]] = {}
    for prompt in _column(dataset, "prompt"):
        key = prompt_key(prompt)
        if key not in found:
            found[key] = {"prompt_id": key, "prompt": prompt, "category": "other", "split": split}
    return list(found.values())


def split_by_prompt(
    dataset: Dataset, fractions: Mapping[str, float], seed: int = 0, by: str = "opening"
) -> dict[str, Dataset]:
    """The rows in parts, e.g. {"train": 0.9, "heldout": 0.1}, no prompt in two of them.

    A hash of seed and prompt decides, so that a row keeps its part when the file grows, and sizes are about
    right, not exact. by="opening" keeps all rows with the same first user turn together, for in hh-rlhf one
    row in eighteen continues the conversation of another row; by="prompt" looks at the whole prompt.
    Fractions must sum to 1. Raises KitError for other fractions and for a part that gets no row.
    """
    if by not in ("opening", "prompt"):
        raise KitError(f"by must be 'opening' or 'prompt', not {by!r}")
    if (
        not fractions
        or any(not 0 < f <= 1 for f in fractions.values())
        or abs(math.fsum(fractions.values()) - 1) > 1e-6
    ):
        raise KitError(f"fractions must be positive and sum to 1, not {dict(fractions)}")
    names, edges = list(fractions), list(itertools.accumulate(fractions.values()))
    key_of = opening_key if by == "opening" else prompt_key
    rows: dict[str, list[int]] = {name: [] for name in names}
    owner: dict[str, str] = {}
    for index, prompt in enumerate(_column(dataset, "prompt")):
        drawn = int(_digest([int(seed), key_of(prompt)]), 16) / 2**64
        name = next((n for n, edge in zip(names, edges, strict=True) if drawn < edge), names[-1])
        rows[name].append(index)
        if owner.setdefault(prompt_key(prompt), name) != name:
            raise KitError(
                f"the prompt of row {index + 1} is in the parts {owner[prompt_key(prompt)]!r} and {name!r}"
            )
    for name, chosen in rows.items():
        if not chosen:
            raise KitError(
                f"part {name!r} ({fractions[name]:g} of {len(dataset)} rows) gets no row; give it a larger "
                f"fraction, or more data, or split by='prompt'"
            )
    return {name: dataset.select(chosen) for name, chosen in rows.items()}


def describe(dataset: Dataset) -> dict[str, Any]:
    """Numbers about a data set: pairs, prompts, user turns, mean lengths in characters, pairs by source.

    prompt_characters counts all prompt turns; chosen_characters and rejected_characters the last answer
    alone; chosen_longer is the share of pairs whose chosen answer is the longer one (ties half).
    """
    pairs, keys, turns, most, lengths, longer, sources = 0, set(), 0, 0, [0, 0, 0], 0.0, {}
    columns = (_column(dataset, name) for name in ("prompt", "chosen", "rejected", "source"))
    for prompt, chosen, rejected, source in zip(*columns, strict=True):
        pairs += 1
        keys.add(prompt_key(prompt))
        said = sum(turn["role"] == "user" for turn in prompt)
        turns, most = turns + said, max(most, said)
        sizes = (
            sum(len(turn["content"]) for turn in prompt),
            len(chosen[-1]["content"]),
            len(rejected[-1]["content"]),
        )
        lengths = [total + size for total, size in zip(lengths, sizes, strict=True)]
        longer += 0.5 * ((sizes[1] > sizes[2]) + (sizes[1] >= sizes[2]))
        sources[source] = sources.get(source, 0) + 1
    if not pairs:
        raise KitError("there are no rows to describe")
    names = ("prompt_characters", "chosen_characters", "rejected_characters")
    return {
        "pairs": pairs,
        "prompts": len(keys),
        "user_turns": turns / pairs,
        "most_user_turns": most,
        **{name: total / pairs for name, total in zip(names, lengths, strict=True)},
        "chosen_longer": longer / pairs,
        "sources": sources,
    }


def _column(dataset: Any, name: str) -> Iterator[Any]:
    """One column of a data set in the standard format, a thousand rows at a time."""
    columns = getattr(dataset, "column_names", None)
    if not isinstance(columns, list) or name not in columns:
        raise KitError(
            f"expected a data set in the standard preference format, with a column {name!r}; read it with "
            f"rlhf_kit.preferences.load_preferences"
        )
    for batch in dataset.select_columns([name]).iter(batch_size=1000):
        yield from batch[name]
