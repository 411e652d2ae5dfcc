"""Shared fixtures: the smoke course, a tiny model folder, the machine, rows. How the tests are shared out to processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from browser_kit import artefacts, browser, lab  # noqa: F401  fixtures

# Before anything imports torch or a library of the hub.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
WORKER = os.environ.get("PYTEST_XDIST_WORKER")
if WORKER:  # the processes share the cores; each computes, and lets its kernels compute, with one thread
    for name in ("RLHF_KIT_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")

PROJECT = Path(__file__).resolve().parents[1]
STORIES = Path(__file__).resolve().parents[1].parent / "shared" / "realdata" / "stories260K" / "hf"

TEMPLATE = (
    "{{- '<bos>' -}}{%- for message in messages -%}{%- if message['role'] == 'assistant' -%}"
    "{{- '<assistant>' -}}{%- generation -%}{{- message['content'] + '<end>' -}}{%- endgeneration -%}"
    "{%- else -%}{{- '<user>' + message['content'] + '<end>' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<assistant>' -}}{%- endif -%}"
)


# ---------------------------------------------------------------- sharing out

# `make test` runs one process a core (`-n auto`). A file stays in one process, for the sake of its fixtures; files in one
# line here share costly ones. What takes longest starts first, in this order: the smoke course is begun with the first
# tests, and done when a browser opens it.
LONG = (
    ("test_notebooks.py",),
    ("test_vllm.py", "test_eval_vllm_judge.py"),
    ("test_colab_profile.py",),
    ("test_launch.py",),
    ("test_browser.py", "test_browser_course.py", "test_browser_site.py"),
    ("test_exercises.py",), ("test_lora.py",), ("test_own.py",), ("test_runner.py",), ("test_training.py",), ("test_stages.py",),
)  # fmt: skip
PLACE = {name: place for place, names in enumerate(LONG) for name in names}
GIGABYTES = 3  # that a process and the kernel, engine or browser it has started may take


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config) -> int:
    """For `-n auto`: a process a core, and no more than fit into the free memory; PYTEST_XDIST_AUTO_NUM_WORKERS decides otherwise."""
    import psutil

    from rlhf_kit.machine import usable_cores

    named = os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS", "")
    return int(named) if named.isdigit() else max(1, min(usable_cores(), 8, psutil.virtual_memory().available // 2**30 // GIGABYTES))


def file_of(nodeid: str) -> str:
    return nodeid.split("::")[0].rsplit("/", 1)[-1]


def pytest_collection_modifyitems(items) -> None:
    if WORKER:
        items.sort(key=lambda item: PLACE.get(file_of(item.nodeid), len(LONG)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return str(PLACE.get(file_of(nodeid), nodeid.split("::")[0]))

    if config.option.dist != "load":  # another way was asked for
        return None
    config.option.loadscopereorder = False  # the order is that of the collection
    return Together(config, log)


# ---------------------------------------------------------------- fixtures


def run_once(command: list[str], told: Path, seconds: float, **more) -> subprocess.CompletedProcess:
    """What a command gave; the file `told` keeps it, so that another process does not try again what failed, or took too long, in the first."""
    if told.is_file():
        return subprocess.CompletedProcess(command, **json.loads(told.read_text(encoding="utf-8")))
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, **more)
        said = {"returncode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
    except subprocess.TimeoutExpired as late:  # its output comes as bytes, whatever was asked for
        out, err = ((part or b"").decode(errors="replace") for part in (late.stdout, late.stderr))
        said = {"returncode": 124, "stdout": out, "stderr": f"{err}\nended after {seconds} s"}
    told.write_text(json.dumps(said), encoding="utf-8")
    return subprocess.CompletedProcess(command, **said)


@pytest.fixture(scope="session")
def smoke_course(tmp_path_factory) -> SimpleNamespace:
    """The whole course executed at smoke, once for all tests and processes: command, its result (None if it was found), run, environment.

    lock: to be held by who copies the run or starts the command again, since other processes do so too.
    RLHF_KIT_SMOKE_RUN names a finished smoke run (its folder is called `smoke`) to be copied instead of making one.
    """
    from rlhf_kit.files import locked

    root = tmp_path_factory.getbasetemp()
    root = (root.parent if WORKER else root) / "smoke-course"
    env = {**os.environ, "RLHF_KIT_RUNS": str(root)}
    command = [sys.executable, "-m", "rlhf_kit", "run", "--profile", "smoke"]
    done, given, run = None, os.environ.get("RLHF_KIT_SMOKE_RUN"), root / "smoke"
    with locked(root / ".lock", "the smoke course of the tests"):
        if not given:
            done = run_once(command, root / "told.json", 1500, cwd=PROJECT, env=env)
        elif not run.is_dir():  # the first process copies; the others read what it copied
            shutil.copytree(given, root / "copy", dirs_exist_ok=True)
            (root / "copy").rename(run)
    return SimpleNamespace(command=command, done=done, run=run, env=env, lock=root / ".lock")


@pytest.fixture(scope="session")
def machine():
    """A CPU in float32, whatever this machine has: tests compare numbers."""
    from rlhf_kit.machine import Machine

    return Machine(
        device="cpu", dtype="float32", autocast_bf16=False, threads=1, backend="transformers", reasons={}
    )


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """A saved Llama (hidden 32, 2 layers, random weights) with a byte-level tokenizer in the pocket model's layout."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers import models as tokenizer_models
    from transformers import PreTrainedTokenizerFast

    from rlhf_kit import models

    folder = tmp_path_factory.mktemp("tiny")
    raw = Tokenizer(tokenizer_models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<pad>", "<bos>", "<end>", "<user>", "<assistant>"]
    raw.train_from_iterator(
        ["the brave bear sat on the mat and told a story about the moon"] * 4,
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=special,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<end>",
        extra_special_tokens=["<user>", "<assistant>"],
        chat_template=TEMPLATE,
    )
    tokenizer.save_pretrained(folder / "tokenizer")
    model, tokenizer = models.new_model(
        {"hidden_size": 32, "layers": 2, "heads": 4}, folder / "tokenizer", seed=0
    )
    return models.save_model(model, tokenizer, folder / "model")


@pytest.fixture(scope="session")
def tiny_rows() -> SimpleNamespace:
    """sft: rows {messages}; pairs: rows {prompt, chosen, rejected} as texts; preferences: the same as conversations."""
    animals, moods = ("bear", "goat", "cat", "moon"), ("brave", "calm", "silly", "old")
    sft, pairs = [], []
    for i in range(24):
        animal, mood = animals[i % 4], moods[(i // 4) % 4]
        question = [{"role": "user", "content": f"Tell of a {mood} {animal}" + " please" * (i % 3)}]
        good = f"The {mood} {animal} sat on the mat." + " It was fine." * (i % 2)
        sft.append({"messages": [*question, {"role": "assistant", "content": good}]})
        pairs.append({"prompt": question, "chosen": good, "rejected": "no no" + " no" * (i % 4)})
    preferences = [
        {
            "prompt": row["prompt"],
            **{
                side: [*row["prompt"], {"role": "assistant", "content": row[side]}]
                for side in ("chosen", "rejected")
            },
        }
        for row in pairs
    ]
    return SimpleNamespace(sft=sft, pairs=pairs, preferences=preferences)


@pytest.fixture
def settings() -> SimpleNamespace:
    """A training section of a profile with quick values."""
    return SimpleNamespace(
        epochs=1,
        learning_rate=3e-3,
        batch_size=8,
        warmup_ratio=0.03,
        weight_decay=0.0,
        schedule="cosine",
        max_grad_norm=1.0,
        beta=0.1,
        loss="sigmoid",
        label_smoothing=0.0,
        center_coefficient=0.0,
    )


@pytest.fixture(scope="session")
def stories_folder() -> Path:
    """A real checkpoint without pad token and chat template."""
    if not STORIES.is_dir():
        pytest.skip(f"needs the stories260K checkpoint at {STORIES}")
    return STORIES
