"""Figures of lesson 09 (those of judges are in `judged`): parts of the utility, skills, and the course in one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_kit.evaluation.benches import (
    paper_table as paper_table,  # lesson 09 shows the paper's tables beside its own
)
from rlhf_kit.views import style
from rlhf_kit.views.policy import arm_rows


def _changes(ax: Axes, rows: Sequence[Mapping], title: str, x: str) -> None:
    value, low, high = (np.array([row[key] for row in rows], dtype=float) for key in ("difference", "low", "high"))
    for place in range(len(rows)):
        color = style.GREEN if low[place] > 0 else style.OTHER if high[place] < 0 else style.GREY
        mark = "^" if low[place] > 0 else "v" if high[place] < 0 else "o"
        ax.errorbar(value[place : place + 1], [place], fmt=mark, color=color, capsize=3, markersize=7,
                    xerr=style.errors(value[place : place + 1], low[place : place + 1], high[place : place + 1]))
    ax.axvline(0, color="black", linewidth=1)
    ax.set_yticks(range(len(rows)), [row["name"] for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.7)
    ax.locator_params(axis="x", nbins=6)
    style.label(ax, title, x)


def draw_changes(rows: Sequence[Mapping], title: str, x: str) -> Figure:
    """Paired changes with 95 % intervals, one row a thing. rows: {name, difference, low, high}."""
    fig, (ax,) = style.figure(width=7.6, height=1.4 + 0.36 * len(rows))
    _changes(ax, rows, title, x)
    return fig


def draw_skills(panels: Mapping[str, tuple[Sequence[Mapping], str]]) -> Figure:
    """Several kinds of paired changes side by side. panels: title -> (rows as in `draw_changes`, words of the x axis)."""
    fig, axes = style.figure(1, len(panels), width=3.8 * len(panels), height=1.5 + 0.36 * max(len(rows) for rows, _ in panels.values()))
    for ax, (title, (rows, x)) in zip(axes, panels.items(), strict=True):
        _changes(ax, rows, title, x)
    return fig


def draw_parts(grid: Mapping[str, Sequence[float]], changes: Sequence[Mapping]) -> Figure:
    """Which part of the gold utility moved: by section as a coloured table, over all prompts with 95 % intervals.

    grid: section -> mean change of every part. changes: {name, difference, low, high}, the parts in the same order.
    """
    values = np.array(list(grid.values()), dtype=float).T
    fig, (ax, whole) = style.figure(1, 2, width=11.0, height=1.5 + 0.36 * len(changes), sharey=True)
    bound = max(0.05, float(np.abs(values).max()))
    ax.imshow(values, cmap="PuOr_r", vmin=-bound, vmax=bound, aspect="auto")
    for i, j in np.ndindex(*values.shape):
        ax.text(j, i, f"{values[i, j]:+.2f}", ha="center", va="center", fontsize=9, color="white" if abs(values[i, j]) > 0.6 * bound else "black")
    ax.set_xticks(range(len(grid)), list(grid))
    ax.grid(False)
    style.label(ax, "Which part moved, and where?", "mean change (parts lie in 0 to 1)")
    _changes(whole, changes, "Over all prompts: more than luck?", "change, 95 % interval")
    whole.set_ylim(len(changes) - 0.5, -0.5)
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
