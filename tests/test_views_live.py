"""The views to touch: static they give one figure; live, a control moves the figure and its words to the right values."""

from __future__ import annotations

import base64
import io
import json
import math
import random

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from IPython.utils.capture import capture_output
from PIL import Image
from views_data import (
    CHAT,
    HOSTILE,
    MEANS,
    Scorer,
    answers,
    asked,
    best_rows,
    evaluation_rows,
    histories,
    judge_pairs,
    mass_rows,
    pair_rows,
    score,
    truth,
    views,
)

from rlhf_kit import losses
from rlhf_kit.errors import KitError
from rlhf_kit.evaluation import best_of_n_mean, length_controlled_win_rate
from rlhf_kit.preferences import load_preferences
from rlhf_kit.views import interactive as live
from rlhf_kit.views.interactive import (
    bench,
    chat,
    force_field,
    goodhart,
    judge_result,
    labels,
    mass,
    microscope,
    pairs,
    panel,
    verdict,
)


@pytest.fixture(scope="module", autouse=True)
def shell():
    """An IPython shell, without which nothing is displayed; no history file."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    yield InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    InteractiveShell.clear_instance()


@pytest.fixture(autouse=True)
def nothing_leaks():
    """No view leaves a pyplot figure behind."""
    before = plt.get_fignums()
    yield
    assert plt.get_fignums() == before


NAMES = list(views(None))


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", NAMES)
def test_static_is_one_figure_with_its_words_and_no_widget(name, tmp_path):
    with capture_output() as shown:
        made = views(tmp_path)[name](False)
    kinds = [set(output.data) for output in shown.outputs]
    assert sum("image/png" in kind for kind in kinds) == 1
    assert not any(panel.VIEW in kind for kind in kinds) and not made.controls
    picture = next(output for output in shown.outputs if "image/png" in output.data)
    assert picture.metadata["image/png"]["alt"] == made.said.text and len(made.said.text) > 40
    assert picture.data["text/plain"] == made.said.text
    text = "".join(output.data.get("text/markdown", "") for output in shown.outputs)
    assert text and "<script" not in text and "<img" not in text and "$x$" not in text
    drawn = np.asarray(Image.open(io.BytesIO(made.png)), dtype=float)
    stored = base64.b64decode(picture.data["image/png"])
    assert drawn.std() > 5  # something is drawn
    assert len(stored) < 60_000 and np.abs(np.asarray(Image.open(io.BytesIO(stored)).convert("RGB"), dtype=float) - drawn).mean() < 1


@pytest.mark.parametrize("name", NAMES)
def test_live_starts_as_the_static_figure_and_escapes(name, tmp_path):
    with capture_output() as shown:
        made = views(tmp_path)[name](True)
    with capture_output():
        static = views(tmp_path)[name](False)
    (output,) = shown.outputs
    assert {panel.VIEW, "image/png", "text/plain"} <= set(output.data)
    assert made.png == static.png and made.said == static.said  # one drawing, one setting, both ways
    shown_html = "".join(made.parts[part].value for part in ("text", "table")) + getattr(made.parts.get("card"), "value", "")
    assert "<script" not in shown_html and "<img" not in shown_html
    if name not in ("goodhart", "verdict", "force field", "bench"):
        assert "&lt;script&gt;" in shown_html
    assert 'role="status"' in made.parts["text"].value and f'alt="{panel.html.escape(made.said.text)}"' in made.parts["image"].value


@pytest.mark.parametrize(("name", "control", "value"), [
    ("bench", "A", 1.5), ("bench", "label", "C beats A"), ("microscope", "edit", "a friendly closing"), ("microscope", "text", "A lie."),
    ("force field", "beta", 1.0), ("force field", "step", 2), ("force field", "arm", "other"), ("force field", "chosen", 0.2), ("mass", "prompt", 1),
    ("mass", "upto", 0), ("pairs", "margin", (2.0, 4.0)), ("pairs", "length", (-5.0, 5.0)), ("pairs", "label", "wrong"), ("pairs", "section", "safety"),
    ("pairs", "pair", 3), ("goodhart", "n", 2), ("goodhart", "beta", 5.0), ("goodhart", "step", 1), ("verdict", "prompts", 30), ("verdict", "draw", 4),
    ("verdict", "ties", "no win"), ("verdict", "temperature", 0.0), ("verdict", "judge", "reward"), ("verdict", "seeds_used", 2),
    ("chat", "example", 1)])  # fmt: skip
def test_every_control_moves_figure_and_words(name, control, value, tmp_path):
    with capture_output():
        made = views(tmp_path)[name](True)
    png, text = made.png, made.said
    made.controls[control].value = value
    assert made.png != png and made.said != text
    assert base64.b64encode(made.png).decode() in made.parts["image"].value
    png = made.png
    made.refresh()
    assert made.png == png  # a second look at the same setting is the same picture


@pytest.mark.parametrize("name", NAMES)
def test_every_control_says_what_it_is(name, tmp_path):
    with capture_output():
        made = views(tmp_path)[name](True)
    for widget in [*made.controls.values(), *made.parts["buttons"]]:
        if hasattr(widget, "description") and type(widget).__name__ != "HTML":
            assert widget.description.strip()


def test_a_fault_of_the_reader_is_a_sentence_not_a_crash(tmp_path):
    with capture_output():
        made = views(tmp_path)["verdict"](True)
    png = made.png
    made.controls["second"].value = "online-1"
    assert "cannot be better than itself" in made.parts["text"].value and made.png == png
    made.controls["second"].value = "sft"
    assert "win rate" in made.parts["text"].value


# ---------------------------------------------------------------- right against a plain computation


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
    found = goodhart.by_n(table)
    assert found[3]["gold"] == pytest.approx(best_of_n_mean(table["reward"], table["gold"], 4).mean()) and found[0]["kl"] == 0
    cold, hot = (goodhart.by_beta(table, [beta])[0] for beta in (1e-4, 1e4))
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
    need = math.ceil((1.96 * won.std(ddof=1) / abs(won.mean() - 0.5)) ** 2)
    assert "by gold, temperature 1, on 40 prompts" in made.said.text and f"just reach one half at about {need} prompts" in made.said.text
    assert "take twice as many" in made.said.text
    made.controls["temperature"].value = 0.0
    assert "by gold, greedy, on 40 prompts" in made.said.text
    made.controls["seeds_used"].value = 1
    assert "no interval" in made.said.text


def test_verdict_of_one_sided_and_of_empty_outcomes():
    mean, low, high = verdict.interval(np.ones(5))
    assert mean == 1 and 0.5 < low < 1 and high == pytest.approx(1)
    assert math.isnan(verdict.interval(np.array([np.nan, np.nan]))[1]) and verdict.interval(np.full(4, 0.5)) == (0.5, 0.5, 0.5)
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


# ---------------------------------------------------------------- be the judge


def press(made, text):
    next(b for b in made.parts["presses"] if b.description == text).click()


def test_labels_are_saved_at_once_and_read_by_load_preferences(tmp_path):
    path = tmp_path / "my_labels.jsonl"
    with capture_output():
        made = live.be_the_judge(judge_pairs(), path, n=8, interactive=True)
    assert made.parts["image"].layout.display == "none"  # blind until judged
    shown = []
    for k in range(6):
        shown.append(made.parts["card"].value)
        press(made, ("A is better", "B is better")[k % 2])
        assert len(path.read_text().splitlines()) == k + 1
    table = load_preferences(path)
    assert len(table) == 6 and set(table["source"]) == {"you"}
    for row, raw, card in zip(table, path.read_text().splitlines(), shown, strict=True):
        assert row["chosen"][:-1] == row["prompt"] == row["rejected"][:-1]
        a, b = (card.index(panel.html.escape(row[side][-1]["content"])) for side in ("chosen", "rejected"))
        assert (a < b) == (json.loads(raw)["shown_first"] == "chosen")  # what was taken is what stood in that place
    press(made, "undo")
    assert len(load_preferences(path)) == 5
    press(made, "result so far")
    assert made.parts["image"].layout.display is None and "You labelled 5 pairs" in made.said.text


def test_a_second_sitting_goes_on_and_keeps_foreign_rows(tmp_path):
    path = tmp_path / "my_labels.jsonl"
    other = {"prompt": asked("old"), "chosen": [*asked("old"), {"role": "assistant", "content": "a"}],
             "rejected": [*asked("old"), {"role": "assistant", "content": "b"}], "source": "you", "pair": "of another seed"}  # fmt: skip
    labels.save(path, [other])
    for k in range(2):
        with capture_output():
            made = live.be_the_judge(judge_pairs(), path, n=8, interactive=True)
        assert f"Pair {2 * k + 1} of 8" in made.parts["progress"].value
        press(made, "A is better"), press(made, "cannot tell"), press(made, "B is better")
    rows = labels.load(path)
    assert len(rows) == 5 and rows[0]["pair"] == "of another seed" and len({row["pair"] for row in rows}) == 5
    with capture_output():
        static = live.be_the_judge(judge_pairs(), path, n=8, interactive=False)
    assert static.said.text.startswith("You labelled 4 pairs")


def test_the_last_pair_shows_the_result(tmp_path):
    with capture_output():
        made = live.be_the_judge(judge_pairs(), tmp_path / "l.jsonl", n=5, interactive=True)
    for _ in range(5):
        press(made, "A is better")
    assert "All pairs are judged" in made.parts["card"].value and made.parts["image"].layout.display is None
    assert "You labelled 5 pairs" in made.said.text and made.parts["presses"][0].disabled


def test_a_damaged_file_of_labels_is_named_and_kept(tmp_path):
    path = tmp_path / "my_labels.jsonl"
    path.write_text('{"prompt": [], "chosen": [], "rejected": [], "pair": "a"}\n{"pro', encoding="utf-8")
    with pytest.raises(KitError, match="my_labels.jsonl, line 2"):
        live.be_the_judge(judge_pairs(), path, interactive=True)
    assert path.read_text().endswith('{"pro')


def test_agreement_and_weights_against_plain_counts():
    rows = judge_pairs()
    taken = {row["pair"]: "chosen" for row in rows[:6]}
    found = judge_result.compared(rows, taken)
    assert found["agreement"]["the file's label"][::3] == (1.0, 6)
    right = [5.0 + i > 8.0 for i in range(6) if 5.0 + i != 8.0]  # pair 3 is equal in truth
    assert found["agreement"]["the truth"][::3] == (pytest.approx(np.mean(right)), len(right))
    assert found["against"] == [0, 1, 2]  # the truth prefers the other, most of all in pair 0
    refuses = judge_result.FEATURES.index("refuses")
    assert found["weights"]["these labels"][refuses] < 0  # every answer that was taken does not refuse


def test_the_table_of_contradictions_has_a_heading_and_two_digits():
    rows = judge_pairs()
    drawing = judge_result.draw_judge(rows)
    said = drawing.move({row["pair"]: "rejected" for row in rows})
    gaps = [row["chosen_gold"] - row["rejected_gold"] for row in rows]
    against = sum(gap > 0 for gap in gaps)
    assert said.heading == f"Labels that contradict the truth, largest difference first (3 of {against})" and against > 3
    most = rows[int(np.argmax(gaps))]
    assert said.rows[0][-1] == f"{most['rejected_gold']:.2f} against {most['chosen_gold']:.2f}"
    assert f"first (3 of {against})</caption>" in panel.table_html(said.rows, said.columns, heading=said.heading)
    plt.close(drawing.figure)
    drawing = judge_result.draw_judge(judge_pairs(known=False))
    own = drawing.move({rows[0]["pair"]: "rejected"})
    assert own.heading == "Labels that contradict the file's label" and len(own.rows) == 1
    plt.close(drawing.figure)


def test_the_stand_in_is_named(tmp_path):
    from rlhf_kit.world import Annotator

    with capture_output():
        made = live.be_the_judge(judge_pairs(), tmp_path / "x.jsonl", n=8, annotator=Annotator(), interactive=False)
        own = live.be_the_judge(judge_pairs(known=False), tmp_path / "x.jsonl", n=8, interactive=False)
    assert "stand-in, the annotator of the course, labelled 8 pairs" in made.said.text
    assert "the file's own labels stand in" in own.said.text and "truth" not in own.said.text
    assert not (tmp_path / "x.jsonl").exists()  # a stand-in's labels are not saved as yours


# ---------------------------------------------------------------- chat


def test_chat_asks_real_policies_and_survives_a_long_prompt(tiny_folder, machine):
    examples = [{"prompt": asked("hello"), "answers": {name: {"text": "t", "reward": 0.1, "gold": None} for name in ("SFT", "online")}}]
    with capture_output():
        made = live.chat_side_by_side({"SFT": str(tiny_folder), "online": str(tiny_folder)}, Scorer, examples, machine, max_new_tokens=6, interactive=True)
    png = made.png
    made.controls["text"].value = "Tell of a brave bear <b>now</b>"
    made.parts["press"].click()
    assert "Done" in made.parts["note"].value and made.png != png
    texts = [row[-1] for row in made.said.rows]
    assert texts[0] == "Tell of a brave bear <b>now</b>" and texts[1] == texts[2]  # the same policy, greedily
    assert "&lt;b&gt;now" in made.parts["table"].value
    made.controls["temperature"].value = 0.5
    assert "answers shown are from before" in made.parts["note"].value  # and not "Done"
    made.controls["temperature"].value = 0.0
    enter = lambda: made.controls["text"]._handle_custom_msg({"event": "submit"}, [])  # noqa: E731
    drawn, asks = [], made.refresh
    made.refresh = lambda: (drawn.append(1), asks())
    enter()  # what was answered last: nothing to write, and the answers shown are not from before
    assert "Done" in made.parts["note"].value and not drawn
    made.controls["text"].value = "Tell of a lazy bear"
    enter()
    assert "Done" in made.parts["note"].value and len(drawn) == 1 and made.said.rows[0][-1] == "Tell of a lazy bear"
    made.controls["text"].value = "long " * 4000
    made.parts["press"].click()
    assert "Not answered" in made.parts["note"].value and not made.parts["press"].disabled
    made.controls["text"].value = "  "
    made.parts["press"].click()
    assert "Write a prompt first" in made.parts["note"].value


def test_chat_examples_come_from_greedy_answers():
    rows = [{**row, "text": f"{row['policy']} {row['prompt_id']}" if row["prompt_id"] == "7" else "same"} for row in evaluation_rows(10)]
    prompts = {row["prompt_id"]: asked(row["prompt_id"]) for row in rows}
    found = live.recorded_answers(rows, prompts, ["sft", "online-1"], most=3)
    assert len(found) == 3 and found[0]["prompt"] == asked("7") and found[0]["answers"]["sft"]["text"] == "sft 7"
    with pytest.raises(KitError, match="online-9"):
        live.recorded_answers(rows, prompts, ["online-9"])


def test_a_reward_beyond_the_axis_widens_it():
    drawing = chat.draw_chat(["SFT", "online"], CHAT)
    said = drawing.move(CHAT[0]["prompt"], {"SFT": {"text": "", "reward": 40.0, "gold": None}, "online": {"text": "x", "reward": 0.0, "gold": None}})
    plt.close(drawing.figure)
    assert said.whole and drawing.figure.axes[0].get_xlim()[1] > 40 and "truth is not known" in said.text


# ---------------------------------------------------------------- panel


def test_cells_of_tables_are_escaped_and_read_well():
    text = panel.table_html([["a", None, float("nan"), 1.234, True, HOSTILE]], list("abcdef"))
    assert "<script" not in text and "&lt;script&gt;" in text and ">1.23<" in text and text.count(">-<") == 2 and ">yes<" in text


def test_painting_moves_only_what_it_should():
    """The kept background and a fresh drawing of the same setting give the same picture."""
    rng = random.Random(0)
    drawing = pairs.draw_pairs(pair_rows())
    plt.close(drawing.figure)
    paint = panel.painter(drawing)
    every = {"margin": (-9, 99), "length": (-99, 99), "order": pairs.ORDERS[0], "pair": 1}
    drawing.move(**every)
    first = paint(True)
    drawing.move(**{**every, "pair": rng.randint(2, 9)})
    assert paint(False) != first
    drawing.move(**every)
    assert paint(False) == first


def test_a_page_made_of_the_notebook_has_the_text_alternative(tmp_path):
    import nbformat
    from nbconvert import HTMLExporter

    with capture_output() as shown:
        made = views(tmp_path)["chat"](False)
    outputs = [nbformat.v4.new_output("display_data", data=o.data, metadata=o.metadata or {}) for o in shown.outputs]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("chat", outputs=outputs)])
    page, _ = HTMLExporter(template_name="basic").from_notebook_node(book)  # the one of the site
    assert f'alt="{panel.html.escape(made.said.text)}"' in page
