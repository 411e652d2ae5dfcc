"""The views to touch against plain computations: their numbers, words and marks are right."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
from IPython.utils.capture import capture_output
from shell_kit import nothing_leaks, shell  # noqa: F401  fixtures
from views_data import answers, asked, histories, mass_rows, pair_rows, score, truth, views

from rlhf_kit import losses
from rlhf_kit.errors import KitError
from rlhf_kit.views import interactive as live
from rlhf_kit.views.interactive import bench, force_field, mass, microscope, pairs


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
    for name, value in (("A", -1.25 + share), ("D", 2 - share)):
        steps = (made.controls[name].value - made.controls[name].min) / bench.STEP
        assert made.controls[name].value == pytest.approx(value, abs=bench.STEP / 2) and steps == pytest.approx(round(steps))
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
