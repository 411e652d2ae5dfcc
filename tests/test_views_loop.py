"""Figures of lessons 07 and 08 draw what they are given, also where the truth is not known; and the numbers read off them."""

from __future__ import annotations

import pytest
from figures_kit import strict_and_tidy, texts  # noqa: F401  a fixture of every test

from rlhf_kit.views import loop, policy


def summary(gold=True):
    rows = [("online-2", 5.5, 0.4), ("sft", 4.0, 0.0), ("online-10", 6.0, 0.9), ("online-1", 5.0, 0.1), ("offline-1", 5.0, 0.1)]
    return [
        {"policy": name, "temperature": t, "gold": value if gold else None, "reward": value / 2, "kl": kl if t else None}
        for name, value, kl in rows for t in (1.0, 0.0)
    ]  # fmt: skip


def test_the_rows_of_an_arm_begin_with_sft_and_follow_its_numbers():
    assert [row["policy"] for row in loop.arm_rows(summary(), "online", 1.0)] == ["sft", "online-1", "online-2", "online-10"]
    assert {row["temperature"] for row in loop.arm_rows(summary(), "offline", 0.0)} == {0.0}


def test_texts_stand_prompt_by_prompt_however_the_rows_are_mixed():
    rows = [{"prompt_id": p, "text": t} for p, t in (("b", "1"), ("a", "2"), ("b", "3"))]
    assert loop.texts_of_prompts(rows) == [["1", "3"], ["2"]]


@pytest.mark.parametrize("gold", [True, False])
def test_reward_stands_beside_gold_where_gold_is_known(gold):
    fig = loop.draw_proxy_and_gold(summary(gold), ["online", "offline"])
    assert ("gold" in texts(fig)) == gold
    curves = [line for line in fig.axes[0].lines if line.get_marker() != "None"]
    assert len(curves) == 1 + gold and all(line.get_ydata()[0] == 0 for line in curves)


def test_vital_signs_leave_out_what_is_not_known():
    rows = [{"arm": arm, "iteration": t, "wrong": None, "diversity": 0.9, "margin": 1.0, "length": 80.0}
            for arm in ("online", "offline") for t in (1, 2)]  # fmt: skip
    assert "Wrong labels" not in texts(loop.draw_loop_health(rows))
    known = texts(loop.draw_loop_health([{**row, "wrong": 0.2} for row in rows]))
    assert "Wrong labels" in known and "Diversity" in known


def test_vital_signs_of_an_arm_without_some_of_them_and_of_zeros():
    rows = [{"arm": "online", "iteration": t, "wrong": None, "diversity": 0.9, "margin": 0.0, "length": None} for t in (1, 2)]
    rows.append({"arm": "offline", "iteration": 1, "wrong": 0.3, "diversity": 0.8, "margin": 0.0, "length": 40.0})
    fig = loop.draw_loop_health(rows)
    assert "Wrong labels" in texts(fig)
    assert [list(line.get_ydata()) for line in fig.axes[0].lines] == [[], [0.3]]
    assert fig.axes[2].get_ylim() == (0.0, 1.0) and fig.axes[3].get_ylim()[1] == pytest.approx(48.0)


SEEDS = {
    "effect": 0.4, "low": 0.1, "high": 0.7, "seeds_run": 2,
    "per_seed": [{"gold_difference": 0.3, "model_seed": 0}, {"gold_difference": 0.5, "model_seed": 1}],
    "means": [{"arm": arm, "iteration": t, "gold": 4.0 + t, "kl": 0.5 * t}
              for arm, t in (("sft", 0), ("online", 1), ("online", 2), ("offline", 1), ("offline", 2))],
}  # fmt: skip


def test_recorded_seeds_are_dots_whose_shape_tells_the_models():
    fig = loop.draw_recorded_seeds(SEEDS)
    assert "recorded, not this run" in texts(fig)
    dots = {line.get_xdata()[0]: line.get_marker() for line in fig.axes[0].lines if line.get_color() == loop.style.BLUE}
    assert set(dots) == {0.3, 0.5} and dots[0.3] != dots[0.5]


def test_the_recorded_path_begins_at_sft_and_goes_through_the_iterations():
    fig = loop.draw_recorded_path(SEEDS)
    assert "means over 2 seeds" in texts(fig)
    drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in fig.axes[0].lines if len(line.get_xdata()) == 3]
    assert drawn == [([0.0, 0.5, 1.0], [4.0, 5.0, 6.0])] * 2


def test_the_last_log_ratios_are_means_in_nats_of_the_steps_that_were_logged():
    history = [{"rewards/chosen": 0.1 * k, "rewards/rejected": -0.2 * k} for k in range(1, 5)]
    history.append({"train_runtime": 3.0})
    assert policy.last_log_ratios(history, 0.1, steps=2) == (pytest.approx(3.5), pytest.approx(-7.0), 2)
    assert policy.last_log_ratios(history, 0.1)[2] == 4
