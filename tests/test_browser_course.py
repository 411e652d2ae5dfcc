"""The lessons in a real browser: JupyterLab opens each one over a finished smoke run. Those with views to touch run all
their cells, and each control is moved; the others are shown as the smoke run left them, for they run no differently here.

Kernels run one after the other. What is needed: see `browser_kit`; the smoke run is the one of `test_notebooks`.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager

import pytest
from browser_kit import end_kernels, open_notebook, run_all, with_dial
from browser_views import judge, move_all, name_of, settle

from rlhf_kit.files import locked
from rlhf_kit.running import notebooks

PATHS = sorted(notebooks.FOLDER.glob("[0-9][0-9]_*.ipynb"))
# At smoke a policy moves by hundredths of a nat, which is less than a pixel, and there are too few prompts for a win rate at
# equal length; the words tell both.
IN_WORDS = {("force-field", "place in its path"), ("verdict", "hold the length equal")}


def code(path) -> str:
    return "".join(cell.source for cell in notebooks.read(path).cells if cell.cell_type == "code")


LIVE = [path for path in PATHS if "interactive=INTERACTIVE" in code(path)]  # with views whose controls work
SHOWN = [path for path in PATHS if path not in LIVE]


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_interactive_decides_on_views_alone(path):
    """So a lesson without one runs in JupyterLab no differently than in the smoke run."""
    assert code(path).count("INTERACTIVE") == code(path).count("interactive=INTERACTIVE") + 1  # and the parameter


@pytest.fixture(scope="session")
def lessons(lab, smoke_course):
    """The lab with a copy of the finished run, and the lessons with their dial at smoke."""
    done = smoke_course.done
    assert done is None or done.returncode == 0, done.stdout + done.stderr
    with locked(smoke_course.lock, "the smoke course of the tests"):
        shutil.copytree(smoke_course.run, lab.runs / "smoke")
    for path in SHOWN:
        shutil.copy(lab.runs / "smoke" / "notebooks" / path.name, lab.work / path.name)
    for path in LIVE:
        with_dial(path, lab.work / path.name, "smoke")
    return lab


@contextmanager
def opened(browser, lessons, artefacts, path, seconds=0):
    """The page of a lesson, run to its end where it gets seconds for that; figures are there, and nothing complains."""
    page = open_notebook(browser, lessons, path.name)
    try:
        try:
            if seconds:
                run_all(page, seconds)
        finally:
            page.screenshot(path=artefacts / f"{path.stem}.png")
        page.locator(".jp-OutputArea img").nth(3).wait_for(state="attached", timeout=60_000)  # four figures or more
        said = [text for text in page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').all_inner_texts() if text.strip()]
        assert not said, said
        yield page
        assert not page.errors, page.errors[:5]
    finally:
        page.close()
        end_kernels(lessons)


@pytest.mark.parametrize("path", SHOWN, ids=lambda p: p.stem)
def test_a_lesson_without_views_is_shown_as_it_was_run(browser, lessons, artefacts, path):
    with opened(browser, lessons, artefacts, path) as page:
        assert not page.locator(".rlhf-kit-view").count()


@pytest.mark.parametrize("path", LIVE, ids=lambda p: p.stem)
def test_a_lesson_runs_and_its_controls_move(browser, lessons, artefacts, path):
    with opened(browser, lessons, artefacts, path, 600) as page:
        views = page.locator(".rlhf-kit-view")
        views.nth(code(path).count("interactive=INTERACTIVE") - 1).wait_for(timeout=60_000)
        for view in views.all():
            name = name_of(view)
            shot = artefacts / f"{path.stem}-{name}.png"
            view.scroll_into_view_if_needed()
            if name == "judge":
                judge(page, view, 20, lessons.runs / "smoke" / "lesson-01" / "my_labels.jsonl", shot)
                continue
            tried, dead = move_all(view, IN_WORDS)
            view.screenshot(path=shot)
            assert tried and not dead, f"{name}: of {tried} controls these move nothing: {dead}"
            if name == "chat":
                ask(view)
                view.screenshot(path=shot)


def ask(view) -> None:
    """A prompt of one's own is answered by all policies, after a click and after Enter."""
    field, words = view.locator("input[type=text]").first, view.locator(".widget-html-content")
    for prompt, press in (
        ("How many lamps are 2 lamps and 3 lamps?", lambda: view.locator("button", has_text="answer").last.click()),
        ("How many lamps are 4 lamps and 3 lamps?", lambda: field.press("Enter")),
    ):
        field.fill(prompt)
        settle(view)  # the kernel has the whole prompt
        press()
        words.get_by_text(prompt).first.wait_for(timeout=120_000)
        words.get_by_text("Done.").wait_for(timeout=60_000)
