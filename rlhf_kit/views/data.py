"""Figures of lessons 00 and 01: the map of the course, the pocket world's truth, its annotators, cleaning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from rlhf_kit.views import style

# name -> (x, y, text, lessons); the loop runs anticlockwise on the right.
_MAP = {
    "demos": (0.0, 2.0, "demonstrations", ""),
    "prefs": (0.0, 0.0, "preference pairs", "01"),
    "sft": (2.6, 2.0, "initial policy (SFT)", "02"),
    "reward": (2.6, 0.0, "reward model\npreference model", "03 04 05"),
    "sample": (5.4, 2.0, "n answers\nto new prompts", "06"),
    "score": (5.4, 0.0, "rewards", "06"),
    "pair": (8.0, 0.0, "best against worst", "06"),
    "dpo": (8.0, 2.0, "DPO: next policy", "07 08"),
    "eval": (10.4, 1.0, "evaluation", "09"),
}
_ARROWS = (
    ("demos", "sft"), ("prefs", "reward"), ("sft", "reward"), ("sft", "sample"), ("reward", "score"), ("sample", "score"),
    ("score", "pair"), ("pair", "dpo"), ("dpo", "sample"), ("dpo", "eval"),
)  # fmt: skip


def draw_course_map(done: Sequence[str] = ()) -> Figure:
    """The stages of the recipe as boxes, with the lessons that teach them; `done` names boxes to fill in."""
    fig, (ax,) = style.figure(width=10.5, height=3.4)
    ax.set_axis_off()
    ax.set(xlim=(-1.25, 11.6), ylim=(-1.0, 3.0))
    for name, (x, y, text, lessons) in _MAP.items():
        loop = name in ("sample", "score", "pair", "dpo")
        edge = style.VERMILION if loop else style.BLUE
        face = "#FBE3D6" if loop and name in done else "#D6E6F5" if name in done else "white"
        ax.add_patch(
            FancyBboxPatch(
                (x - 1.0, y - 0.42),
                2.0,
                0.84,
                boxstyle="round,pad=0.03",
                facecolor=face,
                edgecolor=edge,
                linewidth=1.6,
            )
        )
        ax.text(x, y, text, ha="center", va="center", fontsize=9.5)
        if lessons:
            ax.text(x, y - 0.62, f"lesson {lessons}" if " " not in lessons else f"lessons {lessons}", ha="center",
                    va="center", fontsize=8, color="#555555")  # fmt: skip
    for start, end in _ARROWS:
        a, b = (np.array(_MAP[name][:2], dtype=float) for name in (start, end))
        ax.add_patch(
            FancyArrowPatch(
                *_between(a, b), arrowstyle="-|>", mutation_scale=13, color="#444444", linewidth=1.2
            )
        )
    ax.text(6.7, 1.0, "the online loop:\nagain with every\nnew policy", ha="center", va="center", fontsize=9,
            color=style.VERMILION)  # fmt: skip
    ax.set_title(
        "The recipe: data and models on the left, the online loop on the right",
        loc="left",
        fontweight="bold",
        fontsize=11,
    )
    return fig


def _between(a: np.ndarray, b: np.ndarray) -> tuple[tuple, tuple]:
    """Arrow ends on the edges of the boxes at a and b (half sizes 1.03 by 0.45, labels below)."""
    step = b - a
    if abs(step[0]) > 0.5 and abs(step[1]) < 0.5:
        side = np.sign(step[0])
        return (a[0] + 1.05 * side, a[1]), (b[0] - 1.05 * side, b[1])
    if abs(step[0]) < 0.5:
        side = np.sign(step[1])
        return (a[0], a[1] + (0.47 if side > 0 else -0.75) * 1.0), (
            b[0],
            b[1] - (0.75 if side > 0 else -0.47),
        )
    return (a[0] + 1.05, a[1] - 0.2), (b[0] - 1.05, b[1] + 0.2)


def draw_answers_of_prompts(
    rewards: Sequence[Sequence[float]], chosen: Sequence[int], rejected: Sequence[int]
) -> Figure:
    """One column a prompt: the reward of every answer; the pair's chosen and rejected ones marked (index or -1)."""
    fig, (ax,) = style.figure(width=8.0, height=3.4)
    for place, (values, good, bad) in enumerate(zip(rewards, chosen, rejected, strict=True)):
        ax.plot(
            [place] * len(values),
            values,
            "o",
            color="#BBBBBB",
            markersize=5,
            zorder=2,
            label="answer" if not place else None,
        )
        if good >= 0 and bad >= 0:
            ax.plot([place, place], [values[bad], values[good]], color="#999999", linewidth=0.9, zorder=1)
            ax.plot(place, values[good], "^", color=style.BLUE, markersize=8, zorder=3)
            ax.plot(place, values[bad], "v", color=style.VERMILION, markersize=8, zorder=3)
    ax.plot([], [], "^", color=style.BLUE, markersize=8, label="chosen")
    ax.plot([], [], "v", color=style.VERMILION, markersize=8, label="rejected")
    ax.set_xticks(range(len(rewards)), [str(i + 1) for i in range(len(rewards))])
    style.legend_outside(ax)
    style.label(
        ax,
        "The reward model's score of every answer, and the pair it makes",
        "prompt (number)",
        "reward (no unit)",
    )
    return fig


def draw_before_after(
    lines: Sequence[Mapping], values: Sequence[tuple[str, str]], names: Mapping[str, str] | None = None
) -> Figure:
    """A panel for each (key, axis label) of the summary `lines` (of `stages.summarise`): one point a policy and
    temperature, with its interval where the line has <key>_low and <key>_high."""
    fig, axes = style.figure(1, len(values), height=3.4)
    temperatures = sorted({line["temperature"] for line in lines}, reverse=True)
    policies = list(dict.fromkeys(line["policy"] for line in lines))
    palette, marks = style.colors(policies), style.markers(policies)
    for ax, (key, text) in zip(axes, values, strict=True):
        for k, policy in enumerate(policies):
            mine = {line["temperature"]: line for line in lines if line["policy"] == policy}
            xs = [i + (k - (len(policies) - 1) / 2) * 0.18 for i, t in enumerate(temperatures) if t in mine]
            rows = [mine[t] for t in temperatures if t in mine]
            ys = [row[key] for row in rows]
            ends = style.errors(ys, [row.get(f"{key}_low", y) for row, y in zip(rows, ys, strict=True)],
                                [row.get(f"{key}_high", y) for row, y in zip(rows, ys, strict=True)])  # fmt: skip
            ax.errorbar(xs, ys, yerr=ends, fmt=marks[policy], color=palette[policy], markersize=7, capsize=3,
                        label=(names or {}).get(policy, policy))  # fmt: skip
        ax.set_xticks(
            range(len(temperatures)), ["greedy" if t == 0 else f"temperature {t:g}" for t in temperatures]
        )
        ax.set_xlim(-0.6, len(temperatures) - 0.4)
        style.label(ax, text.split(" (")[0].capitalize(), None, text)
    style.legend_outside(axes[-1])
    return fig


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
    ax.text(len(columns) - 0.3, -0.75, "utility", ha="left", va="center", fontsize=9.5, fontweight="bold")
    ax.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    ax.set_yticks(range(len(names)), names)
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

    probability(gap, **dial): the annotator's rule. settings: dial -> its values.
    """
    gaps = np.linspace(-6, 6, 121)
    title = "How each dial bends the annotator's choice, the others at rest"
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
        style.label(ax, dial, "gold(A) - gold(B)", "P(A preferred)" if ax is axes[0] else None)
    return fig


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
        ax.axvline(here, color=style.PURPLE, linewidth=1.2, label="TEMPERATURE of this run")
    ax.set_ylim(0.45, 1.02)
    style.label(
        ax,
        "The ceiling that the annotator's noise sets",
        dial,
        "accuracy against the labels (share)",
        legend=True,
    )
    return fig


def draw_label_noise(
    gaps: Sequence[float], probabilities: Sequence[float], edges: Sequence[float] | None = None
) -> Figure:
    """Share of labels that agree with the truth, by how far the two answers are apart.

    gaps: gold(chosen) - gold(rejected), one a pair. probabilities: the annotator's probability for the better answer.
    """
    gaps, probabilities = np.asarray(gaps, dtype=float), np.asarray(probabilities, dtype=float)
    kept = gaps != 0
    gaps, probabilities = gaps[kept], probabilities[kept]
    edges = np.asarray(edges if edges is not None else [0, 0.5, 1, 2, 3, 4, 6, 10.01])
    place = np.digitize(np.abs(gaps), edges) - 1
    fig, (ax, counts) = style.figure(1, 2, width=9.6, height=3.6, width_ratios=[2, 1])
    for k in sorted(set(place.tolist())):
        here = place == k
        share, n = float((gaps[here] > 0).mean()), int(here.sum())
        half = 1.96 * np.sqrt(max(share * (1 - share), 0.25 / n) / n)
        first = k == min(place)
        x = float(np.abs(gaps[here]).mean())
        ends = style.errors([share], [max(0, share - half)], [min(1, share + half)])
        ax.errorbar(
            [x],
            [share],
            yerr=ends,
            fmt="o",
            color=style.MODEL,
            capsize=3,
            label="labels that agree with the truth" if first else None,
        )
        ax.plot([x], [probabilities[here].mean()], "x", color=style.CEILING, markersize=8, markeredgewidth=2,
                label="what the annotator's rule predicts" if first else None)  # fmt: skip
    style.chance(ax)
    ax.set_ylim(0, 1.05)
    style.label(ax, "Small gaps make wrong labels", "distance in gold utility", "share right", legend=True)
    ax.legend(loc="lower right", frameon=False, fontsize=9)
    counts.hist(np.abs(gaps), bins=20, color=style.SKY, edgecolor="white")
    style.label(counts, "How far apart the pairs are", "distance in gold utility", "pairs")
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
    style.label(ax, title, "rows")
    return fig


def draw_lengths(
    chosen: Mapping[str, Sequence[float]], rejected: Mapping[str, Sequence[float]], unit: str = "tokens"
) -> Figure:
    """Mean length of chosen and rejected answers in each group, with 95 % intervals of the mean."""
    groups = list(chosen)
    series, ends = {"chosen": [], "rejected": []}, {"chosen": ([], []), "rejected": ([], [])}
    for name, lengths in (("chosen", chosen), ("rejected", rejected)):
        for group in groups:
            values = np.asarray(lengths[group], dtype=float)
            half = 1.96 * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
            series[name].append(values.mean())
            ends[name][0].append(values.mean() - half)
            ends[name][1].append(values.mean() + half)
    fig, (ax,) = style.figure(width=max(6.4, 1.3 * len(groups) + 2.5))
    style.grouped_bars(
        ax, groups, series, intervals=ends, palette={"chosen": style.BLUE, "rejected": style.VERMILION}
    )
    style.legend_outside(ax)
    style.label(ax, "Length of the preferred and the rejected answer", None, f"mean length ({unit})")
    return fig
