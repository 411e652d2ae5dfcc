"""Chat side by side: real policies answer a prompt of the reader."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
from IPython.utils.capture import capture_output
from shell_kit import nothing_leaks, shell  # noqa: F401  fixtures
from views_data import CHAT, Scorer, asked, evaluation_rows

from rlhf_kit.errors import KitError
from rlhf_kit.views import interactive as live
from rlhf_kit.views.interactive import chat


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
