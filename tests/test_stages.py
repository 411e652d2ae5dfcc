"""The course at a toy size: everything is trained for a few steps, so only structure is checked, never
quality."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from rlhf_kit import models, online, rewards, stages
from rlhf_kit.course import base_key
from rlhf_kit.errors import KitError
from rlhf_kit.recipe.data import disjoint
from rlhf_kit.recipe.evaluation import SOLVED

SMALL = {
    "model.init": None, "model.tokenizer": None, "model.max_length": 400, "data.sft_rows": 48,
    "data.preference_pairs": 48,
    "data.heldout_pairs": 16, "data.iterations": 2, "data.prompts_per_iteration": 8, "data.choose_prompts": 8,
    "data.eval_prompts": 8, "sampling.n": 3, "sampling.max_new_tokens": 8, "dpo.batch_size": 4,
    "evaluation.bootstrap": 50, "evaluation.best_of": [1, 2, 4], "evaluation.best_of_prompts": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def toy(tiny_folder):
    return {**SMALL, "model.path": str(tiny_folder)}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def course(toy, root):
    return stages.start("smoke", run="toy", root=root, overrides=toy, quiet=True)


@pytest.fixture(scope="module")
def arms(course):
    return stages.online(course), stages.offline(course)


# ---------------------------------------------------------------- the course


def test_run_is_named_after_profile_and_seed(toy, root):
    assert stages.start("smoke", root=root, overrides=toy).run.name == "smoke"
    assert stages.start("smoke", seed=3, root=root, overrides=toy).run.name == "smoke-seed3"
    with pytest.raises(KitError, match="seed is -1"):
        stages.start("smoke", seed=-1, root=root)
    with pytest.raises(KitError, match="smok"):
        stages.start("smok", root=root)


def test_description_gives_a_reason_for_each_choice(course, capsys):
    course.describe()
    said = capsys.readouterr().out
    for field in ("device", "threads", "backend"):
        assert f"because {course.machine.reasons[field]}" in said
    assert "beta=0.1" in said


def test_finish_and_metric_leave_records(course):
    stages.finish(course, "03_reward_model")
    assert (course.run.path / "records/finished/03_reward_model.json").is_file()
    assert course.metric("some-number", 0.25) == 0.25
    assert json.loads((course.run.path / "records/metrics/some-number.json").read_text())["value"] == 0.25


def test_base_key_follows_the_bytes_of_the_model(toy, root, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(toy["model.path"], copy)
    key = [base_key(stages.start("smoke", root=root, overrides={**toy, "model.path": str(p)}))
           for p in (toy["model.path"], copy)]  # fmt: skip
    assert key[0] == key[1]
    (copy / "tokenizer_config.json").write_text("{}")
    assert base_key(stages.start("smoke", root=root, overrides={**toy, "model.path": str(copy)})) != key[0]


# ---------------------------------------------------------------- rows and leaks


def test_every_split_has_its_size_and_none_shares_a_prompt(course):
    sizes = stages.assert_disjoint(course)
    assert sizes == {
        "training": 96,
        "heldout": 16,
        "eval": 8,
        "choose": 8,
        "iteration-1": 8,
        "iteration-2": 8,
    }
    assert len(stages.prompts(course, "eval", 3)) == 3
    with pytest.raises(KitError, match="iteration-7"):
        stages.prompts(course, "iteration-7")
    with pytest.raises(KitError, match="9 prompts"):
        stages.prompts(course, "eval", 9)


def test_a_leak_is_found():
    def asked(text):
        return [{"role": "user", "content": text}]

    assert disjoint({"a": [asked("x"), asked("x"), asked("y")], "b": [asked("z")]}) == {"a": 2, "b": 1}
    with pytest.raises(KitError, match="'a' and in 'b'"):
        disjoint({"a": [asked("x")], "b": [asked("x")]})


def test_ledgers_balance_in_every_manifest(course, arms):
    found = 0
    for manifest in course.run.path.glob("*/manifest.json"):
        for ledger in json.loads(manifest.read_text())["ledger"]:
            assert ledger["rows_in"] == ledger["rows_out"] + sum(ledger["dropped"].values())
            found += 1
    assert found > 10


def test_another_annotator_judges_the_same_pairs_afresh(toy, root):
    from rlhf_kit import world

    def judged(name, **dials):
        changes = {**toy, **{f"data.annotator.{dial}": value for dial, value in dials.items()}}
        course = stages.start("smoke", run=name, root=root, overrides=changes, quiet=True)
        return stages.preferences(course).rows("train.parquet").to_list()

    sharp, coin = judged("sharp", temperature=0.01, carelessness=0.0), judged("coin", carelessness=1.0)
    texts = [
        [{r["chosen"][-1]["content"], r["rejected"][-1]["content"]} for r in rows] for rows in (sharp, coin)
    ]
    assert texts[0] == texts[1]
    gaps = [[world.gold(r["prompt"], r["chosen"][-1]["content"]).utility
             - world.gold(r["prompt"], r["rejected"][-1]["content"]).utility for r in rows]
            for rows in (sharp, coin)]  # fmt: skip
    assert min(gaps[0]) > -0.1
    assert min(gaps[1]) < -0.1


def test_more_rows_than_there_are_is_one_sentence(toy, root):
    greedy = stages.start(
        "smoke", run="greedy", root=root, overrides={**toy, "data.preference_pairs": 10**6}, quiet=True
    )
    with pytest.raises(KitError, match="1000000 pairs"):
        stages.preferences(greedy)


# ---------------------------------------------------------------- the loop as stages


def test_first_iteration_is_shared_and_the_rest_differ_in_the_sampler(arms):
    on, off = arms
    assert len(on) == len(off) == 2
    assert (on[0].responses.key, on[0].pairs.key, on[0].policy.key) == (
        off[0].responses.key,
        off[0].pairs.key,
        off[0].policy.key,
    )
    assert on[1].responses.key != off[1].responses.key
    for one, other in zip(on, off, strict=True):
        settings = [i.policy.manifest["params"] for i in (one, other)]
        assert settings[0] == settings[1]
        assert set(one.responses.rows()["prompt_id"]) == set(other.responses.rows()["prompt_id"])
    assert {row["policy"] for row in off[1].responses.rows()} == {"sft"}
    assert {row["policy"] for row in on[1].responses.rows()} == {"dpo-1"}


def test_reference_is_the_sft_policy_throughout(course, arms):
    kept = models.weights_hash(stages.model_folder(stages.sft(course)))
    for one in arms[0]:
        assert one.policy.manifest["facts"]["reference"]["before"] == kept
        assert one.policy.manifest["facts"]["reference"]["after"] == kept
    assert stages.assert_fixed_reference(arms[0]) == kept
    assert arms[0][0].policy.manifest["facts"]["step_zero"]["loss"] == pytest.approx(math.log(2), abs=2e-2)
    previous = stages.online(course, reference="previous")
    assert previous[0].policy.key == arms[0][0].policy.key
    assert previous[1].policy.manifest["facts"]["reference"]["before"] != kept
    with pytest.raises(KitError, match="reference changed"):
        stages.assert_fixed_reference(previous)


def test_a_second_call_finds_everything(course, arms, toy, root):
    again = stages.start("smoke", run="toy", root=root, overrides=toy, quiet=True)
    for one, found in zip(arms[0], stages.online(again), strict=True):
        for field in ("policy", "responses", "scores", "pairs"):
            assert getattr(found, field).cached
            assert getattr(found, field).path == getattr(one, field).path


def test_a_changed_setting_makes_new_policies_but_not_new_first_responses(course, arms):
    other = stages.online(course, iterations=1, beta=0.3, length_penalty=0.01)
    assert other[0].responses.key == arms[0][0].responses.key
    assert other[0].scores.key == arms[0][0].scores.key
    assert other[0].pairs.key != arms[0][0].pairs.key
    assert other[0].policy.manifest["params"]["settings"]["beta"] == 0.3
    with pytest.raises(KitError, match="no setting 'betta'"):
        stages.online(course, iterations=1, betta=0.3)


def test_annotator_arm_takes_the_same_number_of_pairs_and_steps(course, arms):
    made = stages.offline(course, "annotator", like=arms[0])
    assert [len(i.pairs.rows()) for i in made] == [len(i.pairs.rows()) for i in arms[0]]
    steps = [[i.policy.manifest["facts"]["steps"] for i in arm] for arm in (made, arms[0])]
    assert steps[0] == steps[1]
    ids = [set(i.pairs.rows()["prompt_id"]) for i in made]
    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] <= set(stages.preferences(course).rows("train.parquet")["prompt_id"])
    with pytest.raises(KitError, match="unknown kind"):
        stages.offline(course, "nothing")


def test_stages_run_the_same_lines_as_the_loop_over_folders(course, arms, tmp_path):
    """The cached course and the plain call over model folders end with the same weights."""
    profile = course.profile
    scorer = rewards.BradleyTerry(stages.model_folder(stages.reward_model(course)), course.machine)
    plain = online.online_dpo(
        stages.model_folder(stages.sft(course)),
        scorer,
        [stages.prompts(course, f"iteration-{t}") for t in (1, 2)],
        tmp_path,
        sampling=profile.sampling,
        labeling=profile.labeling,
        dpo=profile.dpo,
        machine=course.machine,
        max_length=profile.model.max_length,
        seed=course.seed,
    )
    for one, other in zip(plain, arms[0], strict=True):
        assert models.weights_hash(one.policy) == models.weights_hash(stages.model_folder(other.policy))


def test_scores_are_float32_and_follow_the_responses(course, arms):
    answers = arms[0][0].responses
    table = stages.scores(course, answers, "gold").rows()
    assert str(table.features["reward"].dtype) == "float32"
    assert (
        table["prompt_id"][:] == answers.rows()["prompt_id"][:]
        and table["sample"][:] == answers.rows()["sample"][:]
    )
    with pytest.raises(KitError, match="unknown scorer 'oracle'"):
        stages.scores(course, answers, "oracle")


# ---------------------------------------------------------------- measuring


def test_evaluation_and_its_summary(course, arms):
    policies = {"sft": stages.sft(course), "online-2": arms[0][1].policy}
    made = stages.evaluation(course, policies)
    rows = made.rows().to_list()
    assert len(rows) == 2 * 2 * 8
    assert {r["prompt_id"] for r in rows} == {r["prompt_id"] for r in stages.prompts(course, "eval")}
    assert all(r["length"] == len(r["text"]) and 0 <= r["gold"] <= 10 for r in rows)
    assert all(abs(r["kl"]) < 1e-9 for r in rows if r["policy"] == "sft" and r["temperature"] == 1.0)
    assert all(r["kl"] is None for r in rows if r["temperature"] == 0.0)
    table = {(r["policy"], r["temperature"]): r for r in stages.summarise(made)}
    assert set(table) == {(p, t) for p in policies for t in (1.0, 0.0)}
    warm = table["online-2", 1.0]
    golds = [r["gold"] for r in rows if r["policy"] == "online-2" and r["temperature"] == 1.0]
    assert (
        warm["gold"] == pytest.approx(np.mean(golds))
        and warm["gold_low"] <= warm["gold"] <= warm["gold_high"]
    )
    assert warm["judge"] == "gold" and warm["kl"] > 0
    assert 0 <= warm["win_low"] <= warm["win_rate"] <= warm["win_high"] <= 1
    assert table["sft", 1.0]["win_rate"] is None


class Measured:
    """A stage of answers written by hand: {policy: [(gold, solved)]}, one answer a prompt."""

    def __init__(self, policies):
        part = {name: 1.0 for name in SOLVED}
        self.table = [
            {"policy": policy, "temperature": t, "prompt_id": f"{k}", "sample": 0, "category": "sums" if k < 3 else "tales", "gold": gold,
             "reward": 10 - gold, "parts": {**part, "correctness": float(solved)}, "length": 9, "finish_reason": "stop", "kl": 0.1}
            for policy, answers in policies.items() for t in (1.0, 0.0) for k, (gold, solved) in enumerate(answers)
        ]  # fmt: skip
        self.manifest = {"params": {"bootstrap": 50}}

    def rows(self):
        return Dataset.from_list(self.table)


def test_a_better_policy_wins_and_a_policy_that_solves_more_gains():
    sft, better = [(2.0, False), (3.0, True), (5.0, True), (4.0, False)], [(7.0, True), (3.0, True), (6.0, False), (9.0, True)]
    table = {(row["policy"], row["temperature"]): row for row in stages.summarise(Measured({"sft": sft, "better": better}))}
    assert table["better", 1.0]["win_rate"] == pytest.approx((3 + 0.5) / 4)
    table = {row["category"]: row for row in stages.skills(Measured({"sft": sft, "better": better}), "better")}
    assert (table["all"]["before"], table["all"]["after"], table["all"]["difference"]) == (0.5, 0.75, 0.25)
    assert (table["all"]["gained"], table["all"]["lost"]) == (2, 1)
    assert (table["tales"]["before"], table["tales"]["after"], table["tales"]["n"]) == (0, 1, 1)


def test_colder_sft_is_a_control_with_its_own_kl(course):
    made = stages.evaluation(course, {"sft": stages.sft(course)}, temperatures=(1.0, 0.05), split="choose")
    table = {row["temperature"]: row for row in stages.summarise(made)}
    assert table[1.0]["kl"] == pytest.approx(0, abs=1e-9)
    assert table[0.05]["kl"] > 1


def test_skills_are_paired_by_category(course, arms):
    made = stages.evaluation(course, {"sft": stages.sft(course), "online-2": arms[0][1].policy})
    table = stages.skills(made, "online-2")
    assert table[-1]["category"] == "all" and table[-1]["n"] == 8
    assert sum(row["n"] for row in table[:-1]) == 8
    for row in table:
        assert row["after"] - row["before"] == pytest.approx(row["difference"])
        assert (row["gained"] - row["lost"]) / row["n"] == pytest.approx(row["difference"])
    with pytest.raises(KitError, match="'nobody' was not evaluated"):
        stages.skills(made, "nobody")


def test_reward_test_and_its_ceiling(course):
    rows = stages.reward_test(course).rows().to_list()
    assert len(rows) == 16
    numbers = stages.reward_accuracy_heldout(course)
    right = np.mean(
        [
            (r["chosen_reward"] > r["rejected_reward"]) + 0.5 * (r["chosen_reward"] == r["rejected_reward"])
            for r in rows
        ]
    )
    assert numbers["accuracy"] == pytest.approx(right)
    assert numbers["low"] <= numbers["accuracy"] <= numbers["high"]
    assert 0.5 < numbers["ceiling"] < 1
    assert all(0 < r["label_probability"] < 1 for r in rows)
    pairwise = stages.reward_test(course, scorer="pairwise").rows().to_list()
    assert all(r["chosen_reward"] + r["rejected_reward"] == pytest.approx(1) for r in pairwise)
    assert all(
        r["chosen_reward"] == pytest.approx((r["shown_first"] + r["shown_second"]) / 2) for r in pairwise
    )


@pytest.fixture(scope="module")
def written(course):
    """Answers of the pocket world's writers in the layout of `responses`: unlike an untrained policy's, they
    differ in worth."""
    import random

    from rlhf_kit import world
    from rlhf_kit.runs import write_rows

    asked = stages.prompts(course, "choose")

    def build(folder):
        rng = random.Random(1)
        rows = [
            {"prompt_id": row["prompt_id"], "sample": s, "text": world.demonstrate(row["prompt"], rng, s / 4)}
            for row in asked
            for s in range(4)
        ]
        write_rows(folder, rows)
        write_rows(folder, asked, "prompts.parquet")

    return course.run.stage("responses-written", build)


def test_gold_as_scorer_is_always_right_and_random_is_not(course, written):
    numbers = stages.reward_accuracy_on(course, written, scorer="gold")
    assert numbers["accuracy"] == 1.0 and numbers["n"] > 20 and numbers["prompts"] <= 8
    assert 0.5 < numbers["annotator"] < 1
    assert sum(one["n"] for one in numbers["by_category"].values()) == numbers["n"]
    chance = stages.reward_accuracy_on(course, written, scorer="random")
    assert chance["n"] == numbers["n"] and 0.2 < chance["accuracy"] < 0.8


def test_accuracy_without_any_difference_is_not_a_number(course):
    made = course.run.stage("responses-same", lambda folder: same_answers(course, folder))
    numbers = stages.reward_accuracy_on(course, made, scorer="random")
    assert numbers["n"] == 0 and math.isnan(numbers["accuracy"])
    assert stages.reward_accuracy_fresh(course)["n"] >= 0


def same_answers(course, folder):
    from rlhf_kit.runs import write_rows

    asked = stages.prompts(course, "choose")
    write_rows(
        folder, [{"prompt_id": r["prompt_id"], "sample": s, "text": "x"} for r in asked for s in range(2)]
    )
    write_rows(folder, asked, "prompts.parquet")


def test_max_pairs_cuts_and_counts(course, written):
    rewards = stages.scores(course, written, "gold")
    whole, cut = stages.pairs(course, written, rewards), stages.pairs(course, written, rewards, max_pairs=2)
    assert cut.rows().to_list() == whole.rows().to_list()[:2]
    assert cut.manifest["ledger"][0]["dropped"]["beyond max_pairs"] == len(whole.rows()) - 2


def test_label_accuracy_counts_wrong_labels(course, written, arms):
    by_gold = stages.pairs(course, written, stages.scores(course, written, "gold"))
    assert stages.label_accuracy(course, by_gold)["accuracy"] == 1.0
    told = stages.label_accuracy(course, arms[0][0].pairs)
    gaps = [r["chosen_gold"] - r["rejected_gold"] for r in told["rows"]]
    assert gaps == sorted(gaps) and told["n"] == len(gaps)


def test_best_of_n_curve_rises_for_its_own_score(course):
    curve = stages.best_of_n(course).json("curve.json")
    assert [line["n"] for line in curve] == [1, 2, 4]
    proxies = [line["proxy"] for line in curve]
    assert proxies == sorted(proxies) and proxies[0] < proxies[-1]
    assert curve[0]["kl_bound"] == 0 and curve[2]["kl_bound"] == pytest.approx(math.log(4) - 3 / 4)
    assert all(line["gold"] <= line["oracle"] + 1e-9 for line in curve)


# ---------------------------------------------------------------- your own data


@pytest.fixture
def own_file(tmp_path):
    words = ["red", "blue", "green", "big", "small", "old", "new", "warm"]
    rows = [
        {
            "prompt": f"Tell me of the {a} {b} thing.",
            "chosen": f"It is {a} and {b}.",
            "rejected": "I do not know.",
        }
        for a in words
        for b in words
    ]
    rows.append({"prompt": "Equal?", "chosen": "yes", "rejected": "yes"})
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def own_course(toy, own_file, tmp_path, **more):
    changes = {
        **toy,
        "data.kind": "file",
        "data.preferences": str(own_file),
        "data.iterations": 1,
        "data.heldout_pairs": 8,
        **more,
    }
    return stages.start("smoke", run="own", root=tmp_path / "runs", overrides=changes, quiet=True)


def test_own_file_goes_through_the_same_calls(toy, own_file, tmp_path):
    course = own_course(toy, own_file, tmp_path)
    made = stages.preferences(course)
    cleaning, split = made.manifest["ledger"]
    assert (cleaning["rows_in"], cleaning["rows_out"]) == (65, 64) and sum(cleaning["dropped"].values()) == 1
    assert split["rows_in"] == 64
    sizes = stages.assert_disjoint(course)
    assert sizes["heldout"] == 8 and sizes["eval"] == 8 and sizes["iteration-1"] == 8
    assert sizes["training"] >= 32
    last = stages.online(course)[-1]
    table = stages.summarise(stages.evaluation(course, {"sft": stages.sft(course), "online": last.policy}))
    assert {row["judge"] for row in table} == {"reward"}
    assert all(row["gold"] is None for row in table)
    assert "ceiling" not in stages.reward_accuracy_heldout(course)
    with pytest.raises(KitError, match="pocket world"):
        stages.skills(stages.evaluation(course, {"sft": stages.sft(course), "online": last.policy}), "online")
    with pytest.raises(KitError, match="pocket world"):
        stages.scores(course, last.responses, "gold")


def test_a_small_file_is_shared_out_and_a_tiny_one_refused(toy, own_file, tmp_path):
    greedy = own_course(toy, own_file, tmp_path, **{"data.eval_prompts": 400, "data.heldout_pairs": 400})
    made = stages.preferences(greedy)
    assert made.manifest["facts"]["split_scale"] < 1
    assert made.manifest["facts"]["train"] >= 0.4 * 64
    short = tmp_path / "short.jsonl"
    short.write_text("".join(own_file.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(KitError, match="too few"):
        stages.preferences(own_course(toy, short, tmp_path))


def test_own_demonstrations_and_prompts(toy, own_file, tmp_path):
    demos, asked = tmp_path / "sft.jsonl", tmp_path / "prompts.jsonl"
    demos.write_text(
        "".join(
            json.dumps({"instruction": f"Say {i}.", "input": "", "output": f"{i}!"}) + "\n" for i in range(20)
        )
    )
    asked.write_text(
        "".join(json.dumps({"prompt": f"Question {i}?"}) + "\n" for i in range(40))
        + '{"prompt": "Question 1?"}\n'
    )
    course = own_course(toy, own_file, tmp_path, **{"data.sft": str(demos), "data.prompts": str(asked)})
    rows = stages.demonstrations(course).rows().to_list()
    assert len(rows) == 20 and rows[3]["messages"][-1] == {"role": "assistant", "content": "3!"}
    assert {r["kind"] for r in stages.prompt_table(course).rows()} == {"own"}
    read = stages.prompt_table(course).manifest["ledger"][1]
    assert (read["rows_in"], read["rows_out"], read["dropped"]["repeated"]) == (41, 40, 1)
    stages.assert_disjoint(course)
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "a"}\nnot json\n')
    with pytest.raises(KitError, match="line 2"):
        stages.prompt_table(own_course(toy, own_file, tmp_path, **{"data.prompts": str(broken)}))
    with pytest.raises(KitError):
        stages.preferences(own_course(toy, Path("/nowhere/pairs.jsonl"), tmp_path))
