"""The server backend against a server of the test's own: rows, retries, lost servers, restarts, refusals.

What a real `vllm serve` answers is tested in test_vllm.py.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from rlhf_kit import chat, models, openai_client, profiles, sampling
from rlhf_kit.engines import sampling_server, shards
from rlhf_kit.errors import KitError

PROMPTS = [{"prompt_id": f"p{i}", "prompt": [{"role": "user", "content": "moon " * (i + 1)}]} for i in range(6)]
SETTINGS = {"n": 4, "temperature": 1.0, "max_new_tokens": 10, "seed": 3, "name": "tiny", "batch_size": 4}


class Fake:
    """An OpenAI-like server; `behave(number of the request, body)` may return a (status, body, headers) instead."""

    def __init__(self, serves, eos, behave=None, processed=True):
        self.requests, self.keys, self.eos = [], set(), eos
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def answer(self, status, value, headers=()):
                text = json.dumps(value).encode()
                self.send_response(status)
                for name, content in headers:
                    self.send_header(name, content)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def do_GET(self):
                fake.keys.add(self.headers.get("Authorization"))
                special = behave(-1, None) if behave else None
                data = [{"id": name, "root": root, "max_model_len": 64} for name, root in serves]
                self.answer(*(special or (200, {"data": data})))

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake.requests.append(body)
                special = behave(len(fake.requests), body) if behave else None
                if special == "hang up":
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.answer(*(special or (200, {"choices": [fake.choice(body, processed)]})))

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def choice(self, body, processed=True):
        """Tokens that follow from the seed alone, as a good server's do."""
        draws = np.random.default_rng(body["seed"])
        ids = draws.integers(20, 200, size=body["max_tokens"]).tolist()
        stops = draws.random() < 0.5
        if stops:
            ids = [*ids[: int(draws.integers(0, body["max_tokens"]))], self.eos]
        logprob = 0.0 if processed and body["top_p"] < 1e-3 else -0.5
        return {"text": "not used", "token_ids": ids, "prompt_token_ids": body["prompt"],
                "finish_reason": "stop" if stops else "length", "logprobs": {"token_logprobs": [logprob] * len(ids)}}

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def serve(tiny_folder, monkeypatch):
    """Starts fake servers of the tiny policy; pauses are short."""
    monkeypatch.setattr(openai_client, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(openai_client, "LONGEST_PAUSE", 0.02)
    monkeypatch.setattr(openai_client, "SECONDS_TO_CONNECT", 2.0)
    monkeypatch.setattr(openai_client, "SECONDS_TO_ANSWER", 10.0)
    eos = models.load_tokenizer(tiny_folder).eos_token_id
    started = []

    def start(behave=None, serves=None, **more):
        started.append(Fake(serves or [("policy", str(tiny_folder.resolve()))], eos, behave, **more))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def on(machine):
    return lambda *fakes: replace(machine, backend="server", servers=tuple(f if isinstance(f, str) else f.url for f in fakes))


def test_rows_are_those_of_the_design_and_prompts_travel_as_token_ids(serve, on, tiny_folder, monkeypatch):
    monkeypatch.setenv("RLHF_KIT_API_KEY", "secret-of-this-test")
    server = serve()
    rows = sampling.sample(tiny_folder, PROMPTS, machine=on(server), **SETTINGS)
    assert [(r["prompt_id"], r["sample"]) for r in rows] == [(p["prompt_id"], s) for p in PROMPTS for s in range(4)]
    tokenizer = models.load_tokenizer(tiny_folder)
    expected = {tuple(chat.encode_prompt(tokenizer, p["prompt"])) for p in PROMPTS}
    assert {tuple(r["prompt"]) for r in server.requests} == expected
    assert {r["finish_reason"] for r in rows} == {"stop", "length"}
    for row in rows:
        assert (row["token_ids"][-1] == tokenizer.eos_token_id) == (row["finish_reason"] == "stop")
        assert row["text"] == chat.decode_response(tokenizer, row["token_ids"])
        assert row["logprob"] == -0.5 * len(row["token_ids"])
    # Every response has its own seed; nothing is left to the server's own defaults.
    assert len({r["seed"] for r in server.requests}) == len(rows) == len(server.requests)
    assert sorted(r["seed"] for r in server.requests) == sorted(r["seed"] for r in rows)
    for body in server.requests:
        assert body["model"] == "policy" and body["n"] == 1 and body["ignore_eos"] is True
        assert body["stop_token_ids"] == [tokenizer.eos_token_id] and body["top_k"] == -1
        assert body["repetition_penalty"] == 1.0 and body["return_token_ids"] is True
    assert server.keys == {"Bearer secret-of-this-test"}


def test_refusals_that_pass_are_tried_again(serve, on, tiny_folder):
    good = sampling.sample(tiny_folder, PROMPTS, machine=on(serve()), **SETTINGS)
    passing = {2: (503, {}), 3: (429, {}, [("Retry-After", "0")]), 5: "hang up", 7: (500, {}), 9: (408, {})}
    rows = sampling.sample(tiny_folder, PROMPTS, machine=on(serve(lambda k, body: passing.get(k))), **SETTINGS)
    assert rows == good


def test_a_lost_servers_rows_go_to_the_others_and_both_get_some(serve, on, tiny_folder):
    def slowly(k, body):
        time.sleep(0.01)

    good = serve(slowly)
    expected = sampling.sample(tiny_folder, PROMPTS, machine=on(good), **SETTINGS)
    other, dying = serve(slowly), serve(lambda k, body: slowly(k, body) or ((503, {}) if k > 3 else None))
    rows = sampling.sample(tiny_folder, PROMPTS, machine=on(other, dying), **SETTINGS)
    assert rows == expected
    assert len(other.requests) >= 20 and len(dying.requests) > 3


def test_when_nobody_is_left_finished_shards_stay_and_the_next_call_goes_on(serve, on, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling_server, "LANES", 1)
    dying = serve(lambda k, body: "hang up" if k > 9 else None)
    with pytest.raises(KitError, match=r"4 of 6 shards left.*nobody is left.*http://127.*times in a row.*kept"):
        sampling.sample(tiny_folder, PROMPTS, machine=on(dying), folder=tmp_path, **SETTINGS)
    assert len(list(tmp_path.glob("rows-*.parquet"))) == 2
    good = serve()
    rows = sampling.sample(tiny_folder, PROMPTS, machine=on(good), folder=tmp_path, **SETTINGS)
    assert len(good.requests) == 16 and len(rows) == 24  # 8 rows were kept
    assert rows == sampling.sample(tiny_folder, PROMPTS, machine=on(good), **SETTINGS)


def test_shards_of_another_backend_are_not_taken_for_this_one(serve, on, machine, tiny_folder, tmp_path):
    own = sampling.sample(tiny_folder, PROMPTS, machine=machine, folder=tmp_path, **SETTINGS)
    server = serve()
    rows = sampling.sample(tiny_folder, PROMPTS, machine=on(server), folder=tmp_path, **SETTINGS)
    assert len(server.requests) == 24 and [r["token_ids"] for r in rows] != [r["token_ids"] for r in own]


def refused(tiny_folder, machine, match, **change):
    with pytest.raises(KitError, match=match) as caught:
        sampling.sample(tiny_folder, PROMPTS, machine=machine, **{**SETTINGS, **change})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_server_of_another_policy_is_never_asked(serve, on, tiny_folder, monkeypatch):
    other = serve(serves=[("older", "/runs/policy-1")])
    message = refused(tiny_folder, on(other), "no server serves the policy .*it serves older.*vllm serve")
    assert str(tiny_folder.resolve()) in message and not other.requests
    good = serve()
    with pytest.warns(UserWarning, match="left out: .*it serves older"):
        rows = sampling.sample(tiny_folder, PROMPTS, machine=on(other, good), **SETTINGS)
    assert len(rows) == 24 and not other.requests
    # It waits as long as it is told to, for the next policy to be loaded.
    late, answers = serve(serves=[("older", "x"), ("policy", str(tiny_folder.resolve()))]), []
    real = sampling_server.Server.served
    monkeypatch.setattr(sampling_server.Server, "served",
                        lambda self: answers.append(1) or real(self)[: 1 if len(answers) < 3 else 2])
    monkeypatch.setattr(sampling_server.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("RLHF_KIT_SERVER_WAIT", "60")
    assert len(sampling.sample(tiny_folder, PROMPTS, machine=on(late), **SETTINGS)) == 24 and len(answers) == 3


def test_what_a_server_cannot_do_is_one_sentence(serve, on, tiny_folder, monkeypatch):
    refused(tiny_folder, on("http://127.0.0.1:9"), "no server serves.*could not be reached")
    refused(tiny_folder, on(serve(lambda k, body: (401, {}))), "wants an API key.*RLHF_KIT_API_KEY is not set")
    monkeypatch.setenv("RLHF_KIT_API_KEY", "hush")
    assert "hush" not in refused(tiny_folder, on(serve(lambda k, body: (403, {}))), "not to a key that it takes")
    error = {"error": {"message": "prompt too long\nsecond line"}}
    refused(tiny_folder, on(serve(lambda k, body: (400, error) if body else None)), r"answered 400 \(prompt too long")
    refused(tiny_folder, on(serve()), "does not fit into the model's 64 positions", max_new_tokens=60)
    refused(tiny_folder, on(serve()), "between 0.01 and 2", temperature=0.005)
    refused((1, 2), on(serve()), "not a loaded model")

    def answer(**change):
        return lambda k, body: body and (200, {"choices": [{**server.choice(body), **change}]})

    def fails(match, **change):
        nonlocal server
        server = serve(answer(**change))
        refused(tiny_folder, on(server), match)

    server = None
    fails("no token ids", token_ids=None)
    fails("no token ids", logprobs=None)
    fails("3 tokens and 2 log-probabilities", token_ids=[20, 21, 22], logprobs={"token_logprobs": [-1, -1]})
    fails("changed a prompt's tokens", prompt_token_ids=[1])
    short = {"token_ids": [20, 21], "logprobs": {"token_logprobs": [-1, -1]}}
    fails("2 tokens of at most 10, without an end token.*'stop'", finish_reason="stop", **short)
    fails("ended by 'abort'", finish_reason="abort", **short)
    fails("log-probability nan", token_ids=[20] * 10, finish_reason="length",
          logprobs={"token_logprobs": [float("nan")] * 10})


def test_token_ids_may_come_as_strings():
    choice = {"logprobs": {"tokens": ["token_id:5", "token_id:17"]}}
    assert sampling_server._token_ids(choice) == [5, 17]
    with pytest.raises(KeyError):
        sampling_server._token_ids({"logprobs": {"tokens": ["token_id:5", "moon"]}})


def test_log_probabilities_before_temperature_are_refused_where_they_differ(serve, on, tiny_folder):
    raw = serve(processed=False)
    assert sampling.sample(tiny_folder, PROMPTS, machine=on(raw), **SETTINGS)
    refused(tiny_folder, on(raw), "--logprobs-mode processed_logprobs", temperature=0.7)
    refused(tiny_folder, on(raw), "--logprobs-mode processed_logprobs", top_p=0.9)
    assert sampling.sample(tiny_folder, PROMPTS, machine=on(serve()), **{**SETTINGS, "temperature": 0.7})


def test_urls_come_from_the_profile_or_the_environment(monkeypatch):
    def resolved(**overrides):
        return profiles.resolve(profiles.load_profile("laptop", {f"sampling.{k}": v for k, v in overrides.items()}))

    monkeypatch.setenv("RLHF_KIT_SERVER", "http://b:1, http://c:2/v1/")
    assert resolved().backend == "transformers"  # the variable alone changes nothing
    assert resolved(backend="server").servers == ("http://b:1/v1", "http://c:2/v1")
    named = resolved(server="http://a:8000")
    assert (named.backend, named.servers) == ("server", ("http://a:8000/v1",))
    assert "sampling.server names" in named.reasons["backend"]
    with pytest.raises(KitError, match="sampling.server and sampling.backend transformers exclude each other"):
        resolved(server=["http://a:1", "http://b:2"], backend="transformers")
    monkeypatch.delenv("RLHF_KIT_SERVER")
    with pytest.raises(KitError, match="RLHF_KIT_SERVER"):
        resolved(backend="server")
    with pytest.raises(KitError, match="not a URL"):
        resolved(server="host:8000")
    with pytest.raises(KitError, match="user name or password") as caught:
        resolved(server="http://me:hush@host:8000")
    assert "hush" not in str(caught.value)


# --- dealing ---


def test_every_shard_is_dealt_once_and_a_lost_lane_gives_its_own_back():
    done, tried = {}, []

    def good(shard):
        tried.append(shard)
        time.sleep(0.002)
        return shard * 2

    def dies(shard):
        if len(tried) > 3:
            raise shards.Lost("it fell over")
        time.sleep(0.002)
        return shard * 2

    shards.deal(dict(enumerate(range(40))), [("a", good), ("b", dies), ("b", dies)], done.__setitem__)
    assert done == {i: 2 * i for i in range(40)}
    with pytest.raises(KitError, match=r"3 of 3 shards left.*b: it fell over"):
        shards.deal({0: 1, 1: 2, 2: 3}, [("b", dies)], done.__setitem__)


def test_any_other_error_ends_the_dealing():
    def wrong(shard):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        shards.deal({i: i for i in range(9)}, [("a", wrong), ("b", lambda shard: shard)], lambda number, drawn: None)
    with pytest.raises(OSError, match="disk"):
        shards.deal({0: 0}, [("a", lambda shard: shard)], lambda number, drawn: (_ for _ in ()).throw(OSError("disk")))
