"""Be the judge: labels are saved at once and never lost, and set beside the truth."""

from __future__ import annotations

import html
import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
from IPython.utils.capture import capture_output
from shell_kit import nothing_leaks, shell  # noqa: F401  fixtures
from views_data import asked, judge_pairs

from rlhf_kit.errors import KitError
from rlhf_kit.evaluation import own_labels
from rlhf_kit.preferences import load_preferences
from rlhf_kit.views import interactive as live
from rlhf_kit.views.interactive import judge_result, labels, markup


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
        a, b = (card.index(html.escape(row[side][-1]["content"])) for side in ("chosen", "rejected"))
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


def test_starting_again_puts_the_labels_aside_and_loses_none(tmp_path):
    path = tmp_path / "my_labels.jsonl"
    with capture_output():
        made = live.be_the_judge(judge_pairs(), path, n=5, interactive=True)
    assert made.parts["presses"][-1].disabled  # nothing to put aside
    first = made.parts["card"].value
    for sitting in (1, 2):
        for _ in range(4 + sitting % 2):
            press(made, "A is better")
        before = path.read_bytes()
        press(made, "start again")
        assert (tmp_path / f"my_labels-{sitting}.jsonl").read_bytes() == before and not path.exists()
        assert made.parts["card"].value == first and "Pair 1 of 5" in made.parts["progress"].value
        assert made.parts["image"].layout.display == "none"  # blind again
        names = ", ".join(f"my_labels-{k}.jsonl" for k in range(1, sitting + 1))
        assert f"Your labels of before are kept in the same folder: {names}." in made.parts["progress"].value
        assert made.parts["presses"][3].disabled  # no undo into the file of before
    press(made, "B is better")
    assert len(load_preferences(path)) == 1 and len(load_preferences(tmp_path / "my_labels-1.jsonl")) == 5


def test_a_number_that_is_taken_is_not_written_over(tmp_path):
    path = tmp_path / "my_labels.jsonl"
    for name in ("my_labels-1.jsonl", "my_labels-7.jsonl", "my_labels-old.jsonl", "my_labels-2.txt"):
        (tmp_path / name).write_text("kept")
    labels.put_aside(path)  # nothing to put aside
    path.write_text("mine")
    labels.put_aside(path)
    assert list(labels.aside(path)) == [1, 7, 8] and labels.aside(path)[8].read_text() == "mine"
    assert all((tmp_path / f"my_labels-{k}.jsonl").read_text() == "kept" for k in (1, 7))


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
    found = own_labels.compared(rows, taken)
    assert found["agreement"]["the file's label"][::3] == (1.0, 6)
    right = [5.0 + i > 8.0 for i in range(6) if 5.0 + i != 8.0]  # pair 3 is equal in truth
    assert found["agreement"]["the truth"][::3] == (pytest.approx(np.mean(right)), len(right))
    assert found["against"] == [0, 1, 2]  # the truth prefers the other, most of all in pair 0
    refuses = own_labels.FEATURES.index("refuses")
    assert found["weights"]["these labels"][refuses] < -0.1  # every answer that was taken does not refuse


def test_the_table_of_contradictions_has_a_heading_and_two_digits():
    rows = judge_pairs()
    drawing = judge_result.draw_judge(rows)
    said = drawing.move({row["pair"]: "rejected" for row in rows})
    gaps = [row["chosen_gold"] - row["rejected_gold"] for row in rows]
    against = sum(gap > 0 for gap in gaps)
    assert said.heading == f"Labels that contradict the truth, largest difference first (3 of {against})" and against > 3
    most = rows[int(np.argmax(gaps))]
    assert said.rows[0][-1] == f"{most['rejected_gold']:.2f} against {most['chosen_gold']:.2f}"
    assert f"first (3 of {against})</caption>" in markup.table_html(said.rows, said.columns, heading=said.heading)
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
