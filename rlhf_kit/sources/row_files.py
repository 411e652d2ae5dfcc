"""Rows out of one file, one at a time, each with its place ("line 17", "row 3"): JSONL, JSON, CSV, Parquet, packed or not.

A row that cannot be read comes out as a `BadRow` in its place; a file that cannot be read on raises `KitError`. JSONL,
Parquet and CSV are streamed; a JSON array has to be held in memory once.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from rlhf_kit.errors import KitError
from rlhf_kit.sources.fields import BadRow, kind_of

_TEXT_KINDS = (".jsonl", ".ndjson", ".csv", ".json")
_PACKED = (".gz", ".xz")
SUFFIXES = (".parquet", *_TEXT_KINDS, *(kind + packed for packed in _PACKED for kind in _TEXT_KINDS))
_BOM = b"\xef\xbb\xbf"
_LINE_LIMIT = 64 * 2**20  # bytes; a "line" longer than this is some other kind of file


def file_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any] | BadRow]]:
    """(place, row or BadRow) of every row; KitError at once for a kind of file that is none of SUFFIXES."""
    readers = {"parquet": _parquet, "jsonl": _jsonl, "csv": _csv, "json": _json}
    kind = file_kind(path)
    if kind not in readers:
        raise KitError(f"{path}: unknown kind of file; known: {', '.join(SUFFIXES)}")
    return _guarded(path, readers[kind])


def file_kind(path: Path) -> str:
    """parquet, jsonl, csv or json; "" for any other file."""
    name = path.name.lower().removesuffix(".gz").removesuffix(".xz")
    return {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".json": "json"}.get(
        os.path.splitext(name)[1], ""
    )


def _guarded(path: Path, reader: Callable[[Path], Iterator]) -> Iterator:
    """The reader's rows, with the errors of the operating system and of gzip made readable."""
    place = "the beginning"
    try:
        for place, row in reader(path):
            yield place, row
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise KitError(
            f"{path}: cannot be read beyond {place} ({error or type(error).__name__}); "
            f"copy or download the file again"
        ) from error


def _lines(path: Path) -> Iterator[tuple[int, str | BadRow]]:
    """(1-based line number, text or BadRow) of every line, blank ones too, without a byte order mark."""
    with _open(path) as handle:
        for number, raw in enumerate(iter(lambda: handle.readline(_LINE_LIMIT + 1), b""), start=1):
            if len(raw) > _LINE_LIMIT:
                raise KitError(
                    f"{path}, line {number}: longer than {_LINE_LIMIT >> 20} MiB; this is not one row a line"
                )
            if number == 1:
                raw = raw.removeprefix(_BOM)
            try:
                yield number, raw.decode("utf-8")
            except UnicodeDecodeError as error:
                yield number, BadRow("not_utf8", f"is not UTF-8 text (byte {error.start + 1} of the line)")


def _open(path: Path) -> IO[bytes]:
    name = path.name.lower()
    return (
        gzip.open(path, "rb") if name.endswith(".gz")
        else lzma.open(path, "rb") if name.endswith(".xz") else open(path, "rb")
    )  # fmt: skip


def _parse(text: str) -> Any:
    """JSON, or BadRow: broken, too deeply nested, or with a number too long for Python."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        return BadRow("corrupt_row", f"is not valid JSON ({error.msg} at {where})")
    except (ValueError, RecursionError) as error:
        return BadRow("corrupt_row", f"is not usable JSON ({type(error).__name__})")


def _jsonl(path: Path) -> Iterator:
    for number, text in _lines(path):
        if isinstance(text, BadRow) or text.strip():  # blank lines are no rows
            yield f"line {number}", as_row(text if isinstance(text, BadRow) else _parse(text))


def _json(path: Path) -> Iterator:
    """A JSON array of objects. A file named .json that begins with an object holds one object a line, or one object
    with the array in it, as LMFlow's {"type": ..., "instances": [...]}."""
    with _open(path) as handle:
        start = handle.read(4096).removeprefix(_BOM).lstrip()
    if start.startswith(b"{"):
        first = next((text for _, text in _lines(path) if isinstance(text, BadRow) or text.strip()), "")
        row = first if isinstance(first, BadRow) else _parse(first)
        whole = _whole_json(path) if isinstance(row, BadRow) else row
        inside = [v for v in whole.values() if isinstance(v, list)] if isinstance(whole, dict) else []
        if whole is row and not (isinstance(row, dict) and isinstance(row.get("instances"), list)):
            yield from _jsonl(path)
            return
        if isinstance(whole, BadRow):  # lines, of which the first one is broken
            yield from _jsonl(path)
            return
        if len(inside) != 1:
            keys = ", ".join(repr(str(key))[:40] for key in itertools.islice(whole, 6))
            raise KitError(
                f"{path}: holds one JSON object ({keys}), which is no table; expected an array of objects, or one "
                "object a line"
            )
        rows = inside[0]
    else:
        rows = _whole_json(path)
    if isinstance(rows, BadRow):
        raise KitError(f"{path}: {rows}; a JSON array can only be read whole, so mend the file")
    if not isinstance(rows, list):
        raise KitError(f"{path}: expected an array of objects, or one object a line; found {kind_of(rows)}")
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", as_row(row)


def _whole_json(path: Path) -> Any:
    with _open(path) as handle:
        data = handle.read().removeprefix(_BOM)
    try:
        return _parse(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadRow("not_utf8", f"is not UTF-8 text (line {data.count(10, 0, error.start) + 1})")


def _csv(path: Path) -> Iterator:
    csv.field_size_limit(max(csv.field_size_limit(), _LINE_LIMIT))  # the default, 128 KiB, is short

    def texts() -> Iterator[str]:
        for number, text in _lines(path):
            if isinstance(text, BadRow):  # a cell may run over lines, so one line cannot be left out
                raise KitError(f"{path}, line {number}: {text}; save the file as UTF-8")
            yield text

    reader = csv.DictReader(texts())  # a record may run over lines: its place is its last line
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise KitError(f"{path}, line {reader.line_num}: not valid CSV ({error})") from error
        if row is None:
            return
        if None in row:
            yield f"line {reader.line_num}", BadRow("corrupt_row", "has more cells than the header")
        else:
            yield f"line {reader.line_num}", {key: value for key, value in row.items() if value is not None}


def _parquet(path: Path) -> Iterator:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (pa.ArrowException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise KitError(f"{path}: not a readable Parquet file beyond row {number} ({reason})") from error


def numbered(rows: Callable[[], Iterable[Any]]) -> Iterator:
    for number, row in enumerate(rows(), start=1):
        yield f"row {number}", as_row(row)


def as_row(row: Any) -> Mapping[str, Any] | BadRow:
    if isinstance(row, Mapping | BadRow):
        return row
    return BadRow("wrong_type", f"is {kind_of(row)} where an object with named fields is expected")
