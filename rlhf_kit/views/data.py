"""Figures of lessons 00 and 01: the map of the course, the pocket world's truth, its annotators, cleaning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch

from rlhf_kit.evaluation import cluster_interval
from rlhf_kit.views import style
from rlhf_kit.views.rows import share_of

# name -> (x, y, text, lessons, kind); the loop runs round on the right.
_MAP = {
    "demos": (0.0, 2.0, "demonstrations", "02", "once"),
    "prefs": (0.0, 0.0, "preference pairs", "01", "once"),
    "sft": (2.6, 2.0, "initial policy (SFT)", "02", "once"),
    "reward": (2.6, 0.0, "reward model\npreference model", "03 04 05", "once"),
    "sample": (5.3, 2.0, "1. sample: n answers\nto new prompts", "06", "loop"),
    "score": (5.3, 0.0, "2. score: a reward\nfor each answer", "06", "loop"),
    "pair": (8.1, 0.0, "3. pair: best\nagainst worst", "06", "loop"),
    "dpo": (8.1, 2.0, "4. train: DPO makes\nthe next policy", "07 08", "loop"),
    "eval": (10.8, 2.0, "evaluation:\nis it better?", "09", "test"),
}
_ARROWS = (
    ("demos", "sft"), ("prefs", "reward"), ("sft", "reward"), ("sft", "sample"), ("reward", "score"), ("sample", "score"),
    ("score", "pair"), ("pair", "dpo"), ("dpo", "sample"), ("dpo", "eval"),
)  # fmt: skip
# kind -> (edge, face of a box that is done, line, what the legend says of it)
_KINDS = {
    "once": (style.BLUE, "#D6E6F5", "-", "made once, before the loop"),
    "loop": (style.VERMILION, "#FBE3D6", "-", "the online loop, again with every new policy"),
    "test": (style.GREEN, "#D5EFE6", "--", "looks at the policies, trains nothing"),
}


def draw_course_map(
    done: Sequence[str] = (), title: str = "The recipe: data and models on the left, the online loop on the right"
) -> Figure:
    """The stages of the recipe as boxes, with the lessons that teach them; `done` names boxes to fill in."""
    fig, (ax,) = style.figure(width=10.5, height=3.6)
    ax.set_axis_off()
    ax.set(xlim=(-1.15, 11.95), ylim=(-1.0, 2.65))
    for name, (x, y, text, lessons, kind) in _MAP.items():
        edge, filled, line, _ = _KINDS[kind]
        ax.add_patch(
            FancyBboxPatch(
                (x - 1.0, y - 0.42),
                2.0,
                0.84,
                boxstyle="round,pad=0.03",
                facecolor=filled if name in done else "white",
                edgecolor=edge,
                linestyle=line,
                linewidth=1.6,
            )
        )
        ax.text(x, y, text, ha="center", va="center", fontsize=9.5)
        ax.text(x, y - 0.62, f"lessons {lessons}" if " " in lessons else f"lesson {lessons}", ha="center",
                va="center", fontsize=8, color="#555555")  # fmt: skip
    for start, end in _ARROWS:
        a, b = (np.array(_MAP[name][:2], dtype=float) for name in (start, end))
        ax.add_patch(
            FancyArrowPatch(
                *_between(a, b), arrowstyle="-|>", mutation_scale=13, color="#444444", linewidth=1.2
            )
        )
    keys = [Patch(facecolor="white", edgecolor=edge, linestyle=line, linewidth=1.6, label=said)
            for edge, _, line, said in _KINDS.values()]  # fmt: skip
    ax.legend(handles=keys, loc="upper left", bbox_to_anchor=(0.0, 0.03), ncols=3, frameon=False, fontsize=9)
    ax.set_title(title, loc="left", fontweight="bold", fontsize=11)
    return fig


def _between(a: np.ndarray, b: np.ndarray) -> tuple[tuple, tuple]:
    """Arrow ends on the edges of the boxes at a and b, side by side or one above the other (labels stand below)."""
    step = b - a
    if abs(step[0]) > 0.5:
        side = np.sign(step[0])
        return (a[0] + 1.05 * side, a[1]), (b[0] - 1.05 * side, b[1])
    up = step[1] > 0
    return (a[0], a[1] + (0.47 if up else -0.75)), (b[0], b[1] - (0.75 if up else -0.47))


def draw_answers_of_prompts(groups: Sequence[Sequence[Mapping]], pairs: Sequence[Mapping]) -> Figure:
    """One column a prompt: the reward of every answer, and the two answers that became its training pair.

    groups: the answers of each prompt, rows with prompt_id and reward; pairs: rows with prompt_id, chosen_reward,
    rejected_reward. A prompt without a pair shows its answers alone.
    """
    pair_of = {pair["prompt_id"]: pair for pair in pairs}
    fig, (ax,) = style.figure(width=8.0, height=3.4)
    for place, rows in enumerate(groups):
        rewards = [row["reward"] for row in rows]
        ax.plot([place] * len(rewards), rewards, "o", color="#BBBBBB", markersize=5, zorder=2, label=None if place else "answer")
        pair = pair_of.get(rows[0]["prompt_id"])
        if pair:
            good, bad = pair["chosen_reward"], pair["rejected_reward"]
            ax.plot([place, place], [bad, good], color="#999999", linewidth=0.9, zorder=1)
            ax.plot(place, good, "^", color=style.BLUE, markersize=8, zorder=3)
            ax.plot(place, bad, "v", color=style.VERMILION, markersize=8, zorder=3)
    ax.plot([], [], "^", color=style.BLUE, markersize=8, label="chosen: the best")
    ax.plot([], [], "v", color=style.VERMILION, markersize=8, label="rejected: the worst")
    ax.set_xticks(range(len(groups)), [str(i + 1) for i in range(len(groups))])
    style.legend_outside(ax)
    style.label(ax, f"{len(groups)} prompts: the reward of every answer, and the pair taken from each", "prompt (number)", "reward (no unit)")
    return fig


def draw_before_after(
    rows: Sequence[Mapping],
    values: Sequence[tuple[str, str, str]],
    names: Mapping[str, str] | None = None,
    title: str | None = None,
) -> Figure:
    """A panel for each (key, axis label, title): the mean of a policy's rows at a temperature, with its 95 % interval.

    rows: those of `stages.evaluation`, with policy, temperature, prompt_id and the keys. names: policy -> how it is called.
    """
    fig, axes = style.figure(1, len(values), height=3.7, title=title)
    temperatures = sorted({row["temperature"] for row in rows}, reverse=True)
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    palette, marks = style.colors(policies), style.markers(policies)
    for ax, (key, text, said) in zip(axes, values, strict=True):
        for k, policy in enumerate(policies):
            found = [(i, _mean(rows, key, policy, t)) for i, t in enumerate(temperatures)]
            found = [(i + (k - (len(policies) - 1) / 2) * 0.22, mean) for i, mean in found if mean]
            means, lows, highs = (np.array([mean[part] for _, mean in found]) for part in range(3))
            ax.errorbar([x for x, _ in found], means, yerr=style.errors(means, lows, highs), fmt=marks[policy], color=palette[policy],
                        markersize=7, capsize=3, label=(names or {}).get(policy, policy))  # fmt: skip
        ax.set_xticks(range(len(temperatures)), [style.heat(t) for t in temperatures])
        ax.set_xlim(-0.6, len(temperatures) - 0.4)
        style.label(ax, said, None, text)
    style.legend_outside(axes[-1])
    return fig


def _mean(rows: Sequence[Mapping], key: str, policy: str, temperature: float) -> tuple[float, float, float] | None:
    """(mean, low, high) of a policy's rows at a temperature, whole prompts resampled; None where it has no rows."""
    mine = [row for row in rows if (row["policy"], row["temperature"]) == (policy, temperature)]
    return tuple(cluster_interval([row[key] for row in mine], [row["prompt_id"] for row in mine])) if mine else None


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
        share, low, high = share_of(gaps[here] > 0)
        first = k == min(place)
        x = float(np.abs(gaps[here]).mean())
        ax.errorbar(
            [x],
            [share],
            yerr=style.errors([share], [low], [high]),
            fmt="o",
            color=style.MODEL,
            capsize=3,
            label="labels that agree with the truth (95 % interval)" if first else None,
        )
        ax.plot([x], [probabilities[here].mean()], "x", color=style.CEILING, markersize=8, markeredgewidth=2,
                label="what the annotator's rule predicts" if first else None)  # fmt: skip
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


def by_group(pairs: Sequence[Mapping], lengths: Mapping[str, Sequence[float]], key: str) -> dict[str, dict]:
    """The lengths of each group of pairs: group -> {pairs, prompts (numbers), and the lists of `lengths`}, all pairs first.

    lengths: prompt, chosen, rejected -> a length for each pair. key: the column that names the group. Where there is
    one group only, it stands alone. The first is called "all", or "all pairs" where a group of its own has that name.
    """
    places: dict[str, list[int]] = {}
    for place, row in enumerate(pairs):
        places.setdefault(row[key], []).append(place)
    if len(places) != 1:
        name = "all"
        while name in places:
            name += " pairs"
        places = {name: list(range(len(pairs))), **places}
    return {name: {"pairs": len(at), "prompts": len({pairs[i]["prompt_id"] for i in at})}
            | {part: [values[i] for i in at] for part, values in lengths.items()} for name, at in places.items()}  # fmt: skip


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
    style.label(ax, "Is the chosen answer longer? Mean length of both sides (95 % intervals)", "pairs of", f"mean length ({unit})")
    return fig


# ---------------------------------------------------------------- rows for the cells of the lessons


def same_prompts(rows: Sequence[Mapping], first: str, second: str, temperature: float) -> tuple[list, list]:
    """The answers of two policies at one temperature, in one order: prompt by prompt, sample by sample.

    rows: those of `stages.evaluation`. ValueError where the two did not answer the same prompts.
    """
    found = [[row for row in rows if (row["policy"], row["temperature"]) == (name, temperature)] for name in (first, second)]
    asked = [[(row["prompt_id"], row.get("sample", 0)) for row in answers] for answers in found]
    if asked[0] != asked[1]:
        raise ValueError(f"{first!r} and {second!r} did not answer the same prompts at temperature {temperature:g}")
    return found[0], found[1]


def token_lengths(pairs: Sequence[Mapping], tokenizer: Callable[..., Mapping]) -> dict[str, list[int]]:
    """Tokens of every pair's prompt (all its turns), chosen and rejected answer; those of a chat template do not count."""
    texts = {"prompt": [" ".join(turn["content"] for turn in row["prompt"]) for row in pairs]}
    texts |= {side: [row[side][-1]["content"] for row in pairs] for side in ("chosen", "rejected")}
    ids = {part: tokenizer(said, add_special_tokens=False)["input_ids"] for part, said in texts.items()}
    return {part: [len(row) for row in rows] for part, rows in ids.items()}
