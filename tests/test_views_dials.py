"""The Goodhart dial and the verdict against plain computations: their numbers, words and marks are right."""

from __future__ import annotations

import math
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from IPython.utils.capture import capture_output
from shell_kit import nothing_leaks, shell  # noqa: F401  fixtures
from views_data import MEANS, best_rows, evaluation_rows, views

from rlhf_kit.errors import KitError
from rlhf_kit.evaluation import best_of_n_mean, length_controlled_win_rate
from rlhf_kit.evaluation.over_optimisation import best_of_every_n, tilted
from rlhf_kit.views import interactive as live
from rlhf_kit.views import words
from rlhf_kit.views.interactive import goodhart, verdict


def test_the_verdict_names_its_policies_and_draws_all_that_its_legend_names():
    drawn = verdict.draw_verdict(evaluation_rows())
    plt.close(drawn.figure)
    drawn.move(first="online-1", second="sft", temperature=1.0, judge="gold", prompts=30, draw=0, ties="half a win", length=True)
    ax = drawn.figure.axes[0]
    assert ax.get_title("left") == "Share of prompts that online-1 wins against sft"
    diamond = next(line for line in ax.lines if line.get_marker() == "D" and not line.get_label().startswith("at equal"))
    assert len(diamond.get_xdata()) == 1


@pytest.mark.parametrize("seeds", [None, [0.2, 0.5, 0.9]])
def test_the_legend_of_the_verdict_is_not_cut_at_the_edge(seeds):
    figure = verdict.draw_verdict(evaluation_rows(), seeds).figure
    figure.canvas.draw()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    plt.close(figure)
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and len(legend.get_texts()) == 5
    lines = {(line.get_color(), line.get_linestyle()) for line in legend.get_lines()}
    assert {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines if line.get_linestyle() != "None"} <= lines


def test_the_verdict_looks_closer_where_nearly_all_prompts_are_ties():
    rows = [{**row, "gold": 1.0 if row["policy"] == "sft" or int(row["prompt_id"]) else 2.0} for row in evaluation_rows()]
    drawn = verdict.draw_verdict(rows)
    plt.close(drawn.figure)
    settings = {"first": "online-1", "second": "sft", "temperature": 1.0, "prompts": 40, "draw": 0, "length": False}
    limits = []
    for judge, ties in (("gold", "half a win"), ("gold", "no win"), ("reward", "half a win")):
        drawn.move(**settings, judge=judge, ties=ties)
        limits.append(drawn.figure.axes[0].get_ylim())
    assert limits == [(0.28, 0.72), (-0.02, 1.02), (-0.02, 1.02)]


def test_goodhart_curves_against_closed_forms():
    rows = best_rows()
    table = {key: np.array([row[key] for row in rows], dtype=float).reshape(6, 8) for key in ("reward", "gold", "length")}
    found = best_of_every_n(table)
    assert found[3]["gold"] == pytest.approx(best_of_n_mean(table["reward"], table["gold"], 4).mean()) and found[0]["kl"] == 0
    cold, hot = (tilted(table, [beta])[0] for beta in (1e-4, 1e4))
    assert cold["reward"] == pytest.approx(table["reward"].max(axis=1).mean()) and cold["kl"] == pytest.approx(math.log(8))
    assert hot["gold"] == pytest.approx(table["gold"].mean(), abs=1e-3) and hot["kl"] == pytest.approx(0, abs=1e-6)


def test_goodhart_says_where_gold_turns(tmp_path):
    with capture_output():
        made = views(tmp_path)["goodhart"](False)
    assert "Offline DPO, 2 trainings" in made.said.text and "In training 2 its reward rose and its gold fell." in made.said.text
    assert "Online DPO, 2 trainings, mean of the recorded seeds: reward +2.00, gold +2.00" in made.said.text
    with capture_output():
        own = live.goodhart_dial(best_rows(known=False), recorded=MEANS, interactive=True)
    assert "gold" not in own.said.text and set(own.controls) == {"n", "beta"}
    with pytest.raises(KitError, match="equally many"):
        live.goodhart_dial(best_rows()[:-1], interactive=False)


def test_verdict_against_plain_computation(tmp_path):
    from scipy import stats

    rows = evaluation_rows()
    found = verdict.outcomes(rows, "online-1", "sft", 1.0, "gold")
    won = verdict.scored(found["gap"], "half a win")
    assert set(won) <= {0.0, 0.5, 1.0} and np.isnan(verdict.scored(found["gap"], "left out")).sum() == (found["gap"] == 0).sum()
    mean, low, high = verdict.interval(won)
    test = stats.ttest_1samp(won, 0.5).confidence_interval(0.95)
    assert (low, high) == pytest.approx((test.low, min(1.0, test.high))) and mean == pytest.approx(won.mean())
    assert [verdict.verdict(*ends, 0.5) for ends in ((0.51, 0.9), (0.1, 0.49), (0.4, 0.6))] == ["better", "worse", "not told apart"]
    with capture_output():
        made = views(tmp_path)["verdict"](True)
    made.set(prompts=40, length=True)
    held = length_controlled_win_rate(won, found["first"], found["second"])
    assert f"win rate {won.mean():.2f}" in made.said.text and f"At equal length it is {held['lc_win_rate'] / 100:.2f}" in made.said.text
    assert "by gold, temperature 1, on 40 prompts" in made.said.text and "just reach one half" not in made.said.text  # at 13: too few to say
    made.controls["temperature"].value = 0.0
    won = verdict.scored(verdict.outcomes(rows, "online-1", "sft", 0.0, "gold")["gap"], "half a win")
    need = math.ceil((1.96 * won.std(ddof=1) / abs(won.mean() - 0.5)) ** 2)
    assert "by gold, greedy, on 40 prompts" in made.said.text and f"just reach one half at about {need} prompts" in made.said.text
    assert "take twice as many" in made.said.text
    made.controls["ties"].value = "left out"  # counted in prompts, ties among them
    won = won[won != 0.5]
    need = math.ceil((1.96 * won.std(ddof=1) / abs(won.mean() - 0.5)) ** 2 * 40 / len(won))
    assert f"just reach one half at about {need} prompts" in made.said.text
    made.controls["ties"].value = "half a win"
    made.controls["seeds_used"].value = 1
    assert "no interval" in made.said.text


def test_verdict_of_one_sided_and_of_empty_outcomes():
    mean, low, high = verdict.interval(np.ones(5))
    assert mean == 1 and 0.5 < low < 1 and high == pytest.approx(1)
    assert math.isnan(verdict.interval(np.array([np.nan, np.nan]))[1]) and verdict.interval(np.full(4, 0.5)) == (0.5, 0.5, 0.5)
    with pytest.raises(KitError, match="online-1"):
        live.is_it_really_better(evaluation_rows(), "online-9", interactive=False)


def test_ends_of_an_interval_have_the_decimals_that_its_verdict_needs():
    # 1000 prompts, 532 won: the t interval is 0.5010 to 0.5630, which two decimals would write as 0.50 to 0.56, better
    rows = [{**row, "prompt_id": str(i), "gold": float(i < 532) if row["policy"] != "sft" else 0.5}
            for name in ("online-1", "sft") for i, row in enumerate([next(r for r in evaluation_rows() if r["policy"] == name)] * 1000)]  # fmt: skip
    drawn = verdict.draw_verdict(rows, [0.0021, 0.0031, 0.0041])
    plt.close(drawn.figure)
    settings = {"first": "online-1", "second": "sft", "temperature": 1.0, "judge": "gold", "draw": 0, "ties": "half a win", "length": False, "seeds_used": 3}
    said = drawn.move(**settings, prompts=1000).text
    assert "win rate 0.532 (95 % interval 0.501 to 0.563), better." in said
    assert "in gold: +0.003 (95 % interval +0.001 to +0.006), better." in said
    said = drawn.move(**settings, prompts=200).text
    assert re.search(r"win rate 0\.\d\d \(95 % interval 0\.\d\d to 0\.\d\d\), not told apart", said)
    assert [words.digits_apart(*ends, 0.5) for ends in ((0.5004, 0.6), (0.3, 0.49999), (0.49, 0.51), (0.2, 0.3))] == [4, 5, 2, 2]
    assert words.digits_apart(-0.2, -0.001) == 3  # -0.00 would look like 0


def test_sentences_on_an_interval_show_the_side_that_they_name():
    assert words.change("gold", -0.12, -0.24, -0.004) == "gold: fell by -0.120 (95 % interval -0.240 to -0.004)"
    assert words.compare("a", "b", 0.1, 0.0012, 0.2) == "a is higher than b (+0.100, 95 % interval +0.001 to +0.200)"
    assert words.compare("a", "b", 0.1, -0.001, 0.2) == "a and b are not told apart (+0.10, 95 % interval -0.00 to +0.20)"
    assert words.against_half("it", 0.55, 0.503, 0.6) == "it: 0.550 (95 % interval 0.503 to 0.600), above one half"
    assert words.against_chance("it", 0.55, 0.5001, 0.6, 9).startswith("it: 0.5500 on 9 pairs (95 % interval 0.5001 to 0.6000), better")


def test_beta_is_written_in_one_way_and_is_what_is_computed(tmp_path):
    made = {}
    with capture_output():
        for name in ("goodhart", "force field"):
            made[name] = views(tmp_path)[name](True)
    for name, said in (("goodhart", "Optimum at beta {}, within"), ("force field", "at beta {} the loss")):
        control = made[name].controls["beta"]
        shown = [text for text, _ in control.options]
        assert len(set(shown)) == len(shown) > 40
        for place in (0, 7, 21, len(shown) - 1):
            control.index = place
            assert said.format(shown[place]) in made[name].said.text and float(shown[place]) == control.value
    assert goodhart.BETAS[0] == 0.02 and goodhart.BETAS[-1] == 20
