"""Every figure in a notebook carries words for readers who cannot see it: its titles, axes and legends.

They stand in the output's metadata, where nbconvert and the course's site take the picture's `alt` from.
"""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def words(figure: Figure) -> str:
    """What a figure shows, from what stands in it: "Title. Panel: y against x; series: a, b."."""
    title = figure.get_suptitle().strip()
    panels = [text for text in map(_panel, figure.axes) if text]
    if not title and panels:
        title, _, rest = panels[0].partition(": ")
        panels[0] = rest
    return ". ".join(part.rstrip(".") for part in [title, *panels] if part) + "." if title or panels else ""


def _panel(ax: Axes) -> str:
    """One pair of axes in words; "" where it has neither title nor labels (a colour bar, say)."""
    title = next((t for t in (ax.get_title(place).strip() for place in ("left", "center", "right")) if t), "")
    x, y = ax.get_xlabel().strip(), ax.get_ylabel().strip()
    axes = f"{y} against {x}" if x and y else x or y
    legend = ax.get_legend()
    series = [text.get_text() for text in legend.get_texts()] if legend else []
    inner = "; ".join(part for part in (axes, "series: " + ", ".join(series) if series else "") if part)
    return " ".join((f"{title}: {inner}" if title and inner else title or inner).split())


def install() -> None:
    """Makes IPython's PNG printer of figures add `alt`. Does nothing outside a notebook, and nothing a second time."""
    try:
        from IPython import get_ipython
    except ImportError:
        return
    shell = get_ipython()
    if shell is None:
        return
    printers = shell.display_formatter.formatters["image/png"].type_printers
    drawn = printers.get(Figure)
    if drawn is None or getattr(drawn, "adds_alt", False):
        return

    def with_words(figure: Figure) -> Any:
        made = drawn(figure)
        if made is None:
            return None
        png, metadata = made if isinstance(made, tuple) else (made, {})
        return png, {**metadata, "alt": words(figure)}

    with_words.adds_alt = True
    printers[Figure] = with_words
