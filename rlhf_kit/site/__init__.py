"""The browsable site of a run: static pages that need no server and fetch nothing.

    python -m rlhf_kit site --run laptop --out public      # the same pages in a folder of your own, for publishing

Each page is one file with its style, figures and formulas inside, and all links are relative, so the folder works
from a disk, from a server and below any path of one. Everything that a model wrote is escaped: outputs pass a
sanitizer with a fixed list of tags, names and statements `html.escape`, and a policy in each page lets no script run
but the kit's own.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from rlhf_kit.errors import KitError
from rlhf_kit.running import notebooks, which
from rlhf_kit.runs import Run, records, write_text
from rlhf_kit.site import home
from rlhf_kit.site.lesson import Figure, Lesson, render
from rlhf_kit.site.page import COURSE, GENERATOR, Entry, document

__all__ = ["build", "publish"]


def build(run: Run, out: Path | None = None) -> Path:
    """Writes the run's site (to `out`, else the run's site/) anew from its executed notebooks, claims and timings.

    Returns index.html. Pages of an earlier site that are no longer made are removed.
    """
    site = out or run.path / "site"
    results = which.results(run.path)
    timings, found = results["timings"], results["claims"]
    done = records(run, "executed")
    executed = [p for p in sorted((run.path / "notebooks").glob("[0-9]*.ipynb")) if p.stem in done]
    pages = {p.stem: f"{p.stem}.html" for p in executed}
    lessons = [render(path, pages) for path in executed]
    others = home.course_tables(lessons, pages, found)
    if any(lesson.figures for lesson in lessons):
        says = "Every figure of the run, small, each a link to the place where it is read."
        others.append(("figures.html", "All figures", says, home.gallery(lessons, pages)))
    entries = [Entry("index.html", "Home"), *[Entry(pages[x.name], x.title, x.headings, "Lessons") for x in lessons]]
    entries += [Entry(file, title, group="Look it up") for file, title, _, _ in others]
    figure = _course_figure(executed, lessons)
    body = home.home(figure, lessons, pages, found, timings, results["metrics"], [one[:3] for one in others])
    said = "RLHF Workflow (arXiv 2405.07863) as notebooks that run on two CPU cores: preferences, SFT, reward model, online DPO, claims that are checked."
    texts = {"index.html": document(COURSE, said, body, entries, "index.html", run.name)}
    for one in lessons:
        above = home.above_lesson(one, timings["notebooks"])
        texts[pages[one.name]] = document(one.title, one.description, above + one.body, entries, pages[one.name], run.name)
    texts |= {file: document(title, says, inner, entries, file, run.name) for file, title, says, inner in others}
    for file, text in texts.items():
        write_text(site / file, text)
    write_text(site / ".nojekyll", "")  # a host of static pages takes the folder as it is
    for stale in set(site.glob("*.html")) - {site / file for file in texts}:
        stale.unlink()
    return site / "index.html"


def publish(name: str, out: Path) -> Path:
    """The site of the run `name` in the folder `out`, ready to be copied to any host of static pages.

    KitError if there is no such run, it holds no executed notebooks, or `out` holds something else than an earlier site.
    """
    run = Run(name, which.existing(name), quiet=True)
    executed = [book for book in records(run, "executed") if (run.path / "notebooks" / f"{book}.ipynb").is_file()]
    if not (run.path / "timings.json").is_file() or not executed:
        raise KitError(f"run {name} holds no executed notebooks; finish it with `python -m rlhf_kit run --run {name}`")
    if out.exists() and not out.is_dir():
        raise KitError(f"--out {out} is a file; name a new folder")
    if out.is_dir() and any(out.iterdir()):
        index = out / "index.html"
        if not index.is_file() or GENERATOR not in index.read_text(encoding="utf-8", errors="replace")[:4000]:
            raise KitError(f"--out {out} holds other files; name a new or empty folder, or that of an earlier site")
    return build(run, out)


def _course_figure(executed: Sequence[Path], lessons: Sequence[Lesson]) -> Figure | None:
    """The course's figure: of the cell tagged `course-figure`, else the last lesson's first picture."""
    for path, lesson in reversed(list(zip(executed, lessons, strict=True))):
        for cell in notebooks.read(path).cells:
            if "course-figure" not in cell.metadata.get("tags", []):
                continue
            for output in cell.get("outputs", []):
                data = output.get("data", {}).get("image/png")
                png = base64.b64decode(data) if data else b""
                if figure := next((f for f in lesson.figures if f.png == png), None):
                    return figure
    return next((lesson.figures[0] for lesson in reversed(lessons) if lesson.figures), None)
