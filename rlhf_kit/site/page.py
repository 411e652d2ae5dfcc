"""What every page shares: head, policy, style, the list of contents. A page is one file and asks for no other."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from rlhf_kit.site.lesson import Heading

HERE = Path(__file__).resolve().parent
GENERATOR = "rlhf-kit site"
COURSE = "Online RLHF, a course you can run"
# a rising line; without one of its own a browser asks the host for /favicon.ico
ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' height='16' rx='3' fill='%230b57a4'/%3E"
    "%3Cpath d='M3 12l3-4 3 2 4-6' fill='none' stroke='white' stroke-width='2'/%3E%3C/svg%3E"
)
DARK = (
    "color-scheme:dark;--text:#e4e8ec;--soft:#a3adb8;--back:#14181d;--panel:#1d232a;--line:#38414b;--link:#79b8ff;"
    "--holds:#5fd38d;--outside:#ff8a8a;--unsure:#f0c060;--paper:#fff;--word:#ff7b72;--shade:rgba(170,190,210,.38)"
)


@dataclass(frozen=True)
class Entry:
    """A page in the list of contents."""

    file: str
    title: str
    headings: Sequence[Heading] = ()
    group: str = ""  # the word above the first of its pages


@lru_cache(maxsize=1)
def style() -> str:
    """The style sheet: light, and dark where the reader's system or the reader asks for it, down to the colours of code."""
    from pygments.formatters import HtmlFormatter

    def code(name: str, root: str) -> list[str]:
        lines = HtmlFormatter(style=name).get_style_defs(".highlight").splitlines()
        return [f"{root} {line}" for line in lines if line.startswith(".highlight .")]

    def dark(root: str) -> str:
        # light and dark change places and the hues turn back, so that a blue line stays blue and does so on dark paper
        turned = [f"{root} {place} img{{filter:invert(.96) hue-rotate(180deg) brightness(1.1);mix-blend-mode:screen}}" for place in ("figure", ".thumbs")]
        return "\n".join([f"{root}{{{DARK}}}", *turned, *code("github-dark", root)])

    return "\n".join([  # paper is never dark
        (HERE / "style.css").read_text(encoding="utf-8"), *code("default", ""),
        "@media screen{", dark(":root[data-theme=dark]"), "}",
        "@media screen and (prefers-color-scheme:dark){", dark(":root:not([data-theme=light])"), "}",
    ])  # fmt: skip


@lru_cache(maxsize=1)
def script() -> str:
    return (HERE / "script.js").read_text(encoding="utf-8")


def policy() -> str:
    """The page's Content-Security-Policy: nothing is fetched, and no script runs but the kit's own."""
    digest = base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )


def contents(entries: Sequence[Entry], here: str) -> str:
    """The list of pages; below the page that is open, its headings."""
    lines, group = [], ""
    for entry in entries:
        if entry.group != group:
            group = entry.group
            lines.append(f'<li class="group">{html.escape(group)}</li>')
        mark = ' aria-current="page"' if entry.file == here else ""
        lines.append(f'<li><a href="{entry.file}"{mark}>{html.escape(entry.title)}</a>')
        inner = [h for h in entry.headings if h.level in (2, 3)] if entry.file == here else []
        if inner:
            lines.append("<ul>" + "".join(
                f'<li{" class=deep" if h.level == 3 else ""}><a href="#{h.anchor}">{html.escape(h.text)}</a></li>' for h in inner
            ) + "</ul>")  # fmt: skip
        lines.append("</li>")
    return f'<nav class="side" aria-label="Contents"><details open><summary>Contents</summary><ul>{"".join(lines)}</ul></details></nav>'


def turn(entries: Sequence[Entry], here: str) -> str:
    """Links to the page before and the page behind."""
    files = [entry.file for entry in entries]
    place = files.index(here) if here in files else -1
    before = entries[place - 1] if place > 0 else None
    after = entries[place + 1] if 0 <= place < len(entries) - 1 else None
    links = "".join(
        f'<a rel="{rel}" href="{entry.file}"><small>{word}</small>{html.escape(entry.title)}</a>'
        for rel, word, entry in (("prev", "Previous", before), ("next", "Next", after))
        if entry
    )
    return f'<nav class="turn" aria-label="Previous and next">{links}</nav>'


def document(title: str, description: str, body: str, entries: Sequence[Entry], here: str, run: str) -> str:
    """A whole page. `body` is trusted HTML; the texts are escaped here."""
    full = title if title == COURSE else f"{title} | {COURSE}"
    shared = "".join(f'<meta property="og:{key}" content="{html.escape(text)}">' for key, text in
                     (("title", full), ("description", description), ("type", "article")))  # fmt: skip
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(full)}</title>\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy()}">\n'
        f'<meta name="generator" content="{GENERATOR}">\n<meta name="description" content="{html.escape(description)}">\n'
        f'{shared}\n<link rel="icon" href="{ICON}">\n'
        f"<style>{style()}</style>\n<script>{script()}</script></head>\n"
        '<body><a class="skip" href="#main">Skip to the text</a>'
        f'<header class="top"><a href="index.html">Online RLHF</a><small>run {html.escape(run)}</small>'
        '<button id="theme" type="button" hidden title="light or dark">dark</button></header>\n'
        f'<div class="columns">{contents(entries, here)}\n<main id="main">{body}\n{turn(entries, here)}</main></div></body></html>\n'
    )
