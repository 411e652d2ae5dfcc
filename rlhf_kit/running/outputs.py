"""Executed notebooks: whether they ran to their end, and their outputs stored in a lesson with the key of their code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat

from rlhf_kit.running.notebooks import read
from rlhf_kit.runs import stable_hash, write_text


def _place(cells: list, cell: Any) -> str:
    """Which cell of the source notebook this is; the injected parameters are not counted."""
    code = [
        c for c in cells if c.cell_type == "code" and "injected-parameters" not in c.metadata.get("tags", [])
    ]
    if cell not in code:
        return "the injected parameters"
    lines = [x for x in cell.source.splitlines() if x.strip() and not x.lstrip().startswith("#")] or [
        "(empty)"
    ]
    return f"code cell {code.index(cell) + 1} of {len(code)}, which begins `{lines[0].strip()[:70]}`"


def what_went_wrong(path: Path) -> str | None:
    """None if every code cell of an executed notebook ran without an error; else one sentence naming the
    cell.

    papermill's own status is not asked: after a killed kernel it calls every cell completed.
    """
    if not path.is_file():
        return "nothing was executed"
    cells = read(path).cells
    code = [c for c in cells if c.cell_type == "code" and c.source.strip()]
    for cell in code:
        for output in cell.outputs:
            if output.output_type == "error":
                value = re.sub(r"\x1b\[[0-9;]*m", "", output.evalue).strip().splitlines() or [""]
                return f"{output.ename} in {_place(cells, cell)}: {value[0][:300]}"
    # papermill gives a start time to exactly those cells that it began
    begun = [c for c in code if c.metadata.get("papermill", {}).get("start_time")]
    unfinished = [c for c in code if c.execution_count is None]
    if unfinished:
        cell = begun[-1] if begun else unfinished[0]
        return f"the kernel died in {_place(cells, cell)}"
    return None if code else "it has no code cells"


def died_in(path: Path) -> str | None:
    """The cell that was running when the kernel died, from the start times that papermill left."""
    if not path.is_file():
        return None
    cells = read(path).cells
    begun = [c for c in cells if c.cell_type == "code" and c.metadata.get("papermill", {}).get("start_time")]
    return _place(cells, begun[-1]) if begun else None


def clean(executed: Path, target: Path) -> None:
    """Stores an executed notebook as a lesson: without injected parameters, papermill and widget metadata, with the key
    of the code that made its outputs."""
    book = read(executed)
    book.metadata = nbformat.from_dict(
        {k: v for k, v in book.metadata.items() if k in ("kernelspec", "language_info")}
    )
    book.metadata["kernelspec"] = nbformat.from_dict(
        {"display_name": "Python 3", "language": "python", "name": "python3"}
    )
    book.metadata["language_info"] = nbformat.from_dict({"name": "python"})
    book.cells = [c for c in book.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    book.metadata["rlhf_kit"] = nbformat.from_dict({"executed_sources": sources_key(book)})
    count = 0
    for cell in book.cells:
        keep = ("tags", "jupyter", "editable", "deletable", "slideshow")
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in keep and v})
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        kept = []
        for output in cell.outputs:
            data = output.get("data", {})
            if output.output_type == "stream" and output.name == "stderr":
                continue
            widget = data.pop("application/vnd.jupyter.widget-view+json", None)
            if widget and set(data) <= {"text/plain"}:  # a progress bar, of which only its first line would stay
                continue
            if output.output_type in ("display_data", "execute_result") and not data:
                continue
            if "execution_count" in output:
                output.execution_count = count
            if output.output_type == "stream" and kept and kept[-1].output_type == "stream":
                kept[-1].text += output.text  # where a kernel flushes is chance: a line may come in two pieces
                continue
            kept.append(output)
        cell.outputs = kept
    write_text(target, nbformat.writes(book) + "\n")


def sources_key(book: nbformat.NotebookNode) -> str:
    """Key of a notebook's code, without injected parameters and the cell that holds a published copy's address."""
    skipped = {"injected-parameters", "colab"}
    return stable_hash(
        [c.source for c in book.cells if c.cell_type == "code" and not skipped & set(c.metadata.get("tags", []))]
    )


def stored_key(book: nbformat.NotebookNode) -> str | None:
    """The key of the code that made a lesson's stored outputs; None if it was never stored by `clean`.

    It equals `sources_key` unless the code was changed since: then `make notebooks` is due.
    """
    return book.metadata.get("rlhf_kit", {}).get("executed_sources")
