"""The outputs stored in the lessons: clean, made by the code that stands above them, and fit to be shown."""

from __future__ import annotations

import io
import re

import nbformat
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from rlhf_kit.running import notebooks, outputs
from rlhf_kit.site.lesson import render

PATHS = sorted(notebooks.FOLDER.glob("[0-9][0-9]_*.ipynb"))
# An absolute path of some machine, and what an object prints that has no words of its own.
TRACES = re.compile(r"(?<![\w.:/<])/(?:home|root|tmp|var|opt|work|mnt|Users|private|content|usr)/\w|[A-Z]:\\\\\w|\bat 0x[0-9a-f]{6,}|\x1b\[")


def texts(output) -> str:
    """All that an output says in words; pictures are not words."""
    said = [output.get("text", ""), output.get("evalue", "")]
    said += [str(v) for k, v in output.get("data", {}).items() if k.startswith("text/")]
    return "\n".join(said)


def faults(book) -> list[str]:
    """What a stored lesson may not hold, one sentence each."""
    found = [f"metadata {k}" for k in book.metadata if k not in ("kernelspec", "language_info", "rlhf_kit")]
    found += ["the kernel of one machine"] * (book.metadata.kernelspec.name != "python3")
    for cell in book.cells:
        place = f"cell {cell.id}"
        found += [f"{place}: metadata {k}" for k in cell.metadata if k not in ("tags", "jupyter", "editable", "deletable", "slideshow")]
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                found.append(f"{place}: an error")
            if output.get("name") == "stderr":
                found.append(f"{place}: stderr")
            found += [f"{place}: output {k}" for k in output.get("data", {}) if "widget" in k or "javascript" in k]
            found += [f"{place}: {m.group()!r} in an output" for m in TRACES.finditer(texts(output))]
    return found


def stale(books) -> list[str]:
    """Lessons whose code is not the code that made their outputs. As long as no lesson has a key, none is judged."""
    keys = {name: outputs.stored_key(book) for name, book in books.items()}
    return [name for name, key in keys.items() if any(keys.values()) and key != outputs.sources_key(books[name])]


@pytest.fixture(scope="module")
def books():
    return {path.stem: nbformat.read(path, 4) for path in PATHS}


@pytest.mark.parametrize("name", [p.stem for p in PATHS])
def test_stored_outputs_are_clean(books, name):
    assert not faults(books[name])


def test_stored_outputs_are_current(books):
    assert all(map(outputs.stored_key, books.values()))
    assert not stale(books), f"`make notebooks` is due: the code of {', '.join(stale(books))} was changed after its outputs were made"


def test_counts_run_through_where_outputs_are_current(books):
    for name, book in books.items():
        if outputs.stored_key(book):
            counts = [c.execution_count for c in book.cells if c.cell_type == "code"]
            assert counts == list(range(1, len(counts) + 1)), name


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_a_stored_lesson_renders(path):
    lesson = render(path, {p.stem: f"{p.stem}.html" for p in PATHS})
    assert len(lesson.figures) >= 3 and lesson.title[:2] == path.stem[:2] and lesson.question
    for figure in lesson.figures:
        image = Image.open(io.BytesIO(figure.png))
        image.load()
        assert image.size[0] > 200 and len(image.convert("L").getcolors(256)) > 1, f"{figure.anchor} shows nothing"
    soup = BeautifulSoup(lesson.body, "html.parser")
    assert not [c.get_text() for c in soup.select("code.tex")], "a formula that the site cannot draw"
    words = [f.alt for f in lesson.figures]
    assert all(words) and (not outputs.stored_key(notebooks.read(path)) or not [w for w in words if "(in the section" in w])


def test_a_change_after_the_execution_is_found(tmp_path):
    """What `clean` stores is judged current; an edited, a new and a removed cell are found, and so is a key that is missing."""
    code = nbformat.v4.new_code_cell
    cells = [nbformat.v4.new_markdown_cell("# 00"), code("PROFILE = 'smoke'", metadata={"tags": ["injected-parameters"]}),
             code("address = ''", metadata={"tags": ["colab"]}), code("x = 1"), code("x")]  # fmt: skip
    cells[3].outputs = [nbformat.v4.new_output("stream", name="stderr", text="noise"), nbformat.v4.new_output("stream", text="in /home/me/x\n")]
    cells[4].outputs = [nbformat.v4.new_output("stream", text=part) for part in ("one line in", " two pieces\n", "another\n")]
    cells[3].metadata["execution"] = {"iopub.status.busy": "now"}
    book = nbformat.v4.new_notebook(cells=cells, metadata={"widgets": {}, "papermill": {}, "kernelspec": {"name": "mine", "display_name": "Mine"}})
    nbformat.write(book, tmp_path / "executed.ipynb")
    stored = {}
    for name in ("00", "01"):
        outputs.clean(tmp_path / "executed.ipynb", tmp_path / "stored.ipynb")
        stored[name] = nbformat.read(tmp_path / "stored.ipynb", 4)
    assert not stale(stored) and faults(stored["00"]) == [f"cell {cells[3].id}: '/home/m' in an output"]
    assert [o.text for o in stored["00"].cells[3].outputs] == ["one line in two pieces\nanother\n"]
    assert len(faults(nbformat.from_dict({**book}))) >= 5
    stored["01"].cells[1].source = "address = 'of a published copy'"
    assert not stale(stored)
    for change in (lambda b: b.cells[2].update(source="x = 2"), lambda b: b.cells.pop(2), lambda b: b.cells.append(code("new")),
                   lambda b: b.metadata.pop("rlhf_kit")):  # fmt: skip
        changed = nbformat.read(tmp_path / "stored.ipynb", 4)
        change(changed)
        assert stale({"00": stored["00"], "01": changed}) == ["01"]


def test_a_progress_bar_is_not_stored_and_a_figure_beside_a_widget_is(tmp_path):
    view, bar, picture = "application/vnd.jupyter.widget-view+json", "Converting:   0%|          | 0/38", "iVBORw0KGgo="
    shown = [{view: {"model_id": "1"}, "text/plain": bar}, {view: {"model_id": "2"}, "text/plain": "a slider", "image/png": picture}, {"text/plain": "a value"}]
    cell = nbformat.v4.new_code_cell("convert()", outputs=[nbformat.v4.new_output("display_data", data=data) for data in shown])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": {"name": "x", "display_name": "X"}}), tmp_path / "executed.ipynb")
    outputs.clean(tmp_path / "executed.ipynb", tmp_path / "stored.ipynb")
    (stored,) = nbformat.read(tmp_path / "stored.ipynb", 4).cells
    assert [output.data for output in stored.outputs] == [{"text/plain": "a slider", "image/png": picture}, {"text/plain": "a value"}]
