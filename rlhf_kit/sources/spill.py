"""Many rows as one `datasets.Dataset` without holding them: Arrow batches in memory, beyond a limit in a temporary file."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

IN_MEMORY = 256 * 2**20  # bytes of packed rows
_BATCH = 1000  # rows


def turns_type() -> pa.DataType:
    """A list of {role, content}."""
    import pyarrow as pa

    return pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


class RowTable:
    """Rows packed into Arrow a thousand at a time, so that Python never holds all of them.

    Beyond IN_MEMORY bytes they go to a file, which is read from there page by page and deleted when Python ends.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.schema, self.rows, self.size = schema, 0, 0
        self.waiting: list[Mapping[str, Any]] = []
        self.batches: list[pa.RecordBatch] = []
        self.used: set[str] = set()  # columns that are not null everywhere
        self.content = hashlib.sha256()
        self.path: str | None = None
        self.writer: Any = None

    def add(self, row: Mapping[str, Any]) -> None:
        self.waiting.append(row)
        self.rows += 1
        if len(self.waiting) == _BATCH:
            self._pack()

    def _pack(self) -> None:
        import pyarrow as pa

        batch = pa.RecordBatch.from_pylist(self.waiting, schema=self.schema)
        self.waiting = []
        self.content.update(batch.serialize())
        self.used |= {name for name in self.schema.names if batch[name].null_count < batch.num_rows}
        self.size += batch.nbytes
        if self.writer is None and self.size > IN_MEMORY:
            self._spill()
        if self.writer is None:
            self.batches.append(batch)
        else:
            self.writer.write_batch(batch)

    def _spill(self) -> None:
        import pyarrow as pa

        folder = tempfile.mkdtemp(prefix="rlhf-kit-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        self.path = str(Path(folder, "rows.arrow"))
        self.writer = pa.ipc.new_stream(self.path, self.schema)
        for batch in self.batches:
            self.writer.write_batch(batch)
        self.batches = []

    def dataset(self) -> Dataset:
        """All rows, without the columns that are null in every row."""
        import datasets
        import pyarrow as pa

        self._pack()
        empty = [name for name in self.schema.names if name not in self.used]
        if self.writer is None:
            table = pa.Table.from_batches(self.batches, schema=self.schema)
            table = datasets.table.InMemoryTable(table.drop_columns(empty))
        else:
            self.writer.close()
            table = datasets.table.MemoryMappedTable.from_file(self.path).drop(empty)
        # Without a fingerprint `datasets` pickles the whole table to make one: four times its memory.
        return datasets.Dataset(table, fingerprint=self.content.hexdigest()[:16])
