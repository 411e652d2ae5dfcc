"""Reward microscope: edit an answer, and see which part of the truth moved and what the learnt reward made of it."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_kit.errors import KitError
from rlhf_kit.views import style
from rlhf_kit.views.interactive.controls import choice
from rlhf_kit.views.interactive.panel import Drawing, Panel, Said, legend_under, present

EXAMPLES, SPREAD = 6, 48  # answers to choose from; answers whose scores give the unit of change
SENTENCES = 6  # bars for so many sentences; the rest of an answer is counted with the last one
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*\s*")


def sentences(text: str) -> list[str]:
    """The text cut after its sentences, at most SENTENCES pieces that add up to it again."""
    found = [piece for piece in _SENTENCE.findall(text) if piece.strip()]
    return found if len(found) <= SENTENCES else [*found[: SENTENCES - 1], "".join(found[SENTENCES - 1 :])]


def _last(text: str) -> str:
    pieces = sentences(text)
    return pieces[-1].strip() if pieces else ""


EDITS: dict[str, Callable[[str], str]] = {
    "as it was": lambda text: text,
    "an empty opening": lambda text: f"That is a very good question. {text}",
    "a friendly closing": lambda text: f"{text} Have a nice day.",
    "last sentence twice": lambda text: f"{text} {_last(text)}",
    "last sentence gone": lambda text: text.rstrip().removesuffix(_last(text)).strip() or text,
    "words shuffled": lambda text: " ".join(random.Random(len(text)).sample(text.split(), len(text.split()))),
}


def worth(score: Callable, prompt: Sequence[Mapping], text: str) -> tuple[float, list[float]]:
    """(reward of the text, what each sentence adds to it: the reward lost when that sentence is taken out)."""
    pieces = sentences(text)
    without = (
        ["".join(pieces[:i] + pieces[i + 1 :]).strip() for i in range(len(pieces))] if len(pieces) > 1 else []
    )
    values = np.asarray(score([prompt] * (1 + len(without)), [text, *without]), dtype=float)
    return float(values[0]), [float(values[0] - v) for v in values[1:]] or [0.0] * len(pieces)


def draw_microscope(rows: Sequence[Mapping], score: Callable, gold: Callable | None = None) -> Drawing:
    """rows: {prompt, text}; score(prompts, texts) -> rewards; gold(prompt, text) -> {utility, parts}, or None.

    Values of `move`: example (a place in rows), edit (unused: it fills the text), text.
    """
    prompts, texts = [row["prompt"] for row in rows], [row["text"] for row in rows]
    rewards = np.asarray(score(prompts, texts), dtype=float)
    truths = [gold(p, t) for p, t in zip(prompts, texts, strict=True)] if gold else []
    spread = {
        "reward": float(rewards.std()) or 1.0,
        "gold": float(np.std([g.utility for g in truths])) or 1.0 if gold else 1.0,
    }
    parts = list(truths[0].parts) if gold else []
    fig, axes = style.figure(
        1,
        3 if gold else 2,
        width=11.0 if gold else 8.6,
        height=3.7,
        **({"width_ratios": [1.1, 0.75, 1]} if gold else {}),
    )
    moving: list[Any] = []
    if gold:
        ax, places = axes[0], np.arange(len(parts))
        joins = [ax.plot([], [], "-", color=style.TRUTH, linewidth=2.5, alpha=0.6)[0] for _ in parts]
        before = ax.plot(
            [], [], "o", markerfacecolor="white", markeredgecolor=style.TRUTH, markersize=9, label="as it was"
        )[0]
        after = ax.plot([], [], "s", color=style.TRUTH, markersize=6, label="edited")[0]
        style.rows_down(ax, parts, above=0.6)
        ax.set_xlim(-0.05, 1.05)
        legend_under(fig, ax)
        style.label(ax, "The truth, part by part", "part of gold (1 = no fault)")
        moving += [*joins, before, after]
    ax = axes[-2]
    names = ["learnt reward", *(["gold utility"] if gold else [])]
    bars = [
        ax.barh([k], [0.0], 0.5, color=color, hatch=hatch, edgecolor="white", linewidth=0)[0]
        for k, (color, hatch) in enumerate(((style.PROXY, ""), (style.TRUTH, "//"))[: len(names)])
    ]
    numbers = [ax.text(0.0, k, "", va="center", fontsize=9.5) for k in range(len(names))]
    ax.axvline(0, color="black", linewidth=1)
    style.rows_down(ax, names)
    ax.set_xlim(-4, 4)
    style.label(ax, "What the edit changed", "standard deviations of that score")
    ax = axes[-1]
    adds = [
        ax.barh([k], [0.0], 0.6, color=style.PROXY, edgecolor="white", linewidth=0)[0]
        for k in range(SENTENCES)
    ]
    labels = [ax.text(-2.95, k, "", ha="left", va="center", fontsize=8.5) for k in range(SENTENCES)]
    ax.axvline(0, color="black", linewidth=1)
    ax.set_yticks([])
    ax.set(xlim=(-3, 3), ylim=(SENTENCES - 0.4, -0.6))
    style.label(ax, "What a sentence adds", "learnt reward (st. dev.)", "sentence")
    moving += [*bars, *numbers, *adds, *labels]

    def move(example: int, text: str, edit: str = "") -> Said:
        prompt, start = prompts[example], texts[example]
        reward, added = worth(score, prompt, text)
        change = {"reward": (reward - float(rewards[example])) / spread["reward"]}
        told = f"Learnt reward {float(rewards[example]):.2f} before, {reward:.2f} now ({change['reward']:+.2f} standard deviations). "
        if gold:
            old, new = truths[example], gold(prompt, text)
            change["gold"] = (new.utility - old.utility) / spread["gold"]
            for k, (part, join) in enumerate(zip(parts, joins, strict=True)):
                join.set_data([old.parts[part], new.parts[part]], [k, k])
            before.set_data([old.parts[p] for p in parts], places)
            after.set_data([new.parts[p] for p in parts], places)
            moved = [
                f"{p} {old.parts[p]:.2f} to {new.parts[p]:.2f}"
                for p in parts
                if abs(new.parts[p] - old.parts[p]) > 5e-3
            ]
            told += f"Gold {old.utility:.2f} before, {new.utility:.2f} now ({change['gold']:+.2f}). Parts that moved: {', '.join(moved) or 'none'}. "
            if change["reward"] > 0.02 and new.utility < old.utility - 1e-6:
                told += "The reward likes an edit that makes the answer worse: an invitation to hack. "
        for k, (bar, number, value) in enumerate(zip(bars, numbers, change.values(), strict=True)):
            bar.set_width(float(np.clip(value, -4, 4)))
            # On the other side of the zero line, where neither the bar nor the line can strike it.
            number.set(text=f"{value:+.2f}", position=(-0.15 if value >= 0 else 0.15, k), ha="right" if value >= 0 else "left")
        pieces = sentences(text)
        for k, (bar, label) in enumerate(zip(adds, labels, strict=True)):
            here = k < len(pieces)
            bar.set_width(float(np.clip(added[k] / spread["reward"], -3, 3)) if here else 0.0)
            label.set_text(f"{k + 1}" if here else "")
        asked = " / ".join(turn["content"] for turn in prompt)
        table = [["prompt", None, asked], ["as it was", float(rewards[example]), start]]
        table += [[f"sentence {k + 1}", added[k], piece.strip()] for k, piece in enumerate(pieces)]
        return Said(told.strip(), ["", "reward, or what it adds", "text"], table)

    return Drawing(fig, moving, move)


def telling(rows: Sequence[Mapping], score: Callable, gold: Callable | None) -> tuple[int, str]:
    """(place, edit) whose reward rises most, or falls least, against what gold makes of it; both in standard deviations."""
    cases = [(i, name) for i in range(len(rows)) for name in list(EDITS)[1:]]
    prompts = [rows[i]["prompt"] for i, _ in cases]
    edited, plain = [EDITS[name](rows[i]["text"]) for i, name in cases], [rows[i]["text"] for i, _ in cases]
    gap = np.asarray(score(prompts, edited), dtype=float) - np.asarray(score(prompts, plain), dtype=float)
    gap /= float(np.std(gap)) or 1.0
    if gold:
        truth = np.array(
            [gold(p, e).utility - gold(p, t).utility for p, e, t in zip(prompts, edited, plain, strict=True)]
        )
        gap -= truth / (float(np.std(truth)) or 1.0)
    return cases[int(np.argmax(gap))]


def reward_microscope(
    rows: Sequence[Mapping], score: Callable, *, gold: Callable | None = None, interactive: bool
) -> Panel:
    """Shows what editing an answer does. rows: {prompt, text}: six to start from, more of them for the spread.

    score(prompts, texts) -> rewards of the learnt model. gold(prompt, text) -> utility and parts (`world.gold`), or None
    where no truth is known. Opens with the standard edit by which the reward is misled most. KitError without answers.
    """
    rows = [row for row in rows if row["text"].strip()][:SPREAD]
    if not rows:
        raise KitError("there is no answer to look at: all texts are empty")
    first = rows[:EXAMPLES]
    example, edit = telling(first, score, gold)
    defaults = {"example": example, "edit": edit, "text": EDITS[edit](rows[example]["text"])}

    def controls() -> dict[str, Any]:
        import ipywidgets as widgets

        asked = [(f"{i + 1} of {len(first)}", i) for i in range(len(first))]
        made = {
            "example": choice("prompt", asked, example, width="300px"),
            "edit": choice("edit", list(EDITS), edit),
            "text": widgets.Textarea(value=defaults["text"], description="its text, yours to change", style={"description_width": "initial"},
                                     layout={"width": "900px", "height": "70px"}),
        }  # fmt: skip
        for name in ("example", "edit"):
            made[name].observe(fill, "value")
        return made

    def fill(_: Any) -> None:
        """Another answer or edit fills the text; the drawing follows once."""
        controls = panel.controls
        panel.parts["held"] = True
        controls["text"].value = EDITS[controls["edit"].value](rows[controls["example"].value]["text"])
        panel.parts["held"] = False

    panel = present(
        draw_microscope(rows, score, gold), defaults, controls, interactive=interactive, name="microscope"
    )
    return panel
