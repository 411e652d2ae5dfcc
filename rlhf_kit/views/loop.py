"""Figures of lesson 08: the online loop, iteration by iteration, beside its offline arm, and over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from rlhf_kit.views import style
from rlhf_kit.views.rows import by_prompt

# ---------------------------------------------------------------- rows


def arm_rows(summary: Sequence[Mapping], arm: str, temperature: float) -> list[Mapping]:
    """The rows of SFT and then of the arm's iterations, in order, at one temperature."""
    rows = {row["policy"]: row for row in summary if row["temperature"] == temperature}
    own = [name for name in rows if name.rpartition("-")[0] == arm]
    return [rows["sft"]] + [rows[name] for name in sorted(own, key=lambda n: int(n.rpartition("-")[2]))]


def texts_of_prompts(responses: Sequence[Mapping]) -> list[list[str]]:
    """The texts of the rows {prompt_id, text}, one list a prompt, in the order in which the prompts come."""
    return [[row["text"] for row in group] for group in by_prompt(responses)]


# ---------------------------------------------------------------- figures


def draw_iterations(summary: Sequence[Mapping], arms: Sequence[str], measure: str = "gold", unit: str = "gold utility (0 to 10)") -> Figure:
    """A measure after each iteration, one line an arm: at temperature 1 and greedily, with 95 % intervals where known."""
    fig, axes = style.figure(1, 2, width=10.2, height=4.1, sharey=True)
    palette, marks = style.colors(arms), style.markers(arms)
    for ax, (temperature, text) in zip(axes, ((1.0, "sampled at temperature 1"), (0.0, "greedy")), strict=True):
        for k, arm in enumerate(arms):
            rows = arm_rows(summary, arm, temperature)
            value = np.array([row[measure] for row in rows], dtype=float)
            ends = None
            if rows[0].get(f"{measure}_low") is not None:
                ends = style.errors(value, *([row[f"{measure}_{end}"] for row in rows] for end in ("low", "high")))
            beside = 0.09 * (k - (len(arms) - 1) / 2)  # arms that agree would hide each other
            ax.errorbar(np.arange(len(rows)) + beside, value, yerr=ends, fmt=f"{marks[arm]}-", color=palette[arm], capsize=3, markersize=5, label=arm)
        longest = max(len(arm_rows(summary, arm, temperature)) for arm in arms)
        ax.set_xticks(range(longest), ["SFT", *map(str, range(1, longest))])
        style.label(ax, f"{style.short(unit)}, {text}", "iterations done", unit if temperature == 1.0 else None)
        style.legend_below(ax, 3)
    return fig


def draw_against_kl(summary: Sequence[Mapping], arms: Sequence[str], sharpened: Sequence[Mapping] = (), measure: str = "gold",
                    unit: str = "gold utility (0 to 10)", title: str = "") -> Figure:
    """A measure against the KL to SFT, one dot an iteration; `sharpened`: rows of SFT at lower temperatures."""
    fig, (ax,) = style.figure(width=8.6, height=4.8)
    palette, marks = style.colors(arms), style.markers(arms)
    shifts = ((7, -13), (-7, 7), (7, 2))  # a number of each arm on its own side of the mark
    for k, arm in enumerate(arms):
        rows = arm_rows(summary, arm, 1.0)
        x, y = [row["kl"] for row in rows], [row[measure] for row in rows]
        ends = None
        if rows[0].get(f"{measure}_low") is not None:
            ends = style.errors(y, *([row[f"{measure}_{end}"] for row in rows] for end in ("low", "high")))
            ends[:, :1] *= not k  # all arms begin at SFT, whose interval is drawn once
        ax.errorbar(x, y, yerr=ends, fmt=f"{marks[arm]}-", color=palette[arm], capsize=3, elinewidth=1, label=arm)
        for number, (a, b) in enumerate(zip(x, y, strict=True)):
            if number:
                style.number(ax, str(number), (a, b), shifts[k % len(shifts)], color=palette[arm], fontweight="bold")
    if sharpened:
        rows = sorted(sharpened, key=lambda row: row["kl"])
        ax.plot([row["kl"] for row in rows], [row[measure] for row in rows], "^:", color=style.BLACK, label="SFT, only sharpened")
        for row in rows:
            style.number(ax, f"T={row['temperature']:g}", (row["kl"], row[measure]), (5, -15), ha="left", fontsize=8)
    title = title or f"{style.short(unit)} for each nat of KL (numbers: iterations done)"
    style.label(ax, title, "KL to the SFT policy at temperature 1 (nats per answer)", unit)
    style.legend_below(ax, 4)
    return fig


def draw_proxy_and_gold(summary: Sequence[Mapping], arms: Sequence[str]) -> Figure:
    """Reward and gold after each iteration, both as changes from SFT at temperature 1; gold is left out where unknown."""
    fig, axes = style.figure(1, len(arms), width=5.1 * len(arms) if len(arms) > 1 else 6.4, height=3.9, sharey=True)
    for ax, arm in zip(axes, arms, strict=True):
        rows = arm_rows(summary, arm, 1.0)
        series = [("reward", "reward model (its own scale)", style.PROXY, "o-")]
        series += [("gold", "gold utility (0 to 10)", style.TRUTH, "s-")] if rows[0]["gold"] is not None else []
        for key, text, color, mark in series:
            ax.plot(range(len(rows)), [row[key] - rows[0][key] for row in rows], mark, color=color, label=text)
        ax.axhline(0, color="black", linewidth=1)
        ax.set_xticks(range(len(rows)), ["SFT", *map(str, range(1, len(rows)))])
        what = "reward and gold" if len(series) > 1 else "reward"
        style.label(ax, f"{style.short(arm)} arm: {what} since SFT", "iterations done")
    style.label(axes[0], y="change since SFT, each in its own unit")
    style.legend_below(axes[0])
    return fig


def draw_loop_health(rows: Sequence[Mapping]) -> Figure:
    """Vital signs of the loop by iteration, each axis from zero. rows: {arm, iteration, and any of wrong, diversity, margin, length}."""
    panels = [(key, title, unit) for key, title, unit in (
        ("wrong", "Wrong labels", "share of pairs"), ("diversity", "Diversity of a prompt's samples", "share of distinct answers"),
        ("margin", "Reward margin of the pairs", "mean margin (reward)"), ("length", "Length of the samples", "mean length (characters)"))
        if any(row.get(key) is not None for row in rows)]
    fig, axes = style.figure((len(panels) + 1) // 2, 2, width=9.6, height=3.0 * ((len(panels) + 1) // 2))
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    palette, marks = style.colors(arms), style.markers(arms)
    for ax, (key, title, unit) in zip(axes, panels, strict=False):
        for arm in arms:
            own = [row for row in rows if row["arm"] == arm and row.get(key) is not None]
            ax.plot([row["iteration"] for row in own], [row[key] for row in own], f"{marks[arm]}-", color=palette[arm], label=arm)
        ax.set_xticks(sorted({row["iteration"] for row in rows}))
        # From zero: on the range of the values alone, a change of one per cent would look like an event.
        highest = max(row[key] for row in rows if row.get(key) is not None)
        ax.set_ylim(0, {"diversity": 1.03, "wrong": max(0.5, 1.1 * highest)}.get(key, 1.2 * highest or 1.0))
        style.label(ax, title, "iteration", unit, legend=ax is axes[0])
    for ax in axes[len(panels):]:
        ax.set_visible(False)
    return fig


def draw_seed_differences(differences: Sequence[float], effect: float, low: float | None, high: float | None, *,
                          title: str, x: str, groups: Sequence | None = None) -> Figure:
    """Paired differences, one dot a seed, and their mean with its 95 % interval; groups: which seeds share models."""
    fig, (ax,) = style.figure(width=7.4, height=1.6 + 0.2 * len(differences))
    groups = list(groups) if groups is not None else [0] * len(differences)
    names = list(dict.fromkeys(groups))
    for place, (value, group) in enumerate(zip(differences, groups, strict=True)):
        ax.plot([value], [place], style.MARKERS[names.index(group) % len(style.MARKERS)], color=style.BLUE, markersize=7)
    bottom = len(differences) + 0.3
    if low is not None:
        ax.errorbar([effect], [bottom], xerr=style.errors([effect], [low], [high]), fmt="D", color=style.BLACK, capsize=4, markersize=8)
    else:
        ax.plot([effect], [bottom], "D", color=style.BLACK, markersize=8)
    ax.axvline(0, color=style.OTHER, linewidth=1.3, linestyle="--", label="no difference")
    ax.set_yticks([*range(len(differences)), bottom], [f"seed {i}" for i in range(len(differences))] + ["mean"], fontsize=8.5)
    ax.set_ylim(bottom + 0.7, -0.7)
    style.label(ax, title, x)
    style.legend_below(ax)
    return fig


# ---------------------------------------------------------------- recorded seeds (`interactive.recorded_seeds`)


def draw_recorded_seeds(seeds: Mapping) -> Figure:
    """Online minus offline in gold: one dot a recorded seed, one shape for the seeds that share their models."""
    rows = seeds["per_seed"]
    return draw_seed_differences(
        [row["gold_difference"] for row in rows], seeds["effect"], seeds["low"], seeds["high"], groups=[row["model_seed"] for row in rows],
        title="Online minus offline in gold, one dot a seed (recorded, not this run)",
        x="difference in gold utility (0 to 10) at temperature 1")  # fmt: skip


def draw_recorded_path(seeds: Mapping) -> Figure:
    """Gold against KL after each iteration, as means over the recorded seeds."""
    means = [{**row, "temperature": 1.0, "policy": row["arm"] + (f"-{row['iteration']}" if row["iteration"] else "")} for row in seeds["means"]]
    title = f"Gold for each nat of KL, means over {seeds['seeds_run']} seeds (recorded, not this run)"
    return draw_against_kl(means, ["online", "offline"], title=title)
