"""The one client of OpenAI-compatible servers: addresses, keys, what is tried again and how long is waited."""

from __future__ import annotations

import email.utils
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rlhf_kit import machine, openai_client, profiles
from rlhf_kit.errors import KitError
from rlhf_kit.openai_client import Client, Refused, Silent, base_url


@pytest.fixture
def serve():
    """Starts a server that gives these answers in turn, (status, headers, text), the last one for ever."""
    started = []

    def start(*answers):
        seen = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                seen.append(self.headers.get("Authorization"))
                status, headers, text = answers[min(len(seen), len(answers)) - 1]
                self.send_response(status)
                for name, value in {"Content-Length": str(len(text)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args):
                pass

        started.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=started[-1].serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return f"http://127.0.0.1:{started[-1].server_port}", seen

    yield start
    for one in started:
        one.shutdown()
        one.server_close()


@pytest.fixture
def pauses(monkeypatch):
    """The pauses between tries, in seconds, without their random share and without waiting for them."""
    monkeypatch.setattr(openai_client.random, "uniform", lambda low, high: 1.0)
    return Pauses()


class Pauses(list):
    """Stands for the event that ends the waiting."""

    def wait(self, seconds):
        self.append(seconds)


GOOD = (200, {}, json.dumps({"said": "yes"}))


def ask(url, stop, **options):
    client = Client(url, **{"key_env": None, **options})
    try:
        return client.post("completions", {}, lambda reply: reply["said"], stop)
    finally:
        client.close()


@pytest.mark.parametrize(("url", "found"), [
    ("http://host:8000", "http://host:8000/v1"), ("http://host:8000/v1/", "http://host:8000/v1"),
    ("https://host/proxy", "https://host/proxy/v1"), ("https://host/v1beta/openai", "https://host/v1beta/openai")])
def test_an_address_gets_its_version(url, found):
    assert base_url(url) == found == base_url(found)


@pytest.mark.parametrize("url", [
    "http://me:s3cret@host:8000/v1", "http://host:8000/v1?key=s3cret", "http://host/v1#s3cret", "ftp://me:s3cret@host",
    "me:s3cret@host:8000", "http://me:s3/cret@host", "http://me:s3?cret@host", "http://host/v1?key=me@s3cret"])
def test_what_an_address_hides_is_never_shown(url, monkeypatch):
    def refused(call, *args):
        with pytest.raises(KitError) as caught:
            call(*args)
        assert "cret" not in str(caught.value) and "s3" not in str(caught.value)

    refused(base_url, url)
    for given in (url, [url, 5], [url]):
        refused(profiles.load_profile, "laptop", {"sampling.server": given})
    refused(profiles.load_profile, "laptop", {"sampling.server": url, "dpo.beta": "much"})
    monkeypatch.setenv("RLHF_KIT_SERVER", url)
    refused(machine.resolve, profiles.load_profile("laptop", {"sampling.backend": "server"}))
    machine.resolve(profiles.load_profile("laptop"))  # nobody asked for a server


def test_waits_grow_and_the_servers_own_word_counts(serve, pauses):
    limit = lambda after: (429, {"Retry-After": after}, json.dumps({"error": {"message": "slow"}}))  # noqa: E731
    url, seen = serve((503, {}, ""), (500, {}, "oops"), limit("7"), limit("9999"), limit("soon"), GOOD)
    assert ask(url, pauses) == "yes" and len(seen) == 6
    assert pauses == [1, 2, 7, 60, 16]
    pauses.clear()
    date = email.utils.formatdate(time.time() + 20, usegmt=True)
    assert ask(serve(limit(date), limit("0"), GOOD)[0], pauses) == "yes"
    assert pauses[0] == pytest.approx(20, abs=2) and pauses[1] == 2


def test_nobody_comes_back_before_the_time_that_the_server_named(serve, pauses, monkeypatch):
    monkeypatch.setattr(openai_client.random, "uniform", lambda low, high: low)  # the shortest pauses there are
    url, _ = serve((503, {}, ""), (429, {"Retry-After": "8"}, ""), GOOD)
    assert ask(url, pauses) == "yes" and pauses == [0.75, 8]


def test_what_does_not_pass_is_silent_and_what_cannot_pass_is_refused(serve, pauses, monkeypatch):
    with pytest.raises(Silent, match=r"^answered 500 \(no words\), 3 times in a row$"):
        ask(serve((500, {}, ""))[0], pauses, tries=3)
    with pytest.raises(Silent, match=r"no answer to /completions \(KeyError\), 2 times"):
        ask(serve((200, {}, "{}"))[0], pauses, tries=2)
    with pytest.raises(Silent, match="could not be reached .*6 times"):
        ask("http://127.0.0.1:9", pauses)
    url, seen = serve((400, {}, json.dumps({"error": {"message": "too\nlong"}})))
    with pytest.raises(Refused, match=r"the judge at http://127.* answered 400 \(too long\)$") as caught:
        ask(url, pauses, what="the judge at")
    assert len(seen) == 1 and (caught.value.status, caught.value.said) == (400, "too long")
    monkeypatch.setenv("A_KEY", "hush")
    url, seen = serve((401, {}, "the key hush is bad"))
    with pytest.raises(Refused, match=r"the key \*\*\* is bad\); it wants an API key: A_KEY is set, but not to a key"):
        ask(url, pauses, key_env="A_KEY")
    assert seen == ["Bearer hush"]
    with pytest.raises(Refused, match="api_key_env"):
        ask(url, pauses)
    assert seen[-1] is None
