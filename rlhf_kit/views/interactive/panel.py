"""What all views share: a figure that is drawn once and then only moved, the words that say what it shows, controls.

A view is data, a `Drawing` and a few standard ipywidgets. Static (papermill, GitHub) and live use one and the same
drawing: static, it is drawn for the default setting; live, each change of a control calls `move` and paints only the
moving artists over the kept background, which takes a few hundredths of a second. Nothing is trained in a callback.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rlhf_kit.errors import KitError
from rlhf_kit.views.interactive.colab import enable_widgets
from rlhf_kit.views.interactive.markup import empty_html, picture_html, status, table_html
from rlhf_kit.views.tables import escape, table

VIEW = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True)
class Said:
    """What a setting shows, in words: the text alternative of the figure, and a small table beside it.

    text: plain sentences; texts of people or models stand only in `rows`. whole: axes changed, so all is drawn anew.
    heading: what the table lists, if its columns do not say it.
    """

    text: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    whole: bool = False
    heading: str = ""


@dataclass(frozen=True)
class Drawing:
    """A figure, the artists that a setting moves, and move(**values) -> Said, which moves them."""

    figure: Figure
    moving: Sequence[Artist]
    move: Callable[..., Said]


@dataclass
class Panel:
    """A view on the screen. `png` (empty: none) and `said` are what it shows now; `controls` is empty where it is static."""

    png: bytes
    said: Said
    controls: Mapping[str, Any] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)  # the widgets image, text, table, note and box
    refresh: Callable[[], None] = lambda: None

    def set(self, **values: Any) -> None:
        """Sets several controls and draws once."""
        self.parts["held"] = True
        try:
            for name, value in values.items():
                self.controls[name].value = value
        finally:
            self.parts["held"] = False
        self.refresh()

    def _ipython_display_(self) -> None:
        """Nothing: the view was displayed when it was made."""


# ---------------------------------------------------------------- painting


def painter(drawing: Drawing) -> Callable[[bool], bytes]:
    """paint(whole) -> PNG. The still artists are painted once and kept; `whole` paints them again."""
    figure, kept = drawing.figure, {}
    FigureCanvasAgg(figure)  # a canvas of its own, whatever pyplot's backend is

    def background() -> Any:
        # The layout is solved with everything in place, then held: it is the slowest part of a drawing.
        for artist in drawing.moving:
            artist.set_animated(False)
        figure.set_layout_engine("constrained")
        figure.canvas.draw()
        figure.set_layout_engine("none")
        for artist in drawing.moving:
            artist.set_animated(True)
        figure.canvas.draw()
        return figure.canvas.copy_from_bbox(figure.bbox)

    def paint(whole: bool = False) -> bytes:
        if whole or "still" not in kept:
            kept["still"] = background()
        figure.canvas.restore_region(kept["still"])
        for artist in sorted(drawing.moving, key=lambda a: a.get_zorder()):
            if artist.axes is not None:
                artist.axes.draw_artist(artist)
        return _png(figure)

    return paint


def legend_under(figure: Figure, ax: Any, columns: int = 4) -> None:
    """One legend for the whole figure, under it, where it neither hides anything nor widens a panel."""
    handles, texts = ax.get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower left", ncols=columns, frameon=False, fontsize=8.5)


def _png(figure: Figure) -> bytes:
    from PIL import Image

    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png", compress_level=1)
    return out.getvalue()


def smaller(png: bytes) -> bytes:
    """The same picture for a file: in at most 256 colours and packed hard, which a redrawing has no time for."""
    from PIL import Image

    out = io.BytesIO()
    Image.open(io.BytesIO(png)).quantize(256, dither=Image.Dither.NONE).save(out, "png", optimize=True)
    return out.getvalue()


# ---------------------------------------------------------------- on the screen


def present(
    drawing: Drawing,
    defaults: Mapping[str, Any],
    controls: Callable[[], Mapping[str, Any]],
    *,
    interactive: bool,
    name: str,
    extra: Callable[[], Sequence[Any]] | None = None,
    ready: Callable[[Panel], None] | None = None,
) -> Panel:
    """Displays a drawing for the `defaults`; live, below the controls that change them.

    controls() -> name of a value -> widget; called only when live, since widgets leave state in the notebook.
    extra() -> further widgets (buttons) for the end of the row of controls. ready(panel): the last hand on a live panel,
    before anybody sees it. Live, the output also carries the first
    picture as PNG, for pages that cannot show widgets. A KitError of `move` stands in place of picture and sentence.
    """
    plt.close(drawing.figure)  # pyplot forgets it, so it is not displayed a second time and does not pile up
    said = drawing.move(**defaults)
    paint = painter(drawing)
    panel = Panel(paint(True), said)
    bundle = {"image/png": base64.b64encode(smaller(panel.png)).decode(), "text/plain": said.text}
    if interactive:
        _make_live(panel, drawing, paint, controls(), extra() if extra else (), name)
        if ready:
            ready(panel)
        bundle[VIEW] = {"version_major": 2, "version_minor": 0, "model_id": panel.parts["box"].model_id}
    _display(bundle, said, words=not interactive)
    return panel


def _display(bundle: Mapping[str, Any], said: Said, words: bool) -> None:
    from IPython.display import Markdown, display

    display(dict(bundle), metadata={"image/png": {"alt": said.text}}, raw=True)
    if words:
        parts = [escape(said.text)]
        if said.rows:
            parts += [f"**{escape(said.heading)}**"] if said.heading else []
            parts.append(table(said.rows, said.columns))
        display(Markdown("\n\n".join(parts)))


def _make_live(panel: Panel, drawing: Drawing, paint, controls: Mapping, extra: Sequence, name: str) -> None:
    import ipywidgets as widgets

    enable_widgets()
    size = drawing.figure.get_size_inches() * drawing.figure.dpi
    image = widgets.HTML()
    text, under = widgets.HTML(), widgets.HTML()
    look = {"flex_flow": "row wrap", "align_items": "center", "grid_gap": "4px 20px", "padding": "2px 4px"}
    together = [widgets.HBox(list(extra), layout={"flex_flow": "row wrap", "grid_gap": "4px 8px"})] if extra else []  # buttons stay side by side
    rows = widgets.HBox([*controls.values(), *together], layout=look)
    box = widgets.VBox([rows, image, text, under])
    box.add_class("rlhf-kit-view")
    box.add_class(f"view-{name}")
    panel.controls = dict(controls)
    panel.parts |= {"image": image, "text": text, "table": under, "box": box, "row": rows, "buttons": tuple(extra), "held": False}

    def show(said: Said, png: bytes) -> None:
        panel.said, panel.png = said, png
        image.value = picture_html(png, said.text, size) if png else empty_html(size)
        text.value = status(said.text)
        under.value = table_html(said.rows, said.columns, heading=said.heading) if said.rows else ""

    def refresh(_: Any = None) -> None:
        if panel.parts["held"]:
            return
        try:
            said = drawing.move(**{key: control.value for key, control in panel.controls.items()})
        except KitError as error:
            show(Said(f"Not shown: {error}"), b"")
            return
        show(said, paint(said.whole))

    panel.refresh = refresh
    for control in controls.values():
        control.observe(refresh, "value")
    show(panel.said, panel.png)
