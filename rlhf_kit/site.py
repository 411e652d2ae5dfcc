"""The browsable site of a run: static pages that need no server and fetch nothing.

Everything that a model wrote is escaped: notebook outputs pass nbconvert's sanitizer, names and statements
`html.escape`. Formulas become small SVG images where matplotlib's mathtext can draw them, and stay TeX
elsewhere.
"""

from __future__ import annotations

import base64
import html
import io
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlhf_kit import claims
from rlhf_kit.progress import clock
from rlhf_kit.running import notebooks
from rlhf_kit.runs import Run, read_json, records, write_text

STYLE = """
body{font:16px/1.55 system-ui,sans-serif;max-width:56rem;
margin:0 auto;padding:1rem 1.2rem 4rem;color:#1b1f24;background:#fff}
nav{display:flex;justify-content:space-between;gap:1rem;
border-bottom:1px solid #d5dae0;padding:.4rem 0;margin-bottom:1rem}
a{color:#0b57a4} h1,h2,h3{line-height:1.25} img,svg{max-width:100%;height:auto}
pre,code{font:13px/1.45 ui-monospace,monospace}
pre{overflow-x:auto;margin:0;padding:.5rem .7rem;white-space:pre-wrap}
.jp-CodeCell .jp-InputArea,.highlight{background:#f5f7f9;border-radius:4px} .jp-Cell,.cell{margin:.7rem 0}
.jp-InputPrompt,.jp-OutputPrompt,.prompt,.anchor-link{display:none}
table{border-collapse:collapse;font-size:14px;display:block;overflow-x:auto}
td,th{border-bottom:1px solid #d5dae0;padding:.25rem .6rem;text-align:left;vertical-align:top}
.holds{color:#0b6b3a}.outside{color:#b00020;font-weight:600}.inconclusive{color:#8a5a00}.not{color:#555}
.num{text-align:right;font-variant-numeric:tabular-nums} details{margin:.6rem 0}
"""

# What text may hold after sanitizing: prose, tables and plain marks; no script, frame, form or event attribute.
TAGS = (
    "a abbr b blockquote br caption code col colgroup dd del details div dl dt em figcaption figure h1 h2 h3 h4 h5 h6 "
    "hr i img kbd li mark ol p pre s small span strong sub summary sup table tbody td tfoot th thead tr u ul"
).split()
ATTRIBUTES = {
    "*": ["class", "title", "style", "align", "colspan", "rowspan", "scope", "open"],
    "a": ["href"],
    "img": ["src", "alt", "width", "height"],
}
STYLES = (
    "background background-color border border-bottom border-left border-radius border-right border-top color display "
    "font-family font-size font-style font-weight height margin margin-left margin-top max-width padding text-align "
    "vertical-align white-space width"
).split()


def _page(title: str, body: str, nav: str = "", style: str = "") -> str:
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<style>{STYLE}{style}</style></head>\n<body>{nav}\n{body}\n</body></html>\n"
    )


# ---------------------------------------------------------------- formulas


@lru_cache(maxsize=2048)
def _formula(tex: str, display: bool) -> str | None:
    """An <img> of a TeX formula, or None where mathtext does not know a command in it."""
    from matplotlib import mathtext
    from matplotlib.font_manager import FontProperties

    image = io.BytesIO()
    try:
        depth = mathtext.math_to_image(
            f"${' '.join(tex.split())}$",
            image,
            format="svg",
            prop=FontProperties(size=13 if display else 11.5),
        )
    except (ValueError, RuntimeError):
        return None
    data = base64.b64encode(image.getvalue()).decode()
    place = "display:block;margin:.8rem auto" if display else f"vertical-align:{-depth / 72 * 1.0:.3f}in"
    return (
        f'<img alt="{html.escape(tex, quote=True)}" style="{place}" src="data:image/svg+xml;base64,{data}">'
    )


def _formulas(page: str) -> str:
    """Draws $...$ and $$...$$ in the text of a page, leaving code and attributes alone."""

    def draw(match: re.Match) -> str:
        display = match.group(1) is not None
        source = match.group(1) if display else match.group(2)
        return _formula(html.unescape(source).strip(), display) or match.group(0)

    formula = re.compile(r"\$\$(.+?)\$\$|(?<![\\\w$])\$(?!\s)([^$<>\n]+?)(?<![\s\\])\$(?!\w)", re.S)
    parts = re.split(r"(<pre.*?</pre>|<code.*?</code>|<[^>]+>)", page, flags=re.S)
    return "".join(p if p.startswith("<") else formula.sub(draw, p) for p in parts)


# ---------------------------------------------------------------- pages


def _clean(page: str) -> str:
    """HTML with the tags, attributes and styles above; everything else is escaped and so shown as text."""
    import bleach
    from bleach.css_sanitizer import CSSSanitizer

    styles = CSSSanitizer(allowed_css_properties=STYLES)
    protocols = {*bleach.ALLOWED_PROTOCOLS, "data"}
    return bleach.clean(
        str(page), tags=set(TAGS), attributes=ATTRIBUTES, css_sanitizer=styles, protocols=protocols
    )


def _render(path: Path) -> tuple[str, str]:
    """(title, HTML) of an executed notebook: its first heading and its cells."""
    from nbconvert import HTMLExporter

    book = notebooks.read(path)
    book.cells = [c for c in book.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    title = path.stem
    for cell in book.cells:
        heading = re.search(r"^#\s+(.+)$", cell.source, re.M) if cell.cell_type == "markdown" else None
        if heading:
            title = re.sub(r"[`*_]", "", heading.group(1)).strip()
            break
    exporter = HTMLExporter(
        filters={"clean_html": _clean},  # nbconvert's own list of tags has no headings and no table heads
        template_name="basic",
        sanitize_html=True,
        embed_images=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    body, _ = exporter.from_notebook_node(book)
    return title, _formulas(body)


def _course_figure(run: Run, executed: list[Path]) -> str:
    """The course's figure: of the cell tagged `course-figure`, else the last notebook's first picture."""
    last = ""
    for path in reversed(executed):
        for cell in notebooks.read(path).cells:
            tagged = "course-figure" in cell.metadata.get("tags", [])
            for output in cell.get("outputs", []):
                image = output.get("data", {}).get("image/png")
                if image and (tagged or not last):
                    data = "".join(image.split())
                    last = f'<p><img alt="the course in one figure" src="data:image/png;base64,{data}"></p>'
                if image and tagged:
                    return last
    return last


def _claims_table(found: list[dict], links: dict[str, str]) -> str:
    if not found:
        return "<p>No claims were recorded.</p>"
    rows = []
    for c in found:
        where = links.get(c.get("notebook") or "", "")
        link = f'<a href="{where}">{html.escape(c["id"])}</a>' if where else html.escape(c["id"])
        note = f"<br><small>{html.escape(c['note'])}</small>" if c.get("note") else ""
        rows.append(
            f'<tr><td class="{c["status"].split()[0]}">{c["status"]}</td><td>{link}</td>'
            f'<td class="num">{html.escape(claims.value_text(c))}</td>'
            f'<td class="num">{html.escape(claims.band_text(c["band"]))}</td>'
            f"<td>{html.escape(c['statement'])}{note}</td></tr>"
        )
    return (
        "<table><tr><th>status</th><th>claim</th><th>value</th><th>band</th><th>statement</th></tr>"
        + "".join(rows)
        + "</table>"
    )


def _rows(pairs: list[tuple[Any, ...]], head: tuple[str, ...]) -> str:
    cells = "".join(
        "<tr><td>"
        + html.escape(str(first))
        + "</td>"
        + "".join(f'<td class="num">{html.escape(str(x))}</td>' for x in rest)
        + "</tr>"
        for first, *rest in pairs
    )
    return "<table><tr>" + "".join(f"<th>{h}</th>" for h in head) + f"</tr>{cells}</table>"


def build(run: Run) -> Path:
    """Writes the run's site/ anew from its executed notebooks, claims and timings; returns index.html."""
    from pygments.formatters import HtmlFormatter

    site = run.path / "site"
    timings = read_json(run.path / "timings.json")
    found = read_json(run.path / "claims.json")
    executed = [
        p for p in sorted((run.path / "notebooks").glob("[0-9]*.ipynb")) if p.stem in records(run, "executed")
    ]
    links = {p.stem: f"{p.stem}.html" for p in executed}
    colours = HtmlFormatter().get_style_defs(".highlight")
    titles = {}
    for place, path in enumerate(executed):
        title, body = _render(path)
        titles[path.stem] = title
        before = executed[place - 1].stem if place else None
        after = executed[place + 1].stem if place + 1 < len(executed) else None
        left = f'<a href="{links[before]}">&larr; {before}</a>' if before else "<span></span>"
        right = f'<a href="{links[after]}">{after} &rarr;</a>' if after else "<span></span>"
        nav = f'<nav>{left}<a href="index.html">run {run.name}</a>{right}</nav>'
        write_text(site / links[path.stem], _page(title, body, nav, colours))
    for stale in set(site.glob("*.html")) - {site / x for x in links.values()} - {site / "index.html"}:
        stale.unlink()
    contents = "".join(
        f'<li><a href="{links[n]}">{html.escape(titles[n])}</a> '
        f"<small>({clock(timings['notebooks'].get(n))})</small></li>"
        for n in links
    )
    books = [
        (n, clock(s), f"{timings['peak_memory_mb'].get(n, 0) / 1024:.1f} GB")
        for n, s in timings["notebooks"].items()
    ]
    books.append(("total", clock(timings["total_seconds"]), ""))
    stages = [(n, clock(s)) for n, s in sorted(timings["stages"].items(), key=lambda x: -x[1])]
    metrics = read_json(run.path / "metrics.json")
    body = (
        f"<h1>Online RLHF, run {html.escape(run.name)}</h1>{_course_figure(run, executed)}"
        f"<h2>Notebooks</h2><ol start='0' style='list-style:none;padding-left:0'>{contents}</ol>"
        f"<h2>Claims</h2>{_claims_table(found, links)}"
        f"<h2>Time</h2>{_rows(books, ('notebook', 'time', 'peak memory'))}"
        f"<details><summary>stages</summary>{_rows(stages, ('stage', 'time'))}</details>"
    )
    if metrics:
        shown = [(n, f"{v:.4g}" if isinstance(v, float) else v) for n, v in metrics.items()]
        body += f"<details><summary>metrics</summary>{_rows(shown, ('metric', 'value'))}</details>"
    return write_text(site / "index.html", _page(f"Online RLHF, run {run.name}", body))
