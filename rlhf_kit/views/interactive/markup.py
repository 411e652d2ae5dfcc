"""What a live view writes into the page: its picture, a sentence that is announced, a small table. All texts are escaped."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def picture_html(png: bytes, text: str, size: Sequence[float]) -> str:
    """A picture with its text alternative (ipywidgets' Image has none, and breaks when given a tooltip). Its size is set
    and it is decoded before it is painted, so that a change neither flickers nor moves the page."""
    width, height = (round(side) for side in size)
    data = base64.b64encode(png).decode()
    return (f'<img alt="{html.escape(text)}" width="{width}" height="{height}" decoding="sync" style="max-width:100%;height:auto" '
            f'src="data:image/png;base64,{data}">')  # fmt: skip


def empty_html(size: Sequence[float]) -> str:
    """The place of a picture where a setting has none; as large, so that the page stays where it is."""
    width, height = (round(side) for side in size)
    return (f'<div style="width:{width}px;max-width:100%;aspect-ratio:{width}/{height};box-sizing:border-box;border:1px dashed #8888;'
            'border-radius:6px;display:flex;align-items:center;justify-content:center" aria-hidden="true">no picture for this setting</div>')  # fmt: skip


def status(text: str) -> str:
    """A sentence as HTML that screen readers announce when it changes."""
    return f'<p role="status" aria-live="polite" style="max-width:70em;line-height:1.45;margin:4px 2px">{html.escape(text)}</p>'


def table_html(rows: Sequence[Sequence[Any]], columns: Sequence[str], digits: int = 2, heading: str = "") -> str:
    """A small table, under its heading; every cell is escaped, so texts of models and people can be shown as they are."""
    look = "padding:3px 10px 3px 2px;text-align:{};vertical-align:top;white-space:{};border-bottom:1px solid #8884"
    numeric = [all(_number(row[i]) for row in rows) for i in range(len(columns))]
    side = ["right" if n else "left" for n in numeric]
    short = [all(len(words(row[i], digits)) <= 16 for row in rows) for i in range(len(columns))]
    styles = [look.format(s, "nowrap" if short[i] else "pre-wrap") for i, s in enumerate(side)]
    cell = lambda tag, style, text: f'<{tag} style="{style}">{html.escape(text)}</{tag.split()[0]}>'  # noqa: E731
    head = "".join(cell('th scope="col"', style, name) for name, style in zip(columns, styles, strict=True))
    body = "".join(
        "<tr>"
        + "".join(cell("td", style, words(v, digits)) for v, style in zip(row, styles, strict=True))
        + "</tr>"
        for row in rows
    )
    over = f'<caption style="text-align:left;font-weight:bold;padding:3px 2px">{html.escape(heading)}</caption>' if heading else ""
    return f'<table style="border-collapse:collapse;max-width:80em;line-height:1.4">{over}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def words(value: Any, digits: int = 2) -> str:
    """One value as people read it: floats rounded, nothing as a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{value:.{digits}f}"
    return str(value)


def _number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float | np.number) and not isinstance(value, bool))
