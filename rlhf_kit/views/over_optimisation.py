"""Figures of lesson 05: calibration, length, distribution shift, best-of-n, and how a reward model is fooled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from rlhf_kit.evaluation import cluster_interval
from rlhf_kit.views import style


def share_with_interval(hits: Sequence[float]) -> tuple[float, float, float]:
    """(share, low, high): the Wilson 95 % interval of a mean of zeros and ones (halves allowed)."""
    n, share, z = len(hits), float(np.mean(hits)), 1.96
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return share, max(0.0, float(middle - half)), min(1.0, float(middle + half))


def _bins(values: np.ndarray, edges: Sequence[float]) -> list[np.ndarray]:
    """Places of the values in [edge, next edge); the last bin takes its upper end too."""
    edges = np.asarray(edges, dtype=float)
    found = np.clip(np.digitize(values, edges) - 1, -1, len(edges) - 1)
    found[values == edges[-1]] = len(edges) - 2
    return [np.flatnonzero(found == k) for k in range(len(edges) - 1)]


def draw_calibration(tables: Mapping[str, Sequence[Mapping]]) -> Figure:
    """Predicted against observed. tables: name -> rows of `evaluation.reliability_table`."""
    fig, (ax, counts) = style.figure(1, 2, width=10.0, height=3.9)
    marks, palette = style.markers(list(tables)), style.colors(list(tables))
    ax.plot([0, 1], [0, 1], "--", color=style.CEILING, linewidth=1.2, label="perfect calibration")
    for name, rows in tables.items():
        x, y = ([row[key] for row in rows] for key in ("predicted", "observed"))
        half = [1.96 * np.sqrt(max(o * (1 - o), 0.25 / row["n"]) / row["n"]) for o, row in zip(y, rows, strict=True)]
        ax.errorbar(x, y, yerr=half, fmt=f"{marks[name]}-", color=palette[name], capsize=2.5, label=name)
        centres = [(row["low"] + row["high"]) / 2 for row in rows]
        total = sum(row["n"] for row in rows)
        counts.plot(centres, [row["n"] / total for row in rows], f"{marks[name]}-", color=palette[name], label=name)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    style.label(ax, "Does 80 % mean 80 %?", "predicted P(first answer preferred)", "observed share", legend=True)
    style.label(counts, "How sure it is, how often", "predicted P(first answer preferred)", "share of pairs", legend=True)
    return fig


def draw_length_correlation(by_prompt: Mapping[str, Sequence[float]], paper: Mapping[str, float] | None = None) -> Figure:
    """Histogram of the within-prompt correlations with length (paper Fig. 3). paper: reference values to mark."""
    fig, (ax,) = style.figure(width=7.6)
    colours = {"reward": style.PROXY, "gold": style.TRUTH}
    edges = np.linspace(-1, 1, 25)
    for k, (name, values) in enumerate(by_prompt.items()):
        color, mean = colours.get(name, style.CYCLE[k]), float(np.mean(values))
        filled = {"alpha": 0.45} if k == 0 else {"histtype": "step", "linewidth": 2.0}
        ax.hist(values, bins=edges, color=color, label=f"{name} and length, mean {mean:+.2f}", **filled)
        ax.axvline(mean, color=color, linewidth=2.2, linestyle=("-", "--")[k % 2])
    for k, (name, value) in enumerate((paper or {}).items()):
        ax.axvline(value, color=style.BLACK, linewidth=1.1, linestyle=(":", "-.")[k % 2], label=f"{name}, {value:+.2f}")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    style.label(ax, "Correlation with length inside each prompt", "Pearson correlation over one prompt's samples", "prompts")
    return fig


def draw_length_slope(length: Sequence[float], scores: Mapping[str, Sequence[float]], groups: Sequence) -> Figure:
    """Mean score by length, both as distances from the prompt's own mean; scores in standard deviations."""
    groups = np.unique(np.asarray([str(g) for g in groups]), return_inverse=True)[1]

    def centred(values):
        values = np.asarray(values, dtype=float)
        return values - (np.bincount(groups, weights=values) / np.bincount(groups))[groups]

    x = centred(length)
    fig, (ax,) = style.figure(width=7.6)
    colours = {"reward": (style.PROXY, "o"), "gold": (style.TRUTH, "s")}
    parts = np.array_split(np.argsort(x, kind="stable"), min(10, len(x)))
    for name, values in scores.items():
        color, mark = colours.get(name, (style.MODEL, "^"))
        y = centred(values)
        y = y / (y.std() or 1.0)
        half = [1.96 * y[p].std() / np.sqrt(len(p)) for p in parts]
        ax.errorbar([x[p].mean() for p in parts], [y[p].mean() for p in parts], yerr=half, fmt=f"{mark}-", color=color,
                    capsize=2.5, label=name)
    ax.axhline(0, color="#BBBBBB", linewidth=1)
    style.label(ax, "What more characters bring, inside a prompt", "length minus the prompt's mean length (characters)",
                "score minus the prompt's mean (st. dev.)", legend=True)
    return fig


def draw_accuracy_by_gap(sets: Mapping[str, tuple[Sequence, ...]],
                         annotator: Callable[[np.ndarray], np.ndarray] | None = None,
                         edges: Sequence[float] = (0, 0.25, 0.5, 1, 2, 4, 6, 10), x: str = "distance in gold utility") -> Figure:
    """Accuracy against the distance between two answers, with 95 % intervals. annotator: distance -> P.

    sets: name -> (distances, hits), or (distances, hits, prompt ids) where pairs of one prompt share their answers.
    """
    fig, (ax, counts) = style.figure(1, 2, width=10.4, height=3.9)
    marks, palette = style.markers(list(sets)), style.colors(list(sets))
    places = np.arange(len(edges) - 1)
    for k, (name, (gaps, hits, *ids)) in enumerate(sets.items()):
        gaps, hits = np.abs(np.asarray(gaps, dtype=float)), np.asarray(hits, dtype=float)
        parts = _bins(gaps, edges)
        within = lambda p: cluster_interval(hits[p], [ids[0][i] for i in p]) if ids else share_with_interval(hits[p])  # noqa: B023, E731
        shown = [(place, *within(p)) for place, p in zip(places, parts, strict=True) if len(p) >= 5]
        if shown:
            at, value, low, high = (np.array(column) for column in zip(*shown, strict=True))
            shift = (k - (len(sets) - 1) / 2) * 0.12
            ax.errorbar(at + shift, value, yerr=style.errors(value, low, high), fmt=f"{marks[name]}-", color=palette[name],
                        capsize=2.5, label=name)
        counts.bar(places + (k - (len(sets) - 1) / 2) * 0.8 / len(sets), [len(p) / len(gaps) for p in parts], 0.8 / len(sets),
                   color=palette[name], label=name, hatch=("", "//", "..", "xx")[k % 4], edgecolor="white")
    if annotator is not None:
        middle = (np.asarray(edges[:-1]) + np.asarray(edges[1:])) / 2
        ax.plot(places, annotator(middle), "--", color=style.CEILING, label="one annotator")
    style.chance(ax)
    names = [f"{a:g}-{b:g}" for a, b in zip(edges, edges[1:], strict=False)]
    for panel in (ax, counts):
        panel.set_xticks(places, names, fontsize=8.5)
    ax.set_ylim(0, 1.03)
    style.label(ax, "Accuracy by distance", x, "share ordered as the truth", legend=True)
    style.label(counts, "How common each distance is", x, "share of the pairs", legend=True)
    return fig


def draw_shift(rows: Sequence[Mapping]) -> Figure:
    """Accuracy on several sets of pairs. rows: {name, accuracy, low, high, ceiling (one annotator's share)}."""
    fig, (ax,) = style.figure(width=7.8, height=1.5 + 0.45 * len(rows))
    for place, row in enumerate(rows):
        ends = style.errors([row["accuracy"]], [row["low"]], [row["high"]])
        ax.errorbar([row["accuracy"]], [place], xerr=ends, fmt="o", color=style.MODEL, capsize=3, markersize=7,
                    label=None if place else "reward model, 95 % interval")
        ax.plot([row["ceiling"]], [place], "|", color=style.CEILING, markersize=18, markeredgewidth=2,
                label=None if place else "one annotator on the same pairs")
        ax.annotate(f"{row['accuracy']:.2f}", (row["accuracy"], place), xytext=(0, 7), textcoords="offset points", ha="center",
                    fontsize=8.5)
    ax.set_yticks(range(len(rows)), [row["name"] for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.7)
    ax.axvline(0.5, color=style.CONTROL, linestyle=":", label="chance")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    style.label(ax, "One reward model, several sources of answers", "share of pairs ordered as the truth")
    return fig


def draw_best_of_n(curve: Sequence[Mapping]) -> Figure:
    """Best-of-n by the reward model: the truth, the oracle and a random choice; and the reward itself.

    curve: rows of `evaluation.best_of_n_curve` ({n, kl_bound, proxy} and, where known, {gold, gold_se, oracle}).
    """
    known = curve[0].get("gold") is not None
    fig, axes = style.figure(1, 2 if known else 1, width=10.2 if known else 6.4, height=3.9)
    ns = [row["n"] for row in curve]
    axes[0].plot(ns, [row["proxy"] for row in curve], "o-", color=style.PROXY, label="reward of the chosen answer")
    style.label(axes[0], "What the reward model promises", y="reward (no unit)", legend=True)
    if known:
        gold, error = (np.array([row.get(key) or 0.0 for row in curve]) for key in ("gold", "gold_se"))
        ax = axes[1]
        ax.plot(ns, [row["oracle"] for row in curve], "^--", color=style.CEILING, label="oracle: chosen by gold")
        ax.errorbar(ns, gold, yerr=1.96 * error, fmt="s-", color=style.TRUTH, capsize=3, label="chosen by the reward model")
        style.ceiling(ax, float(gold[0]), "chosen at random", style.CONTROL, ":")
        style.label(ax, "What it is truly worth", y="gold utility (0 to 10)", legend=True)
    for ax in axes:
        ax.set_xscale("log", base=2)
        ax.set_xticks(ns, [f"{n}\n{row['kl_bound']:.2f}" for n, row in zip(ns, curve, strict=True)])
        ax.set_xlabel("n, and below it the most KL it can cost (nats)")
    return fig


def draw_promise(rows: Sequence[Mapping]) -> Figure:
    """The reward translated into gold points against gold itself. rows: {n, promised, delivered, gap, low, high}."""
    fig, (ax, gap) = style.figure(1, 2, width=10.2, height=3.8)
    ns = [row["n"] for row in rows]
    ax.plot(ns, [row["promised"] for row in rows], "o-", color=style.PROXY, label="promised by the reward")
    ax.plot(ns, [row["delivered"] for row in rows], "s-", color=style.TRUTH, label="delivered (gold)")
    style.label(ax, "Promised and delivered", "n", "gold utility (0 to 10)", legend=True)
    value, low, high = (np.array([row[key] for row in rows]) for key in ("gap", "low", "high"))
    gap.errorbar(ns, value, yerr=style.errors(value, low, high), fmt="D-", color=style.OTHER, capsize=3)
    gap.axhline(0, color="black", linewidth=1)
    style.label(gap, "The gap: promised minus delivered", "n", "gold utility")
    for panel in (ax, gap):
        panel.set_xscale("log", base=2)
        panel.set_xticks(ns, [str(n) for n in ns])
    return fig


def draw_gain_by_section(rows: Sequence[Mapping]) -> Figure:
    """Gain of best-of-n over one sample by section. rows: {category, gain, low, high, oracle}."""
    fig, (ax,) = style.figure(width=7.2)
    names = [row["category"] for row in rows]
    style.grouped_bars(
        ax, names, {"chosen by the reward model": [r["gain"] for r in rows], "oracle": [r["oracle"] for r in rows]},
        intervals={"chosen by the reward model": ([r["low"] for r in rows], [r["high"] for r in rows])},
        palette={"chosen by the reward model": style.MODEL, "oracle": style.GREY})
    ax.axhline(0, color="black", linewidth=1)
    style.label(ax, "What best-of-n gains, section by section", "section", "gold gained over one sample", legend=True)
    return fig


def draw_repeats(counts: Sequence[int], scores: Mapping[str, Sequence[Sequence[float]]], what: str) -> Figure:
    """Scores while one thing is repeated. scores: name -> for each count the changes in st. dev., one an answer."""
    fig, (ax,) = style.figure(width=7.4)
    colours = {"learnt reward": (style.PROXY, "o"), "gold utility": (style.TRUTH, "s")}
    for name, columns in scores.items():
        color, mark = colours.get(name, (style.MODEL, "^"))
        mean = [float(np.mean(c)) for c in columns]
        half = [1.96 * float(np.std(c)) / np.sqrt(len(c)) for c in columns]
        ax.errorbar(counts, mean, yerr=half, fmt=f"{mark}-", color=color, capsize=3, label=name)
    ax.axhline(0, color="black", linewidth=1)
    ax.set_xticks(list(counts))
    style.label(ax, f"Saying it again: {what}", "times added", "change of the score (st. dev.)", legend=True)
    return fig
