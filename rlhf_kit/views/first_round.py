"""Figures of the first round (lesson 00): the rewards of every answer with the pairs taken from them; the policies before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from rlhf_kit.evaluation.tally import mean_of, pick
from rlhf_kit.views import style


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
            shift = (k - (len(policies) - 1) / 2) * 0.22
            groups = [(i + shift, pick(rows, policy=policy, temperature=t)) for i, t in enumerate(temperatures)]
            places, found = zip(*((x, mean_of(group, key)) for x, group in groups if group), strict=True)
            means, lows, highs = np.transpose(found)
            ax.errorbar(places, means, yerr=style.errors(means, lows, highs), fmt=marks[policy], color=palette[policy],
                        markersize=7, capsize=3, label=(names or {}).get(policy, policy))  # fmt: skip
        ax.set_xticks(range(len(temperatures)), [style.heat(t) for t in temperatures])
        ax.set_xlim(-0.6, len(temperatures) - 0.4)
        style.label(ax, said, None, text)
    style.legend_outside(axes[-1])
    return fig
