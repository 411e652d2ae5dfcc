"""Figures of the evaluation suite in lessons 05 and 09: benches, judges and their faults, length control, ratings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_kit.evaluation.benches import beside_paper, paper_table
from rlhf_kit.views import style, words

# A judge keeps its colour in every figure.
_JUDGES = {"gold": style.TRUTH, "reward model": style.PROXY, "pairwise model": style.PURPLE, "longer wins": style.GREY}


def _palette(names: Sequence[str]) -> dict[str, str]:
    """The judges' own colours; others take what is left."""
    free = iter([c for c in style.CYCLE if c not in _JUDGES.values()] * 4)
    return {name: _JUDGES[name] if name in _JUDGES else next(free) for name in names}


def _draw_judges(ax: Axes, rows_of: Mapping[str, Mapping[int, Mapping]], measure: str, step: float, flat: bool = False,
                 certain: Sequence[str] = ()) -> None:
    """One marker a judge at every place, side by side, `step` apart. rows_of: judge -> place -> row {measure, low, high}.

    flat: places go down the y axis instead of along the x axis. certain: judges whose values have no interval.
    """
    marks, palette = style.markers(list(rows_of)), _palette(list(rows_of))
    for k, (judge, rows) in enumerate(rows_of.items()):
        at = np.array(list(rows), dtype=float) + (k - (len(rows_of) - 1) / 2) * step
        value, low, high = (np.array([row[key] for row in rows.values()], dtype=float) for key in (measure, "low", "high"))
        ends = {} if judge in certain else {"xerr" if flat else "yerr": style.errors(value, low, high)}
        ax.errorbar(*((value, at) if flat else (at, value)), fmt=marks[judge], color=palette[judge], capsize=2.5, label=judge, **ends)


def beside(name: str, ours: Mapping[str, Mapping[str, float]], columns: Sequence[str] | None = None) -> tuple[list[list], list[str]]:
    """(rows, column heads) for `show`: a table of the paper and below it our rows in the same layout.

    name: a file under data/paper_numbers. ours: {model: {column: value}}. columns: the paper's columns to show (default: all). Who
    measured stands in the second column; "as quoted" where the paper's numbers were copied and not measured again.
    """
    table = paper_table(name)
    columns = list(columns or table["columns"])
    whose = {"paper": "paper" if table.get("verified") else "paper (as quoted)", "here": "this run"}
    rows = [[row["model"], whose[row["where"]], *(row[column] for column in columns)] for row in beside_paper(name, ours)]
    return rows, ["model", "numbers of", *columns]


def alone(ours: Mapping[str, Mapping[str, float]]) -> tuple[list[list], list[str]]:
    """(rows, column heads) for `show`: our rows in the layout of `beside`, for tasks that the paper does not have."""
    tasks = list(next(iter(ours.values())))
    rows = [[name, "this run", *(values[task] for task in tasks)] for name, values in ours.items()]
    return rows, ["model", "numbers of", *(task.removeprefix("pocket_") for task in tasks)]


def draw_bench(scores: Mapping[str, Sequence[Mapping]]) -> Figure:
    """Accuracy in every section with 95 % intervals, one marker a judge. scores: judge -> rows {section, score, low, high, n}.

    Gold has no interval: it decided which answer is the better one, so it is right by definition.
    """
    fig, (ax,) = style.figure(width=8.6, height=3.8)
    first = next(iter(scores.values()))
    _draw_judges(ax, {judge: dict(enumerate(rows)) for judge, rows in scores.items()}, "score", 0.13, certain=["gold"])
    style.chance(ax, 50.0)
    ax.set_xticks(range(len(first)), [f"{row['section']}\n{row['n']} pairs" for row in first])
    ax.set_ylim(min(0.0, ax.get_ylim()[0]), 104)
    ax.grid(axis="x", visible=False)
    style.legend_outside(ax)
    style.label(ax, "The pocket world's reward bench, in RewardBench's four sections", "section", "pairs ordered rightly (%)")
    return fig


def fault_row(name: str, place: Mapping | None, length: Mapping) -> dict:
    """A row of `draw_judge_faults`: a judge, what `evaluation.position_bias` found (None: it sees no order), and `length_bias`."""
    unseen = {"first_place": None, "low": None, "high": None, "biased": False}
    ends = {"slope": "slope", "slope_low": "low", "slope_high": "high", "slope_biased": "biased"}
    return {"name": name, **(place or unseen), **{key: length[found] for key, found in ends.items()}}


def say_judge_faults(rows: Sequence[Mapping]) -> str:
    """Two lines: in which judges each detector found a taste. rows: of `fault_row`."""
    found = [("place", "biased"), ("length", "slope_biased")]
    return "\n".join(f"taste for {what} found in: " + (", ".join(row["name"] for row in rows if row[key]) or "nobody") for what, key in found)


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
    style.rows_down(place, [row["name"] for row in rows])
    place.set_xlim(0, 1)
    for ax, found in ((length, True), (length, False)):
        ax.plot([], [], "D" if found else "o", color=style.OTHER if found else style.BLUE,
                markerfacecolor=style.OTHER if found else "white", label="bias found" if found else "none found")
    style.legend_outside(length)
    style.label(place, "Detector of a taste for the first place", "probability of the answer shown first")
    style.label(length, "Detector of a taste for length", "log odds for one st. dev. of length, at equal gold")
    return fig


def draw_win_rates(rows: Sequence[Mapping], final: str) -> Figure:
    """Who won against SFT, by whose verdict, and in which section; 95 % intervals, one marker a judge.

    rows: {judge, policy, temperature, category, win_rate, low, high}, category "all" for all prompts. The second panel (left out
    where prompts have no sections) has `final` at temperature 1.
    """
    judges = list(dict.fromkeys(row["judge"] for row in rows))
    whole = {(row["policy"], row["temperature"]): f"{row['policy']}\n{style.heat(row['temperature'])}" for row in rows}
    sections = [name for name in dict.fromkeys(row["category"] for row in rows) if name != "all"]
    panels = [("Did it win against SFT, by whose verdict?", list(whole.values()), lambda row: list(whole).index((row["policy"], row["temperature"])),
               [row for row in rows if row["category"] == "all"])]
    if sections:
        mine = [row for row in rows if row["category"] != "all" and (row["policy"], row["temperature"]) == (final, 1.0)]
        panels.append((f"In which section? ({final}, temperature 1)", sections, lambda row: sections.index(row["category"]), mine))
    tall = max(len(names) for _, names, _, _ in panels)
    fig, axes = style.figure(1, len(panels), width=11.0 if sections else 7.6, height=1.3 + 0.72 * tall)
    for ax, (title, names, place, mine) in zip(axes, panels, strict=True):
        _draw_judges(ax, {judge: {place(row): row for row in mine if row["judge"] == judge} for judge in judges}, "win_rate", 0.17, flat=True)
        ax.axvline(0.5, color=style.CONTROL, linestyle=":", label="no difference")
        style.rows_down(ax, names, above=0.6)
        ax.set_xlim(float(np.nanmin([0.35, *(row["low"] for row in rows)])) - 0.02, 1.02)  # one prompt alone has no interval
        style.label(ax, title, "share of battles won (ties half)")
    fig.legend(*axes[0].get_legend_handles_labels(), title="judge", loc="outside right upper", frameon=False)
    return fig


def say_win_rate(row: Mapping) -> str:
    """One sentence on a row of `draw_win_rates` with ties (share) and lost (pairs that the judge could not read)."""
    what = f"{row['policy']}, {style.heat(row['temperature'])}, judge: {row['judge']}"
    lost = f"; {row['lost']} pairs too long for the judge, left out" if row["lost"] else ""
    return f"{words.against_half(what, row['win_rate'], row['low'], row['high'])}; ties {row['ties']:.0%}{lost}"


def flattery_row(judge: str, policy: str, surplus: Mapping, right: Mapping, ties: Mapping) -> dict:
    """What `draw_flattery` and `say_flattery` show of one judge on one policy.

    surplus: `evaluation.compare_policies` of the judge's verdicts and gold's. right: `evaluation.agreement` of them.
    ties: `evaluation.tally.on_ties`.
    """
    row = {"judge": judge, "policy": policy, **{key: surplus[key] for key in ("difference", "low", "high")}, **ties}
    return row | {"accuracy": right["accuracy"], "accuracy_low": right["low"], "accuracy_high": right["high"]}


def draw_flattery(rows: Sequence[Mapping]) -> Figure:
    """What is wrong with each judge, with 95 % intervals: its surplus of wins, its verdicts where gold ties, its agreement.

    rows: of `flattery_row`; tied is None where gold ties too few.
    """
    fig, axes = style.figure(1, 3, width=11.0, height=1.8 + 0.34 * len(rows), sharey=True)
    judges = list(dict.fromkeys(row["judge"] for row in rows))
    marks, palette = style.markers(["gold", *judges]), _palette(judges)
    panels = (("More wins than gold gives?", "judge's win rate less gold's\n(dotted: none)", ("difference", "low", "high"), 0.0),
              ("Whom it favours where gold ties", "share given to the policy\n(dotted: even)", ("tied", "tied_low", "tied_high"), 0.5),
              ("How often it is right otherwise", "share that agrees with gold\n(dotted: coin toss)", ("accuracy", "accuracy_low", "accuracy_high"), 0.5))
    for ax, (title, x, keys, zero) in zip(axes, panels, strict=True):
        for y, row in enumerate(rows):
            value, low, high = (row[key] for key in keys)
            if value is not None:
                ax.errorbar([value], [y], xerr=style.errors([value], [low], [high]), fmt=marks[row["judge"]], capsize=3,
                            color=palette[row["judge"]])
        ax.axvline(zero, color=style.CONTROL, linestyle=":")
        style.label(ax, title, x)
    style.rows_down(axes[0], [f"{row['judge']}, {row['policy']}" for row in rows], above=0.6)
    for ax in axes[1:]:
        ax.set_xlim(-0.02, 1.02)
    return fig


def say_flattery(row: Mapping) -> str:
    """One sentence on a row of `flattery_row`."""
    verdict = "flatters" if row["low"] > 0 else "is stricter than gold" if row["high"] < 0 else "is not told apart from gold"
    text = f"{row['judge']} {verdict}: {row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]; gold ties {row['n_tied']} battles"
    if row["tied"] is not None:
        text += f", of which it gives the policy {row['tied']:.2f} [{row['tied_low']:.2f}, {row['tied_high']:.2f}]"
    return text + ("" if row["flips"] is None else f"; its winner changes with the order in {row['flips']:.0%} of the battles")


def draw_length_control(lengths: Mapping[str, Sequence[float]], rows: Sequence[Mapping]) -> Figure:
    """How long the policies write, and what is left of their win rates at equal length (percent, 95 % intervals).

    lengths: policy -> characters. rows: {judge, policy, win_rate, win_rate_se, lc_win_rate, lc_win_rate_se} and hard_win_rate, hard_win_rate_se
    with the prompts' difficulty; the last four None where they are not defined.
    """
    fig, (left, ax) = style.figure(1, 2, width=11.0, height=1.6 + 0.42 * max(6, len(rows)), width_ratios=[1, 1.25])
    palette, longest = style.colors(list(lengths)), max(max(values) for values in lengths.values())
    for k, (name, values) in enumerate(lengths.items()):
        dash, mean = ("-", "--", ":", "-.")[k % 4], float(np.mean(values))
        left.hist(values, bins=np.linspace(0, longest + 1, 25), histtype="step", linewidth=1.8, linestyle=dash, color=palette[name],
                  label=f"{name}, mean {mean:.0f}")
        left.axvline(mean, color=palette[name], linestyle=dash, linewidth=1.1)
    style.label(left, "Has the policy grown longer?", "characters of an answer, temperature 1 (vertical lines: means)", "answers", legend=True)
    kinds = (("win_rate", "o", style.ORANGE, "raw"), ("lc_win_rate", "s", style.BLUE, "at equal length"),
             ("hard_win_rate", "D", style.PURPLE, "and with the prompts' difficulty"))
    for key, mark, color, text in kinds:
        mine = [(y, row) for y, row in enumerate(rows) if row.get(key) is not None]
        if mine:
            at = np.array([y for y, _ in mine]) + {"o": -0.22, "s": 0.0, "D": 0.22}[mark]
            ax.errorbar([row[key] for _, row in mine], at, xerr=[1.96 * row[f"{key}_se"] for _, row in mine], fmt=mark, color=color,
                        capsize=2.5, markersize=5.5, markerfacecolor="white" if key == "win_rate" else color, label=text)
    for y, row in enumerate(rows):
        if row["lc_win_rate"] is None:
            ax.text(row["win_rate"] + 1.96 * row["win_rate_se"] + 1, y - 0.22, "length decides alone", fontsize=8.5, color="#555555", va="center")
    ax.axvline(50, color=style.CONTROL, linestyle=":", label="no difference")
    style.rows_down(ax, [f"{row['judge']}, {row['policy']}" for row in rows], above=0.6)
    ax.margins(x=0.08)
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower right", ncols=4, frameon=False, fontsize=9)
    style.label(ax, "What is left of the win rate at equal length?", "win rate against SFT (%), 95 % interval")
    return fig


def draw_ratings(ratings: Mapping[str, Sequence[Mapping]], arena: Mapping[str, Sequence[Mapping]]) -> Figure:
    """Bradley-Terry ratings by judge, and Arena-Hard style scores raw and with style control, with 95 % intervals.

    ratings: judge -> rows {player, rating, low, high}. arena: "raw" or "style controlled" -> rows {model, score, low, high}.
    """
    fig, axes = style.figure(1, 2, width=10.8, height=3.9)
    order = [row["player"] for row in next(iter(ratings.values()))]
    for ax, groups, name, value in ((axes[0], ratings, "player", "rating"), (axes[1], arena, "model", "score")):
        marks, palette = style.markers(list(groups)), _palette(list(groups))
        for k, (label, rows) in enumerate(groups.items()):
            mine = {row[name]: row for row in rows}
            shown = [player for player in order if player in mine]
            at = np.array([order.index(player) for player in shown]) + (k - (len(groups) - 1) / 2) * 0.2
            middle, low, high = (np.array([mine[p][key] for p in shown], dtype=float) for key in (value, "low", "high"))
            ax.errorbar(middle, at, xerr=style.errors(middle, low, high), fmt=marks[label], color=palette[label], capsize=3, label=label)
        style.rows_down(ax, order, above=0.6)
        style.legend_below(ax, 2)
    axes[1].axvline(50, color=style.CONTROL, linestyle=":")
    style.label(axes[0], "Who is strongest, everybody against everybody?", "Bradley-Terry rating (400 points are odds of ten to one)")
    style.label(axes[1], "And against SFT, at equal style?", "score as in Arena-Hard (%)")
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
        for k, row in enumerate(rows):
            lowest = min(row[key] for key in ("reward_low", "gold_low") if row.get(key) is not None)
            ax.annotate(str(k) if k else "SFT", (row["kl"], lowest), xytext=(0, -4), ha="center", va="top", textcoords="offset points", fontsize=8.5)
        ax.axhline(0, color="#BBBBBB", linewidth=1)
        ax.margins(y=0.16)
        style.label(ax, f"What each nat of KL bought {arm}", "KL to SFT (nats per answer); numbers: iterations",
                    "gain over SFT (st. dev. of its answers)" if ax is axes[0] else None, legend=ax is axes[0])
    return fig


def say_step(old: str, new: str, proxy: Sequence[float], truth: Sequence[float]) -> str:
    """One sentence on a step of training: over-optimisation where the proxy rose and the truth fell, each beyond doubt.

    proxy, truth: (mean, low, high, ...) of the change from old to new, 95 % intervals.
    """
    said = ", ".join(f"{name} {mean:+.2f} [{low:+.2f}, {high:+.2f}]"
                     for name, (mean, low, high, *_) in (("reward", proxy), ("gold", truth)))  # fmt: skip
    found = proxy[1] > 0 and truth[2] < 0
    return f"{old} to {new}: {said}: {'over-optimisation' if found else 'no over-optimisation shown'}"
