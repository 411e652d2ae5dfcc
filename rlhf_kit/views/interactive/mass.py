"""Where did the mass go? One prompt's answers, and how likely each is under SFT and after every DPO training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_kit.errors import KitError
from rlhf_kit.views import style
from rlhf_kit.views.interactive.controls import choice, slider
from rlhf_kit.views.interactive.panel import Drawing, Panel, Said, legend_under, present

LOOKS = {
    "chosen": (style.BLUE, "^", "-"),
    "rejected": (style.OTHER, "v", "-"),
    "other of SFT": (style.GREY, "o", ":"),
    "new": (style.GREEN, "s", "--"),
}
NAMES = {"chosen": "chosen", "rejected": "rejected", "other of SFT": "SFT's other answers", "new": "fresh answers of the last policy"}
LISTED = 8  # answers in the table
ROLES = tuple(LOOKS)
MOST = 12  # lines a prompt


def shares(rows: Sequence[Mapping]) -> np.ndarray:
    """Probability of all answers of a role together under each policy: (roles + 1, policies); last, all that is not listed."""
    p = np.exp(np.array([row["logps"] for row in rows]))
    by_role = [p[[row["role"] == role for row in rows]].sum(axis=0) for role in ROLES]
    return np.array([*by_role, np.clip(1 - p.sum(axis=0), 0, 1)])


def draw_mass(groups: Sequence[Sequence[Mapping]], names: Sequence[str]) -> Drawing:
    """groups: the rows of each prompt; names: of the policies. Values of `move`: prompt (place in groups), upto (0 to the last policy)."""
    x = np.arange(len(names))
    low = min(min(row["logps"]) for rows in groups for row in rows)
    fig, (lines, bars) = style.figure(1, 2, width=10.6, height=4.2, width_ratios=[1.4, 1])
    drawn = {}
    for role, (color, mark, dash) in LOOKS.items():
        drawn[role] = [lines.plot([], [], dash, marker=mark, color=color, markersize=8 if role in ROLES[:2] else 5,
                                  linewidth=2.4 if role in ROLES[:2] else 1.1, zorder=4 if role in ROLES[:2] else 2)[0]
                       for _ in range(1 if role in ROLES[:2] else MOST)]  # fmt: skip
        lines.plot(
            [],
            [],
            dash,
            marker=mark,
            color=color,
            label=NAMES[role],
        )
    lines.set(xlim=(-0.2, len(names) - 0.8), ylim=(low - 1, 0.5))
    lines.set_xticks(x, names)
    legend_under(fig, lines)
    style.label(lines, "How likely each whole answer is", "DPO trainings done", "log-probability, nats")
    hatches = ("//", "\\\\", "..", "xx")
    stacks = [[bars.bar([i], [0.0], 0.62, color=LOOKS[role][0], hatch=hatch, edgecolor="white", linewidth=0.4)[0] for i in x]
              for role, hatch in zip(ROLES, hatches, strict=True)]  # fmt: skip
    for role, hatch in zip(ROLES, hatches, strict=True):
        bars.bar([0], [0], color=LOOKS[role][0], hatch=hatch, edgecolor="white", label=role)
    top = max(0.02, max(float(shares(rows)[:-1].sum(axis=0).max()) for rows in groups))
    bars.set(xlim=(-0.5, len(names) - 0.5), ylim=(0, min(1.0, 1.15 * top)))
    bars.set_xticks(x, names)
    bars.grid(axis="x", visible=False)
    style.label(bars, "Their share of all probability", "DPO trainings done", "probability, added up")

    def move(prompt: int, upto: int) -> Said:
        rows = groups[prompt]
        for role, pool in drawn.items():
            mine = [row for row in rows if row["role"] == role]
            mine = sorted(mine, key=lambda row: -row["logps"][-1])
            for k, line in enumerate(pool):
                line.set_data(*((x[: upto + 1], mine[k]["logps"][: upto + 1]) if k < len(mine) else ([], [])))
        share, bottom = shares(rows), np.zeros(len(names))
        for boxes, values in zip(stacks, share[:-1], strict=True):
            for i, box in enumerate(boxes):
                box.set(y=bottom[i], height=values[i] if i <= upto else 0.0)
            bottom += values
        return Said(_told(rows, names, upto, share), *_listed(rows, names, upto))

    return Drawing(fig, [*sum(drawn.values(), []), *(box for boxes in stacks for box in boxes)], move)


def _told(rows: Sequence[Mapping], names: Sequence[str], upto: int, share: np.ndarray) -> str:
    chosen, rejected = (next(row["logps"] for row in rows if row["role"] == role) for role in ROLES[:2])
    if not upto:
        return (f"Under {names[0]} the chosen answer has log-probability {chosen[0]:.1f} and the rejected one {rejected[0]:.1f} nats. All the "
                f"answers drawn together hold {100 * (1 - share[-1, 0]):.1f} % of the probability.")  # fmt: skip
    dc, dr = chosen[upto] - chosen[0], rejected[upto] - rejected[0]
    way = lambda d: f"{'rose' if d >= 0 else 'fell'} by {abs(d):.2f}"  # noqa: E731
    gap = f"the gap {'grew' if dc > dr else 'shrank'} by {abs(dc - dr):.2f}"
    now = f"training {names[upto]}" if names[upto].isdigit() else names[upto]
    text = f"From {names[0]} to {now}: the chosen answer {way(dc)} nats, the rejected one {way(dr)}, so {gap}. "
    if dc < 0:
        text += "The chosen answer became less likely; its probability went elsewhere. "
    other = [row for row in rows if row["role"] not in ROLES[:2]]
    if other:
        best = max(other, key=lambda row: np.exp(row["logps"][upto]) - np.exp(row["logps"][0]))
        gain = 100 * (np.exp(best["logps"][upto]) - np.exp(best["logps"][0]))
        if gain > 0:
            whose = "a fresh answer of the last policy" if best["role"] == "new" else "another answer of SFT"
            text += f"Outside the pair, {whose} gained most: {gain:.2f} percentage points. "
    listed = f" (the table lists {LISTED})" if len(rows) > LISTED else ""
    return (
        text + f"All {len(rows)} answers that were followed{listed} went together from {100 * (1 - share[-1, 0]):.1f} % "
        f"to {100 * (1 - share[-1, upto]):.1f} % of the probability."
    )


def _listed(rows: Sequence[Mapping], names: Sequence[str], upto: int) -> tuple[list[str], list[list]]:
    known = rows[0].get("gold") is not None
    columns = [
        "role",
        f"log p, {names[0]}",
        *([f"log p, {names[upto]}", "change"] if upto else []),
        "reward",
        *(["gold"] if known else []),
        "answer",
    ]
    order = sorted(
        rows,
        key=lambda row: (
            ROLES.index(row["role"]) > 1,
            ROLES.index(row["role"]) if row["role"] in ROLES[:2] else 0,
            -row["logps"][upto],
        ),
    )
    asked = " / ".join(turn["content"] for turn in rows[0]["prompt"])
    table = [["prompt", *[None] * (len(columns) - 2), asked]]
    for row in order[:LISTED]:
        first, now = row["logps"][0], row["logps"][upto]
        table.append(
            [
                NAMES[row["role"]],
                first,
                *([now, now - first] if upto else []),
                row["reward"],
                *([row["gold"]] if known else []),
                row["text"],
            ]
        )
    return columns, table


def where_did_the_mass_go(
    rows: Sequence[Mapping], *, names: Sequence[str] | None = None, interactive: bool
) -> Panel:
    """Shows how likely the answers of a prompt are under one policy after the other. rows: see `stages.answers_over_training`.

    Opens with the prompt whose chosen answer lost most. names: of the policies, by default SFT, 1, 2, ... KitError for no rows.
    """
    groups: dict[str, list[Mapping]] = {}
    for row in rows:
        groups.setdefault(row["prompt_id"], []).append(row)
    if not groups:
        raise KitError("there are no answers to show; stages.answers_over_training gives rows")
    ordered = sorted(
        groups.values(),
        key=lambda own: next(r["logps"][-1] - r["logps"][0] for r in own if r["role"] == "chosen"),
    )
    names = list(names or ["SFT", *map(str, range(1, len(rows[0]["logps"])))])
    last = len(names) - 1

    def controls() -> dict[str, Any]:
        asked = [(f"{i + 1} of {len(ordered)}", i) for i in range(len(ordered))]
        return {
            "prompt": choice("prompt", asked, 0, width="300px"),
            "upto": slider("DPO trainings done", last, 0, last, 1),
        }

    return present(
        draw_mass(ordered, names), {"prompt": 0, "upto": last}, controls, interactive=interactive, name="mass"
    )
