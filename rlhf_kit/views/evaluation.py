"""Figures and tables of lesson 09: win rates, parts of the utility, skills, and the course in one figure."""

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


def draw_win_rates(rows: Sequence[Mapping]) -> Figure:
    """Win rates against a baseline with 95 % intervals. rows: {name, judge, win_rate, low, high}; one colour a judge."""
    judges = list(dict.fromkeys(row["judge"] for row in rows))
    known = {"gold": style.TRUTH, "reward model": style.PROXY, "pairwise model": style.PURPLE, "longer wins": style.GREY}
    palette = {**style.colors(judges), **{j: known[j] for j in judges if j in known}}
    marks = style.markers(judges)
    fig, (ax,) = style.figure(width=8.2, height=1.4 + 0.34 * len(rows))
    for place, row in enumerate(rows):
        first = row["judge"] not in {r["judge"] for r in rows[:place]}
        ax.errorbar([row["win_rate"]], [place], xerr=style.errors([row["win_rate"]], [row["low"]], [row["high"]]), capsize=3,
                    fmt=marks[row["judge"]], color=palette[row["judge"]], label=row["judge"] if first else None)
    ax.axvline(0.5, color=style.CONTROL, linestyle=":", label="no difference")
    ax.set_yticks(range(len(rows)), [row["name"] for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.7)
    ax.set_xlim(0, 1)
    ax.legend(title="judge", loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    style.label(ax, "Win rate against SFT", "share of prompts won (ties half)")
    return fig


def draw_changes(rows: Sequence[Mapping], title: str, x: str) -> Figure:
    """Paired changes with 95 % intervals, one row a thing. rows: {name, difference, low, high}."""
    fig, (ax,) = style.figure(width=7.6, height=1.4 + 0.36 * len(rows))
    put_changes(ax, rows)
    style.label(ax, title, x)
    return fig


def put_changes(ax: Axes, rows: Sequence[Mapping]) -> None:
    """Such rows on axes: upward where the change is a rise beyond doubt, downward where it is a fall."""
    value, low, high = (np.array([row[key] for row in rows], dtype=float) for key in ("difference", "low", "high"))
    for place in range(len(rows)):
        color = style.GREEN if low[place] > 0 else style.OTHER if high[place] < 0 else style.GREY
        mark = "^" if low[place] > 0 else "v" if high[place] < 0 else "o"
        ax.errorbar(value[place : place + 1], [place], fmt=mark, color=color, capsize=3, markersize=7,
                    xerr=style.errors(value[place : place + 1], low[place : place + 1], high[place : place + 1]))
    ax.axvline(0, color="black", linewidth=1)
    ax.set_yticks(range(len(rows)), [row["name"] for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.7)


def draw_parts(parts: Sequence[str], sections: Sequence[str], grid: Sequence[Sequence[float]]) -> Figure:
    """Mean change of every part of the gold utility in every section, as a coloured table; grid: (sections, parts)."""
    grid = np.asarray(grid, dtype=float)
    fig, (ax,) = style.figure(width=9.2, height=1.5 + 0.5 * len(sections))
    bound = max(0.05, float(np.abs(grid).max()))
    image = ax.imshow(grid, cmap="PuOr_r", vmin=-bound, vmax=bound, aspect="auto")
    for i, j in np.ndindex(*grid.shape):
        ax.text(j, i, f"{grid[i, j]:+.2f}", ha="center", va="center", fontsize=9, color="white" if abs(grid[i, j]) > 0.6 * bound else "black")
    ax.set_xticks(range(len(parts)), parts, rotation=25, ha="right")
    ax.set_yticks(range(len(sections)), sections)
    ax.grid(False)
    fig.colorbar(image, ax=ax, label="change of the part")
    style.label(ax, "Which part of the utility moved, and where")
    return fig


def draw_lengths(lengths: Mapping[str, Sequence[float]]) -> Figure:
    """Distribution of answer lengths (characters), one outline a policy, with the mean marked."""
    fig, (ax,) = style.figure(width=7.4)
    palette, high = style.colors(list(lengths)), max(max(values) for values in lengths.values())
    for k, (name, values) in enumerate(lengths.items()):
        dash = ("-", "--", ":", "-.")[k % 4]
        ax.hist(values, bins=np.linspace(0, high + 1, 25), histtype="step", linewidth=1.8, linestyle=dash, color=palette[name],
                label=f"{name}, mean {np.mean(values):.0f}")
        ax.axvline(float(np.mean(values)), color=palette[name], linestyle=dash, linewidth=1.1)
    style.label(ax, "Length of the answers at temperature 1", "characters", "answers", legend=True)
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
