"""Judges: planted biases are found, and an endpoint that misbehaves in every known way loses nothing."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from rlhf_kit import evaluation, rewards, world
from rlhf_kit.errors import KitError
from rlhf_kit.evaluation.endpoint_judge import EndpointJudge, parse_verdict
from rlhf_kit.evaluation.judges import (
    PairwiseJudge,
    RuleJudge,
    ScalarJudge,
    Verdicts,
    agreement,
    length_bias,
    longer,
    position_bias,
)
from rlhf_kit.runs import Ledger

ASK = [[{"role": "user", "content": "Say something."}]]


# --- local judges ---


def test_gold_and_rules_have_one_face():
    rows = world.prompts("eval", 8)
    prompts = [row["prompt"] for row in rows]
    best, bad = [world.best_answer(p) for p in prompts], ["no"] * 8
    verdicts = ScalarJudge(rewards.Gold()).compare(prompts, best, bad)
    assert verdicts.judge == "gold" and verdicts.preference.tolist() == [1.0] * 8
    assert ScalarJudge(rewards.Gold()).compare(prompts, best, best).win_rate()["win_rate"] == 0.5
    rule = RuleJudge(longer).compare(prompts, bad, best)
    assert rule.preference.tolist() == [0.0] * 8 and rule.ledger.rows_out == 8
    soft = ScalarJudge(rewards.Gold(), soft=True).compare(prompts, best, bad).preference
    assert ((soft > 0.5) & (soft < 1)).all()
    with pytest.raises(KitError, match="one to one: 8 prompts, 7"):
        RuleJudge(longer).compare(prompts, bad[:7], best)
    with pytest.raises(KitError, match="rule 'two' gave 2"):
        RuleJudge(lambda p, a, b: 2, "two").compare(ASK, ["x"], ["y"])


def planted(n, seed, place=0.0, length=0.0, noise=1.0):
    """Verdicts of a judge whose log odds are quality, `place` for being first, and `length` a standard deviation."""
    rng = np.random.default_rng(seed)
    quality, longer_by = rng.normal(size=n), rng.normal(size=n)
    hard = lambda logit: (rng.logistic(scale=noise, size=n) < logit).astype(float)  # noqa: E731
    first = hard(quality + length * longer_by + place)
    second = 1 - hard(-quality - length * longer_by + place)
    verdicts = Verdicts("planted", (first + second) / 2, Ledger("j", n, n), first, second)
    return verdicts, quality, longer_by


def test_a_planted_position_bias_is_found_and_noise_is_not_one():
    biased, *_ = planted(400, 0, place=0.8)
    found = position_bias(biased)
    assert found["biased"] and found["low"] > 0.55 and found["flip_rate"] > 0.2
    noisy, *_ = planted(400, 1, place=0.0, noise=3.0)  # flips as often, to no side
    found = position_bias(noisy)
    assert not found["biased"] and found["flip_rate"] > 0.2
    always_first = Verdicts("first", np.full(20, 0.5), Ledger("j", 20, 20), np.ones(20), np.zeros(20))
    assert position_bias(always_first)["first_place"] == 1 and position_bias(always_first)["biased"]
    with pytest.raises(KitError, match="no position bias to measure"):
        position_bias(RuleJudge(longer).compare(ASK, ["x"], ["yy"]))


def test_a_planted_length_bias_is_found_and_honest_length_is_not_one():
    biased, quality, gap = planted(600, 2, length=0.8)
    assert length_bias(biased.preference, gap, 0 * gap, quality)["biased"]
    alarms = 0
    for seed in range(40):  # one in twenty is the promise
        fair, quality, gap = planted(300, seed)
        better_is_longer = gap + quality
        alarms += length_bias(fair.preference, better_is_longer, 0 * gap, quality)["biased"]
    assert alarms <= 6
    assert length_bias(fair.preference, better_is_longer, 0 * gap)["biased"]  # without quality the two look alike
    only_length = length_bias((gap > 0).astype(float), gap, 0 * gap, quality)
    assert only_length["slope"] > 5 and only_length["biased"]
    lost = fair.preference.copy()
    lost[:7] = np.nan
    assert length_bias(lost, gap, 0 * gap, quality)["left_out"] == 7
    with pytest.raises(KitError, match="ten verdicts"):
        length_bias([1, 0], [1, 2], [2, 1])


def test_agreement_leaves_out_what_has_no_truth_and_counts_it():
    found = agreement([1, 0, 0.5, np.nan, 1], [1, 1, 0, 1, 0.5])
    assert (found["accuracy"], found["n"], found["left_out"]) == (0.5, 3, 2)


def test_the_pairwise_judge_shows_both_orders():
    class Model:
        name, last_report = "pm", {"flip_rate": 0.25}

        def both_orders(self, prompts, a, b):
            return np.array([0.8]), np.array([0.4])

    verdicts = PairwiseJudge(Model()).compare(ASK, ["x"], ["y"])
    assert verdicts.preference == pytest.approx([0.6]) and verdicts.report["flip_rate"] == 0.25


def test_two_policies_are_judged_on_the_same_prompts():
    rows = [{"policy": name, "temperature": 1.0, "prompt_id": f"p{i}", "sample": s, "text": text * (i + 1), "category": "chat", "gold": 1.0}
            for name, text in (("online", "xx"), ("sft", "y")) for i in range(3) for s in (0, 1)]
    prompts = {f"p{i}": ASK[0] for i in range(3)}
    verdicts, columns = evaluation.judge_policies(rows[::-1], prompts, RuleJudge(longer), "online", "sft", 1.0)
    assert verdicts.win_rate(columns["prompt_id"])["win_rate"] == 1 and len(columns["category"]) == 6
    assert all(a == 2 * b for a, b in zip(columns["length_a"], columns["length_b"], strict=True))
    with pytest.raises(KitError, match="6 and 5 answers, 5 in common"):
        evaluation.judge_policies(rows[:-1], prompts, RuleJudge(longer), "online", "sft", 1.0)
    with pytest.raises(KitError, match="'dpo' was not evaluated at temperature 1; there is online at 1, sft at 1"):
        evaluation.judge_policies(rows, prompts, RuleJudge(longer), "dpo", "sft", 1.0)
    with pytest.raises(KitError, match="'p0' of an answer is not among"):
        evaluation.judge_policies(rows, {}, RuleJudge(longer), "online", "sft", 1.0)


# --- win rates from verdicts ---


def test_missing_verdicts_are_an_error_unless_one_says_what_they_are():
    verdicts = [1, np.nan, 0.5, 0]
    with pytest.raises(KitError, match=r"row 1: no verdict \(nan\), 1 in all"):
        evaluation.win_rate_of(verdicts)
    assert evaluation.win_rate_of(verdicts, missing="tie")["win_rate"] == 0.5
    found = evaluation.win_rate_of([1, np.nan, 0.5, 1], missing="drop")
    assert (found["win_rate"], found["n"], found["missing"]) == (pytest.approx(2.5 / 3), 3, 1)
    with pytest.raises(KitError, match="row 0: 2.0 is not a probability"):
        evaluation.win_rate_of([2.0, 1])
    with pytest.raises(KitError, match="no verdict is left"):
        evaluation.win_rate_of([np.nan], missing="drop")


def test_win_rates_by_category_and_paired_policies():
    lines = evaluation.win_rates_by_category([1, 1, 0, 0.5], ["chat", "chat", "safety", "safety"], list("aabc"))
    assert [(r["category"], r["win_rate"], r["n"]) for r in lines] == [("chat", 1, 2), ("safety", 0.25, 2), ("all", 0.625, 4)]
    rng = np.random.default_rng(0)
    prompt = rng.uniform(0.2, 0.8, 300)  # both policies find the same prompts hard: pairing sees through that
    a, b = np.clip(prompt + 0.05 + 0.02 * rng.normal(size=300), 0, 1), prompt
    found = evaluation.compare_policies(a, b)
    assert found["low"] > 0.04 and found["high"] < 0.06
    assert evaluation.compare_policies([1, np.nan, 1], [0, 0, 1])["missing"] == 1
    with pytest.raises(KitError, match="same prompts"):
        evaluation.compare_policies([1], [1, 0])


# --- the endpoint ---


@contextmanager
def server(answer):
    """A chat-completions endpoint; `answer(body, number)` -> (status, headers, body as dict or str)."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append({"body": body, "key": self.headers.get("Authorization"), "path": self.path})
            status, headers, reply = answer(body, len(seen) - 1)
            data = (reply if isinstance(reply, str) else json.dumps(reply)).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}/v1", seen
    finally:
        httpd.shutdown()
        httpd.server_close()


def said(text, **more):
    return 200, {}, {"choices": [{"message": {"content": text}, "finish_reason": "stop", **more}],
                     "usage": {"prompt_tokens": 10, "completion_tokens": 2}}


def between(text, tag):
    return text.split(f"<answer_{tag}>\n")[1].split(f"\n</answer_{tag}>")[0]


def likes_long(body, number):
    text = body["messages"][0]["content"]
    a, b = between(text, "A"), between(text, "B")
    return said("So: [[C]]" if len(a) == len(b) else f"I weighed [[B]]. Verdict: [[{'A' if len(a) > len(b) else 'B'}]]")


def judge(url, tmp_path, **options):
    return EndpointJudge(url, "m", tmp_path / "cache", **{"wait": 0.01, "tries": 3, "workers": 2, **options})


def test_both_orders_are_asked_once_and_cost_is_counted(tmp_path):
    a, b = ["long answer {b}", "x", "same"], ["short", "longer one", "emas"]
    with server(likes_long) as (url, seen):
        first = judge(url, tmp_path, price_in=2.0, price_out=10.0).compare(ASK * 3, a, b)
        assert first.preference.tolist() == [1, 0, 0.5] and first.report["flip_rate"] == 0
        assert first.report["calls"] == len(seen) == 6
        assert first.report["cost"] == pytest.approx((60 * 2 + 12 * 10) / 1e6)
        again = judge(url, tmp_path).compare(ASK * 3, a, b)
        assert len(seen) == 6 and again.report["from_cache"] == 6 and again.report["cost"] is None
        assert again.preference.tolist() == [1, 0, 0.5]
        judge(url, tmp_path, temperature=0.5).compare(ASK, a[:1], b[:1])
        assert len(seen) == 8  # another question: not the same cache entry
    assert any("long answer {b}" in s["body"]["messages"][0]["content"] for s in seen)
    assert seen[0]["path"] == "/v1/chat/completions"


def test_a_judge_that_looks_at_the_place_is_found_through_the_endpoint(tmp_path):
    with server(lambda body, n: said("[[A]]")) as (url, _):
        verdicts = judge(url, tmp_path).compare(ASK * 12, [f"a{i}" for i in range(12)], ["b"] * 12)
    found = position_bias(verdicts)
    assert found["flip_rate"] == 1 and found["first_place"] == 1 and found["biased"]
    assert verdicts.win_rate()["win_rate"] == 0.5


def test_replies_that_do_not_parse_are_counted_and_not_dropped(tmp_path):
    replies = {"mute": "", "vague": "Both are fine.", "long": None}

    def answer(body, number):
        text = body["messages"][0]["content"]
        for word, reply in replies.items():
            if word in text:
                return (400, {}, {"error": "too long"}) if reply is None else said(reply)
        return likes_long(body, number)

    with server(answer) as (url, _):
        verdicts = judge(url, tmp_path).compare(ASK * 4, ["mute", "vague", "long", "good answer"], ["b"] * 4)
    assert np.isnan(verdicts.preference[:3]).all() and verdicts.preference[3] == 1
    assert verdicts.ledger.dropped == {"empty reply": 1, "reply not understood": 1, "refused by the server": 1}
    assert verdicts.report["not_understood"] == ["Both are fine."] * 2
    assert len(verdicts.report["refused"]) == 2 and verdicts.report["refused"][0].startswith("400")
    with pytest.raises(KitError, match="3 in all"):
        verdicts.win_rate()
    assert verdicts.win_rate(missing="drop")["missing"] == 3


def test_a_rate_limit_is_waited_for_and_a_lasting_one_loses_nothing(tmp_path):
    def limited(body, number):
        return (429, {"Retry-After": "0"}, {"error": "slow down"}) if number % 2 == 0 else likes_long(body, number)

    with server(limited) as (url, _):
        verdicts = judge(url, tmp_path, workers=1).compare(ASK * 2, ["aaa", "a"], ["b", "bb"])
        assert verdicts.preference.tolist() == [1, 0]

    strict = {"allowed": 3}

    def shut(body, number):
        if number < strict["allowed"]:
            return likes_long(body, number)
        return 429, {"Retry-After": "0"}, {"error": "quota"}

    with server(shut) as (url, seen):
        one = judge(url, tmp_path, workers=1)
        with pytest.raises(KitError, match=r"answered 429 .*3 times in a row; 3 of 4 replies are kept"):
            one.compare(ASK * 2, ["aaa", "a"], ["b", "bb"])
        strict["allowed"] = 10**9
        before = len(seen)
        assert one.compare(ASK * 2, ["aaa", "a"], ["b", "bb"]).preference.tolist() == [1, 0]
        assert len(seen) == before + 1  # only what was missing


def test_the_key_comes_from_the_environment_and_is_shown_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_JUDGE_KEY", "sk-very-secret")
    with server(lambda body, n: (401, {}, {"error": "bad key sk-very-secret"})) as (url, seen):
        one = judge(url, tmp_path, api_key_env="MY_JUDGE_KEY")
        with pytest.raises(KitError, match=r"answered 401 .*MY_JUDGE_KEY") as error:
            one.compare(ASK, ["a"], ["b"])
    assert seen[0]["key"] == "Bearer sk-very-secret"
    assert "secret" not in str(error.value) and "secret" not in repr(vars(one))
    with server(likes_long) as (url, seen):
        judge(url, tmp_path, api_key_env="MY_JUDGE_KEY").compare(ASK, ["aa"], ["b"])
        assert not any("secret" in p.read_text() for p in (tmp_path / "cache").rglob("*.json"))
        monkeypatch.setenv("OPENAI_API_KEY", "sk-other")  # nobody said that it is for this server
        judge(url, tmp_path).compare(ASK, ["aaaa"], ["b"])
        assert seen[-1]["key"] is None
        monkeypatch.delenv("MY_JUDGE_KEY")
        with pytest.raises(KitError, match="MY_JUDGE_KEY .* is not set"):
            judge(url, tmp_path, api_key_env="MY_JUDGE_KEY").compare(ASK, ["aaaaa"], ["b"])


def test_a_redirect_and_a_broken_server_end_with_one_sentence(tmp_path):
    with server(lambda body, n: (302, {"Location": "http://127.0.0.1:1/"}, "")) as (url, _):
        with pytest.raises(KitError, match="answered 302"):
            judge(url, tmp_path).compare(ASK, ["a"], ["b"])
    with server(lambda body, n: (400, {}, {"error": "no logprobs here"})) as (url, seen):
        for _ in range(2):  # not remembered: the server's settings may change
            with pytest.raises(KitError, match="refused all 2 requests; the first: 400: .*no logprobs here"):
                judge(url, tmp_path).compare(ASK, ["a"], ["b"])
        assert len(seen) == 4
    with server(lambda body, n: (200, {}, "<html>")) as (url, _):
        with pytest.raises(KitError, match="no answer to /chat/completions"):
            judge(url, tmp_path).compare(ASK, ["a"], ["b"])
    with pytest.raises(KitError, match="could not be reached"):
        judge("http://127.0.0.1:9", tmp_path).compare(ASK, ["a"], ["b"])
    with server(lambda body, n: (200, {"Content-Length": "9999"}, "{")) as (url, _):
        with pytest.raises(KitError, match="could not be reached .*3 times in a row; 0 of 2 replies are kept"):
            judge(url, tmp_path).compare(ASK, ["a"], ["b"])


@pytest.mark.parametrize(("url", "message"), [
    ("ftp://x", "not a URL"), ("http://h:xx/v1", "not a URL"), ("http://h:70000/v1", "not a URL"),
    ("http://h:0/v1", "not a URL"), ("http://[::1/v1", "not a URL"), ("http://h/a b", "not a URL"),
    ("http://u:p@x/v1", "no user name or password"), ("http://u:secret@x:yy/v1", "no user name or password"),
    ("http://x/v1?key=secret", "query"), ("x:80#secret", "fragment")])
def test_an_address_that_cannot_be_asked_is_refused_at_once(url, message, tmp_path):
    with pytest.raises(KitError, match=message) as error:
        EndpointJudge(url, "m", tmp_path)
    assert "secret" not in str(error.value)


def test_a_proxy_is_no_way_to_this_machine(tmp_path, monkeypatch):
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with server(likes_long) as (proxy, through), server(likes_long) as (url, seen):
        monkeypatch.setenv("http_proxy", proxy.removesuffix("/v1"))
        for address in (url, url.replace("127.0.0.1", "localhost")):
            judge(address, tmp_path).compare(ASK, ["aa"], ["b"])
        assert (len(seen), len(through)) == (4, 0)
        judge("http://judge.invalid/v1", tmp_path).compare(ASK, ["aa"], ["b"])  # elsewhere it is the way
        assert (len(seen), len(through)) == (4, 2) and through[0]["path"] == "http://judge.invalid/v1/chat/completions"


def test_a_pairwise_model_behind_a_server_is_read_by_its_letters(tmp_path):
    def letters(body, number):
        assert body["max_tokens"] == 1 and body["logprobs"] is True
        assert body["messages"][0]["content"].startswith("[CONTEXT] ")
        first_is_good = "[RESPONSE A] good" in body["messages"][0]["content"]
        p = 0.9 if first_is_good else 0.3
        top = [{"token": "A", "logprob": float(np.log(0.5 * p))}, {"token": " B", "logprob": float(np.log(0.5 * (1 - p)))},
               {"token": "the", "logprob": -1.0}]
        return said("A", logprobs={"content": [{"token": "A", "logprob": 0.0, "top_logprobs": top}]})

    with server(letters) as (url, _):
        verdicts = judge(url, tmp_path, style="letter").compare(ASK, ["good"], ["bad"])
    assert verdicts.shown_first == pytest.approx([0.9]) and verdicts.shown_second == pytest.approx([0.7])
    assert verdicts.preference == pytest.approx([0.8])


@pytest.mark.parametrize(("reply", "value"), [("[[A]]", 1), ("first [[A]], no: [[b]]", 0), ("[[ C ]]", 0.5), ("[[tie]]", 0.5),
                                              ("B", 0), (" a. ", 1), ("A is better", None), ("", None), ("[[D]]", None)])
def test_verdicts_are_read_from_their_marks(reply, value):
    assert parse_verdict(reply) == value
