"""The standard preference format: reading and cleaning with a ledger, and (from `sources.splits`) splits by prompt.

A row of the standard format is one comparison (arXiv 2405.07863 section 2; as in RLHFlow's data sets):

    prompt     the shared turns, a list of {role, content}: perhaps a system turn, then user and assistant in
               turn, the last one the user's
    chosen     the WHOLE preferred conversation: prompt + one assistant turn
    rejected   the WHOLE other conversation: the same prompt + one assistant turn
    source     where the row comes from: the public set's name, or the row's own `source` field, or the file's,
               data set's or hub id's name
    chosen_score, rejected_score, margin
               only where the source has scores; margin is the source's own, or the scores' difference

Rows that cannot be read (corrupt JSON, missing field, not UTF-8) stop the reading with their place; with
on_error="drop" they are counted. Rows that can be read but teach nothing or teach wrongly are dropped and
counted; with strict=True they stop the reading. A dropped row counts under the first reason of `REASONS` that
holds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf_kit.errors import KitError
from rlhf_kit.runs import Ledger
from rlhf_kit.sources.adapters import Pair, adapter_named, refusal, sniff
from rlhf_kit.sources.cleaning import REASONS, fault, margin_of
from rlhf_kit.sources.fields import STRUCTURAL, BadRow, Row
from rlhf_kit.sources.public_adapters import PER_PROMPT
from rlhf_kit.sources.public_groups import GROUPS
from rlhf_kit.sources.public_sets import PreferencePart, open_preferences
from rlhf_kit.sources.spill import RowTable, turns_type
from rlhf_kit.sources.splits import describe, opening_key, prompt_key, prompts_of, split_by_prompt

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["REASONS", "Outcome", "collect", "describe", "examine", "load_preferences", "load_with_ledger", "opening_key",
           "prompt_key", "prompts_of", "split_by_prompt"]
Rows = Iterable[tuple[str, Row | BadRow]]
_SNIFF_ROWS = 32  # so that one broken row at the top does not hide the layout


BAD_ROWS = {
    "stop": {"strict": True},  # the first row that cannot be used ends the reading
    "drop_unfit": {},  # rows that can be read but not used are counted; one that cannot be read ends it
    "drop": {"on_error": "drop"},  # all of them are counted
}


class Outcome(NamedTuple):
    """What became of one comparison; `pair` is None when left out for `reason`, explained in `detail`."""

    source: str
    place: str
    pair: Pair | None
    reason: str | None = None
    detail: str = ""


def load_preferences(source: Any, adapter: str = "auto", **options: Any) -> Dataset:
    """Preferences from `source` in the standard format; see `load_with_ledger` for arguments and errors."""
    return load_with_ledger(source, adapter, **options)[0]


def load_with_ledger(source: Any, adapter: str = "auto", **options: Any) -> tuple[Dataset, Ledger]:
    """The same, with the ledger: comparisons in = rows out + dropped, by reason.

    source: a .jsonl, .json, .csv (each also .gz or .xz) or .parquet file, a folder of them, a `datasets.Dataset`,
    a list of dicts, a hub id "owner/name", or a public set or mixture by name ("shp", "mix2"; see
    `sources.public_sets`, and `sources.mixtures` for a mixture's statistics). adapter: a name of
    `sources.adapters.ADAPTERS`, or "auto": a public set's own adapter and filter, else the layout that each file's
    first rows have. options: those of `examine`. A row counts as one comparison, except where it holds several answers and all pairs are made.
    Rows beyond 256 MiB go to a temporary file, so that memory stays bounded. Raises KitError for an unreadable
    source or row, an unknown layout, unpaired data, no row left.
    """
    return collect(examine(source, adapter, **options), _label(source))


def collect(outcomes: Iterable[Outcome], label: str = "the rows") -> tuple[Dataset, Ledger]:
    """Outcomes of `examine` as a data set and its ledger; KitError naming `label` when no pair is left."""
    table, dropped = _table(), {}
    for outcome in outcomes:
        if outcome.pair is None:
            dropped[outcome.reason] = dropped.get(outcome.reason, 0) + 1
        else:
            table.add(_row(outcome.pair, outcome.source))
    ledger = Ledger("preferences", table.rows + sum(dropped.values()), table.rows, dropped)
    if not table.rows:
        raise KitError(
            f"{label}: no preference pair is left of {ledger.rows_in} rows"
            + (f" ({', '.join(f'{n} {why}' for why, n in dropped.items())})" if dropped else "")
        )
    return table.dataset(), ledger.check()


def examine(
    source: Any,
    adapter: str = "auto",
    *,
    on_error: str = "raise",
    strict: bool = False,
    split: str | None = None,
    subset: str | None = None,
    min_margin: float = 0.0,
    max_characters: int | None = None,
    per_prompt: int | None = None,
    limit: int | None = None,
    root: str | Path | Mapping[str, Any] | None = None,
    standard: bool = False,
    streaming: bool = False,
    seen: dict[bytes, str] | None = None,
    seen_as: str = "",
) -> Iterator[Outcome]:
    """Every comparison of `source` in order, one at a time, with what becomes of it: which rows are dropped.

    on_error: "raise" stops at a row that cannot be read, "drop" counts it. strict: stops at any other bad
    row, too. split, subset: which part of a hub data set or of a copy of one (without: "train", or the only
    split). min_margin: least difference of scores, for rows that have scores. max_characters: longest
    conversation, in characters of all its turns. per_prompt: at most so many pairs of one prompt, the first ones
    (SHP's own rule, 5, holds without it). limit: stops after so many usable pairs: the first ones, so that of a
    set in the order of its sources they are no fair sample. root, standard: see `sources.public_sets.open_preferences`.
    streaming: hub rows come over the network as they are read, and none is kept on disk. seen, seen_as: fingerprints
    of the pairs kept before, of other sources, and the name that this source's are kept under.
    """
    if on_error not in ("raise", "drop"):
        raise KitError(f"on_error must be 'raise' or 'drop', not {on_error!r}")
    for name, value in (("per_prompt", per_prompt), ("limit", limit)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise KitError(f"{name} must be a whole number of 1 or more, not {value!r}")
    if adapter != "auto":
        adapter_named(adapter)
    seen = {} if seen is None else seen
    taken: dict[tuple[str | None, str], int] = {}
    kept = 0
    opened = open_preferences(
        source, root=root, standard=standard, split=split, subset=subset, streaming=streaming
    )
    for one, name, rows in _joined(_resolved(opened, adapter)):
        for place, source_name, found in _pairs(one, name, rows):
            if not isinstance(found, BadRow):
                found = fault(found, min_margin, max_characters, seen, seen_as or one.set or "") or found
            most = per_prompt if per_prompt is not None else PER_PROMPT.get(name)
            if most is not None and isinstance(found, Pair):
                key = (one.set, prompt_key(found.chosen[:-1]))
                taken[key] = taken.get(key, 0) + 1
                if taken[key] > most:
                    seen.popitem()  # not kept, so that an equal pair of another set still is
                    found = BadRow("many_pairs", f"has a prompt of which {most} pairs are taken already")
            if isinstance(found, Pair):
                yield Outcome(source_name, place, found)
                kept += 1
                if kept == limit:
                    return
                continue
            where = one.part.where if one.set in (None, one.part.where) else f"{one.set} ({one.part.where})"
            if found.reason in STRUCTURAL and on_error == "raise":
                raise KitError(
                    f"{where}, {place}: {found}; mend the row, or count such rows and go on with "
                    f"on_error='drop' (in a profile: data.bad_rows=drop)"
                )
            if found.reason not in STRUCTURAL and strict:
                raise KitError(
                    f"{where}, {place}: {found} ({found.reason}); mend or remove the row, or read "
                    f"without strict=True, which drops and counts it (in a profile: data.bad_rows=drop_unfit)"
                )
            yield Outcome(source_name, place, None, found.reason, str(found))


def _resolved(
    opened: list[PreferencePart], adapter: str
) -> Iterator[tuple[PreferencePart, str | None, Rows]]:
    """Each part with the name of its adapter: the caller's, or the set's, or what its first rows tell (None: nothing
    there can be read)."""
    for one in opened:
        rows = iter(one.part.rows)
        name: str | None = one.adapter if adapter == "auto" else adapter
        if name == "auto":
            head = list(itertools.islice(rows, _SNIFF_ROWS))
            readable = [row for _, row in head if not isinstance(row, BadRow)]
            name = next((name for name in map(sniff, readable) if name), None)
            if name is None and readable:
                raise KitError(
                    f"{one.part.where}: holds {refusal(readable[0])}; rlhf_kit.sources.adapters lists the layouts"
                )
            rows = itertools.chain(head, rows)
        yield one, name, rows


def _joined(
    parts: Iterable[tuple[PreferencePart, str | None, Rows]],
) -> Iterator[tuple[PreferencePart, str | None, Rows]]:
    """The same, with the rows of a set that has one response a row joined by prompt over all of its files."""
    parts = ((one, name, rows, (one.set, name) if name in GROUPS else object()) for one, name, rows in parts)
    for _, several in itertools.groupby(parts, key=lambda part: part[3]):
        one, name, rows, _ = next(several)
        if name in GROUPS:
            rest = ((f"{other.part.name}, {place}", row) for other, _, found, _ in several for place, row in found)
            rows = GROUPS[name](itertools.chain(rows, rest))
        yield one, name, rows


def _pairs(one: PreferencePart, adapter: str | None, rows: Rows) -> Iterator[tuple[str, str, Pair | BadRow]]:
    """(place, source name, pair or BadRow) of each comparison of a part."""
    convert = adapter_named(adapter) if adapter else None
    for place, row in rows:
        name = one.set or one.part.name
        try:
            if isinstance(row, BadRow):
                raise row
            if convert is None:
                raise KitError(
                    f"{one.part.where}: none of the first {_SNIFF_ROWS} rows can be read, so its layout is "
                    f"unknown; name the adapter or mend the file"
                )
            own = row.get("source")
            if one.set is None and isinstance(own, str) and own and own.isprintable():
                name = own
            found: list[Pair | BadRow] = list(convert(row))
        except BadRow as bad:
            found = [bad]
        for pair in found:
            yield place, name, pair


def _table() -> RowTable:
    import pyarrow as pa

    turns = turns_type()
    scores = ("chosen_score", "rejected_score", "margin")
    columns = [(name, turns) for name in ("prompt", "chosen", "rejected")] + [("source", pa.string())]
    return RowTable(pa.schema([*columns, *((name, pa.float64()) for name in scores)]))


def _row(pair: Pair, source: str) -> dict[str, Any]:
    """A pair in the standard format."""
    return {
        "prompt": pair.chosen[:-1],
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "source": source,
        "chosen_score": pair.chosen_score,
        "rejected_score": pair.rejected_score,
        "margin": margin_of(pair),
    }


def _label(source: Any) -> str:
    return str(source) if isinstance(source, str | Path) else "the rows given"
