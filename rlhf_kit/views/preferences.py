"""Figures of lesson 01: the pocket world's truth, its annotators, and what cleaning leaves of the pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from rlhf_kit.evaluation import mean_interval, share_of
from rlhf_kit.views import style

# ---------------------------------------------------------------- the truth


def draw_gold_parts(
    names: Sequence[str], parts: Sequence[Mapping[str, float]], utilities: Sequence[float]
) -> Figure:
    """A heat map: one row an answer, one column a part of the gold utility (0 to 1), the utility (0 to 10) at the end."""
    columns = list(parts[0])
    grid = np.array([[p[c] for c in columns] for p in parts])
    fig, (ax,) = style.figure(width=9.5, height=1.5 + 0.42 * len(names))
    ax.imshow(grid, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for i in range(len(names)):
        for j in range(len(columns)):
            ax.text(
                j,
                i,
                f"{grid[i, j]:.2f}",
                ha="center",
                va="center",
                fontsize=9,
                color="white" if grid[i, j] < 0.55 else "black",
            )
        ax.text(
            len(columns) - 0.3,
            i,
            f"{utilities[i]:.1f}",
            ha="left",
            va="center",
            fontsize=11,
            fontweight="bold",
        )
    ax.text(len(columns) - 0.3, -0.75, "utility\n(0 to 10)", ha="left", va="center", fontsize=9.5, fontweight="bold")
    ax.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    ax.set_yticks(range(len(names)), names)
    ax.set_xlabel("part of the gold utility (0 to 1)")
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_title(
        "What each answer is worth, part by part (1 = nothing to complain about)",
        loc="left",
        fontsize=11,
        fontweight="bold",
        pad=18,
    )
    return fig


def draw_gold_by_section(groups: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> Figure:
    """Box plots of gold utility by section. groups: writer -> section -> utilities."""
    sections = list(next(iter(groups.values())))
    palette = style.colors(list(groups))
    fig, (ax,) = style.figure(width=8.0)
    width = 0.8 / len(groups)
    for k, (name, by_section) in enumerate(groups.items()):
        places = np.arange(len(sections)) + (k - (len(groups) - 1) / 2) * width
        boxes = ax.boxplot([by_section[s] for s in sections], positions=places, widths=width * 0.85, patch_artist=True, showfliers=False,
                           showmeans=True, manage_ticks=False, medianprops={"color": "black"},
                           meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": "black", "markersize": 5})  # fmt: skip
        for box in boxes["boxes"]:
            box.set(facecolor=palette[name], alpha=0.75, hatch="//" if k % 2 else None)
        ax.bar([0], [0], color=palette[name], alpha=0.75, hatch="//" if k % 2 else None, label=name)
    ax.plot([], [], "D", markerfacecolor="white", markeredgecolor="black", markersize=5, linestyle="None", label="mean")
    ax.set_xticks(range(len(sections)), sections)
    ax.set_xlim(-0.6, len(sections) - 0.4)
    ax.grid(axis="x", visible=False)
    style.legend_outside(ax)
    style.label(ax, title, "section of the prompts", "gold utility (0 to 10)")
    return fig


# ---------------------------------------------------------------- annotators


def draw_annotator_dials(
    probability: Callable[..., float], settings: Mapping[str, Sequence[float]]
) -> Figure:
    """P(A preferred) against the utility gap, one panel a dial, one line a setting of it, the others at rest.
    Each panel's title says what the dial does to the labels.

    probability(gap, **dial): the annotator's rule. settings: dial -> its values.
    """
    gaps = np.linspace(-6, 6, 121)
    title = "How each of the four dials bends the annotator's choice (the other three at rest)"
    fig, axes = style.figure(1, len(settings), width=11.0, height=3.6, sharey=True, title=title)
    for ax, (dial, values) in zip(axes, settings.items(), strict=True):
        for value, color, dashes in zip(
            values, (style.BLACK, style.BLUE, style.VERMILION), ("-", "--", "-."), strict=False
        ):
            ax.plot(
                gaps,
                [probability(gap, **{dial: value}) for gap in gaps],
                dashes,
                color=color,
                label=f"{value:g}",
            )
        style.chance(ax, text="_")
        ax.axvline(0, color="#CCCCCC", linewidth=0.8)
        ax.set_xticks([-6, -3, 0, 3, 6])
        ax.legend(title=dial, loc="upper left", frameon=False, fontsize=8, title_fontsize=8)
        style.label(ax, _DOES.get(dial, dial), "gold(A) - gold(B), points", "P(A preferred)" if ax is axes[0] else None)
    return fig


_DOES = {
    "temperature": "noise where gaps are small",
    "carelessness": "noise everywhere",
    "verbosity": "shifted: A is longer",
    "position": "shifted: A comes first",
}


def draw_ceiling(
    settings: Sequence[float],
    ceilings: Sequence[float],
    oracle: Sequence[float],
    dial: str,
    here: float | None = None,
) -> Figure:
    """What the best possible model can score against the labels, and what the truth itself scores, over one dial."""
    fig, (ax,) = style.figure()
    ax.plot(settings, ceilings, "--", color=style.CEILING, label="Bayes ceiling: mean of max(p, 1 - p)")
    ax.plot(
        settings, oracle, "o", color=style.TRUTH, markersize=6, label="the true utility, against drawn labels"
    )
    style.chance(ax)
    if here is not None:
        ax.axvline(here, color=style.PURPLE, linewidth=1.2, label="TEMPERATURE of this lesson")
    ax.set_ylim(0.45, 1.02)
    style.label(
        ax,
        "The ceiling that the annotator's noise sets",
        dial,
        "accuracy against the labels (share)",
        legend=True,
    )
    return fig


def draw_label_noise(gaps: Sequence[float], probabilities: Sequence[float]) -> Figure:
    """Share of labels that agree with the truth, by how far the two answers are apart.

    gaps: gold(chosen) - gold(rejected), one a pair. probabilities: the annotator's probability for the better answer.
    """
    gaps, probabilities = np.asarray(gaps, dtype=float), np.asarray(probabilities, dtype=float)
    kept = gaps != 0
    gaps, probabilities = gaps[kept], probabilities[kept]
    place = np.digitize(np.abs(gaps), [0, 0.5, 1, 2, 3, 4, 6, 10.01])
    bins = [place == k for k in np.unique(place)]
    x = [np.abs(gaps[here]).mean() for here in bins]
    share, low, high = np.reshape([share_of(gaps[here] > 0) for here in bins], (-1, 3)).T  # no pair: three empty columns
    fig, (ax, counts) = style.figure(1, 2, width=9.6, height=3.6, width_ratios=[2, 1])
    ax.errorbar(x, share, yerr=style.errors(share, low, high), fmt="o", color=style.MODEL, capsize=3,
                label="labels that agree with the truth (95 % interval)")  # fmt: skip
    ax.plot(x, [probabilities[here].mean() for here in bins], "x", color=style.CEILING, markersize=8, markeredgewidth=2,
            label="what the annotator's rule predicts")  # fmt: skip
    style.chance(ax)
    ax.set_ylim(0, 1.05)
    distance = "distance in gold utility (points)"
    style.label(ax, "How often the label is right, by distance", distance, "right labels (share of pairs)", legend=True)
    ax.legend(loc="lower right", frameon=False, fontsize=9)
    counts.hist(np.abs(gaps), bins=20, color=style.SKY, edgecolor="white")
    style.label(counts, "How far apart the pairs are (equal ones left out)", distance, "pairs (number)")
    return fig


# ---------------------------------------------------------------- rows


def draw_ledger(
    rows_in: int, rows_out: int, dropped: Mapping[str, int], title: str = "Row ledger: where every row went"
) -> Figure:
    """A bar for the rows read, one for each reason of dropping, one for the rows that are left."""
    names = ["read", *[d.replace("_", " ") for d in dropped], "kept"]
    fig, (ax,) = style.figure(width=8.0, height=1.2 + 0.32 * len(names))
    level = rows_in
    ax.barh(0, rows_in, color=style.GREY)
    ax.text(rows_in, 0, f" {rows_in}", va="center")
    for k, count in enumerate(dropped.values(), start=1):
        level -= count
        ax.barh(k, count, left=level, color=style.VERMILION, hatch="//", edgecolor="white")
        ax.text(level + count, k, f" -{count}", va="center")
    ax.barh(len(names) - 1, rows_out, color=style.BLUE)
    ax.text(rows_out, len(names) - 1, f" {rows_out}", va="center")
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlim(0, rows_in * 1.08)
    ax.grid(axis="y", visible=False)
    style.label(ax, title, "rows (number)")
    return fig


def draw_lengths(chosen: Mapping[str, Sequence[float]], rejected: Mapping[str, Sequence[float]]) -> Figure:
    """Mean length in tokens of chosen and rejected answers in each group, with 95 % intervals of the mean."""
    groups = list(chosen)
    series, ends = {}, {}
    for name, lengths in (("chosen", chosen), ("rejected", rejected)):
        series[name], *ends[name] = zip(*(mean_interval(lengths[group]) for group in groups), strict=True)
    fig, (ax,) = style.figure(width=max(6.4, 1.3 * len(groups) + 2.5))
    style.grouped_bars(
        ax, groups, series, intervals=ends, palette={"chosen": style.BLUE, "rejected": style.VERMILION}
    )
    style.legend_outside(ax)
    style.label(ax, "Is the chosen answer longer? Mean length of both sides (95 % intervals)", "pairs of", "mean length (tokens)")
    return fig
