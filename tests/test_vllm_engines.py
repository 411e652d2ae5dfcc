"""Engine processes with a stand-in for the vllm package: several engines, errors, deaths, GPUs, closing.

What the real vLLM draws is tested in test_vllm.py.
"""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest

from rlhf_kit import profiles, sampling
from rlhf_kit.engines import sampling_vllm
from rlhf_kit.errors import KitError

STAND_IN = '''
import json, os, sys, types
print("chatter on standard output")
__version__ = "0"

class SamplingParams(types.SimpleNamespace):
    pass

class LLM:
    def __init__(self, **settings):
        if os.environ.get("FAILS"):
            raise ValueError("no room for the model\\nsecond line")
        self.llm_engine = types.SimpleNamespace(engine_core=types.SimpleNamespace(shutdown=lambda: None))
        with open(os.environ["SEEN"] + "-" + str(os.getpid()), "w") as out:
            json.dump({"settings": settings, "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}, out)

    def generate(self, prompts, wanted, use_tqdm):
        print("more chatter")
        made = []
        for prompt, params in zip(prompts, wanted):
            if os.environ.get("DIES_AT") == str(params.max_tokens):
                os.kill(os.getpid(), 9)
            ids = [20 + (params.seed + i) % 50 for i in range(params.max_tokens)]
            if params.seed % 2:
                ids[-1] = params.stop_token_ids[0]
            one = types.SimpleNamespace(token_ids=ids, cumulative_logprob=-1.5,
                                        finish_reason="stop" if params.seed % 2 else "length")
            made.append(types.SimpleNamespace(outputs=[one]))
        return made
'''
PROMPTS = [{"prompt_id": f"p{i}", "prompt": [{"role": "user", "content": "moon " * (i + 1)}]} for i in range(4)]
SETTINGS = {"n": 3, "temperature": 1.0, "max_new_tokens": 6, "seed": 3, "batch_size": 2}


@pytest.fixture
def stand_in(tmp_path, monkeypatch, machine):
    (tmp_path / "vllm.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    monkeypatch.setattr(sampling_vllm, "installed", lambda: True)
    monkeypatch.setattr(sampling_vllm, "CPU_HEADS", (8,))
    monkeypatch.setattr(sampling, "BATCHES_PER_SHARD", 1)
    monkeypatch.setattr(sampling_vllm.tempfile, "tempdir", str(tmp_path))
    options = profiles.load_profile("laptop", {"sampling.vllm.engines": 2}).sampling.vllm
    return replace(machine, backend="vllm", vllm=options), tmp_path


def test_two_engines_share_the_shards_and_lose_none(stand_in, tiny_folder, capfd):
    machine, tmp_path = stand_in
    rows = sampling.sample(tiny_folder, PROMPTS, machine=machine, **SETTINGS)
    assert [(r["prompt_id"], r["sample"]) for r in rows] == [(p["prompt_id"], s) for p in PROMPTS for s in range(3)]
    assert all((r["seed"] % 2 == 1) == (r["finish_reason"] == "stop") and r["logprob"] == -1.5 for r in rows)
    assert len(list(tmp_path.glob("seen-*"))) == 2
    assert not list(tmp_path.glob("vllm-*.log")) and capfd.readouterr() == ("", "")
    with sampling.opened(tiny_folder, machine, 64) as engines:
        processes = [psutil.Process(one.process.pid) for one in engines.engines]
        assert sampling.sample(engines, PROMPTS, machine=machine, **SETTINGS) == rows
        with pytest.raises(KitError, match="does not fit into the model's 64 positions"):
            sampling.sample(engines, PROMPTS, machine=machine, **{**SETTINGS, "max_new_tokens": 60})
    assert not any(process.is_running() for process in processes)


def test_an_engine_that_does_not_start_or_dies_is_one_sentence_with_its_log(stand_in, tiny_folder, monkeypatch):
    machine, tmp_path = stand_in
    monkeypatch.setenv("DIES_AT", "6")
    with pytest.raises(KitError, match=r"6 of 6 shards left.*killed by signal 9, as happens when memory.*its log is"):
        sampling.sample(tiny_folder, PROMPTS, machine=machine, **SETTINGS)
    monkeypatch.setenv("FAILS", "1")
    with pytest.raises(KitError, match=r"could not open the model \(ValueError: no room for the model; its log is") as caught:
        sampling.sample(tiny_folder, PROMPTS, machine=machine, **SETTINGS)
    assert "\n" not in str(caught.value)
    log = next(p for p in tmp_path.glob("vllm-*.log") if str(p) in str(caught.value))
    assert "second line" in log.read_text() and "chatter" in log.read_text()


def test_nothing_is_started_when_every_shard_is_kept(stand_in, tiny_folder, monkeypatch):
    machine, tmp_path = stand_in
    rows = sampling.sample(tiny_folder, PROMPTS, machine=machine, folder=tmp_path / "shards", **SETTINGS)
    monkeypatch.setenv("FAILS", "1")
    assert sampling.sample(tiny_folder, PROMPTS, machine=machine, folder=tmp_path / "shards", **SETTINGS) == rows


def test_without_vllm_or_with_a_model_that_it_cannot_take_it_is_refused(stand_in, tiny_folder, monkeypatch):
    machine, _ = stand_in
    with pytest.raises(KitError, match="give the folder, not a loaded model"):
        sampling.sample(("model", "tokenizer"), PROMPTS, machine=machine, **SETTINGS)
    monkeypatch.setattr(sampling_vllm, "CPU_HEADS", (32, 64))
    with pytest.raises(KitError, match="have 8 dimensions, and vLLM's CPU build takes only 32, 64; set sampling.backend"):
        sampling.sample(tiny_folder, PROMPTS, machine=machine, **SETTINGS)
    monkeypatch.setattr(sampling_vllm, "installed", lambda: False)
    with pytest.raises(KitError, match="vLLM is not installed; install it with"):
        sampling.sample(tiny_folder, PROMPTS, machine=machine, **SETTINGS)


@pytest.mark.parametrize(("visible", "parallel", "engines", "expected"), [
    ("0,1,2,3,4,5,6,7", 1, None, list("01234567")), ("4,5,6,7", 2, None, ["4,5", "6,7"]),
    ("0,1,2,3", 1, 2, ["0", "1"]), ("0,1,2", 2, None, ["0,1"]), ("0,1", 2, 2, None), ("3", 2, None, None),
])
def test_each_engine_gets_gpus_of_its_own(monkeypatch, visible, parallel, engines, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    options = SimpleNamespace(tensor_parallel=parallel, engines=engines)
    if expected is None:
        with pytest.raises(KitError, match="GPU"):
            sampling_vllm._groups(options, True)
    else:
        assert sampling_vllm._groups(options, True) == expected
    with pytest.raises(KitError, match="without a GPU it must be 1"):
        sampling_vllm._groups(SimpleNamespace(tensor_parallel=2, engines=None), False)


def test_engines_share_threads_and_phone_nobody(machine, tmp_path):
    env = sampling_vllm._environment(replace(machine, threads=4), str(tmp_path), None, 2)
    assert env["OMP_NUM_THREADS"] == "2" and env["VLLM_CPU_KVCACHE_SPACE"] == os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1")
    assert env["VLLM_NO_USAGE_STATS"] == env["DO_NOT_TRACK"] == env["HF_HUB_OFFLINE"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in env or env["CUDA_VISIBLE_DEVICES"] == os.environ["CUDA_VISIBLE_DEVICES"]
