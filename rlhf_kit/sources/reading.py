"""Rows out of files, folders, data sets and the hub, one at a time, each with its place ("line 17", "row 3").

Nothing here knows what a preference is. A row that cannot be read comes out as a `BadRow` in its place, so
that the caller decides whether to stop or to count it; a source that cannot be opened at all raises
`KitError`. JSONL, Parquet and CSV are streamed; a JSON array has to be held in memory once. A copy of a hub data set
(`data/train-00000-of-00006.parquet`, or a README that lists configs) is read as the hub's own client would: of its
splits only the one that is asked for.
"""

from __future__ import annotations

import itertools
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_kit import hub
from rlhf_kit.errors import KitError
from rlhf_kit.sources.fields import BadRow
from rlhf_kit.sources.row_files import SUFFIXES, as_row, file_kind, file_rows, numbered

_NOT_DATA = {"manifest.json", "dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json"}
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
    revision: str | None = None,
    streaming: bool = False,
) -> list[Part]:
    """The parts of `source`: a file, a folder, a `datasets` object, a list of dicts, a hub id "owner/name".

    `split`, `subset` and `data_dir` choose inside a hub data set, a folder copied from the hub, and (`split`) a
    DatasetDict; without `split` it is "train", or the only one there is. revision: a branch of the hub. streaming: rows of the hub come as they are
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
            asked = {"data_dir": data_dir, "revision": revision, "streaming": streaming}
            rows = _from_hub(str(source), split or "train", subset, {k: v for k, v in asked.items() if v})
            return [Part(str(source), rows, str(source))]
        raise KitError(
            f"{source}: no such file or folder; give a file ({', '.join(SUFFIXES[:2])}, ...), a folder "
            f"or a hub id such as owner/name"
        )
    if isinstance(source, list | tuple):
        return [Part("rows", numbered(lambda: source), "the rows")]
    if isinstance(source, Mapping):
        return _from_splits(source, split, "the DatasetDict")
    if hasattr(source, "__iter__") and hasattr(source, "features"):  # a Dataset or an IterableDataset
        return [Part("dataset", numbered(lambda: source), "the data set")]
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


def _from_hub(name: str, split: str, subset: str | None, options: Mapping[str, Any]) -> Iterator:
    hub.require(name)
    import datasets

    number = 0
    try:
        for number, row in enumerate(datasets.load_dataset(name, subset, split=split, **options), start=1):
            yield f"row {number}", as_row(row)
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
        return [Part(folder.name, numbered(lambda: saved), str(folder))]
    files = _data_files(folder)
    if subset is not None or (folder / "README.md").is_file() or any(
        _SPLIT_NAME.search(str(path.relative_to(folder)).lower()) for path in files
    ):  # fmt: skip
        files = _as_the_hub(folder, split, subset)
    elif split not in (None, "train"):
        raise KitError(f"{folder} has no split {split!r}: no file in it is named after a split")
    kinds = sorted({file_kind(path) for path in files})
    if "parquet" in kinds and "json" in kinds:  # the .json beside Parquet describe it, as in a stage's folder
        kinds.remove("json")
    if not files:
        raise KitError(f"{folder}: no data file in this folder (known: {', '.join(SUFFIXES)})")
    if len(kinds) > 1:
        raise KitError(
            f"{folder}: holds {' and '.join(kinds)} files side by side, perhaps the same rows twice; "
            f"name one file, or keep one kind in the folder"
        )
    return [_file(path) for path in files if file_kind(path) in kinds]


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
    if subset is None and not (folder / "README.md").is_file():
        in_a_split = {path.resolve() for files in found.values() for path in files}
        stray = next((path for path in _data_files(folder) if path.resolve() not in in_a_split), None)
        if stray is not None:
            raise KitError(
                f"{folder}: {stray.relative_to(folder)} belongs to no split, but others do ({', '.join(found)}); name "
                "one file, or name all of them after their splits"
            )
    return found[_chosen_split(found, split, str(folder))]


def _file(path: Path) -> Part:
    return Part(path.name, file_rows(path), str(path))
