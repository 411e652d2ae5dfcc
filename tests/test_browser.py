"""A real browser: JupyterLab in headless Chromium, the views to touch moved by keyboard, the picture must follow.

Tiny data with hostile texts; `test_browser_course` does the same in the lessons. What is needed: see `browser_kit`.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from browser_kit import TESTS, end_kernels, open_notebook, run_all
from browser_views import judge, move_all, settle

NAMES = ("judge", "bench", "microscope", "force-field", "mass", "pairs", "goodhart", "verdict", "chat")


def notebook(path: Path) -> Path:
    """A throw-away notebook with all views on tiny data."""
    places = [str(TESTS.parent), str(TESTS)]
    first = f"import sys\nfrom pathlib import Path\nsys.path[:0] = {places}\nfrom views_data import views\nmade = views(Path('.'))"
    cells = [nbformat.v4.new_code_cell(first)]
    cells += [nbformat.v4.new_code_cell(f"made[{name.replace('-', ' ')!r}](True)") for name in NAMES]
    book = nbformat.v4.new_notebook(cells=cells)
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, path)
    return path


@pytest.fixture(scope="module")
def page(browser, lab, artefacts):
    """The notebook, opened and run to its end; the console's errors are in `page.errors`."""
    notebook(lab.work / "views.ipynb")
    shown = open_notebook(browser, lab, "views.ipynb")
    try:
        run_all(shown, 180)
        for name in NAMES:
            shown.wait_for_selector(f".view-{name}", timeout=180_000)
    finally:
        shown.screenshot(path=artefacts / "notebook.png")
    yield shown
    shown.close()
    end_kernels(lab)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "judge"])
def test_every_control_moves_by_keyboard_and_the_picture_follows(page, artefacts, name):
    view = page.locator(f".view-{name}")
    view.scroll_into_view_if_needed()
    view.screenshot(path=artefacts / f"{name}-first.png")
    tried, dead = move_all(view, {("verdict", "hold the length equal")})  # of ten prompts the words tell why nothing is drawn
    view.screenshot(path=artefacts / f"{name}-moved.png")
    assert tried and not dead, f"{name}: of {tried} controls these move nothing: {dead}"
    settle(view)
    assert page.talk.asked and not page.talk.open  # what the waiting rests on
    image = view.locator("img").first
    assert image.get_attribute("alt") == view.locator("[role=status]").last.inner_text()  # the picture's text alternative


def test_judging_by_keyboard(page, lab, artefacts):
    view = page.locator(".view-judge")
    view.scroll_into_view_if_needed()
    view.screenshot(path=artefacts / "judge-first.png")
    judge(page, view, 8, lab.work / "my_labels.jsonl", artefacts / "judge-result.png")


def test_hostile_text_is_text_and_the_console_is_clean(page):
    assert page.locator(".rlhf-kit-view script").count() == 0
    assert page.locator(".rlhf-kit-view img").count() == len(NAMES)  # the pictures alone
    assert "<script>" in page.locator(".view-pairs").inner_text()
    assert not page.errors, page.errors[:5]
