"""One look for all figures: colours that colour-blind readers can tell apart (Okabe and Ito), and an empty figure.

What a colour means is the same in every lesson: the learnt model is blue, the truth green, the control grey, the
ceiling black and dashed. Colour never carries a meaning alone: lines also differ in marker or style, bars in label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_kit.views.alternatives import ToldFigure

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE, GREY = "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#8C8C8C"

MODEL, TRUTH, CONTROL, CEILING, PROXY, OTHER = BLUE, GREEN, GREY, BLACK, ORANGE, VERMILION
CYCLE = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# Policies and sections keep their colour from lesson to lesson.
NAMED = {
    "sft": GREY, "online": BLUE, "offline": ORANGE, "annotator": PURPLE, "oracle": GREEN, "demonstrators": SKY,
    "random": GREY, "weak": ORANGE, "ours": BLUE, "scalar": BLUE, "pairwise": ORANGE,
    "chat": BLUE, "chat-hard": ORANGE, "safety": GREEN, "reasoning": VERMILION, "all": BLACK,
}  # fmt: skip

_LOOK = {
    "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": "#DDDDDD", "grid.linewidth": 0.6, "axes.axisbelow": True,
    "legend.frameon": False, "legend.fontsize": 9, "figure.dpi": 100, "savefig.dpi": 100, "lines.linewidth": 1.8,
}  # fmt: skip


def figure(
    rows: int = 1,
    columns: int = 1,
    *,
    width: float | None = None,
    height: float | None = None,
    title: str | None = None,
    **more: Any,
) -> tuple[Figure, list[Axes]]:
    """An empty figure and its axes as a flat list. Sizes in inches; `more` goes to plt.subplots (sharey=True, ...)."""
    size = (width or (6.4 if columns == 1 else min(11.0, 4.4 * columns)), height or 3.7 * rows)
    with plt.rc_context(_LOOK):
        fig, axes = plt.subplots(
            rows, columns, FigureClass=ToldFigure, figsize=size, layout="constrained", squeeze=False, **more
        )
        if title:
            fig.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11.5)
    return fig, list(axes.flat)


def label(
    ax: Axes, title: str | None = None, x: str | None = None, y: str | None = None, legend: bool = False
) -> Axes:
    """Title (what is shown) and axis labels (with units)."""
    if title:
        ax.set_title(title, loc="left", fontsize=11, fontweight="bold")
    if x:
        ax.set_xlabel(x)
    if y:
        ax.set_ylabel(y)
    if legend and ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=9)
    return ax


def legend_outside(ax: Axes):
    """A legend to the right of the axes, where it hides nothing."""
    return ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)


def legend_below(ax: Axes, columns: int = 2):
    """A legend under the axis label."""
    return ax.legend(loc="upper left", bbox_to_anchor=(0.0, -0.2), ncols=columns, frameon=False, fontsize=8.5)


def colors(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name: its own one if the course has given it one, else the next that is free."""
    free = cycle([c for c in CYCLE if c not in {NAMED[n] for n in names if n in NAMED}] or list(CYCLE))
    return {name: NAMED[name] if name in NAMED else next(free) for name in names}


def markers(names: Sequence[str]) -> dict[str, str]:
    """A marker for each name, so that a line can be told without its colour."""
    return dict(zip(names, cycle(MARKERS), strict=False))


def number(ax: Axes, text: str, place: tuple[float, float], shift: tuple[float, float] = (0, 7), **look: Any):
    """A number written beside its mark, on white, so that no line strikes it through. shift: in points from the mark."""
    look = {"ha": "center", "va": "center" if not shift[1] else "bottom", "fontsize": 8.5} | look
    on_white = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    return ax.annotate(text, place, xytext=shift, textcoords="offset points", bbox=on_white, zorder=4, **look)


def ceiling(ax: Axes, value: float, text: str = "ceiling", color: str = CEILING, style: str = "--") -> None:
    """A horizontal line for the best (or the chance) value, named in the legend."""
    ax.axhline(value, color=color, linestyle=style, linewidth=1.3, label=text, zorder=1)


def chance(ax: Axes, value: float = 0.5, text: str = "chance") -> None:
    """A horizontal dotted line for what guessing would give."""
    ceiling(ax, value, text, CONTROL, ":")


def errors(values: Sequence[float], low: Sequence[float], high: Sequence[float]) -> np.ndarray:
    """Interval ends as the (2, N) lengths that matplotlib's yerr and xerr want; never negative, nan as 0."""
    values, low, high = (np.asarray(x, dtype=float) for x in (values, low, high))
    return np.nan_to_num(np.clip(np.stack([values - low, high - values]), 0, None))


def grouped_bars(
    ax: Axes,
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    intervals: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    palette: Mapping[str, str] | None = None,
) -> None:
    """Bars side by side: one group a place on the x axis, one bar a series. intervals: series -> (lows, highs)."""
    palette = palette or colors(list(series))
    width, places = 0.8 / max(1, len(series)), np.arange(len(groups))
    hatches = cycle(("", "//", "..", "xx", "\\\\", "++"))
    for k, (name, values) in enumerate(series.items()):
        values = np.asarray(values, dtype=float)
        ends = (intervals or {}).get(name)
        if ends is not None:
            ends = errors(values, *ends)
            ends[:, ends.sum(axis=0) == 0] = np.nan  # no interval, so no cap either
        ax.bar(
            places + (k - (len(series) - 1) / 2) * width,
            np.nan_to_num(values),
            width * 0.94,
            label=name,
            color=palette[name],
            hatch=next(hatches),
            edgecolor="white",
            linewidth=0.4,
            yerr=ends,
            error_kw={"elinewidth": 1.1, "capsize": 2.5},
        )
    ax.set_xticks(places, list(groups))
    ax.grid(axis="x", visible=False)


def rows_down(ax: Axes, names: Sequence[str], above: float = 0.7) -> None:
    """Names down the y axis, the first on top; `above` it so many rows are free (0.7: a number fits above its mark)."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -above)


def heat(temperature: float) -> str:
    """A sampling temperature in words."""
    return "greedy" if temperature == 0 else f"temperature {temperature:g}"


def short(unit: str) -> str:
    """A name for a title: what stands before the brackets of a unit, with a capital."""
    name = unit.partition(" (")[0]
    return name[:1].upper() + name[1:]


def smooth(values: Sequence[float], window: int = 5) -> np.ndarray:
    """Centred moving mean with a window that shrinks at the ends; as long as the input."""
    values = np.asarray(values, dtype=float)
    half = window // 2
    return np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])
