"""Figures of lesson 02: the initial policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from rlhf_kit.evaluation import cluster_interval
from rlhf_kit.views import style


def draw_training_curve(
    history: Sequence[Mapping],
    key: str = "loss",
    *,
    title: str,
    y: str,
    lines: Mapping[str, float] | None = None,
    second: str | None = None,
    second_y: str = "",
    second_title: str | None = None,
    top: float | None = None,
) -> Figure:
    """A trainer's history over the steps, raw and smoothed; `lines` are levels to compare with, named in the legend.

    second: another key, drawn in a panel of its own (second_title: what it shows, else its label).
    top: where the first panel's axis ends, if the first steps lie far above the rest.
    """
    fig, axes = style.figure(1, 2 if second else 1, height=3.6)
    for ax, name, text in zip(axes, (key, second), (y, second_y), strict=False):
        rows = [row for row in history if row.get(name) is not None]
        steps, values = [row["step"] for row in rows], [row[name] for row in rows]
        ax.plot(steps, values, ".", color=style.SKY, markersize=5, label="as logged")
        ax.plot(steps, style.smooth(values), color=style.MODEL, label="moving mean")
        for k, (label, level) in enumerate((lines or {}).items() if ax is axes[0] else ()):
            style.ceiling(
                ax,
                level,
                label,
                (style.CONTROL, style.VERMILION, style.TRUTH, style.CEILING)[k % 4],
                (":", "--", "-.", "-")[k % 4],
            )
        if top is not None and ax is axes[0]:
            ax.set_ylim(0, top)
        other = second_title or style.short(text)
        style.label(ax, title if ax is axes[0] else other, "optimizer step", text)
        style.legend_below(ax)
    return fig


def draw_next_token(tokens: Sequence[str], logps: Sequence[float], learnt: Sequence[bool]) -> Figure:
    """Cost of every token of one conversation, -log p in nats: those outside the loss, and beside them, on an axis
    of their own, those of the answer, whose mean is the loss."""
    learnt = np.asarray(learnt, dtype=bool)
    cost = -np.asarray(logps, dtype=float)
    counts = [max(3, int((~learnt).sum())), max(3, int(learnt.sum()))]
    fig, axes = style.figure(1, 2, width=10.5, height=3.5, width_ratios=counts, title="What each token costs the policy")
    panels = ((~learnt, "#CCCCCC", "//", "Masked: read, but not learnt"), (learnt, style.MODEL, "", "In the loss: the answer and its end"))
    for ax, (mine, color, hatch, said) in zip(axes, panels, strict=True):
        places = np.arange(int(mine.sum()))
        ax.bar(places, cost[mine], color=color, hatch=hatch, edgecolor="white")
        shown = [t.strip() or "\u00b7" for t, own in zip(tokens, mine, strict=True) if own]
        ax.set_xticks(places, shown, rotation=90, fontsize=8.5)
        ax.grid(axis="x", visible=False)
        style.label(ax, said, "token" if len(places) else None, "-log p (nats)" if ax is axes[0] else None)
    if learnt.any():
        mean = float(cost[learnt].mean())
        style.ceiling(axes[1], mean, f"their mean, the loss: {mean:.2f}", style.BLACK, ":")
        axes[1].legend(loc="upper right", frameon=False, fontsize=9)
    return fig


def draw_by_section(
    values: Mapping[str, Mapping[str, tuple[float, float, float]]],
    *,
    title: str,
    y: str,
    top: float | None = None,
    chance: float | None = None,
    best: tuple[str, float] | None = None,
) -> Figure:
    """Bars by section, one colour a series: values[series][section] = (mean, low, high), 95 % intervals as lines.

    best: name and height of a line for the best there is.
    """
    groups = list(next(iter(values.values())))
    series = {name: [by[g][0] for g in groups] for name, by in values.items()}
    ends = {name: ([by[g][1] for g in groups], [by[g][2] for g in groups]) for name, by in values.items()}
    fig, (ax,) = style.figure(width=9.0, height=3.8)
    style.grouped_bars(ax, groups, series, intervals=ends)
    if chance is not None:
        style.chance(ax, chance)
    if best is not None:
        style.ceiling(ax, best[1], best[0], style.TRUTH)
    if top is not None:
        ax.set_ylim(0, top)
    style.legend_outside(ax)
    style.label(ax, title, None, y)
    return fig


def draw_parts(
    values: Mapping[str, Mapping[str, float]], title: str = "Where the utility is lost: mean of every part"
) -> Figure:
    """Dots on a line from 0 to 1, one row a part of the gold utility, one marker a writer: values[writer][part]."""
    parts = list(next(iter(values.values())))
    palette, marks = style.colors(list(values)), style.markers(list(values))
    fig, (ax,) = style.figure(width=7.6, height=1.2 + 0.34 * len(parts))
    for k, (name, by_part) in enumerate(values.items()):
        offset = (k - (len(values) - 1) / 2) * 0.16
        ax.plot(
            [by_part[p] for p in parts],
            np.arange(len(parts)) + offset,
            marks[name],
            color=palette[name],
            markersize=7,
            label=name,
        )
    style.rows_down(ax, parts)
    ax.set_xlim(-0.03, 1.05)
    style.legend_outside(ax)
    style.label(ax, title, "mean over the prompts (1 = never a fault)")
    return fig


def draw_sharpening(
    lines: Sequence[Mapping], keys: Sequence[tuple[str, str, str]], ceiling: float | None = None
) -> Figure:
    """A panel for each (key, axis label, title) against the sampling temperature; <key>_low and <key>_high give intervals.

    ceiling: the oracle's value, drawn in the first panel.
    """
    fig, axes = style.figure(1, len(keys), height=3.7, title="One policy, sampled ever more sharply (to the right)")
    lines = sorted(lines, key=lambda line: line["temperature"])
    xs = [line["temperature"] for line in lines]
    for ax, (key, text, said) in zip(axes, keys, strict=True):
        ys = [line[key] for line in lines]
        ends = style.errors(ys, [line.get(f"{key}_low", y) for line, y in zip(lines, ys, strict=True)],
                            [line.get(f"{key}_high", y) for line, y in zip(lines, ys, strict=True)])  # fmt: skip
        ax.errorbar(xs, ys, yerr=ends, fmt="o-", color=style.MODEL, capsize=3, label="SFT policy")
        if ax is axes[0] and ceiling is not None:
            style.ceiling(ax, ceiling, "oracle", style.TRUTH)
            ax.legend(frameon=False, loc="center left")
        hottest = max(xs, default=1.0)
        ax.set_xlim(hottest + 0.08, -0.08)
        if "share" in text:
            ax.set_ylim(0, 1.05)
        style.label(ax, said, "sampling temperature (0 = greedy)", text)
    return fig


# ---------------------------------------------------------------- rows for the cells of the lesson


def first_answers(rows: Sequence[Mapping], n: int) -> list[list[str]]:
    """The texts of the first `n` answers to each prompt (samples 0 to n - 1)."""
    by_prompt: dict[str, list[str]] = {}
    for row in rows:
        if row["sample"] < n:
            by_prompt.setdefault(row["prompt_id"], []).append(row["text"])
    return list(by_prompt.values())


def by_section(
    rows: Sequence[Mapping], values: Sequence[float], sections: Sequence[str], resamples: int = 1000
) -> dict[str, tuple[float, float, float]]:
    """(mean, low, high) of all values and of each section's: 95 % intervals, whole prompts resampled.

    rows: the answers that the values belong to, with prompt_id and category.
    """
    values, ids = np.asarray(values, dtype=float), np.array([row["prompt_id"] for row in rows])
    own = np.array([row["category"] for row in rows])
    chosen = {"all": np.ones(len(rows), dtype=bool)} | {section: own == section for section in sections}
    found = {name: cluster_interval(values[here], ids[here], resamples) for name, here in chosen.items()}
    return {name: (one.mean, one.low, one.high) for name, one in found.items()}
