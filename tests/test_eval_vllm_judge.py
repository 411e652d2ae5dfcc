"""A pairwise model behind a real vLLM server gives the probabilities that it gives in process.

A server takes a minute to start, so this runs where it is asked for: RLHF_KIT_REQUIRE_VLLM=1 and vLLM (its CPU build will do).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest

from rlhf_kit import chat, rewards
from rlhf_kit.errors import KitError
from rlhf_kit.evaluation.benches import pocket_bench
from rlhf_kit.evaluation.endpoint_judge import EndpointJudge
from rlhf_kit.runs import PROJECT

pytestmark = pytest.mark.skipif(not os.environ.get("RLHF_KIT_REQUIRE_VLLM"), reason="starts a vLLM server; set RLHF_KIT_REQUIRE_VLLM=1")


@pytest.fixture(scope="module")
def judge_model(tmp_path_factory):
    """The base model with its letters made likely: A and B share the weights of the token it would say, B a little less."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rlhf_kit.models import save_model

    tokenizer = chat.prepare_tokenizer(AutoTokenizer.from_pretrained(PROJECT / "data" / "pocket_base"))
    model = AutoModelForCausalLM.from_pretrained(PROJECT / "data" / "pocket_base", dtype=torch.float32)
    ids = chat.encode_prompt(tokenizer, chat.pair_messages([{"role": "user", "content": "Hello."}], "a cat", "a dog"))
    a, b = chat.letter_ids(tokenizer)
    with torch.no_grad():
        likely = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        weight = model.get_output_embeddings().weight
        weight[a] = weight[likely]
        weight[b] = weight[likely] + 0.02 * torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(0))
    return save_model(model, tokenizer, tmp_path_factory.mktemp("judge") / "model"), model, tokenizer


@pytest.fixture(scope="module")
def endpoint(judge_model, tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                   "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING", "TORCHDYNAMO_DISABLE": "1"}
    # The module and not `vllm serve`: the command asks for the version of a package "vllm", which the CPU build is not called.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(judge_model[0]), "--served-model-name",
               "pocket", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "512", "--enforce-eager"]
    with open(log, "w", encoding="utf-8") as output:
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            for _ in range(600):
                if server.poll() is not None:
                    pytest.fail(f"the server ended: {log.read_text()[-6000:]}")
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                    break
                except OSError:
                    time.sleep(1)
            else:
                pytest.fail(f"the server did not start: {log.read_text()[-6000:]}")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait(60)


def test_letters_through_the_server_equal_those_in_process(judge_model, endpoint, tmp_path):
    _, model, tokenizer = judge_model
    items = pocket_bench(16)
    prompts, a, b = [i.prompt for i in items], [i.chosen[0] for i in items], [i.rejected[0] for i in items]
    first, second = rewards.Pairwise((model, tokenizer), None).both_orders(prompts, a, b)
    judge = EndpointJudge(endpoint, "pocket", tmp_path, style="letter", workers=2)
    verdicts = judge.compare(prompts, a, b)
    assert verdicts.ledger.rows_out == 16 and verdicts.ledger.dropped == {}
    assert np.abs(verdicts.shown_first - first).max() < 1e-4 and np.abs(verdicts.shown_second - second).max() < 1e-4
    assert np.ptp(first) > 1e-3  # the pairs do differ
    assert judge.compare(prompts, a, b).report["from_cache"] == 32


def test_a_policy_that_is_no_judge_loses_nothing(endpoint, tmp_path):
    judge = EndpointJudge(endpoint, "pocket", tmp_path, max_tokens=8, template="{context} {a} {b} Verdict?")
    verdicts = judge.compare([[{"role": "user", "content": "Hello."}]] * 3, ["a"] * 3, ["b"] * 3)
    assert verdicts.ledger.rows_in == 3 == verdicts.ledger.rows_out + sum(verdicts.ledger.dropped.values())
    with pytest.raises(KitError, match="answered 404"):
        EndpointJudge(endpoint, "nobody", tmp_path).compare([[{"role": "user", "content": "Hello."}]], ["a"], ["b"])
