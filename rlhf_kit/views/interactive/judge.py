"""Be the judge: label twenty pairs, fit a small reward model to your labels, and see where you differ from the truth."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_kit.errors import KitError
from rlhf_kit.runs import derive_seed
from rlhf_kit.views.interactive import labels
from rlhf_kit.views.interactive.controls import button
from rlhf_kit.views.interactive.judge_result import LEAST, draw_judge, stand_in
from rlhf_kit.views.interactive.markup import status
from rlhf_kit.views.interactive.panel import Drawing, Panel, Said, present


def be_the_judge(
    pairs: Sequence[Mapping],
    path: str | Path,
    *,
    n: int = 20,
    annotator: Any = None,
    seed: int = 0,
    interactive: bool,
) -> Panel:
    """Asks you to judge n pairs, one at a time, in blind order, then sets your labels beside the truth and the reward model.

    pairs: of `judged_pairs`. path: a .jsonl file that takes every label at once, in the standard preference format, so
    that `load_preferences(path)` reads them and a later sitting goes on where you stopped, or starts again beside it. Static: your saved labels if
    there are LEAST of them, else those of a stand-in (see `stand_in`), which the text says. Two or more pairs are needed.
    """
    if len(pairs) < 2:
        raise KitError("there are fewer than two pairs to judge")
    path, saved = Path(path), labels.load(Path(path))
    rng = np.random.default_rng(derive_seed(seed, "be-the-judge"))
    asked = [pairs[i] for i in rng.permutation(len(pairs))[:n]]
    first = {p["pair"]: ("chosen", "rejected")[int(rng.integers(2))] for p in asked}
    taken = {row["pair"]: side for row in saved for pair in asked if pair["pair"] == row["pair"]
             for side in ("chosen", "rejected") if row["chosen"][-1]["content"] == pair[side]}  # fmt: skip
    drawing = draw_judge(pairs)
    who = "You"
    if len(taken) < LEAST:
        who = (
            "Nobody has judged yet, so a stand-in, the annotator of the course,"
            if annotator is not None
            else "Nobody has judged yet, so the file's own labels stand in, which"
        )
    shown = Drawing(
        drawing.figure,
        drawing.moving,
        lambda **_: (
            drawing.move(taken)
            if len(taken) >= LEAST
            else drawing.move(stand_in(asked, annotator, seed), who)
        ),
    )
    if not interactive:
        return present(shown, {}, dict, interactive=False, name="judge")
    return _ask(shown, asked, first, taken, saved, path)


def _ask(
    shown: Drawing,
    asked: Sequence[Mapping],
    first: Mapping,
    taken: dict[str, str],
    saved: list[dict],
    path: Path,
) -> Panel:
    import ipywidgets as widgets

    other = {"chosen": "rejected", "rejected": "chosen"}
    skipped: list[str] = []
    done: list[str] = [row["pair"] for row in saved if row["pair"] in taken]
    card, progress = widgets.HTML(), widgets.HTML()
    panel = Panel(b"", Said(""))  # until `ready` gets the real one

    def current() -> Mapping | None:
        return next((p for p in asked if p["pair"] not in taken and p["pair"] not in skipped), None)

    def show() -> None:
        pair = current()
        left, right = (first[pair["pair"]], other[first[pair["pair"]]]) if pair else ("", "")
        card.value = (
            _card(pair, left, right)
            if pair
            else status("All pairs are judged. Thank you: the result is below.")
        )
        kept = f" Saved in {path.name}." if taken else _kept_aside(path)
        progress.value = status(
            f"Pair {len(taken) + len(skipped) + 1} of {len(asked)}. Which answer is better?{kept}{_until(LEAST - len(taken))}"
            if pair
            else f"{len(taken)} labels, {len(skipped)} skipped.{kept}"
        )
        for press in presses[:3]:
            press.disabled = pair is None
        presses[3].disabled = not done and not skipped
        presses[4].disabled = len(taken) < LEAST
        presses[5].disabled = not saved and not skipped
        if pair is None and len(taken) >= LEAST:
            reveal()

    def label(place: int) -> None:
        pair = current()
        if pair is None:
            return
        key = pair["pair"]
        side = first[key] if place == 0 else other[first[key]]
        saved.append(labels.row_of(pair, first[key], side))
        labels.save(path, saved)  # before anything else: a label that was given is not lost
        taken[key] = side
        done.append(key)
        show()

    def skip() -> None:
        pair = current()
        if pair is not None:
            skipped.append(pair["pair"])
            show()

    def undo() -> None:
        if skipped and (not done or asked_place(skipped[-1]) > asked_place(done[-1])):
            skipped.pop()
        elif done:
            key = done.pop()
            saved[:] = [row for row in saved if row["pair"] != key]
            labels.save(path, saved)
            del taken[key]
        conceal()
        show()

    def again() -> None:
        labels.put_aside(path)
        for kept in (saved, taken, skipped, done):
            kept.clear()
        conceal()
        show()

    def asked_place(key: str) -> int:
        return [p["pair"] for p in asked].index(key)

    def reveal() -> None:
        panel.refresh()
        for part in ("image", "text", "table"):
            panel.parts[part].layout.display = None

    def conceal() -> None:
        for part in ("image", "text", "table"):
            panel.parts[part].layout.display = "none"

    presses = [button("A is better", lambda: label(0), button_style="primary"), button("B is better", lambda: label(1), button_style="primary"),
               button("cannot tell", skip, "goes on without a label"), button("undo", undo, "takes the last label back"),
               button("result so far", reveal, f"from {LEAST} labels on"),
               button("start again", again, "begins with the first pair; the labels so far are kept in a file of their own")]  # fmt: skip

    def ready(made: Panel) -> None:
        nonlocal panel
        panel = made
        panel.parts |= {"card": card, "progress": progress, "presses": presses}
        box = panel.parts["box"]
        box.children = (progress, card, *box.children)
        conceal()  # blind: no result before you have judged
        show()

    return present(shown, {}, dict, interactive=True, name="judge", extra=lambda: presses, ready=ready)


def _kept_aside(path: Path) -> str:
    """Where the labels of earlier sittings are, in words; nothing without any."""
    names = [other.name for other in labels.aside(path).values()]
    return f" Your labels of before are kept in the same folder: {', '.join(names)}." if names else ""


def _until(more: int) -> str:
    """When there is a result, in words; nothing once there is one."""
    return f" The first result comes after {more} more label{'s' if more > 1 else ''}." if more > 0 else ""


def _card(pair: Mapping, left: str, right: str) -> str:
    turns = "".join(
        f"<div><b>{html.escape(turn['role'])}:</b> {html.escape(turn['content'])}</div>"
        for turn in pair["prompt"]
    )
    look = "flex:1 1 300px;min-height:7.5em;border:1px solid #8888;border-radius:6px;padding:8px 12px;white-space:pre-wrap"
    answer = lambda name, side: f'<div style="{look}"><b>Answer {name}</b><br>{html.escape(pair[side])}</div>'  # noqa: E731
    return (f'<div style="max-width:70em;line-height:1.5">{turns}<div style="display:flex;flex-wrap:wrap;gap:12px;margin-top:8px">'
            f'{answer("A", left)}{answer("B", right)}</div></div>')  # fmt: skip
