"""Goodhart dial: turn n, beta or the number of trainings; the reward goes up, and the truth need not follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_kit.errors import KitError
from rlhf_kit.evaluation.over_optimisation import best_of_every_n, tilted
from rlhf_kit.views import style
from rlhf_kit.views.interactive.controls import magnitude, magnitudes, slider
from rlhf_kit.views.interactive.panel import Drawing, Panel, Said, legend_under, present

START, LEAST, MOST = 0.2, 0.02, 20.0  # beta: from nearly best-of-k to hardly any pull
BETAS = magnitudes(START, LEAST, MOST)
MEASURES = (("reward", "Promised: the reward", "reward gained"), ("gold", "Delivered: the truth", "gold gained (of 10)"),
            ("length", "And the length", "characters gained"))  # fmt: skip


def arms_of(means: Sequence[Mapping]) -> dict[str, list[dict[str, float]]]:
    """Recorded means (arm, iteration, kl, reward, gold, length) as arm -> rows from SFT to the last training."""
    start = next(row for row in means if row["arm"] == "sft")
    arms = dict.fromkeys(row["arm"] for row in means if row["arm"] != "sft")
    return {
        arm: [dict(start), *sorted((dict(r) for r in means if r["arm"] == arm), key=lambda r: r["iteration"])]
        for arm in arms
    }


def draw_goodhart(table: Mapping[str, np.ndarray], recorded: Mapping[str, Sequence[Mapping]]) -> Drawing:
    """One panel a measure, each against KL, as gains over no optimisation; a dot a dial. Values of `move`: n, beta, step."""
    curves = {"n": best_of_every_n(table), "beta": tilted(table, BETAS)}
    looks = {"n": (style.PURPLE, "o", "-", "best of n"), "beta": (style.BLACK, "s", "--", "optimum at beta")}
    marks, palette = (("^", "-."), ("v", ":"), ("D", "-.")), style.colors(list(recorded))
    shown = [m for m in MEASURES if m[0] in table]
    fig, axes = style.figure(1, len(shown), width=3.6 * len(shown) + 0.6, height=3.9)
    dots: dict[Any, list] = {}
    for ax, (key, title, unit) in zip(axes, shown, strict=True):
        for name, rows in curves.items():
            color, mark, dash, text = looks[name]
            ax.plot(
                [r["kl"] for r in rows],
                [r[key] - rows[0][key] if name == "n" else r[key] - curves["n"][0][key] for r in rows],
                dash,
                color=color,
                label=text,
            )
            dots.setdefault(name, []).append(
                ax.plot([], [], mark, color=color, markersize=11, markeredgecolor="black")[0]
            )
        for (arm, rows), (mark, dash) in zip(recorded.items(), marks, strict=False):
            color = palette[arm]
            ax.plot(
                [r["kl"] for r in rows],
                [r[key] - rows[0][key] for r in rows],
                dash,
                color=color,
                label=f"{arm} DPO, recorded seeds",
            )
            dots.setdefault(arm, []).append(
                ax.plot([], [], mark, color=color, markersize=11, markeredgecolor="black")[0]
            )
        ax.axhline(0, color="black", linewidth=0.9)
        style.label(ax, title, "KL to SFT, nats", unit)
        ax.margins(y=0.12)
    legend_under(fig, axes[0])

    def put(name: Any, row: Mapping, start: Mapping) -> None:
        for dot, (key, *_) in zip(dots[name], shown, strict=True):
            dot.set_data([row["kl"]], [row[key] - start[key]])

    def gains(row: Mapping, start: Mapping) -> str:
        return ", ".join(f"{key} {row[key] - start[key]:+.2f}" for key, *_ in shown)

    def move(n: int, beta: float, step: int = 0) -> Said:
        start, rows = curves["n"][0], curves["n"]
        put("n", rows[n - 1], start)
        text = f"Best of {n}: {gains(rows[n - 1], start)}, for at most {rows[n - 1]['kl']:.2f} nats. "
        if "gold" in table:
            peak = max(rows, key=lambda row: row["gold"])["n"]
            text += f"Gold is highest at n = {peak}" + (
                ", the most that was sampled. "
                if peak == len(rows)
                else "; with more search its mean rises no further. "
            )
        at = int(np.abs(np.log(BETAS) - np.log(beta)).argmin())
        put("beta", curves["beta"][at], start)
        text += f"Optimum at beta {BETAS[at]:.2g}, within the samples: {gains(curves['beta'][at], start)}, {curves['beta'][at]['kl']:.2f} nats. "
        for arm, path in recorded.items():
            here = path[min(step, len(path) - 1)]
            put(arm, here, path[0])
            text += f"{arm.capitalize()} DPO, {step} training{'s' * (step != 1)}, mean of the recorded seeds: {gains(here, path[0])}, {here['kl']:.2f} nats. "
            worst = [
                t
                for t in range(1, len(path))
                if path[t]["reward"] > path[t - 1]["reward"] and path[t]["gold"] < path[t - 1]["gold"]
            ]
            if worst and step >= worst[0]:
                text += f"In training {worst[0]} its reward rose and its gold fell. "
        return Said(text.strip())

    return Drawing(fig, sum(dots.values(), []), move)


def goodhart_dial(
    rows: Sequence[Mapping], *, recorded: Sequence[Mapping] | None = None, interactive: bool
) -> Panel:
    """Shows reward, truth and length while the reward is optimised in three ways, against the KL that each costs.

    rows: of `stages.best_of_n` (prompt_id, reward, gold or None, length; equally many a prompt). recorded: the means of
    data/expected/online_vs_offline.json, another run; shown where the truth is known. KitError for unequal numbers.
    """
    groups: dict[str, list[Mapping]] = {}
    for row in rows:
        groups.setdefault(row["prompt_id"], []).append(row)
    sizes = {len(own) for own in groups.values()}
    if len(sizes) != 1 or sizes == {1}:
        raise KitError(
            f"the dial needs equally many answers a prompt, two or more, not {sorted(sizes)}; pass the rows of stages.best_of_n"
        )
    known = all(row["gold"] is not None for row in rows)
    measures = [key for key, *_ in MEASURES if key != "gold" or known]
    table = {
        key: np.array([[row[key] for row in own] for own in groups.values()], dtype=float) for key in measures
    }
    arms = arms_of(recorded) if recorded and known else {}
    k, steps = sizes.pop(), max((len(path) - 1 for path in arms.values()), default=0)
    defaults = {"n": k, "beta": START} | ({"step": steps} if arms else {})

    def controls() -> dict[str, Any]:
        made = {"n": slider("n, of best-of-n", k, 1, k, 1), "beta": magnitude("beta", START, LEAST, MOST)}
        return made | ({"step": slider("DPO trainings (recorded)", steps, 0, steps, 1)} if arms else {})

    return present(draw_goodhart(table, arms), defaults, controls, interactive=interactive, name="goodhart")
