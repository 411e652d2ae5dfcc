"""Figures of lessons 03 and 04: the Bradley-Terry reward model and the pairwise preference model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from rlhf_kit.views import style


def draw_bradley_terry(gaps: Sequence[float], losses: Sequence[float]) -> Figure:
    """Probability, loss and its slope against the reward gap; `gaps` and `losses` mark the toy pairs on the curve."""
    x = np.linspace(-5, 5, 201)
    p = 1 / (1 + np.exp(-x))
    fig, axes = style.figure(1, 3, width=10.5, height=3.2)
    for ax, y, text in zip(
        axes, (p, -np.log(p), p - 1), ("P(chosen preferred)", "loss (nats)", "slope of the loss"), strict=True
    ):
        ax.plot(x, y, color=style.MODEL)
        ax.axvline(0, color="#CCCCCC", linewidth=0.8)
        style.label(ax, text, "r(chosen) - r(rejected)", text)
    axes[1].plot(gaps, losses, "s", color=style.VERMILION, label="the three pairs")
    axes[1].legend(frameon=False, fontsize=9)
    return fig


def draw_accuracies(
    rows: Sequence[tuple[str, float, float | None, float | None]],
    *,
    ceiling: float | None = None,
    title: str,
    ceiling_text: str = "Bayes ceiling",
) -> Figure:
    """One point a scorer with its 95 % interval: rows of (name, accuracy, low, high)."""
    fig, (ax,) = style.figure(width=7.6, height=1.4 + 0.38 * len(rows))
    for place, (name, value, low, high) in enumerate(rows):
        ends = None if low is None else style.errors([value], [low], [high])
        color = (
            style.CONTROL if name.startswith("random") else style.TRUTH if "oracle" in name else style.MODEL
        )
        ax.errorbar([value], [place], xerr=ends, fmt="o", color=color, capsize=3, markersize=7)
        style.number(ax, f"{value:.3f}", (value, place))
    ax.set_yticks(range(len(rows)), [row[0] for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.7)
    ax.axvline(0.5, color=style.CONTROL, linestyle=":", linewidth=1.3, label="chance")
    if ceiling is not None:
        ax.axvline(ceiling, color=style.CEILING, linestyle="--", linewidth=1.3, label=ceiling_text)
    ax.set_xlim(min(0.4, *[row[1] - 0.06 if row[2] is None else row[2] - 0.02 for row in rows]), 1.02)
    style.legend_outside(ax)
    style.label(ax, title, "accuracy (share of pairs)")
    return fig


def draw_margins(
    margins: Sequence[float],
    right: Sequence[bool],
    x: str = "r(chosen) - r(rejected)",
    title: str = "Margins on the held-out pairs",
) -> Figure:
    """Histogram of margins, and the share of right orders by size of the margin against what its sigmoid promises.

    right: whether the chosen answer is truly the better one; a margin is right when its sign says the same.
    """
    margins, right = np.asarray(margins, dtype=float), np.asarray(right, dtype=bool)
    fig, (ax, calibration) = style.figure(1, 2, width=10.0, height=3.5)
    bins = np.linspace(margins.min(), margins.max() + 1e-9, 31)
    ax.hist([margins[right], margins[~right]], bins=bins, stacked=True, color=[style.BLUE, style.VERMILION],
            label=["label agrees with the truth", "label is wrong"])  # fmt: skip
    ax.axvline(0, color="black", linewidth=1)
    style.label(ax, title, x, "pairs", legend=True)
    draw_reliability(calibration, 1 / (1 + np.exp(-np.abs(margins))), np.where(margins > 0, right, ~right))
    style.label(
        calibration,
        "Is its confidence earned?",
        "sigmoid(|margin|)",
        "share ordered as the truth",
        legend=True,
    )
    return fig


def draw_reliability(ax, predicted: Sequence[float], outcome: Sequence[float], bins: int = 8) -> None:
    """Observed share against predicted probability in bins of equal count, with 95 % intervals, and the diagonal."""
    predicted, outcome = np.asarray(predicted, dtype=float), np.asarray(outcome, dtype=float)
    order = np.argsort(predicted, kind="stable")
    for k, part in enumerate(np.array_split(order, min(bins, len(order)))):
        share, n = outcome[part].mean(), len(part)
        half = 1.96 * np.sqrt(max(share * (1 - share), 0.25 / n) / n)
        ends = style.errors([share], [max(0.0, share - half)], [min(1.0, share + half)])
        ax.errorbar(
            [predicted[part].mean()],
            [share],
            yerr=ends,
            fmt="o",
            color=style.MODEL,
            capsize=3,
            label=None if k else "observed",
        )
    low = float(min(0.5, predicted.min()))
    ax.plot([low, 1], [low, 1], "--", color=style.CEILING, linewidth=1.2, label="as promised")
    ax.set_ylim(min(-0.02, 0), 1.05)


def draw_by_gap(
    gaps: Sequence[float], right: Mapping[str, Sequence[float]], ceiling: Sequence[float] | None = None
) -> Figure:
    """Accuracy by distance in gold utility. right: scorer -> 1, 0.5 or 0 a pair; ceiling: the annotator's probability."""
    gaps = np.abs(np.asarray(gaps, dtype=float))
    order = np.argsort(gaps, kind="stable")
    parts = np.array_split(order, min(6, len(order)))
    fig, (ax,) = style.figure(width=7.4)
    palette, marks = style.colors(list(right)), style.markers(list(right))
    for name, hits in right.items():
        hits = np.asarray(hits, dtype=float)
        ys = [hits[p].mean() for p in parts]
        half = [
            1.96 * np.sqrt(max(y * (1 - y), 0.25 / len(p)) / len(p)) for y, p in zip(ys, parts, strict=True)
        ]
        ends = style.errors(
            ys,
            [max(0, y - h) for y, h in zip(ys, half, strict=True)],
            [min(1, y + h) for y, h in zip(ys, half, strict=True)],
        )
        ax.errorbar(
            [gaps[p].mean() for p in parts],
            ys,
            yerr=ends,
            fmt=f"{marks[name]}-",
            color=palette[name],
            capsize=3,
            label=name,
        )
    if ceiling is not None:
        ceiling = np.asarray(ceiling, dtype=float)
        ax.plot(
            [gaps[p].mean() for p in parts],
            [ceiling[p].mean() for p in parts],
            "--",
            color=style.CEILING,
            label="one annotator",
        )
    style.chance(ax)
    ax.set_ylim(0, 1.05)
    ax.legend(loc="lower right", frameon=False)
    style.label(
        ax,
        "Accuracy by how far apart the answers truly are",
        "distance in gold utility (mean of the bin)",
        "share ordered as the truth",
    )
    return fig


def draw_reward_against_gold(
    gold: Sequence[float], reward: Sequence[float], categories: Sequence[str]
) -> Figure:
    """One dot an answer: the learnt reward against the true utility, coloured by section."""
    fig, (ax,) = style.figure(width=7.2, height=4.2)
    names = list(dict.fromkeys(categories))
    palette, marks = style.colors(names), style.markers(names)
    gold, reward, categories = np.asarray(gold), np.asarray(reward), np.asarray(categories)
    for name in names:
        here = categories == name
        ax.plot(
            gold[here], reward[here], marks[name], color=palette[name], alpha=0.4, markersize=4.5, label=name
        )
    for handle in style.legend_outside(ax).legend_handles:
        handle.set_alpha(1)
    style.label(
        ax, "Learnt reward against the truth, one dot an answer", "gold utility (0 to 10)", "reward (no unit)"
    )
    return fig


def draw_edits(
    names: Sequence[str],
    reward: Sequence[tuple[float, float, float]],
    gold: Sequence[tuple[float, float, float]] | None = None,
) -> Figure:
    """What standard edits of an answer do, (mean, low, high) of the change in standard deviations of each score."""
    fig, (ax,) = style.figure(width=8.6, height=1.3 + 0.5 * len(names))
    series = [("learnt reward", reward, style.MODEL, "o")] + (
        [("gold utility", gold, style.TRUTH, "s")] if gold else []
    )
    for k, (text, values, color, mark) in enumerate(series):
        mean, low, high = (np.array([v[i] for v in values]) for i in range(3))
        places = np.arange(len(names)) + (k - (len(series) - 1) / 2) * 0.22
        ax.errorbar(
            mean, places, xerr=style.errors(mean, low, high), fmt=mark, color=color, capsize=3, label=text
        )
    ax.axvline(0, color="black", linewidth=1)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    style.legend_outside(ax)
    style.label(ax, "What an edit does to the score", "mean change (standard deviations of that score)")
    return fig


# ---------------------------------------------------------------- the pairwise model


def draw_both_orders(shown_first: Sequence[float], shown_second: Sequence[float]) -> Figure:
    """P(chosen) with the chosen answer in place A and in place B, and the distribution of the difference."""
    first, second = np.asarray(shown_first, dtype=float), np.asarray(shown_second, dtype=float)
    flips = (first - 0.5) * (second - 0.5) < 0
    fig, (ax, gap) = style.figure(1, 2, width=9.6, height=3.9)
    ax.plot(
        first[~flips],
        second[~flips],
        "o",
        color=style.BLUE,
        alpha=0.4,
        markersize=4.5,
        label="same verdict in both orders",
    )
    ax.plot(
        first[flips],
        second[flips],
        "X",
        color=style.VERMILION,
        alpha=0.8,
        markersize=6,
        label="the verdict flips",
    )
    ax.plot([0, 1], [0, 1], "--", color=style.CEILING, linewidth=1, label="place does not matter")
    ax.axhline(0.5, color="#CCCCCC", linewidth=0.8)
    ax.axvline(0.5, color="#CCCCCC", linewidth=0.8)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    style.label(ax, "The same pair, asked twice", "P(chosen), shown as A", "P(chosen), shown as B")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), fontsize=8.5, frameon=False)
    gap.hist(first - second, bins=np.linspace(-1, 1, 41), color=style.SKY, edgecolor="white")
    gap.axvline(0, color="black", linewidth=1)
    gap.axvline(
        (first - second).mean(), color=style.VERMILION, linestyle="--", label="mean: the pull of place A"
    )
    style.label(gap, "What the place alone is worth", "P(chosen as A) - P(chosen as B)", "pairs", legend=True)
    return fig


def draw_difference_by_section(
    names: Sequence[str], values: Sequence[tuple[float, float, float]], left: str, right: str
) -> Figure:
    """Paired difference of two models' accuracies by section: (mean, low, high), above 0 in favour of `right`."""
    fig, (ax,) = style.figure(width=7.2, height=1.4 + 0.42 * len(names))
    mean, low, high = (np.array([v[i] for v in values], dtype=float) for i in range(3))
    ax.errorbar(
        mean, range(len(names)), xerr=style.errors(mean, low, high), fmt="o", color=style.MODEL, capsize=3
    )
    ax.axvline(0, color="black", linewidth=1)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    edge = max(0.02, float(np.nanmax(np.abs([*mean, *np.nan_to_num(low), *np.nan_to_num(high)])))) * 1.1
    ax.set_xlim(-edge, edge)
    style.label(
        ax,
        f"Accuracy of the {right} minus the {left}, same pairs",
        f"<- {left} better      difference (share)      {right} better ->",
    )
    return fig


def draw_two_confidences(scalar: Sequence[float], pairwise: Sequence[float], right: Sequence[bool]) -> Figure:
    """P(better answer) by the scalar model (sigmoid of the reward gap) against the pairwise model, one dot a pair."""
    scalar, pairwise, right = (
        np.asarray(scalar, dtype=float),
        np.asarray(pairwise, dtype=float),
        np.asarray(right, dtype=bool),
    )
    fig, (ax,) = style.figure(width=6.6, height=4.4)
    ax.plot(
        scalar[right],
        pairwise[right],
        "o",
        color=style.BLUE,
        alpha=0.4,
        markersize=4.5,
        label="label agrees with the truth",
    )
    ax.plot(
        scalar[~right],
        pairwise[~right],
        "X",
        color=style.VERMILION,
        alpha=0.7,
        markersize=6,
        label="label is wrong",
    )
    ax.axhline(0.5, color="#999999", linewidth=0.9)
    ax.axvline(0.5, color="#999999", linewidth=0.9)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    style.legend_outside(ax)
    style.label(
        ax,
        "Two judges on the same held-out pairs",
        "P(chosen) by the scalar model",
        "P(chosen) by the pairwise model",
    )
    return fig
