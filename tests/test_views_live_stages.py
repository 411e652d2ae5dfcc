"""What the views take from a run: answers followed over the trainings, pairs to judge. A toy course, made once."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_kit import stages
from rlhf_kit.views.interactive import judged_pairs, recorded_seeds

SMALL = {
    "model.max_length": 192, "data.sft_rows": 16, "data.preference_pairs": 16, "data.heldout_pairs": 8, "data.iterations": 2,
    "data.prompts_per_iteration": 6, "data.choose_prompts": 4, "data.eval_prompts": 4, "sampling.n": 4, "sampling.max_new_tokens": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def course(tiny_folder, tmp_path_factory):
    overrides = {**SMALL, "model.init": None, "model.tokenizer": None, "model.path": str(tiny_folder)}
    return stages.start("smoke", run="toy", root=tmp_path_factory.mktemp("runs"), overrides=overrides, quiet=True)


def test_pairs_to_judge_train_nothing_and_know_the_reward_once_it_is_there(course):
    before = judged_pairs(course)
    assert not list(course.run.path.glob("reward_model-*"))  # asking for pairs trains nothing
    assert len({row["pair"] for row in before}) == len(before) > 2
    assert all("chosen_gold" in row and "chosen_reward" not in row for row in before)
    test = {(r["prompt_id"], r["chosen"]): r["chosen_reward"] for r in stages.reward_test(course).rows()}
    after = judged_pairs(course)
    assert [row["pair"] for row in after] == [row["pair"] for row in before]
    known = [row for row in after if "chosen_reward" in row]
    assert known and all(row["chosen_reward"] == test[row["prompt_id"], row["chosen"]] for row in known)


def test_followed_answers_have_the_log_probabilities_they_were_sampled_with(course):
    made = stages.offline(course, "sft-samples")
    rows = stages.answers_over_training(course, made, prompts=2)
    drawn = {(r["prompt_id"], r["text"]): r["logprob"] for r in made[0].responses.rows()}
    for key in {row["prompt_id"] for row in rows}:
        own = [row for row in rows if row["prompt_id"] == key]
        pair = next(p for p in made[0].pairs.rows() if p["prompt_id"] == key)
        assert [row["text"] for row in own if row["role"] in ("chosen", "rejected")] == [pair["chosen"], pair["rejected"]]
        assert len({row["text"] for row in own}) == len(own)
    assert all(len(row["logps"]) == 3 for row in rows)  # SFT and two trainings
    old = [row for row in rows if row["role"] != "new"]
    # sampled at temperature 1, so what SFT gives each of its own answers was written down when it was drawn
    assert old and np.allclose([row["logps"][0] for row in old], [drawn[row["prompt_id"], row["text"]] for row in old], atol=1e-3)
    assert stages.answers_over_training(course, made, prompts=2) == rows  # found, not made again


def test_recorded_seeds_belong_to_this_world():
    found = recorded_seeds()
    assert found is None or {"means", "per_seed"} <= set(found)
    assert recorded_seeds("no_such") is None
