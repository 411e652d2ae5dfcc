"""The views in the page: what each shows, its controls, moved by keyboard; the judge's pairs labelled.

A key is pressed only when the view stands still, and what it did is read only when the kernel has answered, however long that takes.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Tab stops of the chat that speak of the next answer only, so the picture does not follow them.
SILENT = {("chat", "your prompt"), ("chat", "temperature (0: greedy)"), ("chat", "which draw")}
STATE = """async view => {
    const image = view.querySelector('img'), words = [...view.querySelectorAll('.widget-html-content')].map(part => part.innerText).join('\\n');
    const bytes = new TextEncoder().encode(image ? image.src : '');
    return [new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)).join(), words] }"""


def state(view) -> tuple[str, str]:
    """(the picture, the words and the table) of a view, as the page has them in one moment."""
    return tuple(view.evaluate(STATE))


def settle(view, most: float = 120) -> tuple[str, str]:
    """Waits until the kernel has answered and the view stands still; its state then."""
    end, before = time.monotonic() + most, None
    while time.monotonic() < end:
        now = state(view)
        if now == before and not view.page.talk.open:
            return now
        before = now
        view.page.wait_for_timeout(100)
    raise AssertionError(f"{name_of(view)}: the kernel has not answered after {most} s")


def moved(view, presses, words: bool = False, send: float = 3) -> bool:
    """Presses the keys one after the other until the picture (with `words`, the picture or its words) changes.

    send: seconds after which a key of which the page has not told the kernel has changed no value.
    """
    talk = view.page.talk
    for focusable, key in presses:
        before, asked = settle(view), talk.asked
        focusable.focus()
        view.page.keyboard.press(key)
        end = time.monotonic() + send
        while talk.asked == asked and time.monotonic() < end:
            view.page.wait_for_timeout(20)
        now = settle(view)
        if now[0] != before[0] or (words and now != before):
            return True
    return False


def name_of(view) -> str:
    """`chat` of a view with the class `view-chat`."""
    return next(c for c in view.get_attribute("class").split() if c.startswith("view-")).removeprefix("view-")


@dataclass(frozen=True)
class Control:
    """A control of a view: its kind, its words, and what moves it, the likeliest first; `back` undoes it, where later controls need that."""

    kind: str
    text: str
    presses: list[tuple[Any, str]]
    back: tuple[Any, str] | None = None


def controls(view) -> Iterator[Control]:
    """All controls of a view but its buttons, each as it stands when its turn comes."""
    for row in view.locator(".widget-hbox").first.locator(":scope > :not(.widget-hbox)").all():  # but for the buttons, which stand together
        if not row.locator("label").count():
            continue  # words
        text = " ".join(row.locator("label").all_inner_texts()).replace("\u200b", "").strip()
        settle(view)
        handles = row.locator(".noUi-handle")
        for handle in handles.all():
            if handles.count() == 2:  # of a range: from its end inwards, and not past the other
                inwards = "PageUp" if "noUi-handle-lower" in handle.get_attribute("class") else "PageDown"
                yield Control("range", text, [(handle, inwards)] * 8)
            else:
                yield Control("slider", text, [(handle, key) for key in _ways(handle)])
        assert not row.locator("select").count(), f"{text}: JupyterLab takes the arrow keys of a drop-down list"
        one_of = row.locator("button").all()
        if one_of:
            chosen = next(one for one in one_of if "mod-active" in one.get_attribute("class"))
            others = [one for one in one_of if one is not chosen]
            yield Control("buttons", text, [(one, "Enter") for one in others], (chosen, "Enter"))
        for area in row.locator("textarea, input[type=text]").all():
            yield Control("text", text, [(area, "x"), (area, "End")])
        for check in row.locator("input[type=checkbox]").all():
            yield Control("tick", text, [(check, "Space")])


def _ways(handle) -> tuple[str, ...]:
    """The keys that move a slider, those first that lead away from the end at which it stands."""
    first = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemin")
    return ("ArrowRight", "ArrowLeft", "End", "Home") if first else ("ArrowLeft", "ArrowRight", "Home", "End")


def move_all(view, in_words: Collection[tuple[str, str]] = ()) -> tuple[int, list[str]]:
    """Moves every control of a view once, by keyboard: (how many there are, those that the picture did not follow).

    in_words: (view, control) of which it is enough that the words follow.
    """
    name, dead, tried = name_of(view), [], 0
    for control in controls(view):
        if (name, control.text) in SILENT:
            continue
        tried += 1
        if not moved(view, control.presses, (name, control.text) in in_words):
            dead.append(f"{control.kind} {control.text}")
        if control.back:  # so that the next control finds what it needs
            moved(view, [control.back])
    return tried, dead


def judge(page, view, n: int, saved: Path, shot: Path) -> None:
    """Labels the n pairs of the judge by keyboard; each label is in the file before the next pair is shown. Then starts again. shot: of the result."""
    picture, says = view.locator("img").first, lambda text: view.get_by_text(text).first.wait_for(timeout=60_000)
    press = lambda text: (view.locator("button", has_text=text).focus(), page.keyboard.press("Enter"))  # noqa: E731
    says(f"Pair 1 of {n}.")
    picture.wait_for(state="hidden")  # blind
    for k in range(n):
        press("A is better" if k % 2 else "B is better")
        says(f"Pair {k + 2} of {n}." if k < n - 1 else f"{n} labels, 0 skipped.")
        assert len(saved.read_text().splitlines()) == k + 1
    picture.wait_for(state="visible", timeout=60_000)
    says(f"You labelled {n} pairs")
    view.screenshot(path=shot)
    press("start again")
    says(f"kept in the same folder: {saved.stem}-1{saved.suffix}.")
    picture.wait_for(state="hidden")
    aside = saved.with_name(f"{saved.stem}-1{saved.suffix}")
    assert len(aside.read_text().splitlines()) == n and not saved.exists()
