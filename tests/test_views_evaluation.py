"""Figures and sentences of lessons 05, 09 and 10 show what they are given; the paper's tables are whole and of one shape."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from figures_kit import drawn, strict_and_tidy, texts  # noqa: F401  a fixture of every test

from rlhf_kit.errors import KitError
from rlhf_kit.evaluation.benches import paper_table
from rlhf_kit.runs import open_run
from rlhf_kit.views import evaluation as draw
from rlhf_kit.views.files import save_figure


def summary(gold=True):
    rows = [("sft", 4.0, 0.0), ("online-1", 5.0, 0.1), ("online-2", 5.5, 0.4), ("offline-1", 5.0, 0.1), ("offline-2", 5.2, 0.4)]
    return [
        {"policy": name, "temperature": t, "gold": value if gold else None, "gold_low": value - 0.2, "gold_high": value + 0.2,
         "reward": value / 2, "kl": kl if t else None, "length": 80.0}
        for name, value, kl in rows for t in (1.0, 0.0)
    ]  # fmt: skip


@pytest.mark.parametrize(("gold", "panels"), [(True, 4), (False, 2)])
def test_summary_has_a_panel_for_what_is_known(gold, panels):
    fig = drawn(draw.draw_summary(summary(gold), ["online", "offline"]))
    assert sum(ax.get_visible() and bool(ax.lines) for ax in fig.axes) == panels
    assert ("gold" in texts(fig)) == gold


def marks(ax) -> list[str]:
    return [container[0].get_marker() for container in ax.containers]


def test_changes_parts_and_skills():
    rows = [{"name": n, "difference": d, "low": d - 0.1, "high": d + 0.1} for n, d in (("up", 0.5), ("down", -0.5), ("same", 0.0))]
    grid = {"length": {"chat": -0.5, "safety": -0.001}, "up": {"chat": 0.25, "safety": 0.0}}
    report = [{"part": part, "difference": 0.1, "low": 0.0, "high": 0.2, "p_adjusted": p}
              for part, p in (("reward", None), ("up", 0.01), ("gold", None), ("length", 0.2))]  # fmt: skip
    fig = drawn(draw.draw_parts(grid, report))  # neither order counts
    said = [text.get_text() for text in fig.axes[0].texts]
    assert said == ["+0.25", "+0.00", "-0.50", "+0.00"]  # a row a part, a column a section
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == ["up", "length"] and fig.axes[0].get_ylim() == fig.axes[1].get_ylim()
    fig = drawn(draw.draw_skills(rows, [{**rows[0], "category": "chat"}], [{**rows[1], "task": "pocket_add"}]))
    assert [line.get_text() for line in fig.axes[0].get_yticklabels()] == ["up", "down", "same"] and marks(fig.axes[0]) == ["^", "v", "o"]
    assert len(fig.axes) == 3 and "Are fewer tasks solved?" in texts(fig) and "pocket" not in texts(fig)


def test_a_change_is_beyond_doubt_by_its_corrected_test_where_it_has_one():
    change = {"name": "a part", "difference": 0.2, "low": 0.1, "high": 0.3}
    rows = [{**change, "p_adjusted": 0.06}, {**change, "p_adjusted": 0.04}, {**change, "p": 0.5}, {**change, "p": None}, change]
    _, ax = plt.subplots()
    draw.put_changes(ax, rows)
    assert marks(ax) == ["o", "^", "o", "^", "^"]


def test_a_small_p_is_never_zero():
    assert [draw.say_p(p) for p in (1e-9, 0.0004, 0.001, 0.25, 1.0, None)] == ["< 0.001", "< 0.001", "0.001", "0.250", "1.000", "-"]


@pytest.mark.parametrize(("name", "rows", "columns"), [
    ("table1_rewardbench", 4, 4), ("table2_chat", 6, 3), ("table3_academic", 4, 6), ("table4_ablation", 3, 10)])  # fmt: skip
def test_paper_tables(name, rows, columns):
    found = paper_table(name)
    assert (len(found["rows"]), len(found["columns"])) == (rows, columns)
    assert found["verified"] is False and "2405.07863" in found["source"]


def test_unknown_paper_table_names_the_known_ones():
    with pytest.raises(KitError, match="table2_chat"):
        paper_table("table9")


def test_a_saved_figure_replaces_the_old_one(tmp_path):
    run = open_run("figures", root=tmp_path)
    for _ in range(2):
        path = save_figure(draw.draw_summary(summary(False), ["online", "offline"]), run, "changes")
    assert path.read_bytes().startswith(b"\x89PNG") and [p.name for p in path.parent.iterdir()] == ["changes.png"]


def test_pairs_of_one_prompt_count_as_one_witness():
    from rlhf_kit.views.over_optimisation import draw_accuracy_by_gap

    hits = np.repeat(np.random.default_rng(0).uniform(size=60) < 0.7, 8).astype(float)
    gaps, ids = np.full(len(hits), 1.5), np.repeat(np.arange(60), 8)

    def width(*columns):
        (bar,) = draw_accuracy_by_gap({"pairs": columns}, {"pairs": (0.7, 0.6, 0.8, 0.75)}).axes[0].containers
        (segment,) = bar[2][0].get_segments()
        return segment[1][1] - segment[0][1]

    alone = np.arange(len(hits))
    assert width(gaps, hits, ids) == pytest.approx(width(gaps[::8], hits[::8], ids[::8]), rel=0.15)
    assert width(gaps, hits, ids) > 2.4 * width(gaps, hits, alone)


def test_the_whole_set_is_drawn_as_the_lesson_reckoned_it():
    from rlhf_kit.views.over_optimisation import draw_accuracy_by_gap

    sets = {name: (np.full(20, 1.5), np.ones(20), np.arange(20)) for name in ("a", "b")}
    whole = {"a": (0.7, 0.6, 0.8, 0.75), "b": (0.8, 0.7, 0.9, 0.95)}
    ax = draw_accuracy_by_gap(sets, whole, lambda gap: np.full(np.shape(gap), 0.9)).axes[1]
    assert [(float(bar[0].get_xdata()[0]), float(bar[0].get_ydata()[0])) for bar in ax.containers] == [(0.7, 0), (0.8, 1)]
    assert [float(bar[2][0].get_segments()[0][1][0]) for bar in ax.containers] == pytest.approx([0.8, 0.9])
    assert [list(line.get_xdata()) for line in ax.lines if line.get_marker() == "|" and line.get_markersize() == 20] == [[0.75], [0.95]]


def test_an_edit_that_changes_nothing_has_no_interval():
    from rlhf_kit.views.over_optimisation import draw_probes

    moved, still = np.linspace(-1.0, -0.5, 20), np.zeros(20)
    fig = draw_probes({"worse": {"learnt reward": moved}, "same": {"learnt reward": still}}, [{"learnt reward": still}, {"learnt reward": moved}], "Well.")
    for panel, across in zip(fig.axes, (0, 1), strict=True):
        (bar,) = panel.containers
        lengths = [float(np.ptp(segment[:, across])) for segment in bar[2][0].get_segments()]
        assert sorted(length > 0 for length in lengths) == [False, True]
    assert [text.get_text() for text in fig.axes[0].get_yticklabels()] == ["worse", "same"]


def test_length_is_drawn_inside_prompts_with_the_truth_and_without():
    from rlhf_kit.views.over_optimisation import draw_length

    ids = np.repeat(np.arange(6), 8)
    length = np.tile(np.arange(8.0), 6) + 100 * ids  # between prompts length and reward go opposite ways, inside them together
    reward = np.tile(np.arange(8.0), 6) - 50 * ids
    for scores in ({"reward": reward}, {"reward": reward, "gold": -reward}):
        fig = draw_length({name: [1.0] * 6 for name in scores}, length, scores, ids, {"paper": 0.06})
        lines = [container[0] for container in fig.axes[1].containers]
        assert len(lines) == len(scores)
        assert np.allclose(lines[0].get_xdata(), np.arange(8) - 3.5) and (np.diff(lines[0].get_ydata()) > 0).all()


def likelier(p):
    """`likelier` of lesson 05."""
    return np.maximum(p, 1 - p), (1 + np.sign(p - 0.5)) / 2


def test_a_calibration_counts_every_pair_once_by_its_likelier_answer():
    from rlhf_kit.evaluation import reliability_table
    from rlhf_kit.views.over_optimisation import draw_calibration

    p = np.array([0.5] * 10 + [0.55] * 10 + [0.95] * 15 + [0.05] * 5)  # of twenty bold ones five did not go that way
    promise, often = draw_calibration({"model": reliability_table(*likelier(p))}).axes
    assert np.allclose(promise.containers[0][0].get_xdata(), [0.525, 0.95])
    assert np.allclose(promise.containers[0][0].get_ydata(), [0.75, 0.75])  # ten halves and ten ones; fifteen of twenty
    assert np.allclose(often.lines[0].get_ydata(), [0.5, 0.5])


def test_a_calibration_has_an_interval_where_all_labels_agree():
    from rlhf_kit.evaluation import reliability_table
    from rlhf_kit.views.over_optimisation import draw_calibration

    promise = draw_calibration({"model": reliability_table(*likelier(np.full(20, 0.95)))}).axes[0]
    (segment,) = promise.containers[0][2][0].get_segments()
    assert 0.8 < segment[0][1] < 0.9 and segment[1][1] == 1.0  # Wilson, twenty of twenty: 0.839


@pytest.mark.parametrize(("found", "said"), [
    ({"peak_n": 32, "largest_n": 32, "loss": 0.0, "low": 0.0, "high": 0.0, "over_optimised": False}, "n = 32, the largest: more search has not been"),
    ({"peak_n": 4, "largest_n": 32, "loss": -0.5, "low": -0.8, "high": -0.2, "over_optimised": True}, "-0.50 [-0.80, -0.20], so more search costs truth"),
    ({"peak_n": 4, "largest_n": 32, "loss": -0.1, "low": -0.3, "high": 0.1, "over_optimised": False}, "so more search has not been shown to cost truth"),
])  # fmt: skip
def test_what_more_search_costs_in_words(found, said):
    from rlhf_kit.views import words

    assert said in words.peak(found)


def test_bought_parts_and_sections_stand_side_by_side():
    from rlhf_kit.views.over_optimisation import draw_bought

    parts = [{"part": "reward", "difference": 0.9, "low": 0.8, "high": 1.0, "p_adjusted": None},
             {"part": "correctness", "difference": 0.2, "low": 0.1, "high": 0.3, "p_adjusted": 0.01},
             {"part": "length", "difference": -0.2, "low": -0.3, "high": -0.1, "p_adjusted": 0.02}]  # fmt: skip
    gains = [{"category": name, "gain": 1.0, "low": 0.5, "high": 1.5, "oracle": 2.0} for name in ("chat", "safety")]
    moved, gained = draw_bought(parts, gains, 16).axes
    assert [container[0].get_marker() for container in moved.containers] == ["^", "v"]
    assert [patch.get_height() for patch in gained.patches] == [1.0, 1.0, 2.0, 2.0]


@pytest.mark.parametrize(("temperature", "kind"), [(1.2, "overconfident"), (0.8, "underconfident"), (1.0, "about right")])
def test_a_temperature_says_how_bold_a_model_is(temperature, kind):
    from rlhf_kit.views.over_optimisation import say_temperature

    assert f"temperature {temperature:.2f}: the model is {kind}" in say_temperature(temperature)


def test_an_accuracy_is_told_beside_one_annotators():
    from rlhf_kit.views.over_optimisation import say_accuracy

    assert say_accuracy("pairs", (0.7, 0.65, 0.75), 0.8) == "pairs: 0.700 [0.650, 0.750], 0.100 below one annotator"
    assert say_accuracy("pairs", (0.9, 0.85, 0.95), 0.8).endswith("0.100 above one annotator")


def test_a_promise_that_is_kept_and_one_that_is_not():
    from rlhf_kit.views.over_optimisation import promise_row, say_promise

    row = promise_row(8, [3.0, 4.0, 5.0, 6.0], [1.0, 2.1, 2.9, 4.0])
    assert (row["n"], row["promised"]) == (8, 4.5) and row["gap"] == pytest.approx(row["promised"] - row["delivered"]) == pytest.approx(2.0)
    assert row["low"] < row["gap"] < row["high"] and say_promise(row).startswith("at n = 8 the promise is higher than the truth")
    assert "are not told apart" in say_promise(promise_row(1, [1.0, 3.0], [2.0, 2.0]))


def test_gains_go_section_by_section_and_the_weakest_is_the_least_share_of_the_possible():
    from rlhf_kit.views.over_optimisation import gains_by_section, say_weakest

    rows = gains_by_section(["chat", "safety", "chat", "safety"], [1.0, 2.0, 2.0, 2.0], [2.0, 8.0, 2.0, 8.0])
    assert [(row["category"], row["gain"], row["oracle"]) for row in rows] == [("chat", 1.5, 2.0), ("safety", 2.0, 8.0)]
    assert rows[0]["low"] < 1.5 < rows[0]["high"]
    assert say_weakest(rows) == "least of the possible gain is found in safety: +2.00 of +8.00 gold points"


def test_scores_spread_over_both_answers_and_repetitions_that_pay_are_named():
    from rlhf_kit.views.over_optimisation import say_repetitions, spread_of

    assert spread_of([{"chosen_gold": 3.0, "rejected_gold": 1.0}] * 4, "gold") == 1.0
    assert spread_of([{"chosen_gold": 7.0, "rejected_gold": 1.0}], "gold") == 3.0
    assert spread_of([{"chosen_gold": 2.0, "rejected_gold": 2.0}], "gold") == 1.0  # nothing to divide by
    noise = np.random.default_rng(0).normal(size=(5, 40))  # 0.16 is the mean's standard error
    steps = [{"learnt reward": value + part} for value, part in zip((0.0, -2.0, -1.0, -1.0, 0.5), noise, strict=True)]
    assert say_repetitions(steps) == "reward rises at repetition 2, 4"
    luck = [{"learnt reward": np.zeros(40)}, {"learnt reward": np.tile([1.0, -0.9], 20)}]  # higher by 0.05, which is nothing here
    for none in (luck, steps[:2], [{"learnt reward": [0.0]}, {"learnt reward": [1.0]}]):
        assert say_repetitions(none) == "no repetition raises the reward beyond doubt"


def test_a_plan_says_where_it_runs_what_is_wrong_and_what_must_be_accepted():
    from rlhf_kit.views.scale import say_plan

    bare = {"processes": 1, "card": None, "problems": [], "licences": {}}
    assert say_plan(bare).splitlines() == ["1 process(es)", "problems: none found", "licences: none to accept"]
    full = {"processes": 8, "card": {"name": "A100"}, "problems": ["too large", "too slow"], "licences": {"llama": "its licence"}}
    assert say_plan(full).splitlines() == ["8 process(es) on A100", "problems: too large; too slow", "licences: llama: its licence"]


def test_a_plan_without_a_released_model_still_has_its_rows():
    from rlhf_kit.planning import planner
    from rlhf_kit.planning.plan_text import plan_rows

    rows = {row[0]: row for row in plan_rows(planner.plan("smoke"))}  # its base model is made on the spot and has no name
    assert list(rows) == ["sft", "reward", "pairwise", "sample-1", "score-1", "dpo-1", "evaluation"]
    assert rows["sft"][1] is None and rows["sft"][2] == rows["sft"][3] > 100_000
