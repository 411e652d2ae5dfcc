"""Figures and sentences of lesson 05: calibration, length, distribution shift, best-of-n, and how a reward model is fooled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, pairwise

import numpy as np
from matplotlib.figure import Figure

from rlhf_kit.evaluation import (
    cluster_interval,
    mean_interval,
    paired_difference,
    share_interval,
    without_means,
)
from rlhf_kit.views import style, words
from rlhf_kit.views.evaluation import part_lines, put_changes


def _bins(values: np.ndarray, edges: Sequence[float]) -> list[np.ndarray]:
    """Places of the values in [edge, next edge); the last bin takes its upper end too."""
    edges = np.asarray(edges, dtype=float)
    found = np.clip(np.digitize(values, edges) - 1, -1, len(edges) - 1)
    found[values == edges[-1]] = len(edges) - 2
    return [np.flatnonzero(found == k) for k in range(len(edges) - 1)]


def draw_calibration(tables: Mapping[str, Sequence[Mapping]]) -> Figure:
    """Promise against outcome for the answer that each judge holds the likelier one.

    tables: name -> rows of `evaluation.reliability_table` over the likelier answer of each pair: its probability, one half or
    more, and whether the label agrees (by half where both are equally likely). So every pair counts once.
    """
    fig, (ax, counts) = style.figure(1, 2, width=10.0, height=3.7)
    marks, palette = style.markers(list(tables)), style.colors(list(tables))
    ax.plot([0.5, 1], [0.5, 1], "--", color=style.CEILING, linewidth=1.2, label="perfect calibration")
    for name, rows in tables.items():
        x, y, n = ([row[key] for row in rows] for key in ("predicted", "observed", "n"))
        ax.errorbar(x, y, yerr=style.errors(y, *share_interval(y, n)), fmt=f"{marks[name]}-", color=palette[name], capsize=2.5, label=name)
        centres = [(row["low"] + row["high"]) / 2 for row in rows]
        counts.plot(centres, np.divide(n, sum(n)), f"{marks[name]}-", color=palette[name], label=name)
    for panel in (ax, counts):
        panel.set_xlim(0.49, 1.01)
    counts.set_ylim(bottom=0)
    style.label(ax, "Does 80 % mean 80 %?", "promised: P(likelier answer preferred)", "share of labels that agree", legend=True)
    style.label(counts, "How sure it is, how often", "promised: P(likelier answer preferred)", "share of pairs", legend=True)
    return fig


def say_temperature(temperature: float) -> str:
    """What the temperature that calibrates a model's rewards says of the model: above 1 they had to be cooled."""
    kind = "overconfident" if temperature > 1.05 else "underconfident" if temperature < 0.95 else "about right in its confidence"
    return f"least loss at temperature {temperature:.2f}: the model is {kind}"


def draw_length(by_prompt: Mapping[str, Sequence[float]], length: Sequence[float], scores: Mapping[str, Sequence[float]],
                groups: Sequence, paper: Mapping[str, float] | None = None) -> Figure:
    """Taste for length inside a prompt: the correlations (paper Fig. 3), and how far the score moves with the length.

    by_prompt: score -> one correlation a prompt. length (characters), scores (score -> values), groups (prompt ids): (N,) answers. Both of the
    right panel's axes are distances from the prompt's own mean, scores in standard deviations. paper: values to mark.
    """
    fig, (ax, slope) = style.figure(1, 2, width=11.0, height=4.2)
    looks = {"reward": (style.PROXY, "o"), "gold": (style.TRUTH, "s")}
    for k, (name, values) in enumerate(by_prompt.items()):
        color, mean = looks[name][0], float(np.mean(values))
        filled = {"alpha": 0.45} if k == 0 else {"histtype": "step", "linewidth": 2.0}
        ax.hist(values, bins=np.linspace(-1, 1, 25), color=color, label=f"{name} and length, mean {mean:+.2f}", **filled)
        ax.axvline(mean, color=color, linewidth=2.2, linestyle=("-", "--")[k % 2])
    for k, (name, value) in enumerate((paper or {}).items()):
        ax.axvline(value, color=style.BLACK, linewidth=1.1, linestyle=(":", "-.")[k % 2], label=f"{name}, {value:+.2f}")
    style.label(ax, "Correlation with length inside each prompt", "Pearson correlation over one prompt's samples", "prompts")
    style.legend_below(ax, 2)

    x = without_means(length, groups)
    parts = np.array_split(np.argsort(x, kind="stable"), min(8, len(x)))
    for name, values in scores.items():
        y = without_means(values, groups)
        y = y / (y.std() or 1.0)
        mean, low, high = np.transpose([mean_interval(y[p]) for p in parts])
        slope.errorbar([x[p].mean() for p in parts], mean, yerr=style.errors(mean, low, high), fmt=f"{looks[name][1]}-",
                       color=looks[name][0], capsize=2.5, label=name)
    slope.axhline(0, color="#BBBBBB", linewidth=1)
    style.label(slope, "What more characters bring, inside a prompt", "length minus the prompt's mean (characters)",
                "score minus the prompt's mean (st. dev.)", legend=True)
    return fig


def draw_accuracy_by_gap(sets: Mapping[str, tuple[Sequence, Sequence, Sequence]], whole: Mapping[str, Sequence[float]],
                         annotator: Callable[[np.ndarray], np.ndarray] | None = None,
                         edges: Sequence[float] = (0, 0.5, 1, 2, 4, 6, 10)) -> Figure:
    """Accuracy by the distance between two answers, and over all pairs of each set, with 95 % intervals.

    sets: name -> (distances, hits, prompt ids), a prompt's pairs being one witness. whole: name -> (share, low, high, the share
    that one annotator orders rightly) over all pairs. annotator: that share by distance.
    """
    fig, (ax, everything) = style.figure(1, 2, width=11.0, height=4.2)
    marks = style.markers(list(sets))
    palette = dict(zip(sets, cycle((style.BLUE, style.PURPLE, style.VERMILION, style.SKY)), strict=False))  # green is the truth's
    places = np.arange(len(edges) - 1)
    for k, (name, (gaps, hits, ids)) in enumerate(sets.items()):
        gaps, hits = np.abs(np.asarray(gaps, dtype=float)), np.asarray(hits, dtype=float)
        parts = zip(places, _bins(gaps, edges), strict=True)
        shown = [(place, *cluster_interval(hits[p], [ids[i] for i in p])) for place, p in parts if len(p) >= 5]
        if shown:
            at, value, low, high = (np.array(column) for column in zip(*shown, strict=True))
            shift = (k - (len(sets) - 1) / 2) * 0.14
            ax.errorbar(at + shift, value, yerr=style.errors(value, low, high), fmt=f"{marks[name]}-", color=palette[name],
                        capsize=2.5, label=name)
        value, low, high, one = whole[name]
        ends = style.errors([value], [low], [high])
        everything.errorbar([value], [k], xerr=ends, fmt=marks[name], color=palette[name], capsize=3, markersize=7)
        style.number(everything, f"{value:.2f}", (value, k))
        if annotator is not None:
            everything.plot([one], [k], "|", color=style.CEILING, markersize=20, markeredgewidth=2.2)
    if annotator is not None:
        ax.plot(places, annotator((np.asarray(edges[:-1]) + np.asarray(edges[1:])) / 2), "--", color=style.CEILING, label="one annotator")
        everything.plot([], [], "|", color=style.CEILING, markersize=12, markeredgewidth=2.2, label="one annotator, same pairs")
    style.chance(ax)
    everything.axvline(0.5, color=style.CONTROL, linestyle=":", linewidth=1.3, label="chance")
    ax.set_xticks(places, [f"{a:g}-{b:g}" for a, b in zip(edges, edges[1:], strict=False)])
    ax.set_ylim(top=1.03)
    style.rows_down(everything, list(sets), above=0.6)
    style.legend_below(ax, 2)
    style.legend_below(everything, 1)
    style.label(ax, "Accuracy by how far apart the answers truly are", "distance in gold utility", "share ordered as the truth")
    style.label(everything, "The same model on other answers", "share ordered as the truth, all pairs")
    return fig


def say_accuracy(name: str, found: Sequence[float], annotator: float) -> str:
    """One line on a set of pairs: accuracy and 95 % interval (mean, low, high), and how far it is from one annotator's."""
    value, low, high = found
    side = "below" if annotator > value else "above"
    return f"{name}: {value:.3f} [{low:.3f}, {high:.3f}], {abs(annotator - value):.3f} {side} one annotator"


def draw_best_of_n(curve: Sequence[Mapping]) -> Figure:
    """Best-of-n by the reward model: the truth, the oracle and a random choice; and the reward itself.

    curve: rows of `evaluation.best_of_n_curve` ({n, kl_bound, proxy} and, where known, {gold, gold_se, oracle}).
    """
    known = curve[0].get("gold") is not None
    fig, axes = style.figure(1, 2 if known else 1, width=10.2 if known else 6.4, height=3.9)
    ns = [row["n"] for row in curve]
    axes[0].plot(ns, [row["proxy"] for row in curve], "o-", color=style.PROXY, label="reward of the chosen answer")
    style.label(axes[0], "What is maximised", y="reward (no unit)", legend=True)
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


def promise_row(n: int, promised: Sequence[float], delivered: Sequence[float]) -> dict:
    """A row of `draw_promise`: means over prompts, and the mean of promised minus delivered with its 95 % interval."""
    gap = paired_difference(promised, delivered)
    means = {"promised": float(np.mean(promised)), "delivered": float(np.mean(delivered))}
    return {"n": n, **means, "gap": gap.mean, "low": gap.low, "high": gap.high}


def say_promise(row: Mapping) -> str:
    """Whether the promise of a `promise_row` was kept, in words."""
    return words.compare(f"at n = {row['n']} the promise", "the truth", row["gap"], row["low"], row["high"])


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


def gains_by_section(sections: Sequence[str], gained: Sequence[float], possible: Sequence[float]) -> list[dict]:
    """Rows of `draw_bought` from (prompts,) values: a section's mean gain with its 95 % interval, and the oracle's mean."""
    sections, gained, possible = np.asarray(sections), np.asarray(gained), np.asarray(possible)
    rows = []
    for name in dict.fromkeys(sections.tolist()):
        here = sections == name
        mean, low, high, _ = paired_difference(gained[here], np.zeros(here.sum()))
        rows.append({"category": name, "gain": mean, "low": low, "high": high, "oracle": float(possible[here].mean())})
    return rows


def say_weakest(sections: Sequence[Mapping]) -> str:
    """The section of `gains_by_section` in which the least of the possible gain was found."""
    row = min(sections, key=lambda row: row["gain"] / max(row["oracle"], 1e-9))
    return f"least of the possible gain is found in {row['category']}: {row['gain']:+.2f} of {row['oracle']:+.2f} gold points"


def draw_bought(report: Sequence[Mapping], sections: Sequence[Mapping], n: int) -> Figure:
    """What best-of-n buys over one sample: every part of the gold utility, and every section's gain beside what was possible.

    report: `evaluation.hacking_report`, of which the parts are drawn. sections: {category, gain, low, high, oracle}.
    """
    parts = part_lines(report)
    fig, (ax, gain) = style.figure(1, 2, width=11.0, height=1.8 + 0.3 * len(parts))
    put_changes(ax, parts)
    style.label(ax, f"Which part of gold moved, best of {n} against one", "change of the part (0 to 1)\n"
                "(triangle: rose or fell beyond doubt, grey dot: not told apart)")
    mine, best = "chosen by the reward model", "oracle: the best of the samples"
    style.grouped_bars(
        gain, [row["category"] for row in sections], {mine: [r["gain"] for r in sections], best: [r["oracle"] for r in sections]},
        intervals={mine: ([r["low"] for r in sections], [r["high"] for r in sections])}, palette={mine: style.MODEL, best: style.GREY})
    gain.axhline(0, color="black", linewidth=1)
    style.legend_below(gain)
    style.label(gain, f"How much of the possible gain, best of {n}", "section", "gold gained over one sample")
    return fig


def spread_of(pairs: Sequence[Mapping], score: str) -> float:
    """Standard deviation of a score ("reward", "gold") over both answers of all pairs; 1 where all are equal."""
    return float(np.std([row[f"{side}_{score}"] for row in pairs for side in ("chosen", "rejected")])) or 1.0


def say_repetitions(steps: Sequence[Mapping[str, Sequence[float]]]) -> str:
    """At which repetitions of `draw_probes` the learnt reward rises over the one before, by a paired 95 % interval over answers."""
    rewards = [step["learnt reward"] for step in steps]
    gains = enumerate(pairwise(rewards), 1) if len(rewards[0]) > 1 else ()  # one answer alone tells nothing
    rises = [str(k) for k, (before, after) in gains if paired_difference(after, before).low > 0]
    return "reward rises at repetition " + ", ".join(rises) if rises else "no repetition raises the reward beyond doubt"


def draw_probes(edits: Mapping[str, Mapping[str, Sequence[float]]], steps: Sequence[Mapping[str, Sequence[float]]], what: str) -> Figure:
    """What edits do to the scores, and what one more sentence does, again and again. Changes in standard deviations, 95 % intervals.

    edits: name -> {"learnt reward": changes, one an answer, and where known "gold utility"}. steps: the same after 0, 1, 2 ... times
    of the sentence `what`.
    """
    fig, (ax, again) = style.figure(1, 2, width=11.0, height=3.9)
    looks = {"learnt reward": (style.PROXY, "o"), "gold utility": (style.TRUTH, "s")}
    for k, name in enumerate(steps[0]):
        color, mark = looks[name]
        shift = (k - (len(steps[0]) - 1) / 2) * 0.22
        for panel, columns in ((ax, [edits[edit][name] for edit in edits]), (again, [step[name] for step in steps])):
            mean, low, high = np.transpose([mean_interval(values) for values in columns])
            ends, at = style.errors(mean, low, high), np.arange(len(columns))
            if panel is ax:
                ax.errorbar(mean, at + shift, xerr=ends, fmt=mark, color=color, capsize=3, label=name)
            else:
                again.errorbar(at, mean, yerr=ends, fmt=f"{mark}-", color=color, capsize=3, label=name)
    ax.axvline(0, color="black", linewidth=1)
    style.rows_down(ax, list(edits), above=0.5)
    again.axhline(0, color="black", linewidth=1)
    again.set_xticks(range(len(steps)))
    style.label(ax, "What an edit does to the score", "mean change (st. dev. of that score)")
    style.label(again, f'Saying it again: "{what}"', "times added", "mean change (st. dev. of that score)", legend=True)
    return fig
