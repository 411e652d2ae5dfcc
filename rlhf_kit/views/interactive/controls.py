"""The standard controls of the views: sliders, one of several, buttons; all of them work from the keyboard."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any


def slider(text: str, value: float, low: float, high: float, step: float, *, width: str = "330px") -> Any:
    """A slider over numbers, with the keyboard too: arrows, Page Up and Down, Home and End."""
    import ipywidgets as widgets

    kind = widgets.IntSlider if isinstance(value, int) else widgets.FloatSlider
    return kind(value=value, min=low, max=high, step=step, description=text, readout_format="d" if kind is widgets.IntSlider else ".2f",
                style={"description_width": "initial"}, layout={"width": width})  # fmt: skip


def choice(text: str, options: Sequence, value: Any, *, width: str = "430px") -> Any:
    """One of several: buttons where they are few and short, else a slider from one to the next.

    No drop-down list: JupyterLab takes the arrow keys for itself while one has the focus. options: texts, or (text, value).
    """
    import ipywidgets as widgets

    shown = [option[0] if isinstance(option, tuple) else str(option) for option in options]
    look = {"options": list(options), "value": value, "description": text}
    if len(shown) <= 4 and sum(map(len, shown)) <= 45:
        return widgets.ToggleButtons(
            **look,
            style={"description_width": "initial", "button_width": "max-content"},
            layout={"width": "max-content", "display": "flex", "flex_flow": "row nowrap", "align_items": "center", "grid_gap": "6px"},
        )
    return widgets.SelectionSlider(**look, style={"description_width": "initial"}, layout={"width": width})


def magnitudes(value: float, least: float, most: float) -> list[float]:
    """Numbers from about `least` to about `most`, each some 12 % above the one before, of two digits, so that what is shown is what is
    computed; `value` is one of them, as it is."""
    below, above = (max(0, round(20 * math.log10(ratio))) for ratio in (value / least, most / value))
    return [value if k == 0 else float(f"{value * 10 ** (k / 20):.2g}") for k in range(-below, above + 1)]


def magnitude(text: str, value: float, least: float, most: float) -> Any:
    """A slider over `magnitudes`, which writes them as the sentences do: `{:.2g}`."""
    return choice(text, [(f"{one:.2g}", one) for one in magnitudes(value, least, most)], value, width="330px")


def button(text: str, act: Callable[[], None], hint: str = "", **look: Any) -> Any:
    """A button that calls `act`; `hint` says on hovering what it does."""
    import ipywidgets as widgets

    made = widgets.Button(description=text, tooltip=hint or text, layout={"width": "max-content"}, **look)
    made.on_click(lambda _: act())
    return made
