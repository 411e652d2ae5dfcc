"""The solutions notebooks, the one source of every solution, and what is written from them into the lessons.

`notebooks/solutions/NN_name.ipynb` holds cells with the same ids as the lesson's stubs (`exercise-1-answer`).
`python -m rlhf_kit.exercises` writes each solution, folded, into its lesson's task, and each task into the
solutions notebook; a test holds that nothing is left to write. With `--execute` the solutions notebooks are
executed and keep their outputs.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat

from rlhf_kit.errors import KitError
from rlhf_kit.exercises import check_mode
from rlhf_kit.files import write_text
from rlhf_kit.running import notebooks, outputs

NUMBERS = (1, 2, 3)
_FOLDED = re.compile(r"<details><summary>Solution</summary>\n\n```python\n.*?\n```\n\n</details>", re.DOTALL)


def path_of(lesson: Path) -> Path:
    """The solutions notebook of a lesson."""
    return lesson.parent / "solutions" / lesson.name


def stubs(book: nbformat.NotebookNode) -> dict[str, nbformat.NotebookNode]:
    """The answer cells of a lesson or of its solutions notebook, by id."""
    return {c.id: c for c in book.cells if re.fullmatch(r"exercise-\d-answer", c.get("id", ""))}


def to_execute(lesson: Path, parameters: Mapping[str, Any]) -> nbformat.NotebookNode:
    """A notebook as it is executed with these parameters: with EXERCISES="solution" its stubs are the solutions.

    KitError for an unknown mode, or a solution that is missing.
    """
    book = notebooks.read(lesson)
    if "EXERCISES" not in parameters:
        return book
    if check_mode(parameters["EXERCISES"], f"{lesson.stem}: EXERCISES") != "solution" or not stubs(book):
        return book
    if not path_of(lesson).is_file():
        raise KitError(f"{lesson.name} has no solutions notebook at {path_of(lesson)}")
    solved = stubs(notebooks.read(path_of(lesson)))
    for name, cell in stubs(book).items():
        if name not in solved:
            raise KitError(f"solutions/{lesson.name} has no cell with the id {name!r}")
        cell.source = solved[name].source
    return book


def agreed(lesson: Path) -> tuple[nbformat.NotebookNode, nbformat.NotebookNode]:
    """(lesson, solutions notebook) in which folded solutions and tasks agree; nothing is written.

    KitError, naming the cell, when a task has no folded solution or the solutions notebook no task.
    """
    book, solved = notebooks.read(lesson), notebooks.read(path_of(lesson))
    tasks, told = ({c.id: c for c in one.cells if c.cell_type == "markdown"} for one in (book, solved))
    for name, cell in stubs(solved).items():
        task = name.removesuffix("-answer")
        if task not in tasks or not _FOLDED.search(tasks[task].source):
            raise KitError(f"{lesson.name}: the markdown cell {task!r} with a folded solution is missing")
        if task not in told:
            raise KitError(f"solutions/{lesson.name}: the markdown cell {task!r} is missing")
        folded = f"<details><summary>Solution</summary>\n\n```python\n{cell.source}\n```\n\n</details>"
        tasks[task].source = _FOLDED.sub(lambda _, text=folded: text, tasks[task].source)
        told[task].source = tasks[task].source.split("<details>", 1)[0].strip()
    return book, solved


def agree(folder: Path = notebooks.FOLDER) -> list[Path]:
    """Writes what `agreed` gives for every lesson with a solutions notebook; returns the files that changed."""
    changed = []
    for path in sorted(folder.glob("solutions/*.ipynb")):
        lesson = folder / path.name
        for file, book in zip((lesson, path), agreed(lesson), strict=True):
            text = nbformat.writes(book).rstrip("\n") + "\n"
            if text != file.read_text(encoding="utf-8"):
                changed.append(write_text(file, text))
    return changed


def execute(path: Path) -> None:
    """Executes a solutions notebook by papermill and stores its cleaned outputs in it; KitError when a check fails."""
    import papermill

    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / path.name
        try:
            papermill.execute_notebook(
                str(path),
                str(made),
                parameters={"INTERACTIVE": False},
                cwd=str(path.parent),
                kernel_name="python3",
                language="python",
                progress_bar=False,
            )
        except papermill.PapermillExecutionError as error:
            raise KitError(f"solutions/{path.name}: {error.ename}: {error.evalue}") from None
        outputs.clean(made, path)
