"""What the hub's clients raise becomes one sentence: made errors, and a made hub on this machine that refuses."""

from __future__ import annotations

import errno
import io
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_hub import serve
from test_public_sets import shp, summarize

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


# ---------------------------------------------------------------- the real client, against a hub made here


def parquet(rows):
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def made_files():
    files = {"data/train-00000-of-00002.parquet": parquet([shp(i) for i in range(4)])}
    files["data/train-00001-of-00002.parquet"] = parquet([shp(4), shp(5, scores=(3, 2))])
    files["data/test-00000-of-00001.parquet"] = parquet([shp(100)])
    talks = {}
    for folder in ("helpful-base", "helpful-rejection-sampled", "helpful-online", "harmless-base"):
        for split in ("train", "test"):
            pair = {side: f"\n\nHuman: {folder} {split}\n\nAssistant: {side}" for side in ("chosen", "rejected")}
            talks[f"{folder}/{split}.jsonl"] = json.dumps(pair).encode() + b"\n"
    return {
        "stanfordnlp/SHP": files, "Anthropic/hh-rlhf": talks, "made/gated": "gated",
        "openai/summarize_from_feedback": {
            "comparisons/train/0000.parquet": parquet([summarize(0), summarize(1)]),
            "comparisons/validation/0000.parquet": parquet([summarize(1)]),
            "axis/test/0000.parquet": parquet([{"other": 1}]),
        },
    }  # fmt: skip


ASK = """
import json, sys
import datasets
from rlhf_kit.errors import KitError
from rlhf_kit.preferences import load_with_ledger
datasets.disable_progress_bars()
for name, options in json.loads(sys.argv[1]):
    try:
        found, ledger = load_with_ledger(name, **options)
        print(json.dumps([[row[-1]["content"] for row in found["prompt"]], ledger.rows_in, ledger.dropped]))
    except KitError as error:
        print(json.dumps(str(error)))
"""


def ask(url, home, *questions, **environment):
    """The answers of a fresh process, in which no module has read another environment."""
    here = {"HF_ENDPOINT": url, "HF_HOME": str(home), "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, "-c", ASK, json.dumps(questions)], env=os.environ | here, capture_output=True,
                          text=True, timeout=300, cwd=ROOT)  # fmt: skip
    assert done.returncode == 0, done.stderr[-800:]
    return [json.loads(line) for line in done.stdout.splitlines()]


SHP = [[f"Why {i}?" for i in range(5)], 6, {"small_ratio": 1}]
HH = [[f"{folder} train" for folder in ("helpful-base", "helpful-rejection-sampled", "helpful-online")], 3, {}]


def test_the_real_client_streams_downloads_and_finds_again(tmp_path):
    with serve(made_files()) as made:
        streamed = ask(
            made.url, tmp_path / "one", ["shp", {"streaming": True, "limit": 2}], ["shp", {"streaming": True}],
            ["hh-rlhf", {"streaming": True}], ["summarize", {"streaming": True}],
        )  # fmt: skip
        assert streamed[:3] == [[SHP[0][:2], 2, {}], SHP, HH] and streamed[3][1:] == [2, {}]
        first = next(i for i, one in enumerate(made.asked) if "train-00001" in one)
        assert first > next(i for i, one in enumerate(made.asked) if "train-00000" in one)
        told = ask(
            made.url, tmp_path / "two", ["stanfordnlp/SHP", {}], ["shp", {"split": "test"}], ["shp", {"split": "dev"}],
            ["shp", {"subset": "askbaking"}], ["made/gated", {}], ["made/nothing", {}],
        )  # fmt: skip
    assert told[:2] == [SHP, [["Why 100?"], 1, {}]]
    for sentence, words in zip(told[2:], ("dev", "askbaking", "is gated", "there is no data set made/nothing"), strict=True):
        assert words in sentence and "\n" not in sentence and len(sentence) < 420
    offline = {"HF_HUB_OFFLINE": "1"}  # the hub is gone by now
    assert ask(made.url, tmp_path / "two", ["shp", {}], ["hh-rlhf", {}], **offline) == [
        SHP, "the data set Anthropic/hh-rlhf is not on this machine, and HF_HUB_OFFLINE forbids asking the hub for it; "
        "unset it, or give the path of a local copy"]  # fmt: skip
