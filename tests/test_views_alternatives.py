"""Figures in words: titles, units, names and values as they are drawn; the words travel with the picture."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest

from rlhf_kit.views import policy, reward, scale, style
from rlhf_kit.views.alternatives import MOST, ToldFigure, describe


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_named_lines_from_first_to_last():
    fig, (ax,) = style.figure()
    ax.plot([0, 1, 2], [1.0, 5.0, 2.5], label="online")
    ax.axhline(0.5, label="chance")
    ax.axvline(7, label="ceiling")
    ax.plot([0, 1], [3, 3])  # without a name: not told
    style.label(ax, "Gold by iteration", "iteration", "gold utility (0 to 10)")
    text = "Gold by iteration; gold utility (0 to 10) against iteration: online from 1 to 2.5, chance at 0.5, ceiling at 7."
    assert describe(fig) == text


def test_bars_and_dots_by_their_names():
    fig, (left, right) = style.figure(1, 2, title="Both")
    style.grouped_bars(left, ["chat", "safety"], {"ours": [0.8, 0.65]})
    right.plot([0.25], [0], "o")
    right.errorbar([0.75], [1], xerr=[[0.1], [0.1]], fmt="o", capsize=3)
    right.set_yticks([0, 1], ["random", "ours"])
    style.label(left, "Left")
    style.label(right, "Right", "share")
    assert describe(fig) == "Both. Panel 1: Left: ours: chat 0.8, safety 0.65. Panel 2: Right; share: random 0.25, ours 0.75."


def test_points_beside_names_on_either_axis():
    fig, (left, right) = style.figure(1, 2)
    left.plot([0.9, 0.4], [0.1, 1.1], "o", label="sft")
    left.set_yticks([0, 1], ["coherence", "politeness"])
    right.plot([0, 1], [4.5, 6.0], "s", label="online")
    right.set_xticks([0, 1], ["SFT", "1"])
    style.label(left, "Parts")
    style.label(right, "Gold")
    assert describe(fig) == "Panel 1: Parts: sft: coherence 0.9, politeness 0.4. Panel 2: Gold: online: SFT 4.5, 1 6."


def test_one_curve_without_a_name_and_bars_by_category():
    fig, (left, right) = style.figure(1, 2)
    left.plot([0, 1, 2], [3.0, 2.0, 1.5])
    right.bar(["chat", "safety"], [0.25, 0.5])
    style.label(left, "Loss", "step", "nats")
    style.label(right, "Wrong labels")
    assert describe(fig) == "Panel 1: Loss; nats against step: from 3 to 1.5. Panel 2: Wrong labels: chat 0.25, safety 0.5."


def test_single_bars_points_and_keys():
    fig, (left, right) = style.figure(1, 2)
    for place, (name, size) in enumerate({"read": 10, "tie": 1}.items()):
        left.barh([place], [size], label=f"_{name}")
    left.set_yticks([0, 1], ["read", "tie"])
    right.scatter([1, 2, 3], [1, 2, 3], label="answers")
    right.bar([0], [0], label="a key of the legend")
    style.label(left, "Ledger", "rows")
    style.label(right, "Dots", "gold", "reward")
    assert describe(fig) == "Panel 1: Ledger; rows: read 10, tie 1. Panel 2: Dots; reward against gold: answers, 3 points."


def test_it_is_short_and_never_empty():
    fig, axes = style.figure(1, 3)
    assert describe(fig) == "A figure without a title."
    for ax in axes:
        style.label(ax, "word " * 120)
    assert len(describe(fig)) <= MOST + 4 and describe(fig).endswith(" ...")


@pytest.mark.parametrize("make", [
    lambda: reward.draw_accuracies([("random", 0.5, None, None), ("ours", 0.8, 0.7, 0.9)], ceiling=0.9, title="Agreement"),
    lambda: policy.draw_rules([{"rule": "max_min", "margins": [1.0, 2.0], "wrong": 0.1, "low": 0.05, "high": 0.2}]),
    lambda: policy.draw_beta([{"beta": b, "kl": 1 / b, "reward": 1 - b} for b in (0.9, 0.5, 0.1)]),
    lambda: scale.draw_first_losses([("iteration 1", 0.6931)], 0.6931),
])  # fmt: skip
def test_no_line_strikes_a_number(make):
    """Every number beside a mark stands on white."""
    fig = make()
    assert isinstance(fig, ToldFigure)
    numbers = [text for ax in fig.axes for text in ax.texts if text.get_text().replace(".", "").isdigit()]
    assert numbers and all(text.get_bbox_patch() is not None for text in numbers)


def test_the_words_travel_with_the_picture():
    from IPython.core.formatters import DisplayFormatter
    from IPython.core.pylabtools import print_figure

    fig, (ax,) = style.figure()
    ax.plot([0, 1], [0, 1], label="reward")
    style.label(ax, "Reward", "step")
    formatter = DisplayFormatter()
    formatter.formatters["image/png"].for_type(matplotlib.figure.Figure, lambda figure: print_figure(figure, base64=True))
    data, metadata = formatter.format(fig)
    assert data["text/plain"] == metadata["image/png"]["alt"] == "Reward; step: reward from 0 to 1."
    assert data["image/png"].startswith("iVBOR")
