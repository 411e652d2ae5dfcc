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

LEDE = (
    "The recipe of <em>RLHF Workflow: From Reward Modeling to Online RLHF</em> "
    '(<a href="https://arxiv.org/abs/2405.07863">arXiv 2405.07863</a>) as notebooks over a thin package: preferences, supervised '
    "fine-tuning (SFT), a reward model, then round after round of sampling, ranking and direct preference optimisation (DPO). "
    "The code is in the lessons, and every finding is a number that the run checks."
)
CLAIMS = (
    "A claim is a finding with a number. Its band was written down before the run that it judges. It <em>holds</em> inside the band; it is "
    "<em>inconclusive</em> where the interval covers &ldquo;no effect&rdquo;, or where the profile has no band; it is <em>outside</em> where it misses "
    "the band; <em>not reproduced here</em> was declared, with the reason."
)
FIGURE = (
    "Truth is the gold utility of the pocket world, where the worth of any answer can be computed. The proxy is the learned reward, all that "
    "training sees. The price is the distance from the SFT policy."
)
RUN_IT = (
    "<p>Linux or macOS with git, make and Python 3.11 to 3.13; no GPU. In a copy of the repository:</p>"
    '<div class="input_area"><pre>make tutorial     # the whole course headlessly, about 15 minutes on two cores\n'
    "make lab          # the lessons in JupyterLab, where nine figures answer back</pre></div>"
)
# The recipe in a row: lesson, name, what happens. Those of REPEATED are done again with the newest policy.
STEPS = (
    ("01", "Preferences", "pairs of answers, each with a verdict"),
    ("02", "SFT", "a first policy from demonstrations"),
    ("03", "Reward model", "learns the verdicts"),
    ("06", "Sample and rank", "n answers a prompt; best against worst"),
    ("07", "DPO", "trains the policy on those pairs"),
    ("08", "Again", "with the newest policy"),
    ("09", "Evaluate", "better, by whose verdict, at what price"),
)
REPEATED = {"06", "07", "08"}
GAIN = "of 10 points"
# The claims that tell the story: unit, and what the number says.
STORY = {
    "rm-accuracy-fresh": ("of pairs", "The reward model agrees with the truth on fresh samples of the policy"),
    "bon-gold-rises": (GAIN, "Gold utility gained by the best of 8 samples by reward, without training"),
    "gold-rises-each-iteration-t1": (GAIN, "Gold utility gained by the least of the online iterations, at temperature 1"),
    "online-beats-offline": (GAIN, "Gold utility of online above offline DPO, one thing changed: the mean of recorded seeds, not this run"),
}
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


def verdict(status: str) -> str:
    """A claim's status as a mark that does not speak by its colour alone."""
    return f'<span class="verdict {html.escape(status.split()[0])}">{html.escape(status)}</span>'


def claims_table(found: Sequence[Mapping], places: Mapping[str, str]) -> str:
    """The run's claims, each row with an anchor. places: claim id -> address of the cell that makes it."""
    if not found:
        return "<p>No claims were recorded.</p>"
    rows = []
    for c in found:
        name = html.escape(c["id"])
        link = f'<a href="{places[c["id"]]}">{name}</a>' if c["id"] in places else name
        note = f"<br>{html.escape(c['note'])}" if c.get("note") else ""
        rows.append(
            f'<tr id="claim-{name}"><td>{verdict(c["status"])}</td><td>{html.escape(c["statement"])}<br><small>{link}{note}</small></td>'
            f'<td class="num" data-label="value">{html.escape(claims.value_text(c))}</td>'
            f'<td class="num" data-label="band">{html.escape(claims.band_text(c["band"]))}</td></tr>'
        )
    heads = "".join(f'<th scope="col"{x}</th>' for x in (">verdict", ">claim", ' class="num">value, 95 % interval', ' class="num">band'))
    return f'<div class="box" tabindex="0" role="region" aria-label="claims"><table class="claims"><tr>{heads}</tr>{"".join(rows)}</table></div>'


def findings(found: Sequence[Mapping], places: Mapping[str, str]) -> str:
    """The claims that tell the story, as large numbers; "" where the run made none of them."""
    by_id, cards = {c["id"]: c for c in found if c.get("value") is not None}, []
    for name, (unit, says) in STORY.items():
        if name not in by_id:
            continue
        c = by_id[name]
        sign = "+" if c["value"] > 0 and unit == GAIN else ""
        between = "95 % interval {:.2f} to {:.2f}".format(*c["interval"]) if c.get("interval") else "no interval"
        link = f'<a href="{places[name]}">{html.escape(says)}</a>' if name in places else html.escape(says)
        cards.append(f'<li>{verdict(c["status"])}<b>{sign}{c["value"]:.2f}</b> <small>{html.escape(unit)}</small><p>{link}</p><small>{between}</small></li>')
    return f'<ul class="findings">{"".join(cards)}</ul>' if cards else ""


def steps(pages: Mapping[str, str]) -> str:
    """The recipe as a row of steps, each a link to its lesson where the run has it."""
    by_number, parts = {name[:2]: page for name, page in pages.items()}, []
    for number, name, says in STEPS:
        inner = f"<b>{name}</b><small>{says}</small>"
        link = f'<a href="{by_number[number]}">{inner}</a>' if number in by_number else f"<span>{inner}</span>"
        parts.append(f'<li{" class=again" if number in REPEATED else ""}>{link}</li>')
    return f'<ol class="steps" aria-label="The recipe">{"".join(parts)}</ol>'


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
        time = f'<small class="time">{clock(seconds[lesson.name])}</small>' if lesson.name in seconds else ""
        question = f"<p>{html.escape(lesson.question)}</p>" if lesson.question else ""
        cards.append(f'<li>{time}<a href="{pages[lesson.name]}"><b>{html.escape(lesson.title)}</b></a>{question}{folded}</li>')
    return f'<ul class="lessons">{"".join(cards)}</ul>'


def above_lesson(lesson: Lesson, seconds: Mapping[str, float]) -> str:
    """The line above a lesson's title: the notebook that it is, and its time in this run."""
    time = f" · {clock(seconds[lesson.name])} in this run" if lesson.name in seconds else ""
    return f'<p class="above"><a href="index.html#lessons">Lessons</a> · <code>notebooks/{html.escape(lesson.name)}.ipynb</code>{time}</p>'


def home(
    course_figure: Figure | None,
    lessons: Sequence[Lesson],
    pages: Mapping[str, str],
    found: Sequence[Mapping],
    timings: Mapping,
    metrics: Mapping,
    others: Sequence[tuple[str, str, str]],
) -> str:
    """The body of index.html. others: (file, title, one sentence) of the pages beside the lessons."""
    places = claim_places(found, lessons, pages)
    counts = ", ".join(f"{n} {s}" for s in claims.STATUSES if (n := sum(c["status"] == s for c in found)))
    drawn = ""
    if course_figure:
        told = f"<details><summary>the figure in words</summary>{html.escape(course_figure.alt)}</details>"
        caption = f"{html.escape(course_figure.caption)}. {FIGURE if 'gold' in course_figure.alt else ''}{told}"
        drawn = f'<figure tabindex="0">{picture(course_figure.png, course_figure.alt, " class=wide")}<figcaption>{caption}</figcaption></figure>'
    cards = "".join(f'<li><a href="{file}"><b>{html.escape(name)}</b></a><p>{html.escape(says)}</p></li>' for file, name, says in others)
    told = findings(found, places)
    begin = f'<a class="button" href="{pages[lessons[0].name]}">Begin with the first lesson</a> ' if lessons else ""
    return (
        f'<div class="hero"><h1>Online RLHF, a course you can run</h1><p class="lede">{LEDE}</p>'
        f'<p>{begin}<a href="#claims">What was found</a> · <a href="#run-it">Run it yourself</a></p></div>{steps(pages)}'
        + (f'<h2 id="story">The story in one figure</h2>{drawn}' if drawn else "")
        + (f'<h2 id="findings">What this run found</h2>{told}' if told else "")
        + f'<h2 id="lessons">Lessons</h2><p>{len(lessons)} notebooks, executed in {clock(timings["total_seconds"])} (minutes:seconds) in this run. '
        f"The time on each card is that notebook's.</p>{lesson_cards(lessons, pages, timings['notebooks'])}"
        f'<h2 id="claims">Claims</h2><p>{len(found)} claims{": " + counts if counts else ""}. {CLAIMS}</p>{claims_table(found, places)}'
        f'<h2 id="look-it-up">Look it up</h2><ul class="lessons">{cards}</ul>'
        f'<h2 id="run-it">Run it yourself</h2>{RUN_IT}'
        f'<h2 id="time">This run in numbers</h2>{_run_in_numbers(timings, metrics)}'
    )


def _run_in_numbers(timings: Mapping, metrics: Mapping) -> str:
    books = [(n, clock(s), f"{timings['peak_memory_mb'].get(n, 0) / 1024:.1f} GB") for n, s in timings["notebooks"].items()]
    books.append(("total", clock(timings["total_seconds"]), ""))
    stages = [(n, clock(s)) for n, s in sorted(timings["stages"].items(), key=lambda x: -x[1])]
    # Rows of a table are the lessons' and the report's to show: in one cell they would be metres wide.
    shown = [(n, f"{v:.4g}" if isinstance(v, float) else v) for n, v in metrics.items() if isinstance(v, int | float | str)]
    fold = "<details><summary>{}</summary>{}</details>".format
    return (
        fold("time and memory by notebook", table(books, ("notebook", "time, min:s", "peak memory"), "time by notebook"))
        + fold("time by stage", table(stages, ("stage", "time, min:s"), "time by stage"))
        + (fold("metrics", table(shown, ("metric", "value"), "metrics")) if shown else "")
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


def course_tables(lessons: Sequence[Lesson], pages: Mapping[str, str], found: Sequence[Mapping] = ()) -> list[tuple[str, str, str, str]]:
    """(file, title, one sentence, body) of the pages to look things up in, linked to lessons and claims of the run."""
    by_name, made = {lesson.name: lesson for lesson in lessons}, {c["id"] for c in found}

    def link(name: str, cell: str) -> str:
        lesson = by_name.get(name)
        if lesson is None:
            return "index.html#lessons"
        return pages[name] + (f"#{cell}" if cell in lesson.cells else "")

    def claim_link(name: str) -> str | None:
        return f"index.html#claim-{name}" if name in made else None

    parts = [
        ("glossary.html", "Glossary: the words of the course",
         "What each term of RLHF means here, with its symbol or unit and the lesson that introduces it.", course_pages.glossary_html(link)),
        ("metrics.html", "The numbers, and what they do not mean",
         "Each metric that the lessons print: what it is, which way is better, and how it is misread.", course_pages.metrics_html(link)),
        ("paper-map.html", "From the paper to the code",
         "Equations, tables and sections of arXiv 2405.07863: lesson, function, claim, and where this course deviates.",
         course_pages.paper_map_html(link, claim_link=claim_link)),
    ]  # fmt: skip
    box = '<h1>{}</h1><p>{}</p><div class="box find" tabindex="0" role="region" aria-label="{}">{}</div>'.format
    return [(file, title, says, box(html.escape(title), html.escape(says), html.escape(title), body)) for file, title, says, body in parts]
