"""The map of the course: the stages of the recipe as boxes, with the lessons that teach them (lesson 00)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch

from rlhf_kit.views import style

# name -> (x, y, text, lessons, kind); the loop runs round on the right.
_MAP = {
    "demos": (0.0, 2.0, "demonstrations", "02", "once"),
    "prefs": (0.0, 0.0, "preference pairs", "01", "once"),
    "sft": (2.6, 2.0, "initial policy (SFT)", "02", "once"),
    "reward": (2.6, 0.0, "reward model\npreference model", "03 04 05", "once"),
    "sample": (5.3, 2.0, "1. sample: n answers\nto new prompts", "06", "loop"),
    "score": (5.3, 0.0, "2. score: a reward\nfor each answer", "06", "loop"),
    "pair": (8.1, 0.0, "3. pair: best\nagainst worst", "06", "loop"),
    "dpo": (8.1, 2.0, "4. train: DPO makes\nthe next policy", "07 08", "loop"),
    "eval": (10.8, 2.0, "evaluation:\nis it better?", "09", "test"),
}
_ARROWS = (
    ("demos", "sft"), ("prefs", "reward"), ("sft", "reward"), ("sft", "sample"), ("reward", "score"), ("sample", "score"),
    ("score", "pair"), ("pair", "dpo"), ("dpo", "sample"), ("dpo", "eval"),
)  # fmt: skip
# kind -> (edge, face of a box that is done, line, what the legend says of it)
_KINDS = {
    "once": (style.BLUE, "#D6E6F5", "-", "made once, before the loop"),
    "loop": (style.VERMILION, "#FBE3D6", "-", "the online loop, again with every new policy"),
    "test": (style.GREEN, "#D5EFE6", "--", "looks at the policies, trains nothing"),
}


def draw_course_map(
    done: Sequence[str] = (), title: str = "The recipe: data and models on the left, the online loop on the right"
) -> Figure:
    """The stages of the recipe as boxes, with the lessons that teach them; `done` names boxes to fill in."""
    fig, (ax,) = style.figure(width=10.5, height=3.6)
    ax.set_axis_off()
    ax.set(xlim=(-1.15, 11.95), ylim=(-1.0, 2.65))
    for name, (x, y, text, lessons, kind) in _MAP.items():
        edge, filled, line, _ = _KINDS[kind]
        ax.add_patch(
            FancyBboxPatch(
                (x - 1.0, y - 0.42),
                2.0,
                0.84,
                boxstyle="round,pad=0.03",
                facecolor=filled if name in done else "white",
                edgecolor=edge,
                linestyle=line,
                linewidth=1.6,
            )
        )
        ax.text(x, y, text, ha="center", va="center", fontsize=9.5)
        ax.text(x, y - 0.62, f"lessons {lessons}" if " " in lessons else f"lesson {lessons}", ha="center",
                va="center", fontsize=8, color="#555555")  # fmt: skip
    for start, end in _ARROWS:
        a, b = (np.array(_MAP[name][:2], dtype=float) for name in (start, end))
        ax.add_patch(
            FancyArrowPatch(
                *_between(a, b), arrowstyle="-|>", mutation_scale=13, color="#444444", linewidth=1.2
            )
        )
    keys = [Patch(facecolor="white", edgecolor=edge, linestyle=line, linewidth=1.6, label=said)
            for edge, _, line, said in _KINDS.values()]  # fmt: skip
    ax.legend(handles=keys, loc="upper left", bbox_to_anchor=(0.0, 0.03), ncols=3, frameon=False, fontsize=9)
    ax.set_title(title, loc="left", fontweight="bold", fontsize=11)
    return fig


def _between(a: np.ndarray, b: np.ndarray) -> tuple[tuple, tuple]:
    """Arrow ends on the edges of the boxes at a and b, side by side or one above the other (labels stand below)."""
    step = b - a
    if abs(step[0]) > 0.5:
        side = np.sign(step[0])
        return (a[0] + 1.05 * side, a[1]), (b[0] - 1.05 * side, b[1])
    up = step[1] > 0
    return (a[0], a[1] + (0.47 if up else -0.75)), (b[0], b[1] - (0.75 if up else -0.47))
