"""Figures of lessons 00 to 04 draw what they are given, without warnings, on tiny and on awkward inputs; tables escape."""

from __future__ import annotations

import numpy as np
import pytest
from figures_kit import drawn, strict_and_tidy, texts  # noqa: F401  a fixture of every test

from rlhf_kit.evaluation import cluster_interval
from rlhf_kit.views import (
    clip,
    course_map,
    escape,
    first_round,
    policy,
    preferences,
    reward,
    sft,
    style,
    table,
    tables,
    tokens_html,
)

HISTORY = [{"step": i, "loss": 2.0 / i, "accuracy": 0.5 + i / 40} for i in range(1, 9)]
LINES = [{"temperature": t, "gold": 5 + t, "gold_low": 4.0, "gold_high": 7.0, "length": 80.0} for t in (1.0, 0.0)]
ROWS = [{"policy": p, "temperature": t, "prompt_id": i, "gold": float(i % 3), "length": 80}
        for p in ("sft", "online") for t in (1.0, 0.0) for i in range(12)]  # fmt: skip


def test_course_map_names_every_lesson_and_fills_only_what_is_done():
    fig = drawn(course_map.draw_course_map(done=["sft"]))
    assert all(f"{n:02d}" in texts(fig) for n in range(1, 10))
    boxes = [p for p in fig.axes[0].patches if hasattr(p, "get_boxstyle")]
    filled = [b for b in boxes if b.get_facecolor()[:3] != (1, 1, 1)]
    assert len(filled) == 1 and len(boxes) == 9


def test_pairs_of_prompts_mark_chosen_above_rejected_and_skip_prompts_without_a_pair():
    groups = [[{"prompt_id": "a", "reward": r} for r in (0.1, 0.9, 0.4)], [{"prompt_id": "b", "reward": 0.5}] * 2]
    fig = drawn(first_round.draw_answers_of_prompts(groups, [{"prompt_id": "a", "chosen_reward": 0.9, "rejected_reward": 0.1}]))
    marked = {line.get_marker(): line.get_ydata()[0] for line in fig.axes[0].lines
              if line.get_marker() in "^v" and len(line.get_ydata())}  # fmt: skip
    assert marked == {"^": 0.9, "v": 0.1}


def test_before_after_draws_means_with_the_intervals_of_whole_prompts():
    panels = [("gold", "gold utility (0 to 10)", "What is true"), ("length", "length (characters)", "How long")]
    fig = drawn(first_round.draw_before_after(ROWS, panels, {"sft": "before"}, "Before and after"))
    wanted = cluster_interval([float(i % 3) for i in range(12)], range(12))
    ends = {round(float(y), 6) for segment in fig.axes[0].collections[0].get_segments() for y in segment[:, 1]}
    assert ends == {round(wanted.low, 6), round(wanted.high, 6)}
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["What is true", "How long"]
    assert fig.axes[0].get_legend_handles_labels()[1] == ["before", "online"]


def test_truth_and_annotator_figures():
    parts = [{"coherence": 1.0, "correctness": 0.0}, {"coherence": 0.2, "correctness": 1.0}]
    assert "0.20" in texts(drawn(preferences.draw_gold_parts(["good", "bad"], parts, [10.0, 0.3])))
    drawn(preferences.draw_gold_by_section({"sft": {"chat": [1.0, 2.0], "safety": [3.0]}, "oracle": {"chat": [9.0], "safety": [9.0]}}, "title"))
    drawn(preferences.draw_annotator_dials(lambda gap, temperature=1.0: 1 / (1 + np.exp(-gap / temperature)), {"temperature": (0.5, 2.0)}))
    drawn(preferences.draw_ceiling([0.5, 1.0], [0.9, 0.8], [0.89, 0.81], "temperature", here=0.5))


def test_label_noise_leaves_ties_out_and_counts_the_share_right():
    fig = drawn(preferences.draw_label_noise([0.0, 0.3, -0.3, 0.3, 0.3, 5.0], [0.5, 0.6, 0.6, 0.6, 0.6, 0.99]))
    (bars,) = fig.axes[0].containers
    assert list(bars.lines[0].get_ydata()) == [0.75, 1.0]
    drawn(preferences.draw_label_noise([0.0, 0.0], [0.5, 0.5]))  # nothing is left


def test_ledger_bars_end_where_the_kept_rows_begin():
    fig = drawn(preferences.draw_ledger(10, 7, {"tie": 1, "empty_response": 2}))
    ends = [bar.get_x() for bar in fig.axes[0].patches][1:3]
    assert ends == [9, 7] and "empty response" in texts(fig)
    drawn(preferences.draw_ledger(3, 3, {}))


def test_lengths_with_one_row_in_a_group():
    drawn(preferences.draw_lengths({"all": [3, 4, 5], "chat": [3]}, {"all": [3, 4, 9], "chat": [5]}))


def test_dollar_signs_in_names_are_no_formula():
    broken, formula = "a$_{$b", "$x$"  # the first is no formula at all, and ended the drawing
    fig = drawn(preferences.draw_lengths({broken: [3, 4], formula: [3, 5]}, {broken: [3, 4], formula: [5, 6]}))
    assert broken in texts(fig) and not any(text.get_parse_math() for text in fig.axes[0].get_xticklabels())
    drawn(preferences.draw_ledger(3, 1, {broken: 2}, formula))


def test_rows_of_lesson_02_by_prompt_and_by_section():
    rows = [{"prompt_id": f"p{i // 3}", "sample": i % 3, "text": str(i), "category": "chat" if i < 6 else "safety"} for i in range(12)]
    assert sft.first_answers(rows, 2) == [["0", "1"], ["3", "4"], ["6", "7"], ["9", "10"]]
    values = [float(i % 5) for i in range(12)]
    found = sft.by_section(rows, values, ["safety", "chat"], 200)
    assert list(found) == ["all", "safety", "chat"]
    own = cluster_interval(values[:6], ["p0"] * 3 + ["p1"] * 3, 200)
    assert found["chat"] == (own.mean, own.low, own.high) and found["all"][0] == pytest.approx(np.mean(values))


def test_sft_figures():
    fig = drawn(sft.draw_training_curve(HISTORY, title="loss", y="loss (nats)", lines={"guess": 0.7}, second="accuracy", second_y="accuracy (share)"))
    assert len(fig.axes) == 2 and fig.axes[0].lines[0].get_ydata()[1] == 1.0
    drawn(sft.draw_training_curve(HISTORY[:1], title="one step", y="loss"))
    fig = drawn(sft.draw_next_token(["a", "$x$", "<end>"], [-0.1, -2.0, -0.4], [False, True, True]))
    assert "$x$" in texts(fig) and [len(ax.patches) for ax in fig.axes] == [1, 2] and "the loss: 1.20" in texts(fig)
    drawn(sft.draw_next_token(["a"], [-0.1], [False]))
    bars = {"sft": {"chat": (0.5, 0.4, 0.6), "safety": (0.2, float("nan"), float("nan"))}}
    drawn(sft.draw_by_section(bars, title="t", y="y", top=1.0, chance=0.5, best=("oracle", 1.0)))
    drawn(sft.draw_parts({"sft": {"coherence": 0.9}, "oracle": {"coherence": 1.0}}))
    hot = [{**LINES[0], "temperature": 1.3}, *LINES]
    fig = drawn(sft.draw_sharpening(hot, [("gold", "gold utility", "Worth"), ("length", "length (characters)", "Length")], ceiling=10.0))
    assert fig.axes[0].get_xlim()[0] > 1.3 and fig.axes[1].get_title(loc="left") == "Length"


def test_reward_figures():
    rng = np.random.default_rng(0)
    drawn(reward.draw_bradley_terry([1.0, -0.5], [0.3, 0.97]))
    fig = drawn(reward.draw_accuracies([("random", 0.5, None, None), ("ours", 0.8, 0.7, 0.9)], ceiling=0.9, title="t"))
    assert "0.800" in texts(fig)
    drawn(reward.draw_margins(rng.normal(size=20), rng.random(20) < 0.8))
    drawn(reward.draw_margins([0.1, 0.1], [True, True]))
    drawn(reward.draw_by_gap(rng.normal(size=20), {"scalar": rng.random(20) < 0.5}, ceiling=np.full(20, 0.8)))
    fig = drawn(reward.draw_reward_against_gold([1.0, 3.0, 8.0], [0.1, 0.3, 5.0], ["chat", "chat", "safety"], ["a", "a", "b"]))
    dots = {line.get_label(): line for line in fig.axes[1].lines}
    assert list(dots["chat"].get_xdata()) == [-1.0, 1.0] and list(dots["safety"].get_ydata()) == [0.0]
    drawn(reward.draw_edits(["shuffled"], [(-1.0, -1.5, -0.5)], [(-2.0, -2.1, -1.9)]))
    drawn(reward.draw_edits(["shuffled"], [(-1.0, -1.5, -0.5)]))
    drawn(reward.draw_difference_by_section(["all", "chat"], [(0.1, -0.1, 0.3), (0.0, 0.0, 0.0)], "scalar", "pairwise"))
    drawn(reward.draw_two_confidences([0.2, 0.9], [0.6, 0.7], [True, False]))


def test_whiskers_of_shares_are_wilsons_also_where_all_are_right():
    predicted, gaps = np.linspace(0.6, 0.9, 10), np.arange(1.0, 11.0)
    fig, (ax,) = style.figure()
    reward.draw_reliability(ax, predicted, np.ones(10), bins=2)
    marks = [ax.containers[0], reward.draw_by_gap(gaps, {"ours": np.ones(10)}).axes[0].containers[0],
             preferences.draw_label_noise(np.full(5, 1.5), np.full(5, 0.8)).axes[0].containers[0],
             policy.draw_wrong_by_margin(gaps, np.ones(10), bins=2).axes[0].containers[0]]  # fmt: skip
    for drawn_mark, n in zip(marks, (5, 2, 5, 5), strict=True):
        assert drawn_mark.lines[2][0].get_segments()[0][0, 1] == pytest.approx(n / (n + 1.959964**2))


def test_wrong_labels_of_a_single_pair():
    fig = drawn(policy.draw_wrong_by_margin([0.4], [1.0]))
    assert "fewer to the right" in texts(fig) and list(fig.axes[1].lines[0].get_ydata()) == [1.0]


def test_both_orders_marks_exactly_the_flips():
    fig = drawn(reward.draw_both_orders([0.9, 0.8, 0.2], [0.8, 0.3, 0.1]))
    lines = {line.get_label(): line for line in fig.axes[0].lines}
    assert list(lines["the verdict flips"].get_xdata()) == [0.8]
    drawn(reward.draw_both_orders([0.7, 0.7], [0.2, 0.2]))  # no spread at all


def test_a_bar_without_an_interval_has_no_whisker():
    fig, (ax,) = style.figure()
    style.grouped_bars(ax, ["a", "b", "c"], {"x": [1.0, 0.5, 0.5]}, intervals={"x": ([1.0, 0.4, float("nan")], [1.0, 0.6, float("nan")])})
    drawn(fig)
    ends = [[y for _, y in path.vertices] for path in ax.collections[0].get_paths()]
    assert [list(np.round(y, 3)) for y in ends if len(y) and not np.isnan(y).any()] == [[0.4, 0.6]]
    assert style.short("KL to SFT (nats)") == "KL to SFT" and style.heat(0.7) == "temperature 0.7"


def test_names_keep_their_colour_and_free_names_get_another():
    palette = style.colors(["sft", "online", "mine", "yours"])
    assert palette["sft"] == style.NAMED["sft"] and len(set(palette.values())) == 4
    assert style.errors([0.5], [float("nan")], [0.4]).tolist() == [[0.0], [0.0]]
    assert style.smooth([1.0, 2.0, 6.0], 3).tolist() == [1.5, 3.0, 4.0]


# ---------------------------------------------------------------- tables


def test_table_escapes_what_markdown_html_and_formulas_would_take():
    hostile = '<img src=x onerror="alert(1)"> | **b** $x$ [l](u) `c`\nnext'
    made = table([[hostile, 1.23456]], ["text", "n|m"], digits=2)
    rows = made.splitlines()
    assert len(rows) == 3 and all(row.count("|") == 3 for row in rows)
    assert not set("<>$`*[") & set(rows[2].replace("<br>", "")) and "1.23" in rows[2]
    assert escape("plain text, 'quoted' & so on") == "plain text, 'quoted' &#38; so on"


def test_table_aligns_numbers_takes_dicts_and_refuses_ragged_rows():
    made = table([{"a": 1, "b": None}, {"a": 12000, "b": 0.5}], ["a", "b"])
    assert "12,000" in made and "0.500" in made and made.splitlines()[1].count(":") == 2
    assert "| - " in made.replace("  ", " ") or " - |" in made
    with pytest.raises(ValueError, match="2 columns"):
        table([[1]], ["a", "b"])
    assert tables.cell(float("nan")) == "-" and tables.cell(True) == "yes" and tables.cell(np.float32(0.25), 2) == "0.25"


def test_clip_and_token_boxes():
    assert clip("short") == "short" and clip("one two three", 8) == "one two ..."
    made = tokens_html(["<bos>", " a", "&"], [False, True, True], "a <b> caption")
    assert "<bos>" not in made and "&lt;bos&gt;" in made and made.count("#CFE5F5") == 2 and "&lt;b&gt;" in made
