"""The views to touch against plain computations: their numbers, words and marks are right."""

from __future__ import annotations

import math
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from IPython.utils.capture import capture_output
from shell_kit import nothing_leaks, shell  # noqa: F401  fixtures
from views_data import (
    MEANS,
    answers,
    asked,
    best_rows,
    evaluation_rows,
    histories,
    mass_rows,
    pair_rows,
    score,
    truth,
    views,
)

from rlhf_kit import losses
from rlhf_kit.errors import KitError
from rlhf_kit.evaluation import best_of_n_mean, length_controlled_win_rate
from rlhf_kit.evaluation.over_optimisation import best_of_every_n, tilted
from rlhf_kit.evaluation.statistics import wins_interval
from rlhf_kit.views import interactive as live
from rlhf_kit.views import words
from rlhf_kit.views.interactive import bench, force_field, goodhart, mass, microscope, pairs, verdict


def test_bench_is_bradley_terry():
    import torch

    r = torch.tensor([0.5, -1.25, 2.0], requires_grad=True)
    loss, _ = losses.bradley_terry_loss(r[1:2], r[2:3])
    loss.backward()
    ours, pull = bench.loss_and_pull(r.detach().numpy(), 1, 2)
    assert ours == pytest.approx(float(loss.detach()), abs=1e-6) and np.allclose(pull, -r.grad.numpy(), atol=1e-6)
    p = bench.probabilities(r.detach().numpy())
    assert p[0, 1] == pytest.approx(1 / (1 + math.exp(-1.75))) and np.allclose(p + p.T, 1)


def test_bench_step_and_shift(tmp_path):
    with capture_output():
        made = views(tmp_path)["bench"](True)
    assert made.controls["label"].value == "A beats D"  # the lowest reward against the highest: -1.25 and 2
    next(b for b in made.parts["buttons"] if b.description == "one gradient step").click()
    share = 1 / (1 + math.exp(-3.25))
    assert made.controls["A"].value == pytest.approx(-1.25 + share) and made.controls["D"].value == pytest.approx(2 - share)
    told = made.said.text.split(" and the loss is ")[1].split(" nats")[0]
    made.controls["shift"].value = 1.0
    assert f"the loss is {told} nats" in made.said.text and "changed no probability" in made.said.text
    with pytest.raises(KitError, match="two different answers"):
        live.bradley_terry_bench([answers()[0]] * 3, interactive=False)


def test_force_field_is_minus_the_gradient_of_dpo():
    import torch

    chosen, rejected = (torch.tensor([v], requires_grad=True) for v in (0.3, -1.7))
    zero = torch.zeros(1)
    loss, _ = losses.dpo_loss(chosen, rejected, zero, zero, 0.4)
    loss.backward()
    share = float(force_field.pull(0.3, -1.7, 0.4))
    assert share == pytest.approx(-float(chosen.grad), abs=1e-6) == pytest.approx(float(rejected.grad), abs=1e-6)


def test_bench_names_the_prompt_that_is_answered():
    rows = [{**row, "prompt": asked("Which one?")} for row in answers()]
    with capture_output():
        made = live.bradley_terry_bench(rows, interactive=False)
    assert list(made.said.rows[0]) == ["prompt", None, None, "Which one?"] and len(made.said.rows) == 5


def test_the_way_so_far_has_the_colour_of_its_training():
    found = force_field.paths(histories(), 0.1)
    drawn = force_field.draw_force_field(found, 0.1)
    plt.close(drawn.figure)
    colours = {line.get_label(): line.get_color() for line in drawn.figure.axes[0].lines}
    for arm in found:
        drawn.move(beta=0.1, arm=arm, step=2, chosen=0.0, rejected=0.0)
        assert drawn.moving[1].get_color() == colours[arm]


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


def test_force_field_shows_the_real_path():
    found = force_field.paths(histories(), 0.1)
    assert found["mine"].shape == (8, 3)  # the row without rewards is no step
    assert np.allclose(found["mine"][3], [3, -1.5, -6.0])  # a straight path is not bent by the mean; rewards / beta are nats
    with capture_output():
        made = live.dpo_force_field(histories(), 0.1, interactive=True)
    made.controls["step"].value = 3
    assert "step 3: the chosen answers of the batches fell by 1.50 nats and the rejected ones fell by 6.00; the gap is +4.50" in made.said.text
    assert "both became less likely" in made.said.text
    with pytest.raises(KitError, match="rewards/chosen"):
        live.dpo_force_field({"x": [{"step": 1, "loss": 0.5}]}, 0.1, interactive=False)


def test_mass_adds_up_and_tells_of_the_fallen_chosen_answer():
    rows = mass_rows()[:4]
    share = mass.shares(rows)
    assert np.allclose(share.sum(axis=0), 1) and share[0, 0] == pytest.approx(math.exp(-2))
    with capture_output():
        made = live.where_did_the_mass_go(mass_rows(), interactive=False)
    assert made.said.text.startswith("From SFT to training 2: the chosen answer fell by 1.00 nats, the rejected one fell by 4.00, so the gap grew by 3.00")
    gain = 100 * (math.exp(-1) - math.exp(-4))
    assert f"a fresh answer of the last policy gained most: {gain:.2f} percentage points" in made.said.text


def test_pairs_filters_are_what_they_say():
    rows = pair_rows()
    columns = pairs.columns_of(rows)
    everything = {"margin": (-9, 99), "length": (-99, 99), "label": "all", "section": "all", "order": pairs.ORDERS[0]}
    assert list(pairs.select(columns, **everything)) == list(range(11, -1, -1))
    wrong = pairs.select(columns, **{**everything, "label": "wrong", "section": "chat"})
    assert sorted(wrong) == [i for i in range(12) if i % 3 == 0 and i % 2 == 0]
    some = pairs.select(columns, **{**everything, "margin": (2.0, 4.0), "length": (0, 99)})
    assert sorted(some) == [i for i, r in enumerate(rows) if 2 <= i / 2 + 0.5 <= 4 and len(r["chosen"]) >= len(r["rejected"])]


def test_pairs_share_of_wrong_labels_and_paging(tmp_path):
    with capture_output():
        made = views(tmp_path)["pairs"](True)
    made.set(margin=(-9.0, 99.0))
    assert "12 of 12 pairs" in made.said.text and "50 % are wrong" in made.said.text  # four wrong, four right, four equal
    made.controls["pair"].value = 5
    made.controls["label"].value = "wrong"
    assert made.controls["pair"].value == 1 and made.controls["pair"].max == 4 and "4 of 12" in made.said.text
    click = {b.description: b.click for b in made.parts["buttons"]}
    click["next pair"]()
    assert "number 2" in made.said.text
    click["previous pair"](), click["previous pair"]()
    assert "number 1" in made.said.text
    made.set(margin=(0.5, 0.5), length=(5.0, 5.0))
    assert "Widen a filter" in made.said.text


def test_pairs_of_your_own_file_have_no_truth():
    with capture_output():
        made = live.pair_browser([{**row, "category": "all"} for row in pair_rows(known=False)], interactive=True)
    assert set(made.controls) == {"margin", "length", "order", "pair"} and "wrong" not in made.said.text
    with pytest.raises(KitError, match="rewards"):
        live.pair_browser([{**pair_rows()[0], "chosen_reward": None}], interactive=False)


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
    mean, low, high = wins_interval(won)
    test = stats.ttest_1samp(won, 0.5).confidence_interval(0.95)
    assert (low, high) == pytest.approx((test.low, min(1.0, test.high))) and mean == pytest.approx(won.mean())
    assert [verdict.verdict(*ends, 0.5) for ends in ((0.51, 0.9), (0.1, 0.49), (0.4, 0.6))] == ["better", "worse", "not told apart"]
    with capture_output():
        made = views(tmp_path)["verdict"](True)
    made.set(prompts=40, length=True)
    held = length_controlled_win_rate(won, found["first"], found["second"])
    assert f"win rate {won.mean():.2f}" in made.said.text and f"At equal length it is {held['lc_win_rate'] / 100:.2f}" in made.said.text
    need = math.ceil((1.96 * won.std(ddof=1) / abs(won.mean() - 0.5)) ** 2)
    assert "by gold, temperature 1, on 40 prompts" in made.said.text and f"just reach one half at about {need} prompts" in made.said.text
    assert "take twice as many" in made.said.text
    made.controls["temperature"].value = 0.0
    assert "by gold, greedy, on 40 prompts" in made.said.text
    made.controls["seeds_used"].value = 1
    assert "no interval" in made.said.text


def test_verdict_of_one_sided_and_of_empty_outcomes():
    mean, low, high = wins_interval(np.ones(5))
    assert mean == 1 and 0.5 < low < 1 and high == pytest.approx(1)
    assert math.isnan(wins_interval(np.array([np.nan, np.nan]))[1]) and wins_interval(np.full(4, 0.5)) == (0.5, 0.5, 0.5)
    with pytest.raises(KitError, match="online-1"):
        live.is_it_really_better(evaluation_rows(), "online-9", interactive=False)


def test_microscope_says_which_part_moved():
    rows = [{"prompt": asked("q"), "text": "It is nice. It is so."}, {"prompt": asked("r"), "text": "Short."}]
    with capture_output():
        made = live.reward_microscope(rows, score, gold=truth, interactive=True)
    made.controls["example"].value = 0
    made.controls["edit"].value = "as it was"
    assert made.controls["text"].value == rows[0]["text"] and "Parts that moved: none" in made.said.text
    made.controls["text"].value = "It is nice. It is so. A lie."
    assert "honest 1.00 to 0.00" in made.said.text
    assert f"{float(score([0], [rows[0]['text']])[0]):.2f} before" in made.said.text
    value, added = microscope.worth(score, asked("q"), "It is nice. It is so.")
    assert added[0] == pytest.approx(0.02 * len("It is nice. ") + 1, abs=1e-5) and value == pytest.approx(1 + 0.02 * 21, abs=1e-5)


@pytest.mark.parametrize("text", ["", "one", "A. B! C?", "a.b.c.d.e.f.g.h.", "no end\nnew line", "..."])
def test_sentences_add_up_to_the_text(text):
    pieces = microscope.sentences(text)
    assert len(pieces) <= microscope.SENTENCES
    if pieces:
        assert "".join(pieces).split() == text.split()
    for edit in microscope.EDITS.values():
        assert isinstance(edit(text), str)


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
