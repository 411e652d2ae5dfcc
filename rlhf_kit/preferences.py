"""The standard preference format: reading and cleaning with a ledger, and (from `splits`) splits by prompt.

A row of the standard format is one comparison (arXiv 2405.07863 section 2; as in RLHFlow's data sets):

    prompt     the shared turns, a list of {role, content}: perhaps a system turn, then user and assistant in
               turn, the last one the user's
    chosen     the WHOLE preferred conversation: prompt + one assistant turn
    rejected   the WHOLE other conversation: the same prompt + one assistant turn
    source     where the row comes from: its own `source` field, or the file's, data set's or hub id's name
    chosen_score, rejected_score, margin
               only where the source has scores; margin is the source's own, or the scores' difference

Rows that cannot be read (corrupt JSON, missing field, not UTF-8) stop the reading with their place; with
on_error="drop" they are counted. Rows that can be read but teach nothing or teach wrongly are dropped and
counted; with strict=True they stop the reading. A dropped row counts under the first reason of `REASONS` that
holds.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf_kit.adapters import Pair, adapter_named, refusal, sniff
from rlhf_kit.cleaning import REASONS, fault, margin_of
from rlhf_kit.errors import KitError
from rlhf_kit.fields import STRUCTURAL, BadRow
from rlhf_kit.reading import Part, open_source
from rlhf_kit.runs import Ledger
from rlhf_kit.splits import describe, opening_key, prompt_key, prompts_of, split_by_prompt

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["REASONS", "Outcome", "describe", "examine", "load_preferences", "load_with_ledger", "opening_key",
           "prompt_key", "prompts_of", "split_by_prompt"]
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

    source: a .jsonl, .json, .csv (each also .gz) or .parquet file, a folder of them, a `datasets.Dataset`,
    a list of dicts, or a hub id "owner/name". adapter: a name of `adapters.ADAPTERS`, or "auto" to
    recognise the layout of each file by its first rows. options: those of `examine`. A row counts as one
    comparison, except that "ranked_all" makes several. Raises KitError for an unreadable source or row, an
    unknown layout, unpaired data, no row left.
    """
    table, dropped = _Table(), {}
    for outcome in examine(source, adapter, **options):
        if outcome.pair is None:
            dropped[outcome.reason] = dropped.get(outcome.reason, 0) + 1
        else:
            table.add(outcome.pair, outcome.source)
    ledger = Ledger("preferences", table.rows + sum(dropped.values()), table.rows, dropped)
    if not table.rows:
        raise KitError(
            f"{_label(source)}: no preference pair is left of {ledger.rows_in} rows"
            + (f" ({', '.join(f'{n} {why}' for why, n in dropped.items())})" if dropped else "")
        )
    return table.dataset(), ledger.check()


def examine(
    source: Any,
    adapter: str = "auto",
    *,
    on_error: str = "raise",
    strict: bool = False,
    split: str = "train",
    subset: str | None = None,
    min_margin: float = 0.0,
    max_characters: int | None = None,
) -> Iterator[Outcome]:
    """Every comparison of `source` in order, one at a time, with what becomes of it: which rows are dropped.

    on_error: "raise" stops at a row that cannot be read, "drop" counts it. strict: stops at any other bad
    row, too. split, subset: which part of a hub data set. min_margin: least difference of scores, for rows
    that have scores. max_characters: longest conversation, in characters of all its turns.
    """
    if on_error not in ("raise", "drop"):
        raise KitError(f"on_error must be 'raise' or 'drop', not {on_error!r}")
    if adapter != "auto":
        adapter_named(adapter)
    seen: set[bytes] = set()
    for part in open_source(source, split=split, subset=subset):
        for place, name, found in _pairs(part, adapter):
            if not isinstance(found, BadRow):
                found = fault(found, min_margin, max_characters, seen) or found
            if isinstance(found, Pair):
                yield Outcome(name, place, found)
                continue
            if found.reason in STRUCTURAL and on_error == "raise":
                raise KitError(
                    f"{part.where}, {place}: {found}; mend the row, or count such rows and go on with "
                    f"on_error='drop' (in a profile: data.bad_rows=drop)"
                )
            if found.reason not in STRUCTURAL and strict:
                raise KitError(
                    f"{part.where}, {place}: {found} ({found.reason}); mend or remove the row, or read "
                    f"without strict=True, which drops and counts it (in a profile: data.bad_rows=drop_unfit)"
                )
            yield Outcome(name, place, None, found.reason, str(found))


def _pairs(part: Part, adapter: str) -> Iterator[tuple[str, str, Pair | BadRow]]:
    """(place, source name, pair or BadRow) of each comparison of a part; its first rows tell the layout."""
    rows = iter(part.rows)
    head = list(itertools.islice(rows, _SNIFF_ROWS))
    if adapter == "auto":
        readable = [row for _, row in head if not isinstance(row, BadRow)]
        adapter = next((name for name in map(sniff, readable) if name), None)
        if adapter is None and readable:
            raise KitError(f"{part.where}: holds {refusal(readable[0])}; rlhf_kit.adapters lists the layouts")
    convert = adapter_named(adapter) if adapter else None
    for place, row in itertools.chain(head, rows):
        name = part.name
        try:
            if isinstance(row, BadRow):
                raise row
            if convert is None:
                raise KitError(
                    f"{part.where}: none of the first {_SNIFF_ROWS} rows can be read, so its layout is "
                    f"unknown; name the adapter or mend the file"
                )
            own = row.get("source")
            name = own if isinstance(own, str) and own and own.isprintable() else part.name
            found: list[Pair | BadRow] = list(convert(row))
        except BadRow as bad:
            found = [bad]
        for one in found:
            yield place, name, one


class _Table:
    """Rows packed into Arrow a thousand at a time, so that Python never holds all of them."""

    def __init__(self) -> None:
        import pyarrow as pa

        turns = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
        self.schema = pa.schema(
            [
                ("prompt", turns),
                ("chosen", turns),
                ("rejected", turns),
                ("source", pa.string()),
                ("chosen_score", pa.float64()),
                ("rejected_score", pa.float64()),
                ("margin", pa.float64()),
            ]
        )
        self.rows, self.waiting, self.batches = 0, [], []
        self.content = hashlib.sha256()

    def add(self, pair: Pair, source: str) -> None:
        self.waiting.append(
            {
                "prompt": pair.chosen[:-1],
                "chosen": pair.chosen,
                "rejected": pair.rejected,
                "source": source,
                "chosen_score": pair.chosen_score,
                "rejected_score": pair.rejected_score,
                "margin": margin_of(pair),
            }
        )
        self.rows += 1
        if len(self.waiting) == 1000:
            self._pack()

    def _pack(self) -> None:
        import pyarrow as pa

        self.batches.append(pa.RecordBatch.from_pylist(self.waiting, schema=self.schema))
        self.waiting = []
        self.content.update(self.batches[-1].serialize())

    def dataset(self) -> Dataset:
        import datasets
        import pyarrow as pa

        self._pack()
        table = pa.Table.from_batches(self.batches, schema=self.schema)
        empty = [name for name in table.column_names if table[name].null_count == table.num_rows]
        table = datasets.table.InMemoryTable(table.drop_columns(empty))
        # Without a fingerprint `datasets` pickles the whole table to make one: four times its memory.
        return datasets.Dataset(table, fingerprint=self.content.hexdigest()[:16])


def _label(source: Any) -> str:
    return str(source) if isinstance(source, str | Path) else "the rows given"
