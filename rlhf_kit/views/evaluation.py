"""Figures of lesson 09 (those of judges are in `judged`): parts of the utility, skills, and the course in one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_kit.views import style
from rlhf_kit.views.loop import arm_rows


def put_changes(ax: Axes, rows: Sequence[Mapping]) -> None:
    """Paired changes with 95 % intervals on axes, a row a thing: upward where it rose beyond doubt, downward where it fell.

    rows: {name, difference, low, high}. Beyond doubt is p_adjusted < 0.05 where a row has one (many were looked at), else p
    (an exact test), else an interval without zero.
    """
    value, low, high = (np.array([row[key] for row in rows], dtype=float) for key in ("difference", "low", "high"))
    for place, row in enumerate(rows):
        p = row["p_adjusted"] if row.get("p_adjusted") is not None else row.get("p")
        sure = p < 0.05 if p is not None else low[place] > 0 or high[place] < 0
        color, mark = (style.GREY, "o") if not sure else (style.GREEN, "^") if value[place] > 0 else (style.OTHER, "v")
        ax.errorbar(value[place : place + 1], [place], fmt=mark, color=color, capsize=3, markersize=7,
                    xerr=style.errors(value[place : place + 1], low[place : place + 1], high[place : place + 1]))
    ax.axvline(0, color="black", linewidth=1)
    style.rows_down(ax, [row["name"] for row in rows])
    ax.locator_params(axis="x", nbins=6)


def part_lines(report: Sequence[Mapping]) -> list[dict]:
    """The lines of `evaluation.hacking_report` that are parts of gold (corrected for their number), as rows of `put_changes`."""
    return [{**line, "name": line["part"]} for line in report if line["p_adjusted"] is not None]


def say_p(p: float | None) -> str:
    """A p value with three digits; a small one is never 0."""
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def draw_skills(gold: Sequence[Mapping], solved: Sequence[Mapping], tests: Sequence[Mapping]) -> Figure:
    """Were skills lost? Gold by section, tasks solved and skill tests, after minus before, 95 % intervals.

    gold: {name, difference, low, high}. solved: of `stages.skills`. tests: of `evaluation.skills.compare_skills`.
    """
    share = "change of the share, greedy"
    panels = (("Did gold fall in a section?", gold, "change of gold (points), temperature 1"),
              ("Are fewer tasks solved?", [{**row, "name": row["category"]} for row in solved], share),
              ("Are tests answered worse?", [{**row, "name": row["task"].removeprefix("pocket_")} for row in tests], share))
    fig, axes = style.figure(1, 3, width=11.2, height=1.8 + 0.36 * max(len(rows) for _, rows, _ in panels))
    for ax, (title, rows, x) in zip(axes, panels, strict=True):
        put_changes(ax, rows)
        style.label(ax, title, f"{x}\n(triangle: rose or fell beyond doubt,\ngrey dot: not told apart)")
    return fig


def draw_parts(grid: Mapping[str, Mapping[str, float]], report: Sequence[Mapping]) -> Figure:
    """Which part of the gold utility moved: by section as a coloured table, over all prompts with 95 % intervals.

    grid: `evaluation.parts_by_section`, report: `evaluation.hacking_report` of the same answers.
    """
    parts, sections = part_lines(report), list(next(iter(grid.values())))
    values = np.array([[grid[line["part"]][name] for name in sections] for line in parts])
    fig, (ax, whole) = style.figure(1, 2, width=11.0, height=1.7 + 0.36 * len(parts), sharey=True)
    bound = max(0.05, float(np.abs(values).max()))
    ax.imshow(values, cmap="PuOr_r", vmin=-bound, vmax=bound, aspect="auto")
    for i, j in np.ndindex(*values.shape):
        ax.text(j, i, f"{values[i, j]:+z.2f}", ha="center", va="center", fontsize=9, color="white" if abs(values[i, j]) > 0.6 * bound else "black")
    ax.set_xticks(range(len(sections)), sections)
    ax.grid(False)
    style.label(ax, "Which part moved, and where?", "mean change (parts lie in 0 to 1)")
    put_changes(whole, parts)
    style.label(whole, "Over all prompts: more than luck?", "change, 95 % interval (triangle: rose or fell beyond doubt,\n"
                "corrected for the number of parts; grey dot: not told apart)")
    whole.set_ylim(len(parts) - 0.5, -0.5)
    return fig


def draw_summary(summary: Sequence[Mapping], arms: Sequence[str]) -> Figure:
    """The course in one figure: by iteration, the truth at temperature 1 and greedy, the proxy, and the KL.

    summary: rows of `stages.summarise` with "sft" and "<arm>-<t>". Panels of gold are left out where it is unknown.
    """
    panels = [("gold", 1.0, "Truth: gold at temperature 1", "gold utility (0 to 10)"), ("gold", 0.0, "Truth: gold, greedy", "gold utility (0 to 10)"),
              ("reward", 1.0, "Proxy: the reward model", "reward (no unit)"), ("kl", 1.0, "Price: KL to SFT", "nats per answer")]
    if summary[0]["gold"] is None:
        panels = panels[2:]
    rows = (len(panels) + 1) // 2
    fig, axes = style.figure(rows, 2, width=9.6, height=3.4 * rows, title="What online RLHF did in this run")
    palette, marks = style.colors(arms), style.markers(arms)
    for ax, (key, temperature, title, unit) in zip(axes, panels, strict=False):
        for k, arm in enumerate(arms):
            line = arm_rows(summary, arm, temperature)
            value = [row[key] for row in line]
            ends = None
            if line[0].get(f"{key}_low") is not None:
                ends = style.errors(value, *([row[f"{key}_{end}"] for row in line] for end in ("low", "high")))
            ax.errorbar(np.arange(len(line)) + 0.05 * k, value, yerr=ends, fmt=f"{marks[arm]}-", color=palette[arm], capsize=3, label=arm)
        ax.set_xticks(range(len(line)), ["SFT", *map(str, range(1, len(line)))])
        style.label(ax, title, "iteration", unit, legend=ax is axes[0])
    return fig
