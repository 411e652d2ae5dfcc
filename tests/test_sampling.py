"""Sampling against transformers and against brute force: tokens, log-probabilities, KL, seeds, restarts."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from rlhf_kit import chat, models, sampling
from rlhf_kit.engines import decoding
from rlhf_kit.errors import KitError


def ask(text):
    return [{"role": "user", "content": text}]


PROMPTS = [{"prompt_id": f"p{i}", "prompt": ask("tell of the moon " + "bear " * i)} for i in range(5)]
SETTINGS = {"n": 3, "temperature": 1.0, "max_new_tokens": 12, "seed": 7, "iteration": 2, "name": "tiny"}


@pytest.fixture(scope="module")
def policy(tiny_folder, machine):
    """The tiny model, made to end its answers now and then."""
    model, tokenizer = models.load_policy(tiny_folder, machine)
    head = torch.nn.Linear(model.config.hidden_size, model.config.vocab_size, bias=True)
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight * 8)  # far from uniform
        head.bias.zero_()
        head.bias[tokenizer.eos_token_id] = 3.0
    model.lm_head = head
    return model, tokenizer


@pytest.fixture(scope="module")
def rows(policy, machine):
    return sampling.sample(policy, PROMPTS, machine=machine, **SETTINGS)


def test_every_prompt_gets_its_samples_in_the_order_given(rows):
    wanted = [(p["prompt_id"], s) for p in PROMPTS for s in range(3)]
    assert [(r["prompt_id"], r["sample"]) for r in rows] == wanted
    assert set(rows[0]) == {"prompt_id", "iteration", "sample", "text", "token_ids", "finish_reason",
                            "logprob", "seed", "temperature", "policy"}
    assert {(r["iteration"], r["temperature"], r["policy"]) for r in rows} == {(2, 1.0, "tiny")}
    assert len({r["seed"] for r in rows}) == len(rows)


def test_the_end_token_belongs_to_a_stopped_response_and_only_to_it(rows, policy):
    eos = policy[1].eos_token_id
    assert {r["finish_reason"] for r in rows} == {"stop", "length"}  # both cases are covered
    for row in rows:
        ids = row["token_ids"]
        if row["finish_reason"] == "stop":
            assert ids[-1] == eos and ids.count(eos) == 1
        else:
            assert eos not in ids and len(ids) == 12
        assert row["text"] == chat.decode_response(policy[1], ids)


def test_logprob_is_that_of_a_plain_forward_pass(rows, policy):
    model, tokenizer = policy
    prompt_of = {p["prompt_id"]: p["prompt"] for p in PROMPTS}
    for row in rows[::4]:
        prompt = chat.encode_prompt(tokenizer, prompt_of[row["prompt_id"]])
        with torch.no_grad():
            logp = model(torch.tensor([prompt + row["token_ids"]])).logits[0].log_softmax(-1)
        steps = range(len(prompt) - 1, len(prompt) + len(row["token_ids"]) - 1)
        expected = sum(float(logp[t, i]) for t, i in zip(steps, row["token_ids"], strict=True))
        assert row["logprob"] == pytest.approx(expected, abs=1e-4)


def test_response_logprobs_agree_with_sampling_whatever_the_batch(rows, policy, machine):
    prompt_of = {p["prompt_id"]: p["prompt"] for p in PROMPTS}
    prompts, ids = [prompt_of[r["prompt_id"]] for r in rows], [r["token_ids"] for r in rows]
    sums = sampling.response_logprobs(policy, prompts, ids, machine)
    assert np.allclose(sums, [r["logprob"] for r in rows], atol=1e-4)
    alone = sampling.response_logprobs(policy, prompts, ids, machine, batch_size=1)
    assert np.allclose(sums, alone, atol=1e-4)


def test_greedy_equals_generate_of_transformers(policy, machine):
    model, tokenizer = policy
    rows = sampling.sample(policy, PROMPTS, machine=machine, **{**SETTINGS, "n": 1, "temperature": 0.0})
    for row, prompt in zip(rows, PROMPTS, strict=True):
        ids = chat.encode_prompt(tokenizer, prompt["prompt"])
        out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                             do_sample=False, max_new_tokens=12, eos_token_id=tokenizer.eos_token_id,
                             pad_token_id=tokenizer.pad_token_id)
        assert row["token_ids"] == out[0, len(ids):].tolist()


def test_the_models_own_generation_settings_are_ignored(policy, rows, machine):
    model, _ = policy
    before = model.generation_config
    model.generation_config = mine = type(before)(
        do_sample=True, temperature=0.01, top_k=1, max_new_tokens=2, min_new_tokens=11,
        repetition_penalty=3.0, no_repeat_ngram_size=1, suppress_tokens=[20, 21],
        forced_eos_token_id=3, eos_token_id=[20, 21, 22])
    try:
        assert sampling.sample(policy, PROMPTS, machine=machine, **SETTINGS) == rows
        assert model.generation_config is mine  # and they are still there afterwards
    finally:
        model.generation_config = before


def test_same_seed_same_rows_and_neither_batch_nor_company_matters(policy, rows, machine):
    assert sampling.sample(policy, PROMPTS, machine=machine, **SETTINGS) == rows
    tokens = [r["token_ids"] for r in rows]
    alone = sampling.sample(policy, PROMPTS, machine=machine, batch_size=2, **SETTINGS)
    assert [r["token_ids"] for r in alone] == tokens
    backwards = sampling.sample(policy, PROMPTS[3::-2], machine=machine, **SETTINGS)
    assert [r["token_ids"] for r in backwards] == tokens[9:12] + tokens[3:6]
    for change in ({"seed": 8}, {"iteration": 3}):
        other = sampling.sample(policy, PROMPTS, machine=machine, **{**SETTINGS, **change})
        assert [r["token_ids"] for r in other] != tokens
    assert len({tuple(t) for t in tokens}) > 10  # the samples of a prompt do differ


def test_sampling_leaves_the_global_random_state_alone(policy, machine):
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    sampling.sample(policy, PROMPTS[:1], machine=machine, **SETTINGS)
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])


def test_a_killed_call_continues_and_gives_the_same_rows(policy, rows, machine, tmp_path, monkeypatch):
    draws = []
    real = decoding.draw

    def dies_at_the_third(*args):
        draws.append(1)
        if len(draws) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(sampling, "BATCHES_PER_SHARD", 1)
    monkeypatch.setattr(decoding, "draw", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        sampling.sample(policy, PROMPTS, machine=machine, batch_size=4, folder=tmp_path, **SETTINGS)
    assert sorted(p.name for p in tmp_path.glob("rows-*")) == ["rows-000.parquet", "rows-001.parquet"]
    again = sampling.sample(policy, PROMPTS, machine=machine, batch_size=4, folder=tmp_path, **SETTINGS)
    assert len(draws) == 3 + 2  # four batches: two were kept, two were left
    assert again == sampling.sample(policy, PROMPTS, machine=machine, batch_size=4, **SETTINGS)
    # Shards of other settings are never mixed in.
    changed = {**SETTINGS, "seed": 9}
    other = sampling.sample(policy, PROMPTS, machine=machine, batch_size=4, folder=tmp_path, **changed)
    assert other == sampling.sample(policy, PROMPTS, machine=machine, batch_size=4, **changed)


def drawn_tokens(scores, noise, greedy=False):
    """For one row of scores and each number of noise: the token let through and its log-probability."""
    drawing = decoding.Draw(range(len(noise)), 1, greedy, torch.device("cpu"))
    drawing.noise = noise[:, None]
    only = drawing(None, scores.expand(len(noise), -1))
    token = only.argmax(dim=-1)
    assert torch.equal(only.exp(), torch.nn.functional.one_hot(token, scores.shape[-1]).float())
    return token, drawing.logps[0]


def test_draws_follow_the_distribution():
    noise = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    expected = torch.tensor([0.6, 0.25, 0.0, 0.1, 0.05])
    token, logp = drawn_tokens(expected.log()[None] + 3.0, noise)
    assert torch.allclose(torch.bincount(token, minlength=5) / 20_000, expected, atol=1e-4)
    assert torch.allclose(logp, expected.log()[token], atol=1e-6)
    token, logp = drawn_tokens(expected.log()[None], noise, greedy=True)
    assert token.eq(0).all() and torch.allclose(logp, expected.log()[token])


def test_a_number_at_the_edge_never_draws_an_impossible_token(monkeypatch):
    scores = torch.tensor([[-torch.inf, 1.0, -torch.inf, 0.0, -torch.inf]])

    class Edges:
        def __init__(self, value):
            self.value = value

        def random(self, n):
            return np.full(n, self.value)

    monkeypatch.setattr(decoding.np.random, "default_rng", Edges)
    drawing = decoding.Draw([0.0, 1.0], 1, False, torch.device("cpu"))
    assert drawing(None, scores.expand(2, -1)).argmax(dim=-1).tolist() == [1, 3]


@pytest.mark.parametrize(("temperature", "top_p"), [(0.5, 1.0), (2.0, 1.0), (1.0, 0.6), (0.7, 0.5)])
def test_samples_of_a_model_follow_its_exact_probabilities(two_policies, machine, temperature, top_p):
    model, tokenizer = two_policies[0]
    prompt = chat.encode_prompt(tokenizer, ask("hello"))
    with torch.no_grad():
        exact = (model(torch.tensor([prompt])).logits[0, -1] / temperature).softmax(-1)
    order = exact.argsort(descending=True)
    kept = order[exact[order].cumsum(0) - exact[order] < top_p]  # the fewest that reach top_p
    exact = torch.zeros_like(exact).scatter_(0, kept, exact[kept] / exact[kept].sum())
    drawn = sampling.sample(two_policies[0], [{"prompt_id": "x", "prompt": ask("hello")}], n=1500, seed=5,
                            top_p=top_p, temperature=temperature, max_new_tokens=1, machine=machine)
    token = torch.tensor([row["token_ids"][0] for row in drawn])
    error = (exact * (1 - exact) / len(drawn)).sqrt()
    share = torch.bincount(token, minlength=len(exact)) / len(drawn)
    assert ((share - exact).abs() <= 4 * error + 1e-6).all()
    assert np.allclose([row["logprob"] for row in drawn], exact.log()[token], atol=1e-5)
    assert kept.numel() < 4 or top_p == 1


# --- KL ---


@pytest.fixture(scope="module")
def two_policies(tiny_folder, machine):
    """A policy and its reference over a vocabulary in which all but four tokens have no chance."""
    found = []
    for seed in (1, 2):
        model, tokenizer = models.load_policy(tiny_folder, machine)
        torch.manual_seed(seed)
        head = torch.nn.Linear(model.config.hidden_size, model.config.vocab_size)
        with torch.no_grad():
            head.weight[:] = 0.4 * torch.randn_like(head.weight)
            head.bias.fill_(-40.0)
            head.bias[[tokenizer.eos_token_id, 20, 21, 22]] = torch.tensor([0.5, 0.0, 0.3, -0.2])
        model.lm_head = head
        found.append((model, tokenizer))
    return found


def test_kl_equals_brute_force(two_policies, machine):
    policy, reference = two_policies
    eos, longest = policy[1].eos_token_id, 3
    prompt = {"prompt_id": "x", "prompt": ask("hello")}
    complete = [s for n in (1, 2, 3) for s in itertools.product([eos, 20, 21, 22], repeat=n)
                if eos not in s[:-1] and (s[-1] == eos or n == longest)]
    every = [{"prompt_id": i, "prompt": prompt["prompt"], "token_ids": s} for i, s in enumerate(complete)]
    messages = [row["prompt"] for row in every]
    p = np.exp(sampling.response_logprobs(policy, messages, complete, machine))
    q = np.exp(sampling.response_logprobs(reference, messages, complete, machine))
    assert p.sum() == pytest.approx(1, abs=1e-5) and q.sum() == pytest.approx(1, abs=1e-5)
    truth = float((p * np.log(p / q)).sum())
    assert truth > 0.05
    # Over all responses with their probabilities both estimators have the true KL as their mean.
    values = sampling.kl_rows(policy, reference, every, machine)
    assert p @ values["monte_carlo"] == pytest.approx(truth, abs=1e-4)
    assert p @ values["exact"] == pytest.approx(truth, abs=1e-4)
    # From samples: both within their error, the exact one with the smaller error.
    drawn = sampling.sample(policy, [prompt], n=400, temperature=1.0, max_new_tokens=longest, seed=3,
                            machine=machine)
    drawn = [{**row, "prompt_id": f"x{i}"} for i, row in enumerate(drawn)]
    prompts = [{"prompt_id": row["prompt_id"], "prompt": prompt["prompt"]} for row in drawn]
    mean, error = sampling.kl_to_reference(policy, reference, drawn, machine, prompts)
    rough, rough_error = sampling.kl_to_reference(policy, reference, drawn, machine, prompts, "monte_carlo")
    assert abs(mean - truth) < 4 * error and abs(rough - truth) < 4 * rough_error
    assert error < rough_error


def test_kl_of_a_policy_to_itself_is_zero_and_ignores_padding(policy, two_policies, rows, machine):
    assert sampling.kl_to_reference(policy, policy, rows, machine, PROMPTS) == (pytest.approx(0, abs=1e-6),
                                                                               pytest.approx(0, abs=1e-6))
    batched = sampling.kl_rows(policy, two_policies[1], rows, machine, PROMPTS)
    alone = sampling.kl_rows(policy, two_policies[1], rows, machine, PROMPTS, batch_size=1)
    for name in batched:
        assert np.allclose(batched[name], alone[name], rtol=1e-4, atol=1e-3)


def test_the_error_of_a_kl_counts_prompts_and_not_samples(policy, two_policies, rows, machine):
    values = sampling.kl_rows(policy, two_policies[1], rows, machine, PROMPTS)["exact"]
    values = values.reshape(5, 3).mean(axis=1)
    mean, error = sampling.kl_to_reference(policy, two_policies[1], rows, machine, PROMPTS)
    assert mean == pytest.approx(values.mean()) and error == pytest.approx(values.std(ddof=1) / 5**0.5)


# --- bad input ---


@pytest.mark.parametrize(("change", "message"), [
    ({"n": 0}, "n is 0"), ({"temperature": -1.0}, "temperature is -1"),
    ({"temperature": 0.0}, "same response 3"), ({"top_p": 0.0}, "top_p"),
    ({"max_new_tokens": 0}, "max_new_tokens"), ({"batch_size": 0}, "batch_size"),
    ({"max_new_tokens": 100_000}, "'p0' has .* tokens.*does not fit"),
])
def test_impossible_settings_are_one_sentence(policy, machine, change, message):
    with pytest.raises(KitError, match=message):
        sampling.sample(policy, PROMPTS, machine=machine, **{**SETTINGS, **change})


def test_bad_prompts_backends_and_folders(policy, rows, machine, tmp_path):
    with pytest.raises(KitError, match="no prompts"):
        sampling.sample(policy, [], machine=machine, **SETTINGS)
    with pytest.raises(KitError, match="same prompt_id"):
        sampling.sample(policy, [PROMPTS[0], PROMPTS[0]], machine=machine, **SETTINGS)
    with pytest.raises(KitError, match="from its folder"):
        sampling.sample(policy, PROMPTS, machine=replace(machine, backend="vllm"), **SETTINGS)
    with pytest.raises(KitError, match="nowhere"):
        sampling.sample(tmp_path / "nowhere", PROMPTS, machine=machine, **SETTINGS)
    with pytest.raises(KitError, match="'p4'.*not among the prompts"):
        sampling.kl_rows(policy, policy, rows, machine, PROMPTS[:4])
    with pytest.raises(KitError, match="temperature 1"):
        sampling.kl_rows(policy, policy, [{**rows[0], "temperature": 0.7}], machine, PROMPTS)
    with pytest.raises(KitError, match="at least one sampled response"):
        sampling.kl_to_reference(policy, policy, [], machine)


def test_a_real_checkpoint_samples_from_its_folder(stories_folder, machine):
    prompts = [{"prompt_id": 1, "prompt": ask("Once upon a time")}]
    rows = sampling.sample(stories_folder, prompts, n=2, temperature=1.0, max_new_tokens=20, seed=1,
                           machine=machine)
    assert len(rows) == 2 and all(isinstance(r["text"], str) and r["token_ids"] for r in rows)


def test_kept_shards_of_another_policy_are_not_taken(tiny_folder, machine, tmp_path):
    """The same folder and name, other weights: everything is drawn again."""
    import shutil

    import torch

    from rlhf_kit import models

    folder = tmp_path / "policy"
    shutil.copytree(tiny_folder, folder)
    first = sampling.sample(folder, PROMPTS, machine=machine, folder=tmp_path / "shards", **SETTINGS)
    model, tokenizer = models.load_policy(folder, machine)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(-1.5)
    models.save_model(model, tokenizer, folder)
    second = sampling.sample(folder, PROMPTS, machine=machine, folder=tmp_path / "shards", **SETTINGS)
    assert [row["token_ids"] for row in first] != [row["token_ids"] for row in second]
