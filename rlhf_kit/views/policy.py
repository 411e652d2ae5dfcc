"""Figures of lessons 06 and 07: proxy labels and DPO (those of the online loop are in `loop`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from rlhf_kit.evaluation import share_interval
from rlhf_kit.views import style

# ---------------------------------------------------------------- 06 proxy labels


def draw_ranked(rewards: Sequence[float], gold: Sequence[float] | None, chosen: int, rejected: int) -> Figure:
    """The samples of one prompt in the order of their reward, the pair marked; below, the gold of each if known."""
    order = np.argsort(-np.asarray(rewards, dtype=float), kind="stable")
    panels = 1 if gold is None else 2
    fig, axes = style.figure(panels, 1, width=7.4, height=0.4 + 2.1 * panels, sharex=True)
    series = [("reward", rewards, style.PROXY, "reward (no unit)")]
    series += [] if gold is None else [("gold", gold, style.TRUTH, "gold (0 to 10)")]
    for ax, (_, values, color, unit) in zip(axes, series, strict=True):
        ax.bar(range(len(order)), np.asarray(values, dtype=float)[order], color=color, width=0.6)
        for place, text in ((int(np.flatnonzero(order == chosen)[0]), "chosen"), (int(np.flatnonzero(order == rejected)[0]), "rejected")):
            ax.annotate(text, (place, 0.97), xycoords=("data", "axes fraction"), ha="center", va="top", fontsize=9, fontweight="bold")
        ax.margins(y=0.25)
        style.label(ax, y=unit)
    axes[-1].set_xticks(range(len(order)), [f"sample {i}" for i in order], fontsize=8.5, rotation=0 if len(order) <= 10 else 60)
    style.label(axes[0], "One prompt: its samples, best reward first")
    if gold is not None:
        style.label(axes[1], "What the same samples are truly worth")
    return fig


def draw_rules(rows: Sequence[Mapping]) -> Figure:
    """Pair rules compared. rows: {rule, margins (one a pair), wrong, low, high (None without truth), control: bool}."""
    known = any(row.get("wrong") is not None for row in rows)
    fig, axes = style.figure(1, 2 if known else 1, width=10.4 if known else 6.4, height=1.4 + 0.42 * len(rows), sharey=True)
    for place, row in enumerate(rows):
        if row.get("control"):  # its margins are not rewards
            axes[0].annotate("control: margins in another unit", (0.02, place), xycoords=("axes fraction", "data"), va="center",
                             fontsize=8.5, color="#555555")
        else:
            axes[0].boxplot([row["margins"]], positions=[place], orientation="horizontal", showfliers=False, widths=0.55,
                            manage_ticks=False, medianprops={"color": style.OTHER, "linewidth": 2})
    style.rows_down(axes[0], [row["rule"] for row in rows])
    style.label(axes[0], "Margins of the pairs that a rule makes", "reward(chosen) - reward(rejected)")
    if known:
        ax = axes[1]
        for place, row in enumerate(rows):
            color = style.TRUTH if row["rule"].startswith("gold") else style.CONTROL if row.get("control") else style.MODEL
            ax.errorbar([row["wrong"]], [place], xerr=style.errors([row["wrong"]], [row["low"]], [row["high"]]), fmt="o", color=color,
                        capsize=3, markersize=7)
            style.number(ax, f"{row['wrong']:.2f}", (row["wrong"], place))
        ax.tick_params(labelleft=True)
        ax.set_xlim(-0.04, max(0.62, *[row["high"] + 0.03 for row in rows]))
        ax.axvline(0.5, color=style.CONTROL, linestyle=":", label="coin toss")
        style.label(ax, "Wrong labels among them (dotted: coin toss)", "share of pairs, truly equal ones as half")
    return fig


def draw_wrong_by_margin(margins: Sequence[float], wrong: Sequence[float], bins: int = 6) -> Figure:
    """Share of wrong labels by reward margin, and what a minimum margin would keep and clean."""
    margins, wrong = np.asarray(margins, dtype=float), np.asarray(wrong, dtype=float)
    order = np.argsort(margins, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    fig, (ax, trade) = style.figure(1, 2, width=10.2, height=3.7)
    share = np.array([wrong[p].mean() for p in parts])
    low, high = share_interval(share, [len(p) for p in parts])
    ax.errorbar([margins[p].mean() for p in parts], share, yerr=style.errors(share, low, high),
                fmt="o-", color=style.MODEL, capsize=3, label="pairs in six groups of equal size" if len(parts) == 6 else "groups of equal size")
    style.chance(ax, 0.5, "coin toss")
    ax.set_ylim(0, max(0.6, 1.1 * float(high.max())))
    style.label(ax, "Wrong labels by reward margin", "reward(chosen) - reward(rejected), mean of the group", "share of wrong labels", legend=True)
    kept = np.arange(len(order), len(order) // 10, -1)  # down to a tenth, and to one pair at least
    left = np.array([wrong[order[len(order) - k:]].mean() for k in kept])
    low, high = share_interval(left, kept)
    trade.fill_between(kept / len(order), low, high, color=style.SKY, alpha=0.3, linewidth=0, label="95 % interval")
    trade.plot(kept / len(order), left, color=style.MODEL, label="share of wrong labels")
    trade.invert_xaxis()
    trade.set_ylim(0, 1.05 * float(high.max()))
    style.label(trade, "If only the widest margins are kept", "share of pairs kept (fewer to the right)", "share of wrong labels among them", legend=True)
    return fig


def draw_wrong_by_section(rows: Sequence[Mapping]) -> Figure:
    """Share of wrong labels by section. rows: {category, wrong, low, high, n}."""
    fig, (ax,) = style.figure(width=7.0)
    names = [f"{row['category']}\n({row['n']} pairs)" for row in rows]
    palette = style.colors([row["category"] for row in rows])
    value, low, high = (np.array([row[key] for row in rows]) for key in ("wrong", "low", "high"))
    ax.bar(names, value, color=[palette[row["category"]] for row in rows], width=0.6, yerr=style.errors(value, low, high),
           error_kw={"capsize": 3})
    style.chance(ax, 0.5, "coin toss")
    ax.set_ylim(0, max(0.6, 1.1 * float(np.nan_to_num(high).max())))
    style.label(ax, "Where the wrong labels are: by section of the prompts", "section", "share of wrong labels", legend=True)
    return fig


def draw_penalty_sweep(rows: Sequence[Mapping]) -> Figure:
    """What a length penalty does to the pairs. rows: {penalty, chosen, rejected (mean lengths), reversed (share)}."""
    fig, (ax, bug) = style.figure(1, 2, width=10.2, height=3.7)
    x = [row["penalty"] for row in rows]
    ax.plot(x, [row["chosen"] for row in rows], "o-", color=style.BLUE, label="chosen")
    ax.plot(x, [row["rejected"] for row in rows], "s--", color=style.OTHER, label="rejected")
    style.label(ax, "What a price does to the length of the two sides", "length penalty (reward per character)", "mean length (characters)", legend=True)
    bug.plot(x, [row["reversed"] for row in rows], "D-", color=style.OTHER, label="ordered by raw reward (the bug)")
    bug.plot(x, [0] * len(x), ":", color=style.CONTROL, label="ordered by penalised reward (paper, eq. 9)")
    bug.set_ylim(-0.03, max(0.2, 1.15 * max(row["reversed"] for row in rows)))
    style.label(bug, "Pairs whose label the price should have turned", "length penalty (reward per character)",
                "share of pairs labelled against eq. 9", legend=True)
    return fig


# ---------------------------------------------------------------- 07 DPO


def draw_policies(names: Sequence[str], policies: Mapping[str, Sequence[float]], rewards: Sequence[float], title: str) -> Figure:
    """Probabilities of a handful of answers under several policies; the reward of each stands under its name."""
    fig, (ax,) = style.figure(width=8.6)
    palette = dict(zip(policies, (style.GREY, style.BLACK, style.BLUE, style.ORANGE), strict=False))
    style.grouped_bars(ax, [f"{n}\nr = {r:g}" for n, r in zip(names, rewards, strict=True)], policies, palette=palette)
    style.label(ax, title, "answer, and its reward r", "probability", legend=True)
    return fig


def draw_beta(rows: Sequence[Mapping]) -> Figure:
    """Optimal policies for many betas: {beta, kl, reward}: what a nat of KL buys."""
    fig, (ax,) = style.figure(width=6.8)
    ax.plot([row["kl"] for row in rows], [row["reward"] for row in rows], "o-", color=style.MODEL)
    for row in rows:
        style.number(ax, f"{row['beta']:g}", (row["kl"], row["reward"]), (9, -14), ha="left")
    ax.margins(x=0.08, y=0.12)
    style.label(ax, "What reward costs: the optimal policy of each beta (the numbers)", "KL(optimal policy || pi_0), nats", "mean reward of the optimal policy")
    return fig


def draw_dpo_training(histories: Mapping[str, Sequence[Mapping]], beta: float) -> Figure:
    """Loss and log-ratios over the steps of DPO trainings. histories: name -> rows of history.json.

    One batch is few pairs, so what each logged step says is drawn thin, and the centred mean over five of them thick.
    """
    fig, axes = style.figure(1, 1 + len(histories), width=4.2 + 3.6 * len(histories), height=4.2)
    palette = style.colors(list(histories))

    def curve(ax, step, values, dash, color, text):
        ax.plot(step, values, "-", color=color, linewidth=0.7, alpha=0.45)
        ax.plot(step, style.smooth(values), dash, color=color, label=text)

    for k, (name, rows) in enumerate(histories.items()):
        rows = [row for row in rows if "rewards/chosen" in row and "loss" in row]
        step = [row["step"] for row in rows]
        curve(axes[0], step, [row["loss"] for row in rows], ("-", "--")[k % 2], palette[name], name)
        ax = axes[1 + k]
        if k:
            ax.sharey(axes[1])
        for key, color, dash in (("chosen", style.BLUE, "-"), ("rejected", style.OTHER, "--")):
            curve(ax, step, [row[f"rewards/{key}"] / beta for row in rows], dash, color, f"{key} answers")
        ax.axhline(0, color="black", linewidth=1)
        style.label(ax, f"Log-ratios: {name}", "optimizer step", "log(policy / reference), nats" if not k else None)
        style.legend_below(ax)
    style.ceiling(axes[0], float(np.log(2)), "ln 2: policy equals reference", style.CONTROL, ":")
    style.label(axes[0], "DPO loss of the training batches", "optimizer step", "loss, nats a pair")
    style.legend_below(axes[0], 1)
    return fig


def last_log_ratios(history: Sequence[Mapping], beta: float, steps: int = 10) -> tuple[float, float, int]:
    """(chosen, rejected, how many): mean log-ratios, in nats, over the last logged steps of a DPO training.

    history: rows of history.json, in which TRL logs implicit rewards; divided by beta they are log-ratios.
    """
    last = [row for row in history if "rewards/chosen" in row][-steps:]
    chosen, rejected = (float(np.mean([row[f"rewards/{side}"] for row in last])) / beta for side in ("chosen", "rejected"))
    return chosen, rejected, len(last)


def draw_log_ratios(chosen: Sequence[float], rejected: Sequence[float]) -> Figure:
    """One dot a training pair: how the log-probabilities of its two answers changed."""
    chosen, rejected = np.asarray(chosen, dtype=float), np.asarray(rejected, dtype=float)
    fig, (ax,) = style.figure(width=7.0, height=4.9)
    fell = chosen < 0
    ax.plot(rejected[~fell], chosen[~fell], "o", color=style.BLUE, alpha=0.6, markersize=5, label="chosen became likelier")
    ax.plot(rejected[fell], chosen[fell], "x", color=style.OTHER, alpha=0.8, markersize=5, label="chosen became less likely")
    ends = [min(chosen.min(), rejected.min()), max(chosen.max(), rejected.max())]
    ax.plot(ends, ends, "--", color=style.CEILING, linewidth=1.1, label="both changed alike: gap 0")
    ax.axhline(0, color="#BBBBBB", linewidth=1)
    ax.axvline(0, color="#BBBBBB", linewidth=1)
    style.label(ax, "How DPO moved both answers of each training pair", "log(policy / reference) of the rejected answer, nats",
                "log(policy / reference) of the chosen answer, nats")
    style.legend_below(ax, 3)
    return fig


def draw_policy_dots(summary: Sequence[Mapping], measure: str, unit: str, names: Mapping[str, str] | None = None,
                     title: str = "") -> Figure:
    """A measure of each policy at temperature 1 and greedy, with intervals where `summary` has them."""
    order = list(dict.fromkeys(row["policy"] for row in summary))
    fig, (ax,) = style.figure(width=7.4, height=1.5 + 0.5 * len(order))
    for temperature, text, color, mark, shift in ((1.0, "sampled, temperature 1", style.BLUE, "o", -0.12), (0.0, "greedy", style.ORANGE, "s", 0.12)):
        rows = {row["policy"]: row for row in summary if row["temperature"] == temperature}
        value = [rows[n][measure] for n in order]
        low, high = ([rows[n].get(f"{measure}_{end}") if rows[n].get(f"{measure}_{end}") is not None else rows[n][measure] for n in order]
                     for end in ("low", "high"))
        ax.errorbar(value, np.arange(len(order)) + shift, xerr=style.errors(value, low, high), fmt=mark, color=color, capsize=3, label=text)
    style.rows_down(ax, [(names or {}).get(n, n) for n in order])
    style.legend_below(ax)
    style.label(ax, title, unit)
    return fig
