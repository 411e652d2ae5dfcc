"""The views to touch: static they give one figure; live, a control moves the figure and its words to the right values."""

from __future__ import annotations

import base64
import html
import io
import random

import matplotlib.pyplot as plt
import numpy as np
import pytest
from IPython.utils.capture import capture_output
from PIL import Image
from shell_kit import nothing_leaks, shell  # noqa: F401  fixtures
from views_data import HOSTILE, pair_rows, views

from rlhf_kit.views.interactive import markup, pairs, panel

NAMES = list(views(None))


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", NAMES)
def test_static_is_one_figure_with_its_words_and_no_widget(name, tmp_path):
    with capture_output() as shown:
        made = views(tmp_path)[name](False)
    kinds = [set(output.data) for output in shown.outputs]
    assert sum("image/png" in kind for kind in kinds) == 1
    assert not any(panel.VIEW in kind for kind in kinds) and not made.controls
    picture = next(output for output in shown.outputs if "image/png" in output.data)
    assert picture.metadata["image/png"]["alt"] == made.said.text and len(made.said.text) > 40
    assert picture.data["text/plain"] == made.said.text
    text = "".join(output.data.get("text/markdown", "") for output in shown.outputs)
    assert text and "<script" not in text and "<img" not in text and "$x$" not in text
    drawn = np.asarray(Image.open(io.BytesIO(made.png)), dtype=float)
    stored = base64.b64decode(picture.data["image/png"])
    assert drawn.std() > 5  # something is drawn
    assert len(stored) < 60_000 and np.abs(np.asarray(Image.open(io.BytesIO(stored)).convert("RGB"), dtype=float) - drawn).mean() < 1


@pytest.mark.parametrize("name", NAMES)
def test_live_starts_as_the_static_figure_and_escapes(name, tmp_path):
    with capture_output() as shown:
        made = views(tmp_path)[name](True)
    with capture_output():
        static = views(tmp_path)[name](False)
    (output,) = shown.outputs
    assert {panel.VIEW, "image/png", "text/plain"} <= set(output.data)
    assert made.png == static.png and made.said == static.said  # one drawing, one setting, both ways
    shown_html = "".join(made.parts[part].value for part in ("text", "table")) + getattr(made.parts.get("card"), "value", "")
    assert "<script" not in shown_html and "<img" not in shown_html
    if name not in ("goodhart", "verdict", "force field", "bench"):
        assert "&lt;script&gt;" in shown_html
    assert 'role="status"' in made.parts["text"].value and f'alt="{html.escape(made.said.text)}"' in made.parts["image"].value


@pytest.mark.parametrize(("name", "control", "value"), [
    ("bench", "A", 1.5), ("bench", "label", "C beats A"), ("microscope", "edit", "a friendly closing"), ("microscope", "text", "A lie."),
    ("force field", "beta", 1.0), ("force field", "step", 2), ("force field", "arm", "other"), ("force field", "chosen", 0.2), ("mass", "prompt", 1),
    ("mass", "upto", 0), ("pairs", "margin", (2.0, 4.0)), ("pairs", "length", (-5.0, 5.0)), ("pairs", "label", "wrong"), ("pairs", "section", "safety"),
    ("pairs", "pair", 3), ("goodhart", "n", 2), ("goodhart", "beta", 5.0), ("goodhart", "step", 1), ("verdict", "prompts", 30), ("verdict", "draw", 4),
    ("verdict", "ties", "no win"), ("verdict", "temperature", 0.0), ("verdict", "judge", "reward"), ("verdict", "seeds_used", 2),
    ("chat", "example", 1)])  # fmt: skip
def test_every_control_moves_figure_and_words(name, control, value, tmp_path):
    with capture_output():
        made = views(tmp_path)[name](True)
    png, text = made.png, made.said
    made.controls[control].value = value
    assert made.png != png and made.said != text
    assert base64.b64encode(made.png).decode() in made.parts["image"].value
    png = made.png
    made.refresh()
    assert made.png == png  # a second look at the same setting is the same picture


@pytest.mark.parametrize("name", NAMES)
def test_every_control_says_what_it_is(name, tmp_path):
    with capture_output():
        made = views(tmp_path)[name](True)
    for widget in [*made.controls.values(), *made.parts["buttons"]]:
        if hasattr(widget, "description") and type(widget).__name__ != "HTML":
            assert widget.description.strip()


def test_a_fault_of_the_reader_is_a_sentence_not_a_crash(tmp_path):
    with capture_output():
        made = views(tmp_path)["verdict"](True)
    png = made.png
    made.controls["second"].value = "online-1"
    assert "Not shown: a policy cannot be better than itself" in made.parts["text"].value
    assert "<img" not in made.parts["image"].value and "no picture" in made.parts["image"].value and not made.png  # the old one would be taken for the answer
    made.controls["second"].value = "sft"
    assert "win rate" in made.parts["text"].value and made.png == png and "<img" in made.parts["image"].value


# ---------------------------------------------------------------- panel


def test_cells_of_tables_are_escaped_and_read_well():
    text = markup.table_html([["a", None, float("nan"), 1.234, True, HOSTILE]], list("abcdef"))
    assert "<script" not in text and "&lt;script&gt;" in text and ">1.23<" in text and text.count(">-<") == 2 and ">yes<" in text


def test_painting_moves_only_what_it_should():
    """The kept background and a fresh drawing of the same setting give the same picture."""
    rng = random.Random(0)
    drawing = pairs.draw_pairs(pair_rows())
    plt.close(drawing.figure)
    paint = panel.painter(drawing)
    every = {"margin": (-9, 99), "length": (-99, 99), "order": pairs.ORDERS[0], "pair": 1}
    drawing.move(**every)
    first = paint(True)
    drawing.move(**{**every, "pair": rng.randint(2, 9)})
    assert paint(False) != first
    drawing.move(**every)
    assert paint(False) == first


def test_a_page_made_of_the_notebook_has_the_text_alternative(tmp_path):
    import nbformat
    from nbconvert import HTMLExporter

    with capture_output() as shown:
        made = views(tmp_path)["chat"](False)
    outputs = [nbformat.v4.new_output("display_data", data=o.data, metadata=o.metadata or {}) for o in shown.outputs]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("chat", outputs=outputs)])
    page, _ = HTMLExporter(template_name="basic").from_notebook_node(book)  # the one of the site
    assert f'alt="{html.escape(made.said.text)}"' in page
