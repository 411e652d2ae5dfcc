"""Scorers: the token that is read, batches, both orders, controls."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlhf_kit import chat, models, rewards, world
from rlhf_kit.errors import KitError


def ask(text):
    return [{"role": "user", "content": text}]


PROMPTS = [ask("tell of the moon " + "bear " * (i % 4)) for i in range(9)]
TEXTS = ["the bear sat. " * (1 + (5 * i) % 7) for i in range(9)]


@pytest.fixture(scope="module")
def reward_folder(tiny_folder, machine, tmp_path_factory):
    """A reward model with random weights in a head that is not near zero."""
    from transformers import LlamaForSequenceClassification

    model, tokenizer = models.load_policy(tiny_folder, machine)
    torch.manual_seed(0)
    config = type(model.config)(**{**model.config.to_dict(), "num_labels": 1})
    scorer = LlamaForSequenceClassification(config)
    scorer.model.load_state_dict(model.model.state_dict())
    torch.nn.init.normal_(scorer.score.weight)
    scorer.config.pad_token_id = tokenizer.pad_token_id
    return models.save_model(scorer, tokenizer, tmp_path_factory.mktemp("reward") / "model")


@pytest.fixture(scope="module")
def bradley_terry(reward_folder, machine):
    return rewards.BradleyTerry(reward_folder, machine)


@pytest.fixture(scope="module")
def pairwise(tiny_folder, machine):
    return rewards.Pairwise(tiny_folder, machine)


def test_the_score_is_the_head_at_the_end_of_turn_token(bradley_terry):
    found = bradley_terry.score(PROMPTS, TEXTS)
    assert found.dtype == np.float32 and found.shape == (9,) and found.std() > 1e-3
    model, tokenizer = bradley_terry.model, bradley_terry.tokenizer
    for prompt, text, reward in zip(PROMPTS, TEXTS, found, strict=True):
        ids = chat.encode_conversation(tokenizer, [*prompt, {"role": "assistant", "content": text}])
        assert ids[-1] == tokenizer.eos_token_id
        with torch.no_grad():
            hidden = model.model(torch.tensor([ids])).last_hidden_state[0, -1]
            assert float(model.score(hidden)) == pytest.approx(float(reward), abs=1e-5)
            assert float(model(torch.tensor([ids])).logits) == pytest.approx(float(reward), abs=1e-5)


def test_a_score_does_not_depend_on_its_batch(bradley_terry):
    together = bradley_terry.score(PROMPTS, TEXTS)
    alone = [float(bradley_terry.score([p], [t])[0]) for p, t in zip(PROMPTS, TEXTS, strict=True)]
    assert np.allclose(together, alone, atol=1e-5)
    order = np.random.default_rng(0).permutation(9)
    shuffled = bradley_terry.score([PROMPTS[i] for i in order], [TEXTS[i] for i in order])
    assert np.allclose(shuffled, together[order], atol=1e-5)


def test_prompt_rows_and_messages_are_the_same_to_a_scorer(bradley_terry):
    rows = [{"prompt_id": i, "prompt": prompt} for i, prompt in enumerate(PROMPTS)]
    assert np.array_equal(bradley_terry.score(rows, TEXTS), bradley_terry.score(PROMPTS, TEXTS))


def test_padding_that_is_the_end_token_is_refused(reward_folder, machine):
    model, tokenizer = models.load_reward_model(reward_folder, machine)
    tokenizer.pad_token = tokenizer.eos_token
    with pytest.raises(KitError, match="padding token of its own"):
        rewards.BradleyTerry((model, tokenizer), machine)


def test_bad_input_of_the_reward_model(bradley_terry):
    with pytest.raises(KitError, match="9 prompts but 8 responses"):
        bradley_terry.score(PROMPTS, TEXTS[:8])
    with pytest.raises(KitError, match="response 1 have .* tokens"):
        bradley_terry.score(PROMPTS[:2], ["fine", "bear " * 5000])


def test_pairwise_reads_the_letters_at_the_next_token(pairwise):
    first, second = pairwise.both_orders(PROMPTS[:3], TEXTS[:3], TEXTS[3:6])
    for k in range(3):
        for a, b, found in ((TEXTS[k], TEXTS[3 + k], first[k]), (TEXTS[3 + k], TEXTS[k], 1 - second[k])):
            ids = chat.encode_prompt(pairwise.tokenizer, chat.pair_messages(PROMPTS[k], a, b))
            with torch.no_grad():
                probability = pairwise.model(torch.tensor([ids])).logits[0, -1].softmax(-1)
            letter_a, letter_b = (float(probability[i]) for i in chat.letter_ids(pairwise.tokenizer))
            assert found == pytest.approx(letter_a / (letter_a + letter_b), abs=1e-5)


def test_pairwise_averages_both_orders_so_that_places_do_not_matter(pairwise):
    a_over_b = pairwise.preference(PROMPTS, TEXTS, TEXTS[::-1])
    b_over_a = pairwise.preference(PROMPTS, TEXTS[::-1], TEXTS)
    assert np.allclose(a_over_b + b_over_a, 1, atol=1e-6)
    assert pairwise.preference(PROMPTS, TEXTS, TEXTS) == pytest.approx(np.full(9, 0.5), abs=1e-6)
    report = pairwise.last_report
    # a text against itself: there is nothing but the place to decide by
    assert report["flip_rate"] == 1.0
    assert 0 < report["letter_mass"] < 1 and 0 < report["first_place"] < 1
    rows = zip(PROMPTS, TEXTS, TEXTS[::-1], strict=True)
    alone = [pairwise.preference([p], [a], [b])[0] for p, a, b in rows]
    assert np.allclose(a_over_b, alone, atol=1e-6)


def test_flip_rate_counts_verdicts_that_follow_the_place():
    # Four judges: always the first place, the answers alone (a), the answers alone (b), undecided.
    assert rewards.flip_rate(np.array([0.9, 0.8, 0.3, 0.5]), np.array([0.9, 0.2, 0.7, 0.4])) == 0.25


class Longest(rewards.Pairwise):
    """A judge that prefers the longer text, to test the bookkeeping around it."""

    def __init__(self):
        self.asked = 0

    def preference(self, prompts, a, b):
        self.asked += len(a)
        return np.array([0.5 + 0.4 * np.sign(len(x) - len(y)) for x, y in zip(a, b, strict=True)])


def test_tournament_finds_the_winner_at_linear_cost():
    judge = Longest()
    assert judge.tournament(ask("q"), ["aa", "a", "aaaa", "aaa"]) == 2 and judge.asked == 3
    assert judge.tournament(ask("q"), ["only"]) == 0


def test_pairwise_score_is_the_mean_win_among_a_prompts_responses():
    judge = Longest()
    found = judge.score([ask("x"), ask("y"), ask("x"), ask("x")], ["a", "bb", "aaa", "aa"])
    assert found == pytest.approx([0.1, 0.5, 0.9, 0.5])
    assert judge.asked == 3


def test_gold_random_and_ensemble():
    prompts = world.prompts("eval", 6)
    messages = [row["prompt"] for row in prompts]
    texts = [world.best_answer(prompt) for prompt in messages]
    gold = rewards.Gold().score(messages, texts)
    assert gold.dtype == np.float32 and np.allclose(gold, world.gold_utility(messages, texts))
    chance = rewards.Random(3)
    draws = chance.score(messages, texts)
    assert np.array_equal(draws, chance.score(messages, texts)) and len(set(draws)) == 6
    assert np.array_equal(draws[::-1], chance.score(messages[::-1], texts[::-1]))
    assert not np.array_equal(draws, rewards.Random(4).score(messages, texts))
    both = rewards.Ensemble([rewards.Gold(), chance])
    assert np.allclose(both.score(messages, texts), (gold + draws) / 2)
    assert np.allclose(rewards.Ensemble([rewards.Gold(), chance], combine="min").score(messages, texts),
                       np.minimum(gold, draws))
    scaled = rewards.Ensemble([chance, chance], standardise=True).score(messages, texts)
    assert scaled.mean() == pytest.approx(0, abs=1e-6) and scaled.std() == pytest.approx(1, abs=1e-5)
    with pytest.raises(KitError, match="at least one"):
        rewards.Ensemble([])
    with pytest.raises(KitError, match="combine"):
        rewards.Ensemble([chance], combine="median")


def test_random_rewards_are_uniform():
    draws = rewards.Random(0).score([ask("q")] * 2000, [str(i) for i in range(2000)])
    assert draws.min() >= 0 and draws.max() < 1
    assert draws.mean() == pytest.approx(0.5, abs=0.03) and draws.std() == pytest.approx(12**-0.5, abs=0.02)
