"""Bradley-Terry bench: drag the rewards of a few answers and see the probabilities, the loss and its pull."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np

from rlhf_kit.errors import KitError
from rlhf_kit.views import style
from rlhf_kit.views.interactive.controls import button, choice, slider
from rlhf_kit.views.interactive.panel import Drawing, Panel, Said, present

LETTERS = "ABCD"
REACH, STEP = 4.0, 0.05  # how far from the middle a reward can be dragged, and in what steps


def probabilities(rewards: Sequence[float]) -> np.ndarray:
    """P(row beats column) by Bradley and Terry (arXiv 2405.07863 eq. 1), (N, N); one half on the diagonal."""
    rewards = np.asarray(rewards, dtype=float)
    return 1 / (1 + np.exp(-(rewards[:, None] - rewards[None, :])))


def loss_and_pull(rewards: Sequence[float], winner: int, loser: int) -> tuple[float, np.ndarray]:
    """(loss in nats, minus its gradient by each reward) of one label, eq. 4; the pull sums to zero."""
    gap = float(rewards[winner] - rewards[loser])
    pull = np.zeros(len(rewards))
    pull[[winner, loser]] = np.array([1.0, -1.0]) / (1 + np.exp(gap))
    return float(np.logaddexp(0, -gap)), pull


def four_answers(rows: Sequence[Mapping]) -> list[Mapping]:
    """At most four distinct answers of one prompt, spread from the lowest reward to the highest."""
    distinct = sorted({row["text"]: row for row in rows}.values(), key=lambda row: row["reward"])
    places = np.unique(np.linspace(0, len(distinct) - 1, min(4, len(distinct))).round().astype(int))
    return [distinct[i] for i in places]


def draw_bench(rows: Sequence[Mapping]) -> Drawing:
    """rows: {text, reward} and, where known, gold and prompt. Values of `move`: A, B, ... (rewards), shift, label "A beats B"."""
    n, start = len(rows), np.array([row["reward"] for row in rows], dtype=float)
    middle = float(start.mean())
    low, high = min(start.min(), middle - REACH) - 2.2, max(start.max(), middle + REACH) + 2.2
    fig, (line, matrix, curve) = style.figure(1, 3, width=10.6, height=3.3, width_ratios=[1.25, 0.95, 1])
    places = np.arange(n)
    line.set_xlim(low, high)
    style.rows_down(line, LETTERS[:n], above=0.6)
    dots = line.plot(start, places, "o", color=style.MODEL, markersize=9)[0]
    up = line.plot([], [], "-", color=style.GREEN, linewidth=3)[0]
    down = line.plot([], [], "-", color=style.OTHER, linewidth=3)[0]
    tips = [
        line.plot([], [], mark, color=color, markersize=10)[0]
        for mark, color in ((">", style.GREEN), ("<", style.OTHER))
    ]
    style.label(line, "Rewards, and where the label pulls", "reward (no unit)", "answer")

    image = matrix.imshow(probabilities(start), cmap="cividis", vmin=0, vmax=1, aspect="auto")
    cells = [
        [matrix.text(j, i, "", ha="center", va="center", fontsize=10) for j in range(n)] for i in range(n)
    ]
    matrix.set_xticks(places, list(LETTERS[:n]))
    matrix.set_yticks(places, list(LETTERS[:n]))
    matrix.grid(visible=False)
    style.label(matrix, "P(row beats column)")

    x = np.linspace(-6, 6, 121)
    curve.plot(x, np.logaddexp(0, -x), color=style.MODEL)
    curve.axvline(0, color="#CCCCCC", linewidth=0.8)
    curve.set(xlim=(-6, 6), ylim=(-0.3, 6.3))
    here = curve.plot([], [], "s", color=style.OTHER, markersize=9)[0]
    tangent = curve.plot([], [], ":", color=style.OTHER, linewidth=2)[0]
    style.label(curve, "Loss of the label", "r(winner) - r(loser)", "nats")

    def move(shift: float, label: str, **rewards: float) -> Said:
        r = np.array([rewards[letter] for letter in LETTERS[:n]]) + shift
        winner, loser = (LETTERS.index(part) for part in label.split(" beats "))
        if winner == loser:
            raise KitError("an answer cannot beat itself; choose two different answers")
        loss, pull = loss_and_pull(r, winner, loser)
        p, gap = probabilities(r), r[winner] - r[loser]
        dots.set_data(np.clip(r, low, high), places)
        for k, (part, tip) in zip((winner, loser), ((up, tips[0]), (down, tips[1])), strict=True):
            end = np.clip(r[k] + 2 * pull[k], low, high)
            part.set_data([r[k], end], [k, k])
            tip.set_data([end], [k])
        image.set_data(p)
        for i in range(n):
            for j in range(n):
                cells[i][j].set(text=f"{p[i, j]:.2f}", color="white" if p[i, j] < 0.55 else "black")
        at = np.clip(gap, -6, 6)
        here.set_data([at], [np.logaddexp(0, -at)])
        slope = -1 / (1 + np.exp(at))
        span = np.array([at - 1.6, at + 1.6])
        tangent.set_data(span, np.logaddexp(0, -at) + slope * (span - at))
        won, lost = LETTERS[winner], LETTERS[loser]
        text = (f"Label: {won} beats {lost}. Their rewards are {r[winner]:.2f} and {r[loser]:.2f}, so the model gives this label "
                f"{100 * p[winner, loser]:.0f} % and the loss is {loss:.2f} nats. The pull on {won} is +{pull[winner]:.2f} and on {lost} "
                f"{pull[loser]:.2f}; on all others 0.")  # fmt: skip
        if shift:
            text += f" {shift:+.1f} on every reward has changed no probability."
        known = rows[0].get("gold") is not None
        table = [[LETTERS[k], float(r[k]), *([float(rows[k]["gold"])] if known else []), rows[k]["text"]] for k in range(n)]
        if rows[0].get("prompt"):  # what all of them answer
            asked = " / ".join(turn["content"] for turn in rows[0]["prompt"])
            table.insert(0, ["prompt", None, *([None] if known else []), asked])
        return Said(text, ["answer", "reward", *(["gold"] if known else []), "text"], table)

    return Drawing(fig, [dots, up, down, *tips, image, *sum(cells, []), here, tangent], move)


def bradley_terry_bench(rows: Sequence[Mapping], *, interactive: bool) -> Panel:
    """Shows the bench for answers of one prompt. rows: {text, reward} and, where known, gold and prompt (a list of messages); at most four are taken.

    Opens with the label that the model likes least: its worst answer beats its best. KitError for fewer than two distinct answers.
    """
    rows = four_answers(rows)
    if len(rows) < 2:
        raise KitError(
            "the bench needs at least two different answers to one prompt; sample more, or take another prompt"
        )
    n = len(rows)
    names = LETTERS[:n]
    labels = [f"{names[i]} beats {names[j]}" for i, j in permutations(range(n), 2)]
    winner, loser = 0, n - 1  # rows are in the order of the rewards: a label that the model holds to be wrong
    start = {letter: round(float(row["reward"]), 2) for letter, row in zip(names, rows, strict=True)}
    defaults: dict[str, Any] = {**start, "shift": 0.0, "label": f"{names[winner]} beats {names[loser]}"}
    middle = float(np.mean(list(start.values())))

    def controls() -> dict[str, Any]:
        def bounds(value: float) -> tuple[float, float]:
            """Ends a whole number of steps away: a browser moves any other value to the next step."""
            steps = lambda to: max(0, round(to / STEP))  # noqa: E731
            return value - STEP * steps(value - middle + REACH), value + STEP * steps(middle + REACH - value)

        made = {
            letter: slider(f"reward of {letter}", value, *bounds(value), STEP, width="250px")
            for letter, value in start.items()
        }
        made["shift"] = slider("add to all", 0.0, -2.0, 2.0, 0.1, width="250px")
        made["label"] = choice("label", labels, defaults["label"])
        return made

    def step() -> None:
        """One step of gradient descent on the loss, with a step size of one, to the sliders' nearest steps: a browser would go there and tell."""
        values = {key: control.value for key, control in panel.controls.items()}
        won, lost = values["label"].split(" beats ")
        _, pull = loss_and_pull([values[letter] for letter in names], names.index(won), names.index(lost))
        least = {letter: panel.controls[letter].min for letter in (won, lost)}
        on_step = lambda value, low: low + STEP * round((value - low) / STEP)  # noqa: E731
        panel.set(**{letter: on_step(values[letter] + float(pull[names.index(letter)]), low) for letter, low in least.items()})

    def extra() -> list[Any]:
        return [button("one gradient step", step, "moves the two rewards of the label along the pull"),
                button("start again", lambda: panel.set(**defaults), "the rewards of your reward model")]  # fmt: skip

    panel = present(draw_bench(rows), defaults, controls, interactive=interactive, name="bench", extra=extra)
    return panel
