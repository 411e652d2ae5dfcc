"""Plain files: stable hashes and seeds, writing that is never half done, Parquet rows, locks, paths."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlhf_kit.errors import KitError

try:
    import fcntl
except ImportError:  # Windows: the kit runs there under WSL; without fcntl there is simply no lock
    fcntl = None

PROJECT = Path(__file__).resolve().parent.parent


def tool(name: str) -> str:
    """A program as the reader types it in the project's folder: .venv/bin/NAME where Python runs from there, else NAME."""
    own = Path(sys.prefix).resolve() == (PROJECT / ".venv").resolve()
    return f".venv/bin/{name}" if own else name


# ---------------------------------------------------------------- keys and seeds


def plain(value: Any) -> Any:
    """`value` as JSON-able data; KitError for what has no stable text form."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(v) for v in value), key=str)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "model_dump"):  # a pydantic section of the profile
        return plain(value.model_dump())
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return plain(value.tolist())
    raise KitError(f"a value of type {type(value).__name__} cannot be part of a content key; pass plain data")


def stable_hash(*parts: Any, length: int = 12) -> str:
    """The first `length` hex digits of the SHA-256 of the parts' canonical JSON; equal on every machine."""
    text = json.dumps([plain(p) for p in parts], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def derive_seed(seed: int, *names: Any) -> int:
    """A 31-bit seed that depends on `seed` and the names, so that two stages never share a noise stream."""
    return int(stable_hash(int(seed), *[str(n) for n in names], length=16), 16) % (2**31 - 1)


@lru_cache(maxsize=512)
def _file_hash(path: str, mtime: float, size: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def file_hash(path: str | Path) -> str:
    """16 hex digits of the SHA-256 of a file's bytes."""
    stat = os.stat(path)
    return _file_hash(str(path), stat.st_mtime, stat.st_size)


def code_hash(code: Sequence[Any]) -> str:
    """Hash of the source files of modules, packages (all their .py files) or paths, by file name."""
    parts = []
    for item in code:
        path = Path(item if isinstance(item, str | Path) else item.__file__)
        if path.name == "__init__.py":
            parts += [
                [str(p.relative_to(path.parent)), file_hash(p)] for p in sorted(path.parent.rglob("*.py"))
            ]
        else:
            parts.append([path.name, file_hash(path)])
    return stable_hash(sorted(parts))


# ---------------------------------------------------------------- writing, never by halves


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary sibling of `path` that takes its place when the block ends without an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")  # threads may write one file
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> Path:
    """Writes UTF-8 text through a temporary sibling; `path` is either the old or the whole new file."""
    path = Path(path)
    with _replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _json_default(value: Any) -> Any:
    try:
        return plain(value)
    except KitError as error:
        raise TypeError(str(error)) from None


def write_json(path: str | Path, obj: Any) -> Path:
    """Writes `obj` as JSON through a temporary sibling: a reader sees the old file or the whole new one."""
    return write_text(path, json.dumps(obj, indent=1, ensure_ascii=False, default=_json_default) + "\n")


def read_json(path: str | Path) -> Any:
    """Reads JSON; KitError naming the file when it is missing or broken."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise KitError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise KitError(f"{path} is not valid JSON ({error})") from None


def write_rows(folder: str | Path, rows: Any, file: str = "rows.parquet") -> Path:
    """Writes rows (dicts, or a datasets.Dataset) to `folder/file` as Parquet; missing keys become null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(folder) / file
    if hasattr(rows, "data") and hasattr(rows, "features"):
        rows = rows.flatten_indices() if rows._indices is not None else rows
        table = rows.data.table
    else:
        columns: dict[str, None] = {}
        for row in rows:
            columns.update(dict.fromkeys(row))
        table = pa.Table.from_pylist([{c: row.get(c) for c in columns} for row in rows])
    with _replacing(path) as temporary:
        pq.write_table(table, temporary)
    return path


def read_rows(path: str | Path) -> Any:
    """The rows of a Parquet file as an in-memory `datasets.Dataset`; nothing goes to a cache folder."""
    import pyarrow.parquet as pq
    from datasets import Dataset
    from datasets.table import InMemoryTable

    path = Path(path)
    if not path.is_file():
        raise KitError(f"{path} does not exist")
    return Dataset(InMemoryTable(pq.read_table(path).replace_schema_metadata(None)))


# ---------------------------------------------------------------- locks


@contextlib.contextmanager
def locked(path: str | Path, what: str, wait: bool = True) -> Iterator[None]:
    """Holds an exclusive lock on a file; the system releases it when the process dies, however it dies.

    With `wait` it says once who holds the lock and waits; without, it raises KitError naming the holder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as handle:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                holder = handle.read().strip() or "another process"
                if not wait:
                    raise KitError(f"{what} is held by {holder}; wait for it or end it") from None
                print(f"{what} is held by {holder}; waiting", flush=True)
                fcntl.flock(handle, fcntl.LOCK_EX)
        handle.seek(0)
        handle.truncate()
        since = datetime.datetime.now().strftime("%H:%M:%S")
        handle.write(f"process {os.getpid()} on {socket.gethostname()} since {since}\n")
        handle.flush()
        try:
            yield
        finally:
            handle.seek(0)
            handle.truncate()
            handle.flush()


# ---------------------------------------------------------------- paths


def shown(path: Path) -> str:
    """`path` relative to the working folder or the project where possible, for messages."""
    for base in (Path.cwd(), PROJECT):
        with contextlib.suppress(ValueError):
            return str(path.relative_to(base))
    return str(path)


def project_path(path: str | Path) -> Path:
    """A relative path as found from the working folder, else from the project's root."""
    path = Path(path).expanduser()
    return path if path.is_absolute() or path.exists() else PROJECT / path
