"""What the hub's clients raise becomes one sentence: made errors, and a made hub on this machine that refuses."""

from __future__ import annotations

import errno
import http.server
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rlhf_kit import hub
from rlhf_kit.errors import KitError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch, tmp_path):
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))


def hub_error(name, status, text="refused"):
    """An error of huggingface_hub as its own client makes it, whichever HTTP library it is built on."""
    import huggingface_hub.errors as errors

    response = type("Response", (), {"status_code": status, "headers": {}, "request": None})()
    made = getattr(errors, name)
    error = made.__new__(made)
    Exception.__init__(error, text)
    error.response = response
    return error


def wrapped(outer, inner):
    try:
        raise outer from inner
    except BaseException as error:
        return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (lambda: wrapped(OSError("You are trying to reach"), hub_error("GatedRepoError", 403)), "is gated: .*hf auth login"),
        (lambda: hub_error("RepositoryNotFoundError", 401), "there is no model a/b on the hub, or it is private"),
        (lambda: hub_error("RevisionNotFoundError", 404), "no such revision"),
        (lambda: hub_error("HfHubHTTPError", 403), "refuses access"),
        (lambda: hub_error("HfHubHTTPError", 429), "fewer requests"),
        (lambda: wrapped(OSError("x"), hub_error("HfHubHTTPError", 503)), "the hub itself fails"),
        (lambda: OSError(errno.ENOSPC, "No space left on device"), "no space is left on the disk"),
        (lambda: wrapped(OSError("We could not"), socket.gaierror(-2, "Name or service not known")), "cannot be reached"),
        (lambda: ConnectionError("Couldn't reach"), "cannot be reached"),
        (lambda: ValueError("set the option `trust_remote_code=True`"), "run code of its authors"),
        (lambda: ValueError("odd\nthing\n"), "cannot be opened: odd thing; see https://huggingface.co/a/b"),
        (lambda: KitError("as it is"), "^as it is$"),
    ],
)
def test_each_kind_of_error_is_one_sentence(error, words):
    found = hub.explain(error(), "a/b", "model")
    assert isinstance(found, KitError)
    with pytest.raises(KitError, match=words):
        raise found
    assert "\n" not in str(found)


def test_an_error_that_names_itself_as_its_cause_ends():
    first, second = ValueError("one"), ValueError("two")
    first.__cause__, second.__cause__ = second, first
    assert "one" in str(hub.explain(first, "a/b"))


def test_nobody_answers_and_the_environment_forbids(monkeypatch):
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}/")
        assert not hub.reachable()
        with pytest.raises(KitError, match="the data set a/b is not on this machine, and the hub .* cannot be reached"):
            hub.require("a/b")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(KitError, match="the model a/b is not on this machine, and HF_HUB_OFFLINE forbids"):
        hub.require("a/b", "model")


def test_a_name_server_that_hangs_costs_only_the_time_given(monkeypatch):
    answer = threading.Event()

    def hang(*_, **__):
        answer.wait(60)
        raise OSError("no answer")

    monkeypatch.setattr(socket, "create_connection", hang)
    assert not hub.reachable(seconds=0.1)  # comes back although nobody has answered
    answer.set()


def test_a_listening_hub_or_proxy_is_reachable(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
        assert hub.reachable()
        monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
        assert not hub.reachable()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        assert hub.reachable()


def test_what_lies_in_the_cache_needs_no_network(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not hub.cached("a/b") and not hub.cached("a/b", "model")
    for folder in ("hub/models--a--b/snapshots/abc", "hub/datasets--c--d/snapshots/abc", "datasets/e___f_700_k"):
        (tmp_path / "home" / folder).mkdir(parents=True)
    assert not hub.cached("a/b", "model")  # a folder that a broken download left
    (tmp_path / "home/hub/models--a--b/snapshots/abc/config.json").write_text("{}")
    (tmp_path / "home/hub/datasets--c--d/snapshots/abc/README.md").write_text("")
    assert hub.cached("a/b", "model") and not hub.cached("a/b")
    assert hub.cached("c/d") and hub.cached("e/f_700K") and not hub.cached("e/f")
    hub.require("a/b", "model")


class _Refusing(http.server.BaseHTTPRequestHandler):
    """A hub that knows one gated data set and nothing else."""

    def do_GET(self):  # noqa: N802
        gated = "made/gated" in self.path
        self.send_response(403 if gated else 404)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


ASK = """
from rlhf_kit.errors import KitError
from rlhf_kit.preferences import load_preferences
for name in ("made/gated", "made/nothing"):
    try:
        load_preferences(name)
    except KitError as error:
        print(error)
"""


def test_a_hub_that_refuses_is_told_by_the_real_client(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            [sys.executable, "-c", ASK], env=os.environ | here, capture_output=True, text=True, timeout=300, cwd=ROOT
        )
    finally:
        server.shutdown()
    gated, missing = done.stdout.strip().splitlines()
    assert "the data set made/gated is gated" in gated and "hf auth login" in gated
    assert "there is no data set made/nothing on the hub" in missing
