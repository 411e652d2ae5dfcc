"""The pages around the lessons: the home page with claims, times and metrics, and all figures on one page."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_kit import claims
from rlhf_kit.progress import clock
from rlhf_kit.site.lesson import Figure, Lesson
from rlhf_kit.views import course_pages

THUMB = 480  # pixels: twice the width at which a small picture is shown


def picture(png: bytes, alt: str, look: str = "") -> str:
    return f'<img{look} alt="{html.escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def thumb(png: bytes) -> bytes:
    """A small copy of a figure, in few colours; the figure itself where it cannot be read as a picture."""
    from PIL import Image, UnidentifiedImageError

    out = io.BytesIO()
    try:
        image = Image.open(io.BytesIO(png)).convert("RGB")
    except (UnidentifiedImageError, OSError):
        return png
    image.thumbnail((THUMB, THUMB))
    image.quantize(64, dither=Image.Dither.NONE).save(out, "png", optimize=True)
    return out.getvalue()


def table(rows: Sequence[Sequence[Any]], head: Sequence[str], name: str) -> str:
    """A table of texts; every column but the first holds numbers."""
    line = lambda row: f"<tr><td>{html.escape(str(row[0]))}</td>" + "".join(f'<td class="num">{html.escape(str(x))}</td>' for x in row[1:])  # noqa: E731
    heads = "".join(f'<th scope="col">{html.escape(x)}</th>' for x in head)
    body = "".join(f"{line(row)}</tr>" for row in rows)
    return f'<div class="box" tabindex="0" role="region" aria-label="{name}"><table><tr>{heads}</tr>{body}</table></div>'


def claims_table(found: Sequence[Mapping], places: Mapping[str, str]) -> str:
    """The run's claims. places: claim id -> address of the cell that makes it."""
    if not found:
        return "<p>No claims were recorded.</p>"
    rows = []
    for c in found:
        name = html.escape(c["id"])
        link = f'<a href="{places[c["id"]]}">{name}</a>' if c["id"] in places else name
        note = f"<br><small>{html.escape(c['note'])}</small>" if c.get("note") else ""
        rows.append(
            f'<tr><td class="{html.escape(c["status"].split()[0])}">{html.escape(c["status"])}</td><td>{link}</td>'
            f'<td class="num">{html.escape(claims.value_text(c))}</td><td class="num">{html.escape(claims.band_text(c["band"]))}</td>'
            f"<td>{html.escape(c['statement'])}{note}</td></tr>"
        )
    heads = "".join(f'<th scope="col">{x}</th>' for x in ("status", "claim", "value", "band", "statement"))
    return f'<div class="box" tabindex="0" role="region" aria-label="claims"><table><tr>{heads}</tr>{"".join(rows)}</table></div>'


def claim_places(found: Sequence[Mapping], lessons: Sequence[Lesson], pages: Mapping[str, str]) -> dict[str, str]:
    """Claim id -> page and cell: the cell that names the claim, else the page of its lesson."""
    by_name, places = {lesson.name: lesson for lesson in lessons}, {}
    for c in found:
        lesson = by_name.get(c.get("notebook") or "")
        if lesson is None:
            continue
        cell = next((i for i, s in lesson.cells.items() if i and re.search(rf"claim\(.*[\"']{re.escape(c['id'])}[\"']", s, re.S)), None)
        places[c["id"]] = pages[lesson.name] + (f"#{cell}" if cell else "")
    return places


def lesson_cards(lessons: Sequence[Lesson], pages: Mapping[str, str], seconds: Mapping[str, float]) -> str:
    """The lessons with question, time and headings."""
    cards = []
    for lesson in lessons:
        inner = "".join(f'<li><a href="{pages[lesson.name]}#{h.anchor}">{html.escape(h.text)}</a></li>' for h in lesson.headings if h.level == 2)
        folded = f"<details><summary>sections</summary><ul>{inner}</ul></details>" if inner else ""
        time = f"<small>{clock(seconds[lesson.name])}</small>" if lesson.name in seconds else ""
        question = f"<p>{html.escape(lesson.question)}</p>" if lesson.question else ""
        cards.append(f'<li><a href="{pages[lesson.name]}"><b>{html.escape(lesson.title)}</b></a> {time}{question}{folded}</li>')
    return f'<ul class="lessons">{"".join(cards)}</ul>'


def home(
    course_figure: Figure | None,
    lessons: Sequence[Lesson],
    pages: Mapping[str, str],
    found: Sequence[Mapping],
    timings: Mapping,
    metrics: Mapping,
    links: Sequence[tuple[str, str]],
) -> str:
    """The body of index.html. links: (file, text) of the other pages."""
    counts = ", ".join(f"{n} {s}" for s in claims.STATUSES if (n := sum(c["status"] == s for c in found)))
    said = f"{len(lessons)} lessons, executed in {clock(timings['total_seconds'])}. {len(found)} claims{': ' + counts if counts else ''}."
    large = picture(course_figure.png, course_figure.alt, ' class="wide"') if course_figure else ""
    figure = f'<figure tabindex="0">{large}</figure>' if large else ""
    others = " · ".join(f'<a href="{file}">{html.escape(text)}</a>' for file, text in links)
    books = [(n, clock(s), f"{timings['peak_memory_mb'].get(n, 0) / 1024:.1f} GB") for n, s in timings["notebooks"].items()]
    books.append(("total", clock(timings["total_seconds"]), ""))
    stages = [(n, clock(s)) for n, s in sorted(timings["stages"].items(), key=lambda x: -x[1])]
    shown = [(n, f"{v:.4g}" if isinstance(v, float) else v) for n, v in metrics.items()]
    return (
        f"<h1>Online RLHF, a course you can run</h1><p>{said}</p>{figure}<p>{others}</p>"
        f'<h2 id="lessons">Lessons</h2>{lesson_cards(lessons, pages, timings["notebooks"])}'
        f'<h2 id="claims">Claims</h2>{claims_table(found, claim_places(found, lessons, pages))}'
        f'<h2 id="time">Time</h2>{table(books, ("notebook", "time", "peak memory"), "time by notebook")}'
        f"<details><summary>stages</summary>{table(stages, ('stage', 'time'), 'time by stage')}</details>"
        + (f"<details><summary>metrics</summary>{table(shown, ('metric', 'value'), 'metrics')}</details>" if shown else "")
    )


def gallery(lessons: Sequence[Lesson], pages: Mapping[str, str]) -> str:
    """The body of figures.html: every figure small, linked to its place."""
    parts = ["<h1>All figures</h1><p>Each leads to the place where it is drawn and read.</p>"]
    for lesson in lessons:
        if not lesson.figures:
            continue
        small = "".join(
            f'<li><a href="{pages[lesson.name]}#{f.anchor}">{picture(thumb(f.png), f.alt)}{html.escape(f.caption)}</a></li>'
            for f in lesson.figures
        )
        parts.append(f'<h2 id="{lesson.name}">{html.escape(lesson.title)}</h2><ul class="thumbs">{small}</ul>')
    return "".join(parts)


def course_tables(lessons: Sequence[Lesson], pages: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(file, title, body) of the glossary and of the map from the paper, linked to the cells of the lessons."""
    by_name = {lesson.name: lesson for lesson in lessons}

    def link(name: str, cell: str) -> str:
        lesson = by_name.get(name)
        if lesson is None:
            return "index.html#lessons"
        return pages[name] + (f"#{cell}" if cell in lesson.cells else "")

    box = '<div class="box" tabindex="0" role="region" aria-label="{}">{}</div>'
    words, parts = "The words of the course", "From the paper to the course"
    return [
        ("glossary.html", words, f"<h1>{words}</h1>{box.format('glossary', course_pages.glossary_html(link))}"),
        ("paper-map.html", parts, f"<h1>{parts}</h1><p>Equations, tables and sections of arXiv 2405.07863, and where this course "
         f"treats them.</p>{box.format('map from the paper', course_pages.paper_map_html(link))}"),
    ]  # fmt: skip
