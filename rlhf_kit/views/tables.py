"""Small tables for notebooks, as Markdown that also reads well as plain text. Model text is always escaped."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

# What HTML, Markdown or Jupyter's MathJax would take for mark-up, as entities; a line break stays one in a cell.
_MARKUP = {ord(c): f"&#{ord(c)};" for c in '&<>|*_`$\\[]~#"'} | {ord("\n"): "<br>", ord("\r"): None}


def escape(text: Any) -> str:
    """Any text as harmless Markdown: HTML, table bars, emphasis and formulas become plain characters."""
    return str(text).translate(_MARKUP)


def clip(text: str, characters: int = 160) -> str:
    """A text of more than so many characters cut at a word, with an ellipsis."""
    text = str(text)
    return text if len(text) <= characters else text[:characters].rsplit(" ", 1)[0] + " ..."


def cell(value: Any, digits: int = 3) -> str:
    """One value as people read it: floats rounded, None as a dash, yes and no, text escaped."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return "-" if value != value else f"{value:.{digits}f}"
    return escape(value)


def table(rows: Sequence[Any], columns: Sequence[str], digits: int = 3) -> str:
    """A Markdown table. rows: lists in the order of `columns`, or dicts, from which the columns are picked.

    Numbers stand on the right, text on the left; everything is escaped, so answers of a model can be shown as they are.
    ValueError for a row with another number of cells than columns.
    """
    lines = [[row.get(c) for c in columns] if hasattr(row, "get") else list(row) for row in rows]
    wrong = [line for line in lines if len(line) != len(columns)]
    if wrong:
        raise ValueError(f"a row has {len(wrong[0])} cells, but there are {len(columns)} columns")
    numeric = [bool(lines) and all(_is_number(line[i]) for line in lines) for i in range(len(columns))]
    text = [[cell(v, digits) for v in line] for line in lines]
    heads = [escape(c) for c in columns]
    widths = [max([3, len(heads[i]), *(len(line[i]) for line in text)]) for i in range(len(columns))]
    widths = [min(w, 60) for w in widths]

    def joined(cells: Sequence[str]) -> str:
        return (
            "| "
            + " | ".join(
                c.rjust(w) if n else c.ljust(w) for c, w, n in zip(cells, widths, numeric, strict=True)
            )
            + " |"
        )

    rule = (
        "| "
        + " | ".join("-" * (w - 1) + ":" if n else "-" * w for w, n in zip(widths, numeric, strict=True))
        + " |"
    )
    return "\n".join([joined(heads), rule, *map(joined, text)])


def _is_number(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, int | float) and not isinstance(value, bool))
        or hasattr(value, "dtype")
    )


def show(rows: Sequence[Any], columns: Sequence[str], digits: int = 3) -> None:
    """Displays `table(...)` in a notebook."""
    from IPython.display import Markdown, display

    display(Markdown(table(rows, columns, digits)))


def show_html(text: str) -> None:
    """Displays HTML that was made from escaped text."""
    from IPython.display import HTML, display

    display(HTML(text))


def tokens_html(tokens: Sequence[str], learnt: Sequence[bool], caption: str = "") -> str:
    """A row of token boxes: learnt ones (those under the loss) dark on blue and underlined, the others on grey."""
    boxes = []
    for token, mine in zip(tokens, learnt, strict=True):
        look = (
            "background:#CFE5F5;border-bottom:3px solid #0072B2"
            if mine
            else "background:#EEEEEE;border-bottom:3px solid #BBBBBB"
        )
        text = html.escape(token).replace(" ", "&middot;").replace("\n", "&crarr;") or "&empty;"
        boxes.append(
            f'<span style="{look};color:#111;padding:1px 3px;margin:1px;display:inline-block">{text}</span>'
        )
    note = (
        f'<div style="font-family:sans-serif;margin-top:4px">{html.escape(caption)}</div>' if caption else ""
    )
    return f'<div style="font-family:monospace;line-height:1.9">{"".join(boxes)}{note}</div>'
