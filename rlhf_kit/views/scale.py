"""Figures of lesson 10: what a plan asks of a card, and whether more processes and adapters keep the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from rlhf_kit.views import style

GIB = 2**30
# The parts of `planner.plan`'s memory in the order of the bars, with their names; anything else is drawn as "other".
PARTS = {
    "weights": "weights", "adapter": "adapter", "gradients": "gradients", "optimizer": "optimizer states", "reference": "reference",
    "activations": "activations", "head": "output layer and loss", "kv_cache": "cache of keys and values",
}  # fmt: skip


def say_plan(plan: Mapping) -> str:
    """Three lines on `planner.plan`: processes and card, problems, licences to accept."""
    card = f" on {plan['card']['name']}" if plan["card"] else ""
    licences = "; ".join(f"{name}: {text}" for name, text in plan["licences"].items())
    return "\n".join((
        f"{plan['processes']} process(es){card}",
        "problems: " + ("; ".join(plan["problems"]) or "none found"),
        "licences: " + (licences or "none to accept"),
    ))  # fmt: skip


def draw_memory(bars: Mapping[str, Mapping[str, float]], cards: Mapping[str, float]) -> Figure:
    """One stacked bar a step. bars: label -> {part: bytes on one GPU}; cards: label -> that card's memory in GiB."""
    fig, (ax,) = style.figure(width=9.6, height=1.5 + 0.5 * len(bars))
    names = list(bars)
    left = dict.fromkeys(names, 0.0)
    hatches = ("", "//", "..", "xx", "\\\\", "++", "oo", "--", "")
    palette = style.colors([*PARTS, "other"])
    for k, part in enumerate((*PARTS, "other")):
        values = {
            name: (sum(v for p, v in bars[name].items() if p not in PARTS) if part == "other" else bars[name].get(part, 0)) / GIB
            for name in names
        }
        if not any(values.values()):
            continue
        ax.barh(range(len(names)), list(values.values()), left=[left[n] for n in names], height=0.6, label=PARTS.get(part, "other (buffers, CUDA)"),
                color="#CCCCCC" if part == "other" else palette[part], hatch=hatches[k], edgecolor="white", linewidth=0.4)  # fmt: skip
        left = {n: left[n] + values[n] for n in names}
    for place, name in enumerate(names):
        if name in cards:
            ax.plot([cards[name]] * 2, [place - 0.42, place + 0.42], color=style.CEILING, linewidth=2.5,
                    label=None if place else "the card's memory")  # fmt: skip
        ax.annotate(f"{left[name]:.0f}", (left[name], place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    style.legend_outside(ax)
    style.label(ax, "Expected memory on each GPU, by part (numbers: the sum)", "GiB")
    return fig


def draw_hours(rows: Sequence[tuple[str, float, float]], title: str) -> Figure:
    """The range of each step's expected time: rows of (step, least, most) in hours, on a logarithmic axis."""
    fig, (ax,) = style.figure(width=8.4, height=1.4 + 0.36 * len(rows))
    for place, (_, low, high) in enumerate(rows):
        ax.plot([low, high], [place, place], color=style.MODEL, linewidth=7, solid_capstyle="butt")
        ax.annotate(f"{low:.2g} to {high:.2g}", (high, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8.5)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlim(min(r[1] for r in rows) / 1.6, max(r[2] for r in rows) * 4)
    style.rows_down(ax, [r[0] for r in rows], above=0.6)
    style.label(ax, title, "hours, each grid line ten times the one before (an estimate, not a measurement)")
    return fig


def draw_first_losses(rows: Sequence[tuple[str, float]], start: float) -> Figure:
    """The DPO loss before the first step of each training; `start` is ln 2, the loss where policy equals reference."""
    fig, (ax,) = style.figure(width=8.4, height=1.4 + 0.45 * len(rows))
    for place, (_, loss) in enumerate(rows):
        ax.plot([loss], [place], "o", color=style.MODEL, markersize=8)
        style.number(ax, f"{loss:.6f}", (loss, place))
    ax.axvline(start, color=style.CEILING, linestyle="--", label="ln 2: policy equals reference")
    style.rows_down(ax, [r[0] for r in rows])
    gap = max([abs(loss - start) for _, loss in rows] + [0.005])
    ax.set_xlim(start - 1.6 * gap, start + 1.6 * gap)
    ax.locator_params(axis="x", nbins=4)
    style.legend_below(ax)
    style.label(ax, "Loss before the first step: does it leave ln 2?", "DPO loss, nats a pair (a narrow window around ln 2)")
    return fig


def draw_same_curve(curves: Mapping[str, Sequence[tuple[int, float]]], y: str, title: str) -> Figure:
    """Training losses that should lie on each other: name -> (step, loss) points; the later ones are drawn as rings."""
    fig, (ax,) = style.figure(width=7.8, height=3.5)
    for k, (name, points) in enumerate(curves.items()):
        steps, losses = zip(*points, strict=True)
        if k == 0:
            ax.plot(steps, losses, "-", color=style.MODEL, label=name)
        else:
            ax.plot(steps, losses, "o", color=style.OTHER, markerfacecolor="none", markersize=8, label=name)
    ax.locator_params(axis="x", integer=True)
    style.label(ax, title, "optimizer step", y, legend=True)
    return fig
