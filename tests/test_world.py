"""The pocket world: the gold utility on any string, the writers, the annotators, and disjoint splits."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_kit import world
from rlhf_kit.errors import KitError
from rlhf_kit.world import frozen
from rlhf_kit.world.corpus import document
from rlhf_kit.world.gold import _tags
from rlhf_kit.world.prompts import KINDS, draw, render

PROMPTS = world.prompts("eval", 200)


@given(st.text(), st.sampled_from(PROMPTS))
@settings(max_examples=300, deadline=None)
def test_gold_never_raises_and_stays_in_range(text, row):
    result = world.gold(row["prompt"], text)
    assert 0.0 <= result.utility <= 10.0
    assert set(result.parts) == set(world.PARTS)
    assert all(0.0 <= v <= 1.0 for v in result.parts.values())


@given(st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text()}), max_size=3), st.text())
@settings(max_examples=200, deadline=None)
def test_gold_takes_any_prompt(prompt, text):
    assert 0.0 <= world.gold(prompt, text).utility <= 10.0


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz .", min_size=1, max_size=200), st.sampled_from(PROMPTS))
@settings(max_examples=200, deadline=None)
def test_gibberish_scores_low(text, row):
    assert world.gold(row["prompt"], text).utility < 1.0


@pytest.mark.parametrize("kind", list(KINDS))
def test_oracle_reaches_the_ceiling_of_every_part(kind):
    rng = random.Random(kind)
    for _ in range(200):
        prompt = render(draw(kind, rng))
        result = world.gold(prompt, world.best_answer(prompt))
        assert result.utility == pytest.approx(10.0), (prompt, world.best_answer(prompt), result.parts)


def test_prompts_parse_back_to_their_task():
    rng = random.Random(0)
    for kind in KINDS:
        for _ in range(100):
            task = draw(kind, rng)
            parsed = world.parse(render(task))
            assert parsed.kind == kind
            assert dict(parsed.slots) == dict(task.slots)


def test_gold_is_linear_in_hostile_text():
    prompt = PROMPTS[0]["prompt"]
    world.gold(prompt, "warm up")
    for hostile in ("a" * 300_000, "." * 300_000, "the answer is " * 20_000, "1" * 300_000, "Sorry, " * 40_000):
        started = time.process_time()  # what else the machine does does not count
        world.gold(prompt, hostile)
        world.gold([{"role": "user", "content": hostile}], "x")
        assert time.process_time() - started < 1.0, hostile[:20]  # seconds where a quadratic reader needs minutes


@pytest.mark.parametrize(
    ("better", "worse", "part"),
    [
        ("2 plus 3 is 5. 5 plus 4 is 9. The answer is 9.", "The answer is 9.", "completeness"),
        ("The answer is 9.", "The answer is 8.", "correctness"),
        ("The answer is 9.", "Let me think about it. The answer is 9.", "repetition"),
        ("The answer is 9. Have a nice day.", "The answer is 9.", "politeness"),
        ("The answer is 9.", "What a silly question. The answer is 9.", "politeness"),
        ("The answer is 9.", "The answer is 9. The answer is 9.", "repetition"),
        ("The answer is 9.", "answer The 9 is.", "coherence"),
        ("The answer is 9.", "The answer is 9. " + "The day was warm. It was a long day. " * 8, "length"),
    ],
)
def test_each_fault_costs_its_own_part(better, worse, part):
    prompt = [{"role": "user", "content": "Tom has 2 lamps and gets 3 more and then 4 more. How many is that?"}]
    good, bad = world.gold(prompt, better), world.gold(prompt, worse)
    assert good.parts[part] > bad.parts[part]
    assert good.utility > bad.utility


def test_refusal_parts():
    harmful = [{"role": "user", "content": "How do I steal the lamp of Tom in the park?"}]
    harmless = [{"role": "user", "content": "How do I steal the show with a brave cat in the park?"}]
    assert world.gold(harmful, "Sorry, I will not help you steal the lamp.").utility > 2 * world.gold(harmful, "You can steal the lamp at night.").utility
    assert world.gold(harmless, "Sorry, I will not help you steal the show.").utility <= 2.0
    two_faced = "Sorry, I will not help you steal the lamp. Go to the park and steal the lamp."
    assert world.gold(harmful, two_faced).utility <= 2.0


def test_constraints():
    exactly = [{"role": "user", "content": "Write exactly two sentences about a brave cat in the park."}]
    assert world.gold(exactly, "A brave cat lives in the park. The day was warm.").parts["constraints"] == 1.0
    assert world.gold(exactly, "A brave cat lives in the park.").parts["constraints"] < 1.0
    mention = [{"role": "user", "content": "Write about the park. Mention a lamp but do not mention a cat."}]
    assert world.gold(mention, "The park has a lamp.").parts["constraints"] == 1.0
    assert world.gold(mention, "The park has a lamp. A cat sits by the lamp.").parts["constraints"] < 0.5
    start = [{"role": "user", "content": "Write about a brave cat in the park. Start with the word Today."}]
    assert world.gold(start, "Today a brave cat walked in the park.").parts["constraints"] == 1.0
    assert world.gold(start, "A brave cat lives in the park.").parts["constraints"] < 1.0


def test_skill_raises_utility():
    rng = random.Random(1)
    means = [np.mean([world.gold(p["prompt"], world.demonstrate(p["prompt"], rng, s)).utility for p in PROMPTS]) for s in (0.0, 0.5, 1.0)]
    assert means[0] + 1 < means[1] < means[2] - 1


def test_writers_are_coherent():
    rng = random.Random(2)
    for p in PROMPTS:
        assert world.gold(p["prompt"], world.demonstrate(p["prompt"], rng, rng.random())).parts["coherence"] == 1.0


def test_splits_are_disjoint_and_prefix_stable():
    names = ("sft", "preference", "heldout", "choose", "eval", "iteration-1", "iteration-2", "iteration-3")
    ids = {name: [r["prompt_id"] for r in world.prompts(name, 300)] for name in names}
    flat = [i for values in ids.values() for i in values]
    assert len(flat) == len(set(flat))
    assert [r["prompt_id"] for r in world.prompts("eval", 50)] == ids["eval"][:50]
    for name in names:
        assert all(world.split_of(r["prompt"]) == name for r in world.prompts(name, 40))


def test_more_than_a_hundred_thousand_prompts():
    rng = random.Random(3)
    drawn = {world.prompt_id(render(draw(rng.choice(tuple(KINDS)), rng))) for _ in range(20_000)}
    story = 12 * 16 * 12 * 14 * 10
    assert story > 100_000 and len(drawn) > 15_000


def test_corpus_holds_no_prompt_of_another_split():
    asked = [document(i).split("Question: ")[1].split(" Answer:")[0] for i in range(3000) if document(i).startswith("Question:")]
    assert len(asked) > 1000
    single = [q for q in asked if not q.startswith("My friend")]
    assert {world.split_of([{"role": "user", "content": q}]) for q in single} <= {"sft", "unused"}


def test_errors_name_the_known_values():
    with pytest.raises(KitError, match="known splits: sft"):
        world.prompts("train", 3)
    with pytest.raises(KitError, match="known sets"):
        world.load("nothing")


class TestAnnotator:
    prompt = [{"role": "user", "content": "Tom has 2 lamps and gets 3 more and then 4 more. How many is that?"}]
    good, bad = "The answer is 9.", "The answer is 8."

    def test_is_bradley_terry(self):
        gap = world.gold(self.prompt, self.good).utility - world.gold(self.prompt, self.bad).utility
        p = world.Annotator(temperature=2.0).probability(self.prompt, self.good, self.bad)
        assert p == pytest.approx(1 / (1 + np.exp(-gap / 2.0)))

    def test_dials(self):
        longer = self.bad + " The day was warm."
        sure = world.Annotator(temperature=0.0)
        assert sure.probability(self.prompt, self.good, self.bad) == 1.0
        assert world.Annotator(carelessness=1.0).probability(self.prompt, self.good, self.bad) == 0.5
        assert world.Annotator(verbosity=100.0).probability(self.prompt, longer, self.good) > 0.9
        first = world.Annotator(position=5.0)
        assert first.probability(self.prompt, self.bad, self.bad) > 0.9

    def test_the_choices_follow_the_probability(self):
        rng = random.Random(0)
        judge = world.Annotator(temperature=4.0)
        p = judge.probability(self.prompt, self.good, self.bad)
        share = np.mean([judge.choose(self.prompt, self.good, self.bad, rng) == 0 for _ in range(4000)])
        assert share == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / 4000))


class TestFrozen:
    @pytest.mark.parametrize("name", list(frozen.SIZES))
    def test_remaking_a_part_gives_the_shipped_rows(self, name):
        shipped = world.load(name)
        assert len(shipped) == frozen.SIZES[name]
        assert shipped.select(range(200)).to_list() == frozen.rows(name, 200)

    def test_pairs_share_their_prompt_and_differ(self):
        for row in world.load("preferences").select(range(2000)):
            assert row["chosen"][:-1] == row["rejected"][:-1] == row["prompt"]
            assert row["chosen"][-1]["role"] == row["rejected"][-1]["role"] == "assistant"
            assert row["chosen"][-1]["content"] != row["rejected"][-1]["content"]

    def test_label_noise_is_what_the_annotator_says(self):
        data = world.load("preferences").select(range(3000))
        right, probability = [], []
        for row in data:
            chosen, rejected = row["chosen"][-1]["content"], row["rejected"][-1]["content"]
            gap = world.gold(row["prompt"], chosen).utility - world.gold(row["prompt"], rejected).utility
            p = frozen.ANNOTATOR.probability(row["prompt"], chosen, rejected)
            if gap != 0:
                right.append(gap > 0)
                probability.append(max(p, 1 - p))
        assert np.mean(right) == pytest.approx(np.mean(probability), abs=0.02)

    def test_prompts_of_the_sets_do_not_leak(self):
        assert not {r for r in world.load("preferences")["prompt_id"]} & {r for r in world.load("preferences-heldout")["prompt_id"]}
        later = {r["prompt_id"] for split in ("choose", "eval", "iteration-1") for r in world.prompts(split, 400)}
        assert not later & set(world.load("preferences")["prompt_id"]) and not later & set(world.load("sft")["prompt_id"])


def test_tags_know_the_classes():
    assert _tags("A brave bear has 12 lamps.") == ["<s>", "a", "ADJ", "ANIMAL", "has", "NUMBER", "lamps", ".", "</s>"]
