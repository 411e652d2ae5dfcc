"""The lessons as pages: cards, sizes, figures with words, headings, links; what is true of every lesson and readable on GitHub.

Their form as notebooks is tests/test_notebooks.py's, clean outputs tests/test_stored_outputs.py's, the README tests/test_readme.py's.
"""

from __future__ import annotations

import ast
import builtins
import re
import statistics
from urllib.parse import unquote

import nbformat
import pytest
import yaml

from rlhf_kit.running import cards, notebooks
from rlhf_kit.runs import PROJECT

PATHS = sorted(notebooks.FOLDER.glob("[0-9][0-9]_*.ipynb"))
BOOKS = {path.stem: nbformat.read(path, 4) for path in PATHS}
TIMINGS = yaml.safe_load(cards.TIMINGS.read_text(encoding="utf-8"))
CLAIMS = {c["id"] for c in yaml.safe_load((PROJECT / "data/expected/claims.yaml").read_text(encoding="utf-8"))}
OPENING = ["The question", "Afterwards you can", "You need", "Time", "Paper", "What is simplified here"]
every_lesson = pytest.mark.parametrize("lesson", list(BOOKS))


def texts(lesson: str) -> list[str]:
    return [cell.source for cell in BOOKS[lesson].cells if cell.cell_type == "markdown"]


def codes(lesson: str) -> list[str]:
    return [cell.source for cell in BOOKS[lesson].cells if cell.cell_type == "code" and cell.id != "colab-setup"]


def headings(lesson: str) -> list[tuple[int, str]]:
    """(level, words) in order; lines of code in a cell of text are no headings."""
    plain = "\n".join(re.sub(r"```.*?```", "", text, flags=re.S) for text in texts(lesson))
    return [(len(marks), words.strip()) for marks, words in re.findall(r"^(#+) (.+)$", plain, re.M)]


def lesson_body(lesson: str) -> list:
    """The lesson without its exercises, the set-up for Colab and the cell that ends it."""
    body, exercises = [], False
    for cell in BOOKS[lesson].cells:
        if cell.cell_type == "markdown":
            for _, words in re.findall(r"^(##) (.+)$", cell.source, re.M):
                exercises = words.startswith("Exercises")
        if not exercises and cell.id != "colab-setup":
            body.append(cell)
    return body


# ---------------------------------------------------------------- cards


@every_lesson
def test_it_opens_with_its_card(lesson):
    first = BOOKS[lesson].cells[0]
    assert first.cell_type == "markdown" and first.source.startswith(f"# {lesson[:2]} · ")
    assert re.findall(r"^\| \*\*(.+?)\*\* \| .+ \|$", first.source, re.M) == OPENING
    assert len(first.source.split("| | |")[0].split()) > 20  # a few words of welcome before the table
    assert "2405.07863" in first.source


@every_lesson
def test_the_time_in_its_card_is_the_measured_one(lesson):
    assert lesson in TIMINGS["laptop"]
    assert cards.ROW.findall(BOOKS[lesson].cells[0].source) == [cards.time_row(lesson, TIMINGS)]


@every_lesson
def test_it_closes_with_its_card(lesson):
    last = texts(lesson)[-1]
    card = last.split("## Closing card\n", 1)[1]
    saw, rest = card.split("**What to try:**")
    assert saw.strip().startswith("**What you saw**") and len(re.findall(r"^- ", saw, re.M)) == 3
    assert not re.search(r"\d\.\d|\d ?%", saw), "numbers of a run belong into claims and printed lines"
    following = str((int(lesson[:2]) + 1) % len(BOOKS)).zfill(2)
    assert re.search(rf"\*\*Next:\*\* .*\({following}_\w+\.ipynb\)", rest)
    assert headings(lesson)[-1] == (2, "Closing card")


@every_lesson
def test_claims_named_in_words_exist(lesson):
    for text in texts(lesson):
        for listed in re.findall(r"[Cc]laims? ((?:`[a-z0-9-]+`(?:, | and )?)+)", text):
            assert set(re.findall(r"`([a-z0-9-]+)`", listed)) <= CLAIMS


@every_lesson
def test_something_is_broken_on_purpose(lesson):
    assert any(re.search(r"(###? |\*\*)Break it on purpose", text) for text in texts(lesson))


# ---------------------------------------------------------------- sizes


@every_lesson
def test_sizes(lesson):
    lines = [len([line for line in source.splitlines() if line.strip()]) for source in codes(lesson)]
    assert max(lines) <= 30 and statistics.median(lines) <= 10
    assert 30 <= len(lesson_body(lesson)) <= 45


@pytest.mark.parametrize("path", [*PATHS, *sorted((notebooks.FOLDER / "solutions").glob("*.ipynb"))], ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_code_fits_the_page(path):
    """88 characters stand beside JupyterLab's file browser and on the site without scrolling."""
    wide = [line for cell in nbformat.read(path, 4).cells if cell.cell_type == "code" for line in cell.source.splitlines() if len(line) > 88]
    assert not wide, f"{len(wide)} lines, the first: {wide[0]}"


def _names(source: str) -> tuple[set[str], set[str]]:
    """(names that a cell makes, in whatever scope; names that it reads)."""
    made, read = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            made.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            made |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return made, read


@every_lesson
def test_every_name_is_made_above_its_use(lesson):
    """A cell that was moved, or whose neighbour was rewritten, says so here and not after minutes of running."""
    known = {*dir(builtins), "get_ipython"}
    for cell in BOOKS[lesson].cells:
        if cell.cell_type == "code":
            made, read = _names(cell.source)
            known |= made
            assert read <= known, (cell.id, sorted(read - known))


@every_lesson
def test_the_kit_is_imported_before_what_reads_its_settings(lesson):
    """PyTorch reads GOMP_SPINCOUNT and the hub's library its switches when they are imported; the kit sets them."""
    found = re.findall(r"^(?:from|import) (rlhf_kit|torch|trl|datasets|transformers|peft)\b", "\n".join(codes(lesson)), re.M)
    assert found[0] == "rlhf_kit"


# ---------------------------------------------------------------- figures


def figures(lesson: str) -> list[tuple[str, dict, dict]]:
    """(cell id, data, what the output says of its picture)."""
    return [(cell.id, output.data, output.get("metadata", {}).get("image/png", {}))
            for cell in BOOKS[lesson].cells if cell.cell_type == "code"
            for output in cell.outputs if "image/png" in output.get("data", {})]  # fmt: skip


@every_lesson
def test_at_least_four_figures(lesson):
    assert len(figures(lesson)) >= 4


@every_lesson
def test_every_figure_has_its_words(lesson):
    found = figures(lesson)
    for cell, data, said in found:
        alt = said.get("alt", "")
        assert len(alt) > 20 and data["text/plain"] == alt, f"{cell} has no text alternative; execute it again with `make notebooks`"
        assert not alt.startswith("A figure without a title"), cell


# ---------------------------------------------------------------- headings and links


@every_lesson
def test_headings_are_unique_and_in_order(lesson):
    found = headings(lesson)
    assert found[0][0] == 1 and [level for level, _ in found].count(1) == 1
    assert all(after <= before + 1 for (before, _), (after, _) in zip(found, found[1:], strict=False))
    words = [text for _, text in found]
    assert len(words) == len(set(words)), [text for text in words if words.count(text) > 1]
    numbers = [int(n) for level, text in found if level == 2 for n in re.findall(r"^(\d+)\. ", text)]
    assert numbers == list(range(1, len(numbers) + 1))


def _links(text: str) -> list[str]:
    without_code = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.S)
    return re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", without_code)


@every_lesson
def test_links_inside_the_repository_lead_somewhere(lesson):
    for link in [link for text in texts(lesson) for link in _links(text)]:
        path, _, _ = unquote(link).partition("#")
        assert not path or (notebooks.FOLDER / path).exists(), link


@pytest.mark.parametrize("page", sorted(notebooks.FOLDER.glob("*.md")), ids=lambda path: path.name)
def test_links_of_the_pages_lead_somewhere(page):
    for link in _links(page.read_text(encoding="utf-8")):
        assert (notebooks.FOLDER / unquote(link).partition("#")[0]).exists(), link


# ---------------------------------------------------------------- the row of times


def test_times_are_stamped_and_do_not_count_for_the_key(tmp_path):
    times = tmp_path / "timings.yaml"
    times.write_text("laptop: {00_start_here: 3725}\nsmoke: {00_start_here: 9}\n")
    copy = tmp_path / PATHS[0].name
    copy.write_bytes(PATHS[0].read_bytes())
    before = notebooks.content_key(notebooks.load(copy), {})
    assert cards.stamp(tmp_path, times) == [copy] and cards.stamp(tmp_path, times) == []
    text = nbformat.read(copy, 4).cells[0].source
    assert "| **Time** | laptop 1:02:05, smoke 0:09 (" in text
    assert notebooks.content_key(notebooks.load(copy), {}) == before
    assert cards.time_row("99_none", {"laptop": {}}).startswith("| **Time** | not measured yet")


def test_a_card_without_its_row_is_named(tmp_path):
    from rlhf_kit.errors import KitError

    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# 00")])
    nbformat.write(book, tmp_path / "00_bare.ipynb")
    with pytest.raises(KitError, match="00_bare.ipynb: its first cell has no row"):
        cards.stamp(tmp_path)
