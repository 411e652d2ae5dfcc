"""Figures of lessons 03 and 04: the Bradley-Terry reward model and the pairwise preference model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from rlhf_kit.evaluation import share_interval, share_of, without_means
from rlhf_kit.views import style


def draw_bradley_terry(gaps: Sequence[float], losses: Sequence[float]) -> Figure:
    """Probability, loss and its slope against the reward gap; the toy pairs, numbered, stand on all three curves."""
    x = np.linspace(-5, 5, 201)
    p, at = (1 / (1 + np.exp(-np.asarray(v, dtype=float))) for v in (x, gaps))
    fig, axes = style.figure(1, 3, width=10.5, height=3.3, sharex=True)
    panels = (
        ("What the model predicts", "P(chosen preferred)", p, at),
        ("What that costs", "loss (nats)", -np.log(p), losses),
        ("How hard it pulls", "slope of the loss", p - 1, at - 1),
    )
    for ax, (title, text, curve, marks) in zip(axes, panels, strict=True):
        ax.plot(x, curve, color=style.MODEL)
        ax.axvline(0, color="#CCCCCC", linewidth=0.8)
        ax.plot(gaps, marks, "s", color=style.VERMILION, label="the toy pairs, by number")
        for number, place in enumerate(zip(gaps, marks, strict=True), 1):
            style.number(ax, str(number), place, (0, 8))
        style.label(ax, title, "r(chosen) - r(rejected)", text)
    axes[1].legend(frameon=False, fontsize=9)
    return fig


def draw_accuracies(
    rows: Sequence[tuple[str, float, float | None, float | None]],
    *,
    ceiling: float | None = None,
    title: str,
) -> Figure:
    """One point a scorer with its 95 % interval: rows of (name, accuracy, low, high); controls (random, length) are grey."""
    fig, (ax,) = style.figure(width=7.6, height=1.4 + 0.38 * len(rows))
    for place, (name, value, low, high) in enumerate(rows):
        ends = None if low is None else style.errors([value], [low], [high])
        control = name.startswith("random") or "answer wins" in name
        color = style.CONTROL if control else style.TRUTH if "oracle" in name else style.MODEL
        ax.errorbar([value], [place], xerr=ends, fmt="o", color=color, capsize=3, markersize=7)
        style.number(ax, f"{value:.3f}", (value, place))
    style.rows_down(ax, [row[0] for row in rows])
    ax.axvline(0.5, color=style.CONTROL, linestyle=":", linewidth=1.3, label="chance")
    if ceiling is not None:
        ax.axvline(ceiling, color=style.CEILING, linestyle="--", linewidth=1.3, label="Bayes ceiling")
    ax.set_xlim(min(0.4, *[row[1] - 0.06 if row[2] is None else row[2] - 0.02 for row in rows]), 1.04)
    style.legend_outside(ax)
    style.label(ax, title, "accuracy (share of pairs)")
    return fig


def draw_margins(margins: Sequence[float], right: Sequence[bool]) -> Figure:
    """Histogram of margins, and the share of right orders by size of the margin against what its sigmoid promises.

    right: whether the chosen answer is truly the better one; a margin is right when its sign says the same.
    """
    margins, right = np.asarray(margins, dtype=float), np.asarray(right, dtype=bool)
    fig, (ax, calibration) = style.figure(1, 2, width=10.0, height=3.5)
    bins = np.linspace(margins.min(), margins.max() + 1e-9, 31)
    ax.hist([margins[right], margins[~right]], bins=bins, stacked=True, color=[style.BLUE, style.VERMILION],
            label=["label agrees with the truth", "label is wrong"])  # fmt: skip
    ax.axvline(0, color="black", linewidth=1)
    style.label(ax, "Held-out pairs by the model's margin", "r(chosen) - r(rejected)", "pairs", legend=True)
    draw_reliability(calibration, 1 / (1 + np.exp(-np.abs(margins))), np.where(margins > 0, right, ~right))
    style.label(
        calibration,
        "Is its confidence earned?",
        "predicted: sigmoid(|margin|), mean of the bin",
        "share ordered as the truth",
        legend=True,
    )
    return fig


def draw_reliability(ax, predicted: Sequence[float], outcome: Sequence[float], bins: int = 8) -> None:
    """Observed share against predicted probability in bins of equal count, with 95 % intervals, and the diagonal."""
    predicted, outcome = np.asarray(predicted, dtype=float), np.asarray(outcome, dtype=float)
    order = np.argsort(predicted, kind="stable")
    for k, part in enumerate(np.array_split(order, min(bins, len(order)))):
        share, low, high = share_of(outcome[part])
        ax.errorbar(
            [predicted[part].mean()],
            [share],
            yerr=style.errors([share], [low], [high]),
            fmt="o",
            color=style.MODEL,
            capsize=3,
            label=None if k else "observed",
        )
    low = float(min(0.5, predicted.min()))
    ax.plot([low, 1], [low, 1], "--", color=style.CEILING, linewidth=1.2, label="as predicted")
    ax.set_ylim(0, 1.05)


def draw_by_gap(
    gaps: Sequence[float], right: Mapping[str, Sequence[float]], ceiling: Sequence[float] | None = None
) -> Figure:
    """Accuracy by distance in gold utility. right: scorer -> 1, 0.5 or 0 a pair; ceiling: the annotator's probability."""
    gaps = np.abs(np.asarray(gaps, dtype=float))
    order = np.argsort(gaps, kind="stable")
    parts = np.array_split(order, min(6, len(order)))
    fig, (ax,) = style.figure(width=7.4)
    palette, marks = style.colors(list(right)), style.markers(list(right))
    shift = 0.012 * (gaps.max() if len(gaps) else 1)  # so that the whiskers of two judges stand side by side
    for k, (name, hits) in enumerate(right.items()):
        hits = np.asarray(hits, dtype=float)
        ys = [hits[p].mean() for p in parts]
        ends = style.errors(ys, *share_interval(ys, [len(p) for p in parts]))
        ax.errorbar(
            [gaps[p].mean() + (k - (len(right) - 1) / 2) * shift for p in parts],
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
            label="one annotator, asked once",
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
    gold: Sequence[float], reward: Sequence[float], categories: Sequence[str], prompts: Sequence[str]
) -> Figure:
    """One dot an answer, reward against truth, coloured by section: as they are, and without each prompt's mean."""
    fig, axes = style.figure(1, 2, width=10.4, height=4.0)
    names = list(dict.fromkeys(categories))
    palette, marks = style.colors(names), style.markers(names)
    values, categories = [np.asarray(v, dtype=float) for v in (gold, reward)], np.asarray(categories)
    within = [without_means(v, prompts) for v in values]
    for ax, (x, y) in zip(axes, (values, within), strict=True):
        for name in names:
            here = categories == name
            look = {"color": palette[name], "marker": marks[name], "linestyle": "none"}
            ax.plot(x[here], y[here], alpha=0.35, markersize=4, label=name, **look)
            if ax is axes[0]:
                look |= {"markeredgecolor": "black", "markeredgewidth": 1.5, "zorder": 4}
                ax.plot([x[here].mean()], [y[here].mean()], markersize=13, label=f"_{name}", **look)
    style.label(
        axes[0], "All answers (large: the mean of a section)", "gold utility (0 to 10)", "reward (no unit)"
    )
    style.label(
        axes[1],
        "The same, each prompt's mean taken off",
        "gold minus the prompt's mean",
        "reward minus the prompt's mean",
    )
    for handle in style.legend_outside(axes[1]).legend_handles:
        handle.set_alpha(1)
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
    style.rows_down(ax, names)
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
    pull = float((first - second).mean())
    gap.hist(first - second, bins=np.linspace(-1, 1, 41), color=style.SKY, edgecolor="white")
    gap.axvline(0, color="black", linewidth=1)
    gap.axvline(pull, color=style.VERMILION, linestyle="--", label=f"mean: place A is worth {pull:+.3f}")
    style.label(gap, "What the place changes, pair by pair", "P(chosen as A) - P(chosen as B)", "pairs")
    gap.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), fontsize=8.5, frameon=False)
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
    style.rows_down(ax, names)
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
        "Two judges, the same pairs: do they err together?",
        "P(chosen) by the scalar model",
        "P(chosen) by the pairwise model, both orders",
    )
    return fig
