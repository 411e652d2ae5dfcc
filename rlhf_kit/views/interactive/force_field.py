"""DPO force field: where the loss pulls in the plane of the two log-ratios, and where training really went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_kit.errors import KitError
from rlhf_kit.views import style
from rlhf_kit.views.interactive.controls import choice, magnitude, slider
from rlhf_kit.views.interactive.panel import Drawing, Panel, Said, legend_under, present


def pull(chosen: Any, rejected: Any, beta: float) -> np.ndarray:
    """Minus the gradient of the DPO loss (arXiv 2405.07863 eq. 5) by the chosen log-ratio; by the rejected one it is
    the same with the other sign: beta * sigmoid(-beta * (chosen - rejected))."""
    return beta / (1 + np.exp(np.clip(beta * (np.asarray(chosen) - np.asarray(rejected)), -60, 60)))


def paths(histories: Mapping[str, Sequence[Mapping]], beta: float) -> dict[str, np.ndarray]:
    """name -> (steps, 3): optimizer step, chosen and rejected log-ratio, in nats, from history.json rows.

    One batch is few pairs, so each number is the centred mean over five logged steps (fewer at the ends).
    The trainer logs implicit rewards, beta times the log-ratio. KitError where no history has them.
    """
    found = {}
    for name, rows in histories.items():
        rows = [row for row in rows if "rewards/chosen" in row and "rewards/rejected" in row]
        if rows:
            chosen, rejected = (
                [row[f"rewards/{side}"] / beta for row in rows] for side in ("chosen", "rejected")
            )
            found[name] = np.stack(
                [
                    np.array([row["step"] for row in rows], dtype=float),
                    style.smooth(chosen),
                    style.smooth(rejected),
                ],
                axis=1,
            )
    if not found:
        raise KitError(
            "no history has `rewards/chosen` and `rewards/rejected`; pass the history.json of a DPO training"
        )
    return found


def draw_force_field(
    paths: Mapping[str, np.ndarray], beta: float, pairs: tuple[Sequence[float], Sequence[float]] | None = None
) -> Drawing:
    """The plane (rejected, chosen) with arrows and paths, and the pull against the gap.

    pairs: (chosen, rejected) log-ratios of single pairs after training, drawn as small dots.
    Values of `move`: beta, arm (a name of `paths`), step (a place in its path), chosen, rejected (your point, nats).
    """
    far = [float(np.abs(path[:, 1:]).max()) for path in paths.values()]
    far += [float(np.quantile(np.abs(np.stack(pairs)), 0.9))] if pairs is not None else []
    reach = max(0.1, 1.12 * max(far))
    fig, (plane, strength) = style.figure(1, 2, width=10.6, height=4.7, width_ratios=[1.45, 1])
    grid = np.linspace(-0.9 * reach, 0.9 * reach, 11)
    x, y = (part.ravel() for part in np.meshgrid(grid, grid))
    length = 1.7 * reach / 11  # of an arrow at full pull: about one cell
    arrows = plane.quiver(
        x,
        y,
        np.zeros(len(x)),
        np.zeros(len(x)),
        angles="xy",
        scale_units="xy",
        scale=1,
        color="#777777",
        width=0.0035,
    )
    plane.plot([-reach, reach], [-reach, reach], "--", color=style.CEILING, linewidth=1.1, label="gap 0")
    if pairs is not None:
        plane.plot(pairs[1], pairs[0], ".", color="#AAAAAA", markersize=5, label="single pairs, at the end")
    palette, marks = style.colors(list(paths)), ("-", "--", "-.", ":")
    for k, (name, path) in enumerate(paths.items()):
        plane.plot(path[:, 2], path[:, 1], marks[k % 4], color=palette[name], linewidth=1.6, label=name)
    gone = plane.plot([], [], "-", linewidth=3.4, solid_capstyle="round")[0]  # the way so far, thicker and in its colour
    head = plane.plot([], [], "o", color=style.BLACK, markersize=8, label="the training, at this step")[0]
    mine = plane.plot([], [], "*", color=style.OTHER, markersize=15, label="your point, and its pull")[0]
    dart = plane.quiver(
        [0], [0], [0], [0], angles="xy", scale_units="xy", scale=1, color=style.OTHER, width=0.008, zorder=5
    )
    plane.axhline(0, color="#BBBBBB", linewidth=0.9)
    plane.axvline(0, color="#BBBBBB", linewidth=0.9)
    plane.set(xlim=(-reach, reach), ylim=(-reach, reach))
    plane.set_box_aspect(1)
    plane.locator_params(nbins=5)
    legend_under(fig, plane, 3)
    style.label(
        plane,
        "Where the loss pulls, and where training went",
        "log(policy / reference) of the rejected answer, nats",
        "the same of the chosen answer, nats",
    )

    wide = max(
        2 * reach, 4 / beta
    )  # far enough to see the pull vanish on one side and become full on the other
    gaps = np.linspace(-wide, wide, 161)
    force = strength.plot(gaps, gaps * 0, "-", color=style.MODEL)[0]
    marks = [
        strength.plot([], [], mark, color=color, markersize=size)[0]
        for mark, color, size in (("o", style.BLACK, 8), ("*", style.OTHER, 15))
    ]
    strength.set(xlim=(-wide, wide), ylim=(0, 1.03))
    strength.axvline(0, color="#BBBBBB", linewidth=0.9)
    style.label(
        strength,
        "How hard it pulls",
        "gap: chosen minus rejected log-ratio, nats",
        "pull, as a share of beta",
    )

    def move(beta: float, arm: str, step: int, chosen: float, rejected: float) -> Said:
        path = paths[arm]
        step = int(np.clip(step, 0, len(path) - 1))
        number, c, r = path[step]
        share = pull(y, x, beta) / beta
        arrows.set_UVC(-length * share, length * share)
        own = float(pull(chosen, rejected, beta) / beta)
        dart.set_offsets([[rejected, chosen]])
        dart.set_UVC([-2 * length * own], [2 * length * own])
        gone.set_data(path[: step + 1, 2], path[: step + 1, 1])
        gone.set_color(palette[arm])
        head.set_data([r], [c])
        mine.set_data([rejected], [chosen])
        force.set_ydata(pull(gaps, 0.0, beta) / beta)
        for mark, gap in zip(marks, (c - r, chosen - rejected), strict=True):
            mark.set_data([gap], [float(pull(gap, 0.0, beta) / beta)])
        way = {True: "rose", False: "fell"}
        text = (f"{arm}, step {number:.0f}: the chosen answers of the batches {way[c >= 0]} by {abs(c):.2f} nats and the rejected ones {way[r >= 0]} "
                f"by {abs(r):.2f}; the gap is {c - r:+z.2f}. Every arrow points up and to the left by equal parts: the loss asks for more chosen and less "
                f"rejected. ")  # fmt: skip
        if c < 0 and r < 0:
            text += "The path does not follow the arrows: one set of weights serves all answers, and both became less likely. "
        loss = float(np.logaddexp(0, -beta * (chosen - rejected)))
        text += (f"Your point has the gap {chosen - rejected:+z.2f}: at beta {beta:.2g} the loss is {loss:.2f} nats "
                 f"and pulls with {100 * own:.0f} % of its full force.")  # fmt: skip
        return Said(text)

    return Drawing(fig, [arrows, gone, head, mine, dart, force, *marks], move)


def dpo_force_field(
    histories: Mapping[str, Sequence[Mapping]],
    beta: float,
    *,
    pairs: tuple[Sequence[float], Sequence[float]] | None = None,
    interactive: bool,
) -> Panel:
    """Shows the field of the DPO loss with the real paths of your trainings.

    histories: name -> rows of history.json. beta: the one they were trained with. pairs: (chosen, rejected) changes of
    log-probability of single training pairs. KitError without logged implicit rewards.
    """
    found = paths(histories, beta)
    drawing = draw_force_field(found, beta, pairs)
    reach = float(drawing.figure.axes[0].get_xlim()[1])
    longest = max(len(path) for path in found.values())
    first = next(iter(found))
    # Your point starts at the same gap as where the training ended, but where the arrows alone would lead.
    _, c, r = found[first][-1]
    step = reach / 50  # a browser moves a value between two steps to the next one
    half = step * round(float(np.clip((c - r) / 2, -0.9 * reach, 0.9 * reach)) / step)
    defaults = {
        "beta": float(beta),
        "arm": first,
        "step": longest - 1,
        "chosen": half,
        "rejected": -half,
    }

    def controls() -> dict[str, Any]:
        return {
            "arm": choice("training", list(found), first),
            "step": slider("place in its path", longest - 1, 0, longest - 1, 1),
            "beta": magnitude("beta", float(beta), 0.01, 3.2),
            "chosen": slider("your point: chosen", defaults["chosen"], -reach, reach, step),
            "rejected": slider("your point: rejected", defaults["rejected"], -reach, reach, step),
        }

    return present(drawing, defaults, controls, interactive=interactive, name="force-field")
