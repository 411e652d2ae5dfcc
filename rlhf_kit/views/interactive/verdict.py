"""Is it really better? How the verdict hangs on the number of prompts and seeds, on ties and on length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MultipleLocator

from rlhf_kit.errors import KitError
from rlhf_kit.evaluation import length_controlled_win_rate, mean_interval, share_of
from rlhf_kit.views import style
from rlhf_kit.views.interactive.controls import choice, slider
from rlhf_kit.views.interactive.panel import Drawing, Panel, Said, legend_under, present
from rlhf_kit.views.words import digits_apart

TIES = {"half a win": 0.5, "left out": None, "no win": 0.0}
DRAWS = 20
FEW = 20  # prompts; an interval by the normal distribution says little from fewer


def outcomes(
    rows: Sequence[Mapping], first: str, second: str, temperature: float, judge: str
) -> dict[str, np.ndarray]:
    """Prompt by prompt, sample 0 of each: gap (judge's value of the first minus the second), and both lengths (characters).

    KitError for a policy without answers at the temperature.
    """
    side = {}
    for name in (first, second):
        side[name] = {
            row["prompt_id"]: row
            for row in rows
            if row["policy"] == name and row["temperature"] == temperature and row["sample"] == 0
        }
        if not side[name]:
            raise KitError(f"{name!r} has no answers at temperature {temperature:g}; choose another")
    ids = [key for key in side[first] if key in side[second]]
    pick = lambda name, key: np.array([side[name][i][key] for i in ids], dtype=float)  # noqa: E731
    return {
        "gap": pick(first, judge) - pick(second, judge),
        "first": pick(first, "length"),
        "second": pick(second, "length"),
    }


def scored(gap: np.ndarray, ties: str) -> np.ndarray:
    """1 a win, 0 a loss, a tie as the rule says; nan where it is left out."""
    tied = TIES[ties]
    return np.where(gap == 0, np.nan if tied is None else tied, (gap > 0).astype(float))


def interval(won: np.ndarray) -> tuple[float, float, float]:
    """(mean, low, high) of numbers in [0, 1], one a prompt: Student's t, 95 %; nan where fewer than two count.

    Where all are equal the spread says nothing, and the interval is Wilson's, of as many coins.
    """
    won = won[~np.isnan(won)]
    if len(won) < 2:
        return float(won.mean()) if len(won) else float("nan"), float("nan"), float("nan")
    mean, low, high = share_of(won) if np.ptp(won) == 0 and won[0] != 0.5 else mean_interval(won)
    return mean, max(0.0, low), min(1.0, high)


def verdict(low: float, high: float, zero: float) -> str:
    """better, worse, or not told apart, from an interval."""
    return "better" if low > zero else "worse" if high < zero else "not told apart"


def _with_ends(value: float, low: float, high: float, zero: float, what: str = "") -> str:
    """`0.55 (0.51 to 0.59), better`, with as many decimals as the verdict needs to be seen; differences with their sign."""
    if np.isnan(low):
        return "not known, since fewer than two of them count"
    form = f"{'' if zero else '+'}.{digits_apart(low, high, zero)}f"
    return f"{value:{form}} ({what}{low:{form}} to {high:{form}}), {verdict(low, high, zero)}"


def draw_verdict(rows: Sequence[Mapping], seeds: Sequence[float] | None = None) -> Drawing:
    """The interval of the win rate against the number of prompts, and the differences of recorded seeds.

    Values of `move`: first, second (policies), temperature, judge, prompts, draw, ties, length (bool), seeds (a number).
    """
    total = len({row["prompt_id"] for row in rows})
    fig, axes = style.figure(
        1,
        2 if seeds else 1,
        width=10.6 if seeds else 7.6,
        height=3.9,
        **({"width_ratios": [1.5, 1]} if seeds else {}),
    )
    ax = axes[0]
    ends = [ax.plot([], [], "-", color=style.SKY, linewidth=1.4)[0] for _ in range(2)]
    line = ax.plot([], [], "-", color=style.BLUE, linewidth=1.2)[0]
    span = ax.plot([], [], "-", color=style.BLUE, linewidth=3.5, solid_capstyle="butt")[0]
    dot = ax.plot([], [], "o", color=style.BLUE, markersize=10)[0]
    long_span = ax.plot([], [], "-", color=style.ORANGE, linewidth=3.5, solid_capstyle="butt")[0]
    diamond = ax.plot([], [], "D", color=style.ORANGE, markersize=9)[0]
    ax.plot([], [], "o-", color=style.BLUE, label="win rate, 95 % interval")
    ax.plot([], [], "-", color=style.BLUE, linewidth=1.2, label="win rate, as prompts are added")
    ax.plot([], [], "-", color=style.SKY, label="ends of its interval, as prompts are added")
    ax.plot([], [], "D-", color=style.ORANGE, label="at equal length, 95 % interval")
    half = ax.axhline(0.5, color=style.CONTROL, linestyle=":", label="no difference")
    ax.set(xlim=(0, total * 1.06), ylim=(-0.02, 1.02))
    ax.yaxis.set_major_locator(MultipleLocator(0.1))  # labels of one width, near and far
    legend_under(fig, ax, 3 if seeds else 2)  # one panel is too narrow for more in a row
    style.label(ax, x="prompts judged", y="share won")
    heading = ax.set_title("", loc="left", fontsize=11, fontweight="bold", parse_math=False)
    moving = [ax.yaxis, half, *ends, line, span, dot, long_span, diamond, heading]
    if seeds:
        side = axes[1]
        side.axvline(0, color=style.CONTROL, linestyle=":")
        taken = side.plot([], [], "o", color=style.BLUE, markersize=7)[0]
        side.plot(
            seeds, range(len(seeds)), "o", markerfacecolor="none", markeredgecolor=style.CONTROL, markersize=7
        )
        mean_span = side.plot([], [], "-", color=style.BLACK, linewidth=2.5)[0]
        mean_dot = side.plot([], [], "D", color=style.BLACK, markersize=9)[0]
        side.set_yticks(
            [*range(len(seeds)), len(seeds) + 0.3],
            [f"seed {i}" for i in range(len(seeds))] + ["mean"],
            fontsize=8.5,
        )
        edge = 1.2 * max(map(abs, seeds))
        side.set(ylim=(len(seeds) + 1, -0.7), xlim=(-edge, edge))
        side.locator_params(axis="x", nbins=5)
        style.label(side, "Online minus offline, recorded seeds", "difference in gold, temperature 1")
        moving += [taken, mean_span, mean_dot]
    kept: dict[Any, Any] = {}

    def move(
        first: str,
        second: str,
        temperature: float,
        judge: str,
        prompts: int,
        draw: int,
        ties: str,
        length: bool,
        seeds_used: int = 0,
    ) -> Said:
        if first == second:
            raise KitError("a policy cannot be better than itself; choose two different ones")
        key = (first, second, temperature, judge)
        if key not in kept:
            kept[key] = outcomes(rows, *key)
        found = kept[key]
        heading.set_text(f"Share of prompts that {first} wins against {second}")
        order = np.random.default_rng(draw).permutation(len(found["gap"]))
        n = min(prompts, len(order))
        won = scored(found["gap"], ties)[order]
        mean, low, high = interval(won[:n])
        at = np.unique(np.linspace(2, len(order), min(24, len(order) - 1)).round().astype(int))
        band = np.array([interval(won[:m]) for m in at])
        line.set_data(at, band[:, 0])
        for end, column in zip(ends, (1, 2), strict=True):
            end.set_data(at, band[:, column])
        dot.set_data([n], [mean])
        span.set_data([n, n], [low, high])
        counted = won[:n][~np.isnan(won[:n])]
        tied = int((found["gap"][order][:n] == 0).sum())
        heat = f"temperature {temperature:g}" if temperature else "greedy"
        text = (f"{first} against {second} by {judge}, {heat}, on {n} prompts, {tied} of them ties: "
                f"win rate {_with_ends(mean, low, high, 0.5, '95 % interval ')}. ")  # fmt: skip
        if len(counted) > 1 and mean != 0.5:
            need = (1.96 * counted.std(ddof=1) / abs(mean - 0.5)) ** 2 * n / len(counted)  # in prompts, the ties among them
            if need >= FEW:
                text += (f"With such a win rate the interval would just reach one half at about {int(np.ceil(need))} prompts; to be "
                         "fairly sure (four tries in five) take twice as many. ")  # fmt: skip
        long_span.set_data([], [])
        diamond.set_data([], [])
        if length:
            text += _at_equal_length(won[:n], found, order[:n], total, long_span, diamond)
        shown = np.concatenate([band.ravel(), *(np.ravel(one.get_ydata()) for one in (dot, span, long_span))])
        near = bool((np.abs(shown[~np.isnan(shown)] - 0.5) <= 0.2).all())  # as where most prompts are ties
        ax.set_ylim((0.28, 0.72) if near else (-0.02, 1.02))
        if seeds:
            used = np.asarray(seeds[:seeds_used], dtype=float)
            taken.set_data(used, range(len(used)))
            middle, low, high = mean_interval(used)
            shown = [max(-edge, low), min(edge, high)] if len(used) > 1 else []
            mean_span.set_data(shown, [len(seeds) + 0.3] * len(shown))
            mean_dot.set_data([middle], [len(seeds) + 0.3])
            text += f"Over {len(used)} recorded seed{'s' * (len(used) != 1)}, online minus offline in gold: "
            text += (f"{_with_ends(middle, low, high, 0.0, '95 % interval ')}." if len(used) > 1 else
                     f"{middle:+.2f} and no interval: how much another seed would differ cannot be known from one.")  # fmt: skip
        return Said(text.strip())

    return Drawing(fig, moving, move)


def _at_equal_length(won: np.ndarray, found: Mapping, order: np.ndarray, total: int, span, diamond) -> str:
    read = ~np.isnan(won)
    if read.sum() < FEW:
        return f"At equal length: not computed from {read.sum()} prompts that count ({FEW} are needed). "
    try:
        held = length_controlled_win_rate(
            won[read], found["first"][order][read], found["second"][order][read]
        )
    except KitError as problem:
        return f"At equal length: not computable ({problem}). "
    value, half = held["lc_win_rate"] / 100, 1.96 * held["lc_win_rate_se"] / 100
    x = len(won) + 0.025 * total
    span.set_data([x, x], [max(0, value - half), min(1, value + half)])
    diamond.set_data([x], [value])
    return f"At equal length it is {_with_ends(value, max(0, value - half), min(1, value + half), 0.5)}. "


def is_it_really_better(
    rows: Sequence[Mapping],
    first: str,
    second: str = "sft",
    *,
    seeds: Sequence[float] | None = None,
    interactive: bool,
) -> Panel:
    """Shows how a verdict between two policies hangs on how it was measured.

    rows: of `stages.evaluation`. seeds: one paired difference a seed (data/expected/online_vs_offline.json), or None.
    One answer a prompt is judged, so that prompts are the unit of luck. Opens with few prompts, where little is told apart.
    KitError for a policy that was not evaluated.
    """
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    for name in (first, second):
        if name not in policies:
            raise KitError(f"{name!r} is not among the evaluated policies {', '.join(policies)}")
    temperatures = sorted({row["temperature"] for row in rows}, reverse=True)
    judges = [key for key in ("gold", "reward") if all(row[key] is not None for row in rows)]
    total = len({row["prompt_id"] for row in rows})
    seeds = list(seeds or [])
    defaults: dict[str, Any] = {"first": first, "second": second, "temperature": temperatures[0], "judge": judges[0], "prompts": max(2, total // 4),
                                "draw": 0, "ties": "half a win", "length": True}  # fmt: skip
    defaults |= {"seeds_used": len(seeds)} if seeds else {}

    def controls() -> dict[str, Any]:
        import ipywidgets as widgets

        named = [("greedy" if t == 0 else f"{t:g}", t) for t in temperatures]
        made: dict[str, Any] = {
            "prompts": slider("prompts", defaults["prompts"], 2, total, 1),
            "draw": slider("which prompts (draw)", 0, 0, DRAWS - 1, 1),
            "first": choice("first", policies, first),
            "second": choice("second", policies, second),
            "temperature": choice("temperature", named, temperatures[0]),
            "judge": choice("judge", judges, judges[0]),
            "ties": choice("a tie is", TIES, "half a win"),
            "length": widgets.Checkbox(
                value=True,
                description="hold the length equal",
                indent=False,
                layout={"width": "max-content"},
            ),
        }
        return made | (
            {"seeds_used": slider("recorded seeds", len(seeds), 1, len(seeds), 1)} if seeds else {}
        )

    return present(draw_verdict(rows, seeds), defaults, controls, interactive=interactive, name="verdict")
