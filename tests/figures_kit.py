"""What tests of figures share: no window, a warning is a failure, every figure is closed; a figure drawn, and its texts."""

from __future__ import annotations

import warnings

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest


@pytest.fixture(autouse=True)
def strict_and_tidy():
    """For every test of a module that imports it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    plt.close("all")


def drawn(fig):
    """The figure after a real draw, which is where matplotlib finds bad values and missing glyphs."""
    fig.canvas.draw()
    return fig


def texts(fig) -> str:
    """All texts of a figure, drawn first: some have their words only then."""
    return " ".join(t.get_text() for t in drawn(fig).findobj(plt.Text))
