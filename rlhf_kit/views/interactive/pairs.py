"""Pair browser: filter labelled pairs by margin, length and verdict, and read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_kit.errors import KitError
from rlhf_kit.evaluation import share_of
from rlhf_kit.views import style
from rlhf_kit.views.interactive.controls import button, choice, slider
from rlhf_kit.views.interactive.panel import Drawing, Panel, Said, legend_under, present

LABELS = ("all", "right", "wrong", "equal in truth")
ORDERS = ("widest margin first", "narrowest margin first", "longest chosen answer first", "most wrong first")


def columns_of(rows: Sequence[Mapping]) -> dict[str, np.ndarray | None]:
    """margin, length (characters, chosen minus rejected), truth (gold, chosen minus rejected, or None), section."""
    number = lambda side, key: np.array([row[f"{side}_{key}"] for row in rows], dtype=float)  # noqa: E731
    known = all(row.get("chosen_gold") is not None for row in rows)
    return {
        "margin": number("chosen", "reward") - number("rejected", "reward"),
        "length": np.array([len(row["chosen"]) - len(row["rejected"]) for row in rows], dtype=float),
        "truth": number("chosen", "gold") - number("rejected", "gold") if known else None,
        "section": np.array([str(row.get("category") or "all") for row in rows]),
    }


def select(
    columns: Mapping,
    margin: tuple[float, float],
    length: tuple[float, float],
    label: str,
    section: str,
    order: str,
) -> np.ndarray:
    """Places of the pairs that pass all filters, in the order asked for. Bounds, of length in characters, belong to the range."""
    keep = (columns["margin"] >= margin[0] - 1e-9) & (columns["margin"] <= margin[1] + 1e-9)
    keep &= (columns["length"] >= length[0]) & (columns["length"] <= length[1])
    if section != "all":
        keep &= columns["section"] == section
    truth = columns["truth"]
    if truth is not None and label != "all":
        keep &= {"right": truth > 0, "wrong": truth < 0, "equal in truth": truth == 0}[label]
    by = {
        ORDERS[0]: -columns["margin"],
        ORDERS[1]: columns["margin"],
        ORDERS[2]: -columns["length"],
        ORDERS[3]: truth,
    }[order]
    places = np.flatnonzero(keep)
    return places if by is None else places[np.argsort(by[places], kind="stable")]


def draw_pairs(rows: Sequence[Mapping]) -> Drawing:
    """Margin against length gap, and, where the truth is known, the share of wrong labels in the selection.

    Values of `move`: margin, length (ranges), label, section, order, pair (a number from 1).
    """
    columns = columns_of(rows)
    known = columns["truth"] is not None
    fig, axes = style.figure(
        1,
        2 if known else 1,
        width=10.6 if known else 7.6,
        height=3.9,
        **({"width_ratios": [1.7, 1]} if known else {}),
    )
    ax = axes[0]
    ax.plot(columns["margin"], columns["length"], ".", color="#CCCCCC", markersize=5, label="not selected")
    kinds = (
        (
            ("right", "o", style.BLUE, 5),
            ("wrong", "X", style.OTHER, 7),
            ("equal in truth", "s", style.BLACK, 4),
        )
        if known
        else (("selected", "o", style.BLUE, 5),)
    )
    dots = {
        text: ax.plot([], [], mark, color=color, markersize=size, alpha=0.75, linestyle="none")[0]
        for text, mark, color, size in kinds
    }
    for text, mark, color, size in kinds:
        ax.plot([], [], mark, color=color, markersize=size, linestyle="none", label=text)
    ring = ax.plot(
        [], [], "o", markersize=15, markerfacecolor="none", markeredgecolor=style.BLACK, markeredgewidth=2.2
    )[0]
    ax.plot(
        [],
        [],
        "o",
        markersize=9,
        markerfacecolor="none",
        markeredgecolor=style.BLACK,
        markeredgewidth=2,
        linestyle="none",
        label="the pair below",
    )
    ax.axhline(0, color="#BBBBBB", linewidth=0.9)
    legend_under(fig, ax, 5)
    style.label(
        ax,
        "All pairs, the selected ones marked",
        "reward margin (chosen minus rejected)",
        "chosen longer by (characters)",
    )
    moving = [*dots.values(), ring]
    if known:
        share = axes[1]
        wrong = (1 - np.sign(columns["truth"])) / 2
        everything = share_of(wrong)
        share.errorbar(
            [everything[0]],
            [0],
            xerr=style.errors(*[[v] for v in everything]),
            fmt="D",
            color=style.CONTROL,
            capsize=3,
            markersize=7,
        )
        span = share.plot([], [], "-", color=style.OTHER, linewidth=2)[0]
        point = share.plot([], [], "X", color=style.OTHER, markersize=10)[0]
        number = share.text(0.5, 1.28, "", ha="center", va="center", fontsize=10, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0})
        share.set_xlim(-0.02, 1.02)
        style.rows_down(share, ["all pairs", "selected"], above=0.6)
        share.axvline(0.5, color=style.CONTROL, linestyle=":", label="coin toss")
        style.label(
            share, "Wrong labels (equal ones count half)", "share, with 95 % interval (dotted: coin toss)"
        )
        moving += [span, point, number]

    def move(margin, length, order: str, pair: int, label: str = "all", section: str = "all") -> Said:
        places = select(columns, margin, length, label, section, order)
        truth = columns["truth"]
        for text, dot in dots.items():
            own = (
                places
                if truth is None
                else places[
                    {"right": truth > 0, "wrong": truth < 0, "equal in truth": truth == 0}[text][places]
                ]
            )
            dot.set_data(columns["margin"][own], columns["length"][own])
        told = f"{len(places)} of {len(rows)} pairs pass the filters."
        if known:
            if len(places):
                value, low, high = share_of(wrong[places])
                span.set_data([low, high], [1, 1])
                point.set_data([value], [1])
                number.set_text(f"{value:.2f} [{low:.2f}, {high:.2f}], {len(places)} pairs")
                if label == "all":
                    told += (f" Of their labels {100 * value:.0f} % are wrong (95 % interval {100 * low:.0f} to {100 * high:.0f} %); of all "
                             f"pairs, {100 * everything[0]:.0f} %.")  # fmt: skip
            else:
                span.set_data([], [])
                point.set_data([], [])
                number.set_text("no pair")
        if not len(places):
            ring.set_data([], [])
            return Said(told + " Widen a filter.")
        at = int(np.clip(pair, 1, len(places)))
        here = places[at - 1]
        ring.set_data([columns["margin"][here]], [columns["length"][here]])
        row = rows[here]
        longer = columns["length"][here]
        told += f" Shown is number {at}: margin {columns['margin'][here]:.2f}, chosen {'longer' if longer >= 0 else 'shorter'} "
        told += f"by {abs(longer):.0f} characters"
        told += (
            "."
            if not known
            else f"; in truth its label is {'right' if truth[here] > 0 else 'wrong' if truth[here] < 0 else 'neither: both are equally good'}."
        )
        asked = " / ".join(turn["content"] for turn in row["prompt"])
        table = [["prompt", None, *([None] if known else []), None, asked]]
        for side in ("chosen", "rejected"):
            table.append(
                [
                    side,
                    row[f"{side}_reward"],
                    *([row[f"{side}_gold"]] if known else []),
                    len(row[side]),
                    row[side],
                ]
            )
        return Said(told, ["", "reward", *(["gold"] if known else []), "characters", "text"], table)

    return Drawing(fig, moving, move)


def pair_browser(rows: Sequence[Mapping], *, interactive: bool) -> Panel:
    """Shows labelled pairs to filter and read.

    rows: of a `pairs` stage (prompt, chosen, rejected, chosen_reward, rejected_reward), with chosen_gold and
    rejected_gold where the truth is known (`stages.label_accuracy(...)["rows"]`), and category where there are
    sections. Opens with the wider half of the margins, and the most wrong label among them. KitError where no pair has rewards.
    """
    rows = [row for row in rows if row["chosen_reward"] is not None]
    if not rows:
        raise KitError("no pair has rewards; pass the rows of stages.pairs")
    columns = columns_of(rows)
    known = columns["truth"] is not None
    bounds = {"length": (float(columns["length"].min()), float(columns["length"].max()))}
    low, high = float(np.floor(columns["margin"].min() * 100) / 100), float(columns["margin"].max())
    # A browser moves a value between two steps to the next one, so all ends are whole steps from the least.
    step = max(0.01, round((high - low) / 100, 2))
    on_step = lambda value, way: round(low + step * float(way((value - low) / step)), 2)  # noqa: E731
    bounds["margin"] = (low, on_step(high, np.ceil))
    sections = (
        ["all", *dict.fromkeys(columns["section"].tolist())] if len(set(columns["section"])) > 1 else []
    )
    defaults: dict[str, Any] = {
        "margin": (on_step(float(np.median(columns["margin"])), np.round), bounds["margin"][1]),
        "length": bounds["length"],
        "order": ORDERS[3] if known else ORDERS[0],
        "pair": 1,
    }
    defaults |= ({"label": "all"} if known else {}) | ({"section": "all"} if sections else {})

    def controls() -> dict[str, Any]:
        import ipywidgets as widgets

        def ranged(text: str, ends: tuple[float, float], value: tuple[float, float], **more: Any) -> Any:
            look = {"style": {"description_width": "initial"}, "layout": {"width": "400px"}}
            return widgets.FloatRangeSlider(
                value=value, min=ends[0], max=ends[1], description=text, **look, **more
            )

        made: dict[str, Any] = {
            "margin": ranged("margin", bounds["margin"], defaults["margin"], step=step),
            "length": ranged(
                "chosen longer by", bounds["length"], defaults["length"], step=1.0, readout_format="d"
            ),
        }
        if known:
            made["label"] = choice("label", LABELS, defaults["label"])
        if sections:
            made["section"] = choice("section", sections, "all")
        made["order"] = choice("order", ORDERS[: 4 if known else 3], defaults["order"])
        made["pair"] = slider(
            "pair", 1, 1, max(1, len(select(columns, **{**FILTERS, **_filters(defaults)}))), 1
        )
        for name, control in made.items():
            if name != "pair":
                control.observe(first, "value")
        return made

    def first(_: Any) -> None:
        """A new filter begins with its first pair; the slider learns how many there are."""
        found = len(
            select(
                columns,
                **{**FILTERS, **_filters({name: control.value for name, control in panel.controls.items()})},
            )
        )
        panel.parts["held"] = True
        panel.controls["pair"].value = 1
        panel.controls["pair"].max = max(1, found)
        panel.parts["held"] = False

    def turn(by: int) -> None:
        pair = panel.controls["pair"]
        pair.value = int(np.clip(pair.value + by, pair.min, pair.max))

    def extra() -> list[Any]:
        return [button("previous pair", lambda: turn(-1)), button("next pair", lambda: turn(1))]

    panel = present(draw_pairs(rows), defaults, controls, interactive=interactive, name="pairs", extra=extra)
    return panel


FILTERS = {"label": "all", "section": "all"}  # where there is no truth, or one section


def _filters(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "pair"}
