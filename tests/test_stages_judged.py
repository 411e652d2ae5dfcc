"""Judges, benches and skill tests as stages: whole, countable, and right where the truth says so."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_kit import evaluation, rewards, sampling, stages, world
from rlhf_kit.errors import KitError
from rlhf_kit.evaluation.planted import AnnotatorJudge
from rlhf_kit.evaluation.skills import compare_skills
from rlhf_kit.recipe import judged, skill_tests

SMALL = {
    "model.init": None, "model.tokenizer": None, "model.max_length": 400, "data.sft_rows": 48, "data.preference_pairs": 48,
    "data.heldout_pairs": 16, "data.iterations": 1, "data.prompts_per_iteration": 8, "data.choose_prompts": 8, "data.eval_prompts": 8,
    "sampling.n": 3, "sampling.max_new_tokens": 8, "dpo.batch_size": 4, "evaluation.bootstrap": 50,
}  # fmt: skip
JUDGES = {"gold": "gold", "teacher": "bt", "pairwise": "pairwise", "longer wins": "longer", "planted": {"temperature": 1.0, "verbosity": 5.0}}


@pytest.fixture(scope="module")
def course(tiny_folder, tmp_path_factory):
    overrides = {**SMALL, "model.path": str(tiny_folder)}
    return stages.start("smoke", run="judged", root=tmp_path_factory.mktemp("runs"), overrides=overrides, quiet=True)


@pytest.fixture(scope="module")
def answers(course):
    return stages.evaluation(course, {"sft": stages.sft(course), "online": stages.online(course)[-1].policy})


@pytest.fixture(scope="module")
def told(course, answers):
    return stages.verdicts(course, answers, [("online", "sft")], JUDGES)


def of(rows, judge, temperature=1.0):
    return [row for row in rows if row["judge"] == judge and row.get("temperature", temperature) == temperature]


# ---------------------------------------------------------------- judges


def test_every_judge_has_a_row_for_every_battle(told, answers, course):
    rows = told.rows().to_list()
    assert {(row["judge"], row["temperature"]) for row in rows} == {(name, t) for name in JUDGES for t in (1.0, 0.0)}
    assert len(rows) == len(JUDGES) * len([row for row in answers.rows() if row["policy"] == "sft"])
    for row in of(rows, "gold"):
        assert row["preference"] == (np.sign(row["gold_a"] - row["gold_b"]) + 1) / 2
    for row in of(rows, "longer wins", 0.0):
        assert row["preference"] == (np.sign(row["length_a"] - row["length_b"]) + 1) / 2
    assert all(row["shown_first"] is None for row in rows if row["judge"] in ("gold", "longer wins", "teacher"))
    text = {(r["policy"], r["temperature"], r["prompt_id"], r["sample"]): r["text"] for r in answers.rows()}
    for row in of(rows, "pairwise"):
        key = (1.0, row["prompt_id"], row["sample"])
        if text["online", *key] == text["sft", *key] and row["preference"] is not None:
            assert row["preference"] == row["shown_first"] == 0.5
        assert row["length_a"] == row["style_a"]["length"] == len(text["online", *key])
    assert stages.verdicts(course, answers, [("online", "sft")], JUDGES).path == told.path


def test_rows_become_verdicts_of_one_judge(told):
    rows = told.rows().to_list()
    gold = stages.verdicts_of(of(rows, "gold"))
    assert gold.judge == "gold" and gold.shown_first is None and gold.ledger.rows_out == len(gold.preference)
    assert gold.win_rate()["n"] == len(of(rows, "gold"))
    assert stages.verdicts_of(of(rows, "planted")).shown_second is not None
    soft = [{**row, "preference": p} for row, p in zip(of(rows, "gold"), (0.7, 0.2, 0.5, None), strict=False)]
    assert stages.verdicts_of(soft, hard=True).preference[:3].tolist() == [1, 0, 0.5]
    assert np.isnan(stages.verdicts_of(soft, hard=True).preference[3])
    lost = [{**row, "preference": None} for row in of(rows, "gold")[:2]] + of(rows, "gold")[2:]
    assert stages.verdicts_of(lost).ledger.dropped == {"without a verdict": 2}
    with pytest.raises(KitError, match="these rows are of 5: gold, "):
        stages.verdicts_of(rows)
    with pytest.raises(KitError, match="of 0: none"):
        stages.verdicts_of([])


def test_judges_on_the_held_out_labels(course):
    rows = stages.label_verdicts(course, {"gold": "gold", "planted": JUDGES["planted"]}).rows().to_list()
    assert len(rows) == 2 * 16
    found = evaluation.agreement([r["preference"] for r in of(rows, "gold")],
                                 [(np.sign(r["gold_a"] - r["gold_b"]) + 1) / 2 for r in of(rows, "gold")])
    assert found["accuracy"] == 1
    assert {(r["shown_first"], r["shown_second"]) for r in of(rows, "planted")} <= {(a, b) for a in (0, 0.5, 1) for b in (0, 0.5, 1)}


def test_pairs_too_long_for_the_pairwise_model_have_no_verdict(course, monkeypatch):
    class Model:
        name, last_report = "pairwise", {"flip_rate": 0.0}

        def both_orders(self, prompts, a, b):
            return np.full(len(a), 0.9), np.full(len(a), 0.7)

    monkeypatch.setattr(judged, "pair_fits", lambda course, judge, prompt, a, b: len(a) < 5)
    judge = judged._ReadablePairs(course, Model())
    found = judge.compare(["p"] * 3, ["short", "a", "same"], ["b", "b", "same"])
    assert np.isnan(found.preference[0]) and found.preference[1:] == pytest.approx([0.8, 0.5])
    assert found.ledger.dropped == {"too long for the judge": 1}
    nothing = judge.compare(["p"], ["too long"], ["b"])
    assert np.isnan(nothing.preference).all() and nothing.ledger.rows_out == 0


def test_an_answer_that_meets_many_is_scored_once():
    class Counting:
        name, asked = "counting", 0

        def score(self, prompts, responses):
            self.asked += len(responses)
            return np.array([len(text) for text in responses], dtype=np.float32)

    inner = Counting()
    scorer = judged._Remembering(inner)
    assert scorer.score(["p", "p", "q"], ["aa", "aa", "aa"]).tolist() == [2, 2, 2] and inner.asked == 2
    assert scorer.score(["q", "p"], ["aa", "b"]).tolist() == [2, 1] and inner.asked == 3 and scorer.name == "counting"
    assert len(scorer.score([], [])) == 0


def test_your_own_data_has_no_planted_judge_bench_or_skill_test(course, monkeypatch):
    own = course.profile.model_copy(update={"data": course.profile.data.model_copy(update={"kind": "file"})})
    elsewhere = type(course)(own, course.machine, course.run, 0, 0)
    for ask in (lambda: stages.judge_of(elsewhere, {"position": 1.0}), lambda: stages.reward_bench(elsewhere, "random"),
                lambda: stages.skill_tests(elsewhere, None)):
        with pytest.raises(KitError, match="pocket"):
            ask()
    assert stages.judge_of(elsewhere, "shorter").name == "shorter"


# ---------------------------------------------------------------- planted faults


@pytest.fixture(scope="module")
def battles():
    rows = [row for row in world.prompts("eval", 240) for _ in (0, 1)]
    rng = __import__("random").Random(0)
    a, b = ([world.writing.demonstrate(row["prompt"], rng, 0.5) for row in rows] for _ in (0, 1))
    prompts = [row["prompt"] for row in rows]
    quality = world.gold_utility(prompts, a) - world.gold_utility(prompts, b)
    return prompts, a, b, quality, [row["prompt_id"] for row in rows]


def test_planted_faults_of_the_annotator_are_found_and_no_others(battles):
    prompts, a, b, quality, ids = battles
    lengths = [[len(text) for text in side] for side in (a, b)]

    def alarms(**dials):
        said = AnnotatorJudge(world.Annotator(temperature=1.0, **dials), seed=1).compare(prompts, a, b)
        length = evaluation.length_bias(said.preference, *lengths, quality, ids)
        return evaluation.position_bias(said, ids)["biased"], length["biased"] and length["slope"] > 0

    assert alarms(position=1.5) == (True, False)
    assert alarms(verbosity=4.0) == (False, True)
    assert alarms(carelessness=0.5) == (False, False)
    assert alarms() == (False, False)


def test_a_planted_judge_is_the_same_each_time_and_soft_if_wanted(battles):
    prompts, a, b, quality, _ = (side[:40] for side in battles)
    hard = AnnotatorJudge(world.Annotator(temperature=2.0), seed=3)
    once, again = (hard.compare(prompts, a, b) for _ in range(2))
    assert (once.preference == again.preference).all() and once.ledger.rows_out == 40
    backwards = hard.compare(prompts, b, a)  # the same drawings, seen from the other side
    assert backwards.preference == pytest.approx(1 - once.preference)
    soft = AnnotatorJudge(world.Annotator(temperature=2.0), soft=True).compare(prompts, a, b).preference
    assert soft == pytest.approx(1 / (1 + np.exp(-quality / 2)), abs=1e-6)
    never = AnnotatorJudge(world.Annotator(temperature=0.0)).compare(prompts, a, b).preference
    assert never == pytest.approx((np.sign(quality) + 1) / 2)


# ---------------------------------------------------------------- the bench


def test_the_bench_stage_has_four_sections_and_a_ceiling(course):
    gold = stages.reward_bench(course, "gold")
    assert [row["section"] for row in gold.rows()] == ["Chat", "Chat Hard", "Safety", "Reasoning"]
    assert all(row["score"] == 100 and row["low"] < 100 for row in gold.rows()) and gold.json("result.json")["Average"] == 100
    assert sum(row["n"] for row in gold.rows()) == 80 and gold.manifest["facts"]["unjudged"] == 0
    rule = stages.reward_bench(course, "longer", n=96).json("result.json")
    items = evaluation.benches.pocket_bench(96, course.seed)
    assert rule == evaluation.benches.run_bench("pocket", items, evaluation.RuleJudge(evaluation.longer)) | {
        "intervals": {k: list(v) for k, v in rule["intervals"].items()}}  # JSON has lists
    assert 0 < stages.reward_bench(course, "bt").json("result.json")["Average"] < 100


# ---------------------------------------------------------------- skills


def test_skill_tests_take_what_lm_eval_would_take(course, monkeypatch):
    sft = stages.sft(course)
    before = stages.skill_results(stages.skill_tests(course, sft, n=4))
    assert set(before) == {"pocket_add", "pocket_choice", "pocket_count", "pocket_refuse", "pocket_sort"}
    assert all(one["n"] == 4 and set(one["samples"]) == {0, 1, 2, 3} for one in before.values())

    def oracle(policy, asked, **options):
        assert options["temperature"] == 0.0 and options["max_new_tokens"] == 64
        return [{"text": world.best_answer(row["prompt"])} for row in asked]

    def likely(policy, prompts, tokens, machine):
        """The right text of each four, told by its gold."""
        tokenizer = policy[1]
        return [world.gold_utility([p], [tokenizer.decode(ids)])[0] for p, ids in zip(prompts, tokens, strict=True)]

    monkeypatch.setattr(sampling, "sample", oracle)
    monkeypatch.setattr(sampling, "response_logprobs", likely)
    after = stages.skill_results(stages.skill_tests(course, sft, n=5))
    assert {one["value"] for one in after.values()} == {1.0}  # the ceiling is attained
    lines = compare_skills(after, after)
    assert [line["difference"] for line in lines] == [0] * 5
    with pytest.raises(KitError, match="did not answer the same questions"):
        compare_skills(before, after)


@pytest.mark.parametrize(("text", "found"), [
    ("2 plus 3 is 5. The answer is 5.", "5"), ("The answer is 1 2 3. The answer is 9.", "1 2 3"), ("no number", "[invalid]")])
def test_answers_are_read_with_the_task_files_pattern(text, found):
    assert skill_tests._read(r"The answer is ([0-9]+(?: [0-9]+)*)", text) == found


def test_random_is_a_judge_too(course):
    found = stages.judge_of(course, "random").compare([[{"role": "user", "content": "x"}]], ["a"], ["b"])
    assert found.preference[0] in (0, 1) and found.judge == rewards.Random().name
