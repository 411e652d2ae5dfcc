"""Text alternatives: what a figure shows, in words, for readers who do not see it and pages that do not show it.

Every figure of `style.figure` is a `ToldFigure`. Displayed in a notebook it carries its words as `text/plain` and as the
picture's `alt`, from which the site and GitHub take them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.category import StrCategoryLocator
from matplotlib.collections import PathCollection
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator

MOST, SERIES = 900, 10  # characters of a text, series named in a panel


class ToldFigure(Figure):
    """A matplotlib figure that says what it shows, and in which a name with dollar signs is a name and no formula."""

    def draw(self, renderer: Any) -> None:
        for text in self.findobj(Text):
            text.set_parse_math(False)
        super().draw(renderer)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        """IPython draws the picture as it does any figure's; from here come the words."""
        text = describe(self)
        return {"text/plain": text}, {"image/png": {"alt": text}}


def describe(figure: Figure) -> str:
    """Titles, axes with units, and each series from its first value to its last; at most MOST characters."""
    whole = figure.get_suptitle()
    panels = [_panel(ax) for ax in figure.axes if ax.get_visible() and (_title(ax) or ax.has_data())]
    panels = [text for text in panels if text]
    if len(panels) > 1:
        panels = [f"Panel {k}: {text}" for k, text in enumerate(panels, 1)]
    text = " ".join([*([f"{whole}."] if whole else []), *panels]) or "A figure without a title."
    return text if len(text) <= MOST else text[:MOST].rsplit(" ", 1)[0] + " ..."


def _plain(text: str) -> str:
    return " ".join(str(text).split())


def _title(ax: Axes) -> str:
    return _plain(ax.get_title("left") or ax.get_title() or ax.get_title("right"))


def _names(axis: Any) -> dict[float, str]:
    """place -> text of an axis whose ticks are names and not numbers."""
    if not isinstance(axis.get_major_locator(), FixedLocator | StrCategoryLocator):
        return {}
    texts = [_plain(label.get_text()) for label in axis.get_majorticklabels()]
    places = axis.get_majorticklocs()
    return {round(float(place), 6): text for place, text in zip(places, texts, strict=False) if text}


def _number(value: Any) -> str:
    return f"{float(value):.3g}" if value == value else "nothing"


def _panel(ax: Axes) -> str:
    x, y = _plain(ax.get_xlabel()), _plain(ax.get_ylabel())
    rows, columns = _names(ax.yaxis), _names(ax.xaxis)
    axes = f"{y} against {x}" if x and y else x or y
    head = "; ".join(part for part in (_title(ax), axes) if part)
    said = _bars(ax, rows, columns) + _dots(ax, rows, columns) + _lines(ax, rows, columns)
    if not said and (rows or columns):
        said = [f"for {', '.join([*rows.values(), *columns.values()][:SERIES])}"]
    if not said:  # a drawing of boxes
        said = [_plain(text.get_text()) for text in ax.texts if any(map(str.isalpha, text.get_text()))]
    return head + (f": {', '.join(said[:SERIES])}" if said else "") + ("." if head or said else "")


def _bars(ax: Axes, rows: dict, columns: dict) -> list[str]:
    """Bars with the names of their places; a series that draws nothing (a key of a legend) is left out."""
    said, alone = [], []
    for bars in ax.containers:
        if not isinstance(bars, BarContainer) or not bars.patches:
            continue
        flat = bars.orientation == "horizontal"
        names, label, values = rows if flat else columns, str(bars.get_label()), []
        for patch in bars.patches:
            size = patch.get_width() if flat else patch.get_height()
            at = patch.get_y() + patch.get_height() / 2 if flat else patch.get_x() + patch.get_width() / 2
            near = min(names, key=lambda place, at=at: abs(place - at), default=None)
            if near is not None and abs(near - at) < 0.5:
                values.append((names[near], size))
        if not any(size for _, size in values):
            if not label.startswith("_") and any(patch.get_height() for patch in bars.patches) and not values:
                said.append(f"{label}, {len(bars.patches)} bars")
        elif label.startswith("_") and len(values) == 1:
            alone.append(f"{values[0][0]} {_number(values[0][1])}")
        else:
            text = ", ".join(f"{name} {_number(size)}" for name, size in values)
            said.append(text if label.startswith("_") else f"{label}: {text}")
    return said + ([", ".join(alone)] if alone else [])


def _dots(ax: Axes, rows: dict, columns: dict) -> list[str]:
    """Single points that stand beside a name on an axis."""
    said = []
    for line in ax.lines:
        x, y = (_flat(values) for values in (line.get_xdata(), line.get_ydata()))
        if len(x) != 1 or line.get_marker() in ("|", "_", 2, 3):  # the caps of an interval
            continue
        if y[0] in rows:
            said.append(f"{rows[y[0]]} {_number(x[0])}")
        elif x[0] in columns:
            said.append(f"{columns[x[0]]} {_number(y[0])}")
    return said


def _lines(ax: Axes, rows: dict, columns: dict) -> list[str]:
    """Named lines, place by place where the places have names, else from the first value to the last."""
    handles, labels = ax.get_legend_handles_labels()
    said = []
    for handle, label in zip(handles, labels, strict=True):
        if isinstance(handle, PathCollection):
            said += [f"{_plain(label)}, {len(handle.get_offsets())} points"] if len(handle.get_offsets()) else []
            continue
        line = handle.lines[0] if hasattr(handle, "lines") and handle.lines else handle
        if isinstance(handle, BarContainer) or not hasattr(line, "get_xdata"):
            continue
        x, y = (_flat(values) for values in (line.get_xdata(), line.get_ydata()))
        if len(y) < 2:
            continue
        if len(set(x)) == 1 and y == [0.0, 1.0]:
            said.append(f"{_plain(label)} at {_number(x[0])}")  # a line across the panel
            continue
        if len(set(y)) == 1:
            said.append(f"{_plain(label)} at {_number(y[0])}")
            continue
        named = next(((names, places, values) for names, places, values in ((columns, x, y), (rows, y, x)) if _stand_at(places, names)), None)
        if named:
            names, places, values = named
            nearest = {round(place): name for place, name in names.items()}
            text = ", ".join(f"{nearest[round(at)]} {_number(value)}" for at, value in zip(places, values, strict=True))
            said.append(f"{_plain(label)}: {text}")
        elif line.get_linestyle() == "None" and x != sorted(x):
            said.append(f"{_plain(label)}, {len(x)} points")
        else:
            said.append(f"{_plain(label)} from {_number(y[0])} to {_number(y[-1])}")
    alone = [_flat(line.get_ydata()) for line in ax.lines if str(line.get_label()).startswith("_")]
    alone = [values for values in alone if len(values) > 2]
    if len(alone) == 1 and not rows:  # one curve that the title names
        said.insert(0, f"from {_number(alone[0][0])} to {_number(alone[0][-1])}")
    return said


def _stand_at(places: Sequence[float], names: dict) -> bool:
    """Whether a few points stand beside names, each at its own."""
    own = [round(place) for place in places]
    return 2 <= len(own) <= 12 and len(set(own)) == len(own) and set(own) <= {round(place) for place in names}


def _flat(values: Sequence) -> list[float]:
    try:
        return [round(float(value), 6) for value in values]
    except (TypeError, ValueError):
        return []
