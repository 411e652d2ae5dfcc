"""For tests of the views to touch: a shell in which they are displayed; nothing stays behind. For every test of a module that imports both."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest


@pytest.fixture(scope="module", autouse=True)
def shell():
    """An IPython shell, without which nothing is displayed; no history file."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    yield InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    InteractiveShell.clear_instance()


@pytest.fixture(autouse=True)
def nothing_leaks():
    """No view leaves a pyplot figure behind."""
    before = plt.get_fignums()
    yield
    assert plt.get_fignums() == before
