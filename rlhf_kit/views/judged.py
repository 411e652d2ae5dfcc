"""Figures of the evaluation suite in lessons 05 and 09: benches, judges and their faults, length control, ratings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_kit.evaluation.benches import beside_paper, paper_table
from rlhf_kit.views import style

# A judge keeps its colour in every figure.
_JUDGES = {"gold": style.TRUTH, "reward model": style.PROXY, "pairwise model": style.PURPLE, "longer wins": style.GREY}


def _palette(names: Sequence[str]) -> dict[str, str]:
    """The judges' own colours; others take what is left."""
    free = iter([c for c in style.CYCLE if c not in _JUDGES.values()] * 4)
    return {name: _JUDGES[name] if name in _JUDGES else next(free) for name in names}


def _draw_judges(ax: Axes, rows_of: Mapping[str, Sequence[Mapping]], measure: str, step: float) -> Sequence[Mapping]:
    """One marker a judge in every group, side by side, `step` apart; rows {measure, low, high}. Returns the groups' rows of one judge."""
    marks, palette = style.markers(list(rows_of)), _palette(list(rows_of))
    for k, (judge, rows) in enumerate(rows_of.items()):
        at = np.arange(len(rows)) + (k - (len(rows_of) - 1) / 2) * step
        value, low, high = (np.array([row[key] for row in rows], dtype=float) for key in (measure, "low", "high"))
        ax.errorbar(at, value, yerr=style.errors(value, low, high), fmt=marks[judge], color=palette[judge], capsize=2.5, label=judge)
    return next(iter(rows_of.values()))


def beside(name: str, ours: Mapping[str, Mapping[str, float]], columns: Sequence[str] | None = None) -> tuple[list[list], list[str]]:
    """(rows, column heads) for `show`: a table of the paper and below it our rows in the same layout.

    name: a file under data/paper_numbers. ours: {model: {column: value}}. columns: the paper's columns to show (default: all). Who
    measured stands in the second column, and that nobody has checked the paper's numbers where that is so.
    """
    table = paper_table(name)
    columns = list(columns or table["columns"])
    whose = {"paper": "paper" if table.get("verified") else "paper, unverified", "here": "this run"}
    rows = [[row["model"], whose[row["where"]], *(row[column] for column in columns)] for row in beside_paper(name, ours)]
    return rows, ["model", "numbers of", *columns]


def draw_bench(scores: Mapping[str, Sequence[Mapping]], title: str = "The pocket world's reward bench, in RewardBench's four sections") -> Figure:
    """Accuracy in every section with 95 % intervals, one marker a judge. scores: judge -> rows {section, score, low, high, n}."""
    fig, (ax,) = style.figure(width=8.6, height=3.8)
    first = _draw_judges(ax, scores, "score", 0.13)
    style.chance(ax, 50.0)
    ax.set_xticks(range(len(first)), [f"{row['section']}\n{row['n']} pairs" for row in first])
    ax.set_ylim(min(0.0, ax.get_ylim()[0]), 104)
    ax.grid(axis="x", visible=False)
    style.legend_outside(ax)
    style.label(ax, title, "section", "pairs ordered rightly (%)")
    return fig


def fault_row(name: str, place: Mapping | None, length: Mapping) -> dict:
    """A row of `draw_judge_faults`: a judge, what `evaluation.position_bias` found (None: it sees no order), and `length_bias`."""
    unseen = {"first_place": None, "low": None, "high": None, "biased": False}
    ends = {"slope": "slope", "slope_low": "low", "slope_high": "high", "slope_biased": "biased"}
    return {"name": name, **(place or unseen), **{key: length[found] for key, found in ends.items()}}


def draw_judge_faults(rows: Sequence[Mapping]) -> Figure:
    """What the two detectors say of every judge, with 95 % intervals; filled where they raise the alarm.

    rows: {name, first_place, low, high, biased} and {slope, slope_low, slope_high, slope_biased}; first_place None for
    judges that see no order.
    """
    fig, (place, length) = style.figure(1, 2, width=10.6, height=1.4 + 0.36 * len(rows), sharey=True)
    for y, row in enumerate(rows):
        for ax, keys in ((place, ("first_place", "low", "high", "biased")), (length, ("slope", "slope_low", "slope_high", "slope_biased"))):
            value, low, high, found = (row[key] for key in keys)
            if value is None:
                style.number(ax, "sees no order", (0.5, y), (0, 0), color="#555555")
                continue
            color = style.OTHER if found else style.BLUE
            ax.errorbar([value], [y], xerr=style.errors([value], [low], [high]), fmt="D" if found else "o", color=color, capsize=3,
                        markersize=7, markerfacecolor=color if found else "white")
    place.axvline(0.5, color="black", linewidth=1)
    length.axvline(0, color="black", linewidth=1)
    place.set_yticks(range(len(rows)), [row["name"] for row in rows])
    place.set_ylim(len(rows) - 0.4, -0.7)
    place.set_xlim(0, 1)
    for ax, found in ((length, True), (length, False)):
        ax.plot([], [], "D" if found else "o", color=style.OTHER if found else style.BLUE,
                markerfacecolor=style.OTHER if found else "white", label="bias found" if found else "none found")
    style.legend_outside(length)
    style.label(place, "Detector of a taste for the first place", "probability of the answer shown first")
    style.label(length, "Detector of a taste for length", "log odds for one st. dev. of length, at equal gold")
    return fig


def draw_categories(lines: Mapping[str, Sequence[Mapping]], title: str) -> Figure:
    """Win rates in every category with 95 % intervals, one marker a judge. lines: judge -> `win_rates_by_category`."""
    fig, (ax,) = style.figure(width=8.6, height=3.7)
    first = _draw_judges(ax, lines, "win_rate", 0.14)
    ax.set_xticks(range(len(first)), [row["category"] for row in first])
    style.chance(ax, text="no difference")
    ax.set_ylim(-0.02, 1.04)
    ax.grid(axis="x", visible=False)
    style.legend_outside(ax)
    style.label(ax, title, "category of the prompts", "share of battles won (ties half)")
    return fig


def draw_flattery(rows: Sequence[Mapping]) -> Figure:
    """How far judges flatter: their win rate less gold's on the same battles, and their verdicts where gold sees a tie.

    rows: {name, judge, difference, low, high} and {tied, tied_low, tied_high, n_tied}: the policy's share of the battles
    that gold calls a tie (None where there are none).
    """
    fig, (whole, tied) = style.figure(1, 2, width=10.6, height=1.7 + 0.34 * len(rows), sharey=True,
                                      title="How far each judge flatters the trained policy")
    judges = list(dict.fromkeys(row["judge"] for row in rows))
    marks, palette = style.markers(judges), _palette(judges)
    for y, row in enumerate(rows):
        first = row["judge"] not in {r["judge"] for r in rows[:y]}
        for ax, keys in ((whole, ("difference", "low", "high")), (tied, ("tied", "tied_low", "tied_high"))):
            value, low, high = (row[key] for key in keys)
            if value is not None:
                ax.errorbar([value], [y], xerr=style.errors([value], [low], [high]), fmt=marks[row["judge"]], capsize=3,
                            color=palette[row["judge"]], label=row["judge"] if first and ax is whole else None)
    whole.axvline(0, color="black", linewidth=1)
    tied.axvline(0.5, color="black", linewidth=1)
    whole.set_yticks(range(len(rows)), [row["name"] for row in rows])
    whole.set_ylim(len(rows) - 0.4, -0.7)
    tied.set_xlim(0, 1)
    fig.legend(*whole.get_legend_handles_labels(), title="judge", loc="outside right upper", frameon=False)
    style.label(whole, "All battles", "judge's win rate less gold's")
    style.label(tied, "Battles that gold calls a tie", "share that the judge gives to the policy")
    return fig


def draw_controlled(rows: Sequence[Mapping]) -> Figure:
    """Raw win rates (hollow) beside length-controlled ones (filled), 95 % intervals, in percent.

    rows: {name, win_rate, win_rate_se, lc_win_rate, lc_win_rate_se}; lc_win_rate None where it is not defined.
    """
    fig, (ax,) = style.figure(width=8.6, height=1.5 + 0.4 * len(rows))
    for y, row in enumerate(rows):
        ax.errorbar([row["win_rate"]], [y - 0.13], xerr=[1.96 * row["win_rate_se"]], fmt="o", color=style.ORANGE, capsize=3,
                    markerfacecolor="white", label=None if y else "raw")
        if row["lc_win_rate"] is None:
            end = row["win_rate"] + 1.96 * row["win_rate_se"] + 1
            ax.text(end, y - 0.13, "length decides alone: not defined", fontsize=8.5, color="#555555", va="center")
        else:
            ax.errorbar([row["lc_win_rate"]], [y + 0.13], xerr=[1.96 * row["lc_win_rate_se"]], fmt="s", color=style.BLUE, capsize=3,
                        label=None if y else "at equal length")
    ax.axvline(50, color=style.CONTROL, linestyle=":", label="no difference")
    ax.set_yticks(range(len(rows)), [row["name"] for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.7)
    style.legend_outside(ax)
    style.label(ax, "Win rate against SFT, raw and at equal length", "percent, 95 % intervals")
    return fig


def draw_ratings(ratings: Mapping[str, Sequence[Mapping]], arena: Mapping[str, Sequence[Mapping]]) -> Figure:
    """Bradley-Terry ratings by judge, and Arena-Hard style scores raw and with style control, with 95 % intervals.

    ratings: judge -> rows {player, rating, low, high}. arena: "raw" or "style controlled" -> rows {model, score, low, high}.
    """
    fig, axes = style.figure(1, 2, width=10.8, height=3.9)
    order = [row["player"] for row in next(iter(ratings.values()))][::-1]
    for ax, groups, name, value in ((axes[0], ratings, "player", "rating"), (axes[1], arena, "model", "score")):
        marks, palette = style.markers(list(groups)), _palette(list(groups))
        for k, (label, rows) in enumerate(groups.items()):
            mine = {row[name]: row for row in rows}
            shown = [player for player in order if player in mine]
            at = np.array([order.index(player) for player in shown]) + (k - (len(groups) - 1) / 2) * 0.2
            middle, low, high = (np.array([mine[p][key] for p in shown], dtype=float) for key in (value, "low", "high"))
            ax.errorbar(middle, at, xerr=style.errors(middle, low, high), fmt=marks[label], color=palette[label], capsize=3, label=label)
        ax.set_yticks(range(len(order)), order)
        ax.set_ylim(-0.6, len(order) - 0.4)
        style.legend_below(ax, 2)
    axes[1].axvline(50, color=style.CONTROL, linestyle=":")
    style.label(axes[0], "Bradley-Terry ratings, everybody against everybody", "rating (400 points are odds of ten to one)")
    style.label(axes[1], "Arena-Hard's score against SFT", "percent")
    return fig


def draw_goodhart(paths: Mapping[str, Sequence[Mapping]]) -> Figure:
    """Proxy and truth against KL, both as gains over SFT in standard deviations of SFT's answers; one panel an arm.

    paths: arm -> rows {name, kl, kl_se, reward, reward_low, reward_high, gold, gold_low, gold_high}, SFT first; gold None where
    it is not known.
    """
    fig, axes = style.figure(1, len(paths), width=5.2 * len(paths) if len(paths) > 1 else 6.4, height=3.8, sharey=True)
    for ax, (arm, rows) in zip(axes, paths.items(), strict=True):
        kl = [row["kl"] for row in rows]
        across = [1.96 * (row["kl_se"] or 0.0) for row in rows]
        for key, text, color, mark in (("reward", "proxy: the reward", style.PROXY, "o"), ("gold", "truth: gold", style.TRUTH, "s")):
            if rows[0][key] is None:
                continue
            value, low, high = (np.array([row[key + end] for row in rows], dtype=float) for end in ("", "_low", "_high"))
            ax.errorbar(kl, value, xerr=across, yerr=style.errors(value, low, high), fmt=f"{mark}-", color=color, capsize=3, label=text)
        for row in rows:
            ax.annotate(row["name"], (row["kl"], max(row["reward"], row["gold"] or row["reward"])), xytext=(0, 8), ha="center",
                        textcoords="offset points", fontsize=8.5)
        ax.axhline(0, color="#BBBBBB", linewidth=1)
        ax.margins(y=0.12)
        style.label(ax, f"What each nat bought, {arm}", "KL to SFT (nats per answer)",
                    "gain over SFT (st. dev. of its answers)" if ax is axes[0] else None, legend=ax is axes[0])
    return fig
