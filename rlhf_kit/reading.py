"""Rows out of files, folders, data sets and the hub, one at a time, each with its place ("line 17", "row 3").

Nothing here knows what a preference is. A row that cannot be read comes out as a `BadRow` in its place, so
that the caller decides whether to stop or to count it; a source that cannot be opened at all raises
`KitError`. JSONL, Parquet and CSV are streamed; a JSON array has to be held in memory once. A copy of a hub data set
(`data/train-00000-of-00006.parquet`, or a README that lists configs) is read as the hub's own client would: of its
splits only the one that is asked for.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import lzma
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from rlhf_kit import hub
from rlhf_kit.errors import KitError
from rlhf_kit.fields import BadRow, kind_of

_TEXT_KINDS = (".jsonl", ".ndjson", ".csv", ".json")
_PACKED = (".gz", ".xz")
SUFFIXES = (".parquet", *_TEXT_KINDS, *(kind + packed for packed in _PACKED for kind in _TEXT_KINDS))
_NOT_DATA = {"manifest.json", "dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json"}
_BOM = b"\xef\xbb\xbf"
_LINE_LIMIT = 64 * 2**20  # bytes; a "line" longer than this is some other kind of file
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}")
_SPLIT_NAME = re.compile(r"(^|[^a-z])(train|training|test|testing|validation|valid|val|dev|eval)([^a-z]|$)")


class Part(NamedTuple):
    """One file or table of a source.

    `rows` yields (place, row or BadRow), once; places count from 1. `where` is the path, for messages.
    """

    name: str
    rows: Iterable[tuple[str, Mapping[str, Any] | BadRow]]
    where: str


def open_source(
    source: Any,
    *,
    split: str | None = None,
    subset: str | None = None,
    data_dir: str | None = None,
    streaming: bool = False,
) -> list[Part]:
    """The parts of `source`: a file, a folder, a `datasets` object, a list of dicts, a hub id "owner/name".

    `split`, `subset` and `data_dir` choose inside a hub data set, a folder copied from the hub, and (`split`) a
    DatasetDict; without `split` it is "train", or the only one there is. streaming: rows of the hub come as they are
    asked for and nothing is kept on disk; else the set is downloaded to the cache first. Raises KitError where nothing
    readable is found; files themselves are opened only when their rows are asked for.
    """
    if isinstance(source, str | Path):
        text = os.path.expanduser(str(source))
        if os.path.isdir(text):
            return _folder(Path(text, data_dir or ""), split, subset)
        if os.path.exists(text):
            return [_file(Path(text))]
        if is_hub_id(source):
            rows = _from_hub(str(source), split or "train", subset, data_dir, streaming)
            return [Part(str(source), rows, str(source))]
        raise KitError(
            f"{source}: no such file or folder; give a file ({', '.join(SUFFIXES[:2])}, ...), a folder "
            f"or a hub id such as owner/name"
        )
    if isinstance(source, list | tuple):
        return [Part("rows", _numbered(lambda: source), "the rows")]
    if isinstance(source, Mapping):
        return _from_splits(source, split, "the DatasetDict")
    if hasattr(source, "__iter__") and hasattr(source, "features"):  # a Dataset or an IterableDataset
        return [Part("dataset", _numbered(lambda: source), "the data set")]
    raise KitError(
        f"preferences can be read from a path, a hub id, a datasets.Dataset or a list of dicts, "
        f"not from {type(source).__name__}"
    )


def is_hub_id(source: Any) -> bool:
    """Whether a text has the form of a hub id and not that of a data file's path."""
    return (
        isinstance(source, str) and bool(_HUB_ID.fullmatch(source)) and not source.lower().endswith(SUFFIXES)
    )


def _chosen_split(splits: Mapping[str, Any], split: str | None, what: str) -> str:
    """The split asked for; without one "train", or the only one."""
    if split is None:
        split = next(iter(splits)) if len(splits) == 1 else "train"
    if split not in splits:
        names = ", ".join(repr(str(name))[:40] for name in itertools.islice(splits, 8))
        raise KitError(f"{what} has no split {split!r} (it has: {names}); pass split=")
    return split


def _from_splits(splits: Mapping[str, Any], split: str | None, what: str) -> list[Part]:
    split = _chosen_split(splits, split, what)
    chosen = splits[split]
    if isinstance(chosen, list | tuple) or hasattr(chosen, "features"):
        return open_source(chosen)
    raise KitError(f"{what}: split {split!r} is no list of rows; pass a list of dicts or a datasets.Dataset")


def _from_hub(name: str, split: str, subset: str | None, data_dir: str | None, streaming: bool) -> Iterator:
    hub.require(name)
    import datasets

    options = {"data_dir": data_dir} if data_dir else {}
    if streaming:
        options["streaming"] = True
    number = 0
    try:
        for number, row in enumerate(datasets.load_dataset(name, subset, split=split, **options), start=1):
            yield f"row {number}", _as_row(row)
    except Exception as error:  # the hub's client has many: offline, no such id or split, gated, a script
        told = hub.explain(error, name)
        raise KitError(f"{told} (after row {number})" if number else str(told)) from error


def _folder(folder: Path, split: str | None, subset: str | None) -> list[Part]:
    if not folder.is_dir():
        raise KitError(f"{folder}: no such folder")
    if (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():
        import datasets

        try:
            saved = datasets.load_from_disk(str(folder))
        except Exception as error:
            raise KitError(f"{folder}: looks like a saved data set but cannot be loaded ({error})") from error
        if isinstance(saved, Mapping):
            return _from_splits(saved, split, str(folder))
        return [Part(folder.name, _numbered(lambda: saved), str(folder))]
    files = _data_files(folder)
    if subset is not None or (folder / "README.md").is_file() or any(
        _SPLIT_NAME.search(str(path.relative_to(folder)).lower()) for path in files
    ):  # fmt: skip
        files = _as_the_hub(folder, split, subset)
    elif split not in (None, "train"):
        raise KitError(f"{folder} has no split {split!r}: no file in it is named after a split")
    kinds = sorted({_kind(path) for path in files})
    if "parquet" in kinds and "json" in kinds:  # the .json beside Parquet describe it, as in a stage's folder
        kinds.remove("json")
    if not files:
        raise KitError(f"{folder}: no data file in this folder (known: {', '.join(SUFFIXES)})")
    if len(kinds) > 1:
        raise KitError(
            f"{folder}: holds {' and '.join(kinds)} files side by side, perhaps the same rows twice; "
            f"name one file, or keep one kind in the folder"
        )
    return [_file(path) for path in files if _kind(path) in kinds]


def _data_files(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name.lower().endswith(SUFFIXES)
        and path.name not in _NOT_DATA
        and not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    ]


def _as_the_hub(folder: Path, split: str | None, subset: str | None) -> list[Path]:
    """The files of one split as `datasets` finds them: by a README's configs, or by the names of files and folders."""
    import datasets

    try:
        with tempfile.TemporaryDirectory() as cache:  # it would leave a lock there
            builder = datasets.load_dataset_builder(str(folder.resolve()), subset, cache_dir=cache)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise KitError(f"{folder}: cannot be read as a copy of a hub data set ({reason})") from error
    found = {str(name): [Path(str(file)) for file in files] for name, files in builder.config.data_files.items()}
    return found[_chosen_split(found, split, str(folder))]


def _kind(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz").removesuffix(".xz")
    return {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".json": "json"}.get(
        os.path.splitext(name)[1], ""
    )


def _file(path: Path) -> Part:
    readers = {"parquet": _parquet, "jsonl": _jsonl, "csv": _csv, "json": _json}
    kind = _kind(path)
    if kind not in readers:
        raise KitError(f"{path}: unknown kind of file; known: {', '.join(SUFFIXES)}")
    return Part(path.name, _guarded(path, readers[kind]), str(path))


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
            yield f"line {number}", _as_row(text if isinstance(text, BadRow) else _parse(text))


def _json(path: Path) -> Iterator:
    """A JSON array of objects; a file named .json that begins with an object holds one object a line."""
    with _open(path) as handle:
        start = handle.read(4096).removeprefix(_BOM).lstrip()
    if start.startswith(b"{"):
        yield from _jsonl(path)
        return
    with _open(path) as handle:
        data = handle.read().removeprefix(_BOM)
    try:
        rows = _parse(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        rows = BadRow("not_utf8", f"is not UTF-8 text (line {data.count(10, 0, error.start) + 1})")
    if isinstance(rows, BadRow):
        raise KitError(f"{path}: {rows}; a JSON array can only be read whole, so mend the file")
    if not isinstance(rows, list):
        raise KitError(f"{path}: expected an array of objects, or one object a line; found {kind_of(rows)}")
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", _as_row(row)


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


def _numbered(rows: Callable[[], Iterable[Any]]) -> Iterator:
    for number, row in enumerate(rows(), start=1):
        yield f"row {number}", _as_row(row)


def _as_row(row: Any) -> Mapping[str, Any] | BadRow:
    if isinstance(row, Mapping | BadRow):
        return row
    return BadRow("wrong_type", f"is {kind_of(row)} where an object with named fields is expected")
