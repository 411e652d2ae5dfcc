"""The course's glossary, its numbers and its map from the paper: data files, shown in lessons, on the site and as Markdown.

    python -m rlhf_kit.views.course_pages      # writes notebooks/GLOSSARY.md and notebooks/PAPER_MAP.md anew

The data lie in data/course; where a lesson moves a cell, the Markdown pages follow with the command above.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from rlhf_kit.errors import KitError
from rlhf_kit.files import PROJECT, write_text
from rlhf_kit.views.tables import show_html

DATA, LESSONS = PROJECT / "data" / "course", PROJECT / "notebooks"
_HEADING = re.compile(r"^#{1,3} +(.+)$", re.M)
Link = Callable[[str, str], str]  # (lesson, cell id) -> address


@dataclass(frozen=True)
class Term:
    """A word of the course. `word` is what its cell calls it, where that is neither the term nor an alias."""

    term: str
    means: str
    lesson: str
    cell: str
    also: str = ""
    word: str = ""
    symbol: str = ""
    unit: str = ""


@dataclass(frozen=True)
class Part:
    """A part of the paper, where the course treats it, with which functions and which claim (None: none)."""

    part: str
    what: str
    lesson: str
    cell: str
    functions: tuple[str, ...]
    claim: str | None
    reports: str
    deviation: str


@dataclass(frozen=True)
class Metric:
    """A number that lessons print: what it is, which way is better, and what it does not mean."""

    metric: str
    means: str
    better: str
    misread: str
    unit: str
    lesson: str
    cell: str


def glossary(path: Path = DATA / "glossary.yaml") -> list[Term]:
    """All terms in the order of the alphabet. KitError names the entry with a missing, unknown or doubled field."""
    found = _read(path, Term)
    names = [one.term.casefold() for one in found]
    for name in names:
        if names.count(name) > 1:
            raise KitError(f"{path.name} has the term {name!r} twice; keep one of them")
    return sorted(found, key=lambda one: one.term.casefold())


def paper_map(path: Path = DATA / "paper_map.yaml") -> list[Part]:
    """All parts of the paper in the file's order. KitError as for `glossary`."""
    return _read(path, Part)


def metrics(path: Path = DATA / "metrics.yaml") -> list[Metric]:
    """All metrics in the file's order. KitError as for `glossary`."""
    return _read(path, Metric)


def _read(path: Path, kind: type) -> list:
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise KitError(f"{path} cannot be read ({str(error).splitlines()[0]}); it must be a YAML list") from None
    known = {field.name: field for field in fields(kind)}
    needed = [name for name, field in known.items() if field.default is MISSING]
    made = []
    for number, row in enumerate(rows or [], 1):
        if not isinstance(row, dict):
            raise KitError(f"{path.name}, entry {number}: is no mapping of fields to texts")
        wrong = sorted(set(row) - set(known)) + [name for name in needed if name not in row]
        if wrong:
            raise KitError(f"{path.name}, entry {number}: field {wrong[0]!r} is unknown or missing; an entry has {', '.join(known)}")
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
        not_text = [name for name, value in values.items() if not isinstance(value, str | tuple) and not (name == "claim" and value is None)]
        if not_text:
            raise KitError(f"{path.name}, entry {number}: {not_text[0]!r} must be text; put it into quotes")
        made.append(kind(**values))
    return made


# ---------------------------------------------------------------- places in the lessons


@lru_cache(maxsize=1)
def _cells(folder: Path = LESSONS) -> dict[tuple[str, str], tuple[str, str]]:
    """(lesson, cell id) -> (the heading above the cell, its text; none of code)."""
    import nbformat

    found = {}
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        heading = path.stem
        for cell in nbformat.read(path, as_version=4).cells:
            found[path.stem, cell.id] = heading, cell.source if cell.cell_type == "markdown" else ""
            if cell.cell_type == "markdown":
                heading = (_HEADING.findall(cell.source) or [heading])[-1]
    return found


def place(lesson: str, cell: str, names: Iterable[str] = ()) -> str:
    """Where a cell (in it, the first of `names`) stands, in words: "02, What the model really sees".

    KitError where there is no such cell.
    """
    try:
        heading, source = _cells()[lesson, cell]
    except KeyError:
        raise KitError(f"lesson {lesson} has no cell {cell!r}; correct the entry in data/course") from None
    at = min((source.lower().find(name.lower()) for name in names if name and name.lower() in source.lower()), default=1)
    above = [match[1] for match in _HEADING.finditer(source) if match.start() < max(1, at)]
    heading = re.sub(r"^\d+\s*[·.]\s*", "", re.sub(r"[`*_]", "", above[-1] if above else heading))
    return f"{lesson[:2]}, {heading.strip()}"


def _place_of(one: Term | Part | Metric) -> str:
    if isinstance(one, Term) and (one.lesson, one.cell) in _cells():
        return place(one.lesson, one.cell, [*re.split(" and ", one.term), *(text.strip() for text in one.also.split(",")), one.word])
    return place(one.lesson, one.cell)


def _on_github(lesson: str, cell: str) -> str:
    return f"{lesson}.ipynb"


def _on_site(lesson: str, cell: str) -> str:
    return f"{lesson}.html#{cell}"


# ---------------------------------------------------------------- Markdown, for readers of the repository


HEAD = "<!-- Made from data/course by `python -m rlhf_kit.views.course_pages`; change the data, not this page. -->\n\n"


def glossary_markdown(link: Link = _on_github) -> str:
    """The page notebooks/GLOSSARY.md."""
    lines = [f"{HEAD}# The words of the course\n", f"{len(glossary())} words, each with the lesson that introduces it.\n"]
    lines += ["| word | what it means | symbol, unit | lesson |", "|---|---|---|---|"]
    for one in glossary():
        name = f"**{_cell(one.term)}**" + (f" ({_cell(one.also)})" if one.also else "")
        sign = ", ".join(_cell(text) for text in (one.symbol, one.unit) if text)
        lines.append(f"| {name} | {_cell(one.means)} | {sign} | {_markdown_link(one, link)} |")
    lines += ["", "## The numbers", "", "| number | what it is | better | what it does not mean | unit | lesson |", "|---|---|---|---|---|---|"]
    for one in metrics():
        texts = (f"**{_cell(one.metric)}**", *(_cell(text) for text in (one.means, one.better, one.misread, one.unit)))
        lines.append(f"| {' | '.join(texts)} | {_markdown_link(one, link)} |")
    return "\n".join(lines) + "\n"


def paper_map_markdown(link: Link = _on_github) -> str:
    """The page notebooks/PAPER_MAP.md."""
    lines = [f"{HEAD}# From the paper to the course\n",
             "Equations, tables, figures and sections are those of arXiv 2405.07863, version 3. The claims are in `data/expected/claims.yaml`; "
             "a run ends with their table.\n",
             "| paper | what it says | lesson | function | claim | the paper reports | here |", "|---|---|---|---|---|---|---|"]  # fmt: skip
    for one in paper_map():
        functions = ", ".join(f"`{name}`" for name in one.functions)
        claim = f"`{one.claim}`" if one.claim else "none"
        lines.append(f"| {_cell(one.part)} | {_cell(one.what)} | {_markdown_link(one, link)} | {functions} | {claim} | {_cell(one.reports)} "
                     f"| {_cell(one.deviation)} |")  # fmt: skip
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """A text of ours as a cell of a table; it may hold `code`."""
    return text.replace("|", "\\|")


def _markdown_link(one: Term | Part | Metric, link: Link) -> str:
    return f"[{_cell(_place_of(one))}]({link(one.lesson, one.cell)})"


# ---------------------------------------------------------------- HTML, for the site and for lessons


def glossary_html(link: Link | None = _on_site) -> str:
    """The glossary as a table without page around it. link: (lesson, cell) -> address, or None for no links."""
    rows = [[f'<dfn id="{_anchor(one.term)}">{_text(one.term)}</dfn>' + (f" ({_text(one.also)})" if one.also else ""), _text(one.means),
             ", ".join(_text(text) for text in (one.symbol, one.unit) if text), _html_link(one, link)] for one in glossary()]  # fmt: skip
    return _table(["word", "what it means", "symbol, unit", "lesson"], rows)


def metrics_html(link: Link | None = _on_site) -> str:
    """The metrics as a table without page around it."""
    rows = [[f"<b>{_text(one.metric)}</b><br><small>{_text(one.unit)}</small>", *(_text(text) for text in (one.means, one.better, one.misread)),
             _html_link(one, link)] for one in metrics()]  # fmt: skip
    return _table(["number, unit", "what it is", "better", "what it does not mean", "lesson"], rows)


def paper_map_html(link: Link | None = _on_site, lesson: str | None = None, claim_link: Callable[[str], str | None] | None = None) -> str:
    """The map as a table without page around it; of one lesson where it is named. claim_link: claim id -> address, None for no link."""
    rows = [[f"<b>{_text(one.part)}</b><br>{_text(one.what)}", _where(one, link, claim_link), _text(one.reports), _text(one.deviation)]
            for one in paper_map() if lesson in (None, one.lesson)]  # fmt: skip
    return _table(["the paper says", "lesson, functions, claim", "the paper reports", "here"], rows)


def _where(one: Part, link: Link | None, claim_link: Callable[[str], str | None] | None) -> str:
    """Lesson, functions and claim below one another: side by side they would need a very wide page."""
    lines = [_html_link(one, link), *(f"<code>{_text(name)}</code>" for name in one.functions)]
    if one.claim:
        address, name = claim_link(one.claim) if claim_link else None, f"<code>{_text(one.claim)}</code>"
        lines.append("claim " + (f'<a href="{html.escape(address)}">{name}</a>' if address else name))
    return "<br>".join(lines)


def show_glossary() -> None:
    """Displays the words and the numbers of the course in a notebook, folded."""
    show_html(f"<details><summary>The words of the course ({len(glossary())})</summary>{glossary_html(_on_github)}</details>")
    show_html(f"<details><summary>The numbers, and what they do not mean ({len(metrics())})</summary>{metrics_html(_on_github)}</details>")


def show_paper_map(lesson: str | None = None) -> None:
    """Displays the map in a notebook, folded; of one lesson where it is named."""
    show_html(f"<details><summary>From the paper to the course</summary>{paper_map_html(_on_github, lesson)}</details>")


def _text(value: Any) -> str:
    """Escaped, with `code` as <code>."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(str(value)))


def _anchor(term: str) -> str:
    return "term-" + re.sub(r"[^a-z0-9]+", "-", term.lower()).strip("-")


def _html_link(one: Term | Part | Metric, link: Link | None) -> str:
    where = _text(_place_of(one))
    return where if link is None else f'<a href="{html.escape(link(one.lesson, one.cell))}">{where}</a>'


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


# ---------------------------------------------------------------- the pages as files


PAGES = {"GLOSSARY.md": glossary_markdown, "PAPER_MAP.md": paper_map_markdown}


def write_pages(folder: Path = LESSONS) -> list[Path]:
    """Writes the Markdown pages anew."""
    made = {name: make() for name, make in PAGES.items()}  # all or none
    return [write_text(folder / name, text) for name, text in made.items()]


if __name__ == "__main__":
    for made in write_pages():
        print(made.relative_to(PROJECT))
