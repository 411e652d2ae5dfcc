"""The stage store: keys, resuming after a kill, ledgers, locks, nothing half-written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import types
from pathlib import Path

import numpy as np
import pytest

from rlhf_kit import runs
from rlhf_kit.errors import KitError


@pytest.fixture
def run(tmp_path):
    return runs.open_run("trial", tmp_path, quiet=True)


def module_of(path: Path, source: str) -> types.ModuleType:
    path.write_text(source)
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    return module


def test_stable_hash_is_the_sha256_of_canonical_json():
    # sha256 of [{"a":1,"b":[2,3]}]
    assert runs.stable_hash({"b": (2, 3), "a": 1}) == runs.stable_hash({"a": 1, "b": [2, 3]})
    import hashlib

    assert runs.stable_hash("x", 1) == hashlib.sha256(b'["x",1]').hexdigest()[:12]
    assert runs.stable_hash("x", 1) != runs.stable_hash("x1")
    assert len(runs.stable_hash("x", length=20)) == 20
    assert runs.stable_hash(np.float64(0.5), np.array([1, 2])) == runs.stable_hash(0.5, [1, 2])
    with pytest.raises(KitError, match="function"):
        runs.stable_hash(lambda: 0)


def test_derived_seeds_are_stable_distinct_and_31_bits():
    seeds = [runs.derive_seed(s, name, i) for s in range(3) for name in ("sft", "dpo") for i in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= s < 2**31 for s in seeds)
    assert runs.derive_seed(0, "sft", 1) == runs.derive_seed(0, "sft", "1")


def test_a_stage_is_built_once_and_then_found(run, capsys):
    built = []

    def build(folder):
        built.append(folder)
        runs.write_rows(folder, [{"text": "a", "score": 1.5}, {"text": "b"}])
        return runs.Ledger("clean", 3, 2, {"empty": 1})

    first = run.stage("clean", build, params={"min": 1})
    second = run.stage("clean", build, params={"min": 1})
    assert len(built) == 1 and not first.cached and second.cached
    assert first.key == second.key and first.path == second.path == run.path / f"clean-{first.key}"
    assert first.rows().to_list() == [{"text": "a", "score": 1.5}, {"text": "b", "score": None}]
    ledger = second.manifest["ledger"]
    assert ledger == [{"stage": "clean", "rows_in": 3, "rows_out": 2, "dropped": {"empty": 1}}]
    assert second.manifest["params"] == {"min": 1} and second.manifest["versions"]["numpy"] == np.__version__
    assert capsys.readouterr().out == ""  # quiet
    loud = runs.open_run("trial", run.path.parent)
    loud.stage("clean", build, params={"min": 1})
    assert capsys.readouterr().out == "clean: found (made earlier)\n"


def test_the_key_changes_with_parameters_inputs_and_code(run, tmp_path):
    helper = module_of(tmp_path / "helper.py", "x = 1\n")
    base = run.stage("a", lambda f: None, params={"beta": 0.1}, code=[helper])
    same = run.stage("a", lambda f: None, params={"beta": 0.1}, code=[helper])
    other_params = run.stage("a", lambda f: None, params={"beta": 0.2}, code=[helper])
    other_inputs = run.stage("a", lambda f: None, params={"beta": 0.1}, code=[helper], inputs={"from": base})
    helper = module_of(tmp_path / "helper.py", "x = 1  # more\n")
    other_code = run.stage("a", lambda f: None, params={"beta": 0.1}, code=[helper])
    assert same.cached and same.key == base.key
    assert len({base.key, other_params.key, other_inputs.key, other_code.key}) == 4


def test_the_code_of_a_package_is_all_its_files(tmp_path):
    package = tmp_path / "pack"
    package.mkdir()
    module = module_of(package / "__init__.py", "")
    (package / "inner.py").write_text("a = 1")
    before = runs.code_hash([module])
    (package / "inner.py").write_text("a = 22")
    assert runs.code_hash([module]) != before


@pytest.mark.parametrize(
    "ledger",
    [
        runs.Ledger("x", 10, 8, {"tie": 1}),
        runs.Ledger("x", 10, 12, {"tie": -2}),
        [runs.Ledger("x", 1, 1), runs.Ledger("x", 2, 1)],
        {"ledger": {"stage": "x", "rows_in": 2, "rows_out": 1, "dropped": {}}},
    ],
)
def test_a_ledger_that_does_not_balance_fails_the_stage(run, ledger):
    with pytest.raises(KitError, match="ledger of x does not balance"):
        run.stage("x", lambda f: ledger)
    assert not list(run.path.glob("x-*"))


def test_facts_reach_the_manifest_and_other_returns_are_refused(run):
    stage = run.stage("x", lambda f: {"accuracy": 0.8, "ledger": runs.Ledger("x", 1, 1)})
    assert stage.manifest["facts"] == {"accuracy": 0.8} and len(stage.manifest["ledger"]) == 1
    with pytest.raises(KitError, match="must return"):
        run.stage("y", lambda f: 7)


def test_an_exception_leaves_no_finished_folder_and_the_next_build_goes_on(run):
    def fails(folder):
        runs.write_json(folder / "shard-0.json", [1])
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError):
        run.stage("slow", fails)
    assert not list(run.path.glob("slow-*"))
    seen = []
    stage = run.stage("slow", lambda folder: seen.extend(p.name for p in folder.glob("shard-*")))
    assert seen == ["shard-0.json"] and stage.manifest["resumed"] and stage.json("shard-0.json") == [1]


def test_a_killed_build_resumes_and_its_lock_is_free(tmp_path):
    script = textwrap.dedent("""
        import sys, time
        from rlhf_kit import runs
        run = runs.open_run("killed", sys.argv[1], quiet=True)
        def build(folder):
            done = len(list(folder.glob("shard-*")))
            for i in range(done, 3):
                if i == 2 and done == 0:
                    print("ready", flush=True)
                    time.sleep(60)
                runs.write_json(folder / f"shard-{i}.json", {"from": done})
        run.stage("slow", build)
    """)
    command = [sys.executable, "-c", script, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=runs.PROJECT)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list((tmp_path / "killed").glob("slow-*"))
    subprocess.run(command, check=True, timeout=60, cwd=runs.PROJECT)
    (stage,) = (tmp_path / "killed").glob("slow-*")
    assert [json.loads((stage / f"shard-{i}.json").read_text())["from"] for i in range(3)] == [0, 0, 2]
    assert (stage / "_SUCCESS").is_file() and not list((tmp_path / "killed").glob(".partial-*"))


def test_a_folder_without_success_is_not_believed(run):
    stage = run.stage("x", lambda f: None)
    (stage.path / "_SUCCESS").unlink()
    (stage.path / "stray").write_text("")
    again = run.stage("x", lambda f: None)
    assert not again.cached and not (again.path / "stray").exists()


def test_the_lock_names_its_holder_and_is_released(tmp_path):
    with runs.locked(tmp_path / "lock", "run laptop"):
        with pytest.raises(KitError, match=rf"run laptop is held by process {os.getpid()} on "):
            with runs.locked(tmp_path / "lock", "run laptop", wait=False):
                pass
    with runs.locked(tmp_path / "lock", "run laptop", wait=False):
        pass


def test_a_second_process_waits_for_the_stage_and_finds_it(tmp_path):
    script = (
        "import sys, time; from rlhf_kit import runs; run = runs.open_run('two', sys.argv[1]);"
        "run.stage('slow', lambda f: (print('in', flush=True), time.sleep(1.0), None)[-1])"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=runs.PROJECT
    )
    assert first.stdout.readline() == "in\n"
    started = time.monotonic()
    stage = runs.open_run("two", tmp_path).stage("slow", lambda f: None)
    assert stage.cached and time.monotonic() - started > 0.2
    assert first.wait() == 0


def full():
    raise OSError("the disk is full")


def test_writing_replaces_whole_files_only(tmp_path, monkeypatch):
    path = runs.write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(TypeError):
        runs.write_json(path, {"x": object()})
    assert runs.read_json(path) == {"x": 1}
    with monkeypatch.context() as patched, pytest.raises(OSError, match="full"):
        patched.setattr(Path, "write_text", lambda self, text, **_: (open(self, "w").close(), full())[1])
        runs.write_json(path, {"x": 2})
    assert runs.read_json(path) == {"x": 1}  # the disk was full before a word of the new text was in
    with pytest.raises(Exception):  # noqa: B017 - pyarrow's own kind: a column of two types
        runs.write_rows(tmp_path, [{"x": 1}, {"x": "text"}])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json"]
    path.write_text("{")
    with pytest.raises(KitError, match="a.json is not valid JSON"):
        runs.read_json(path)


def test_rows_go_through_parquet_unchanged(tmp_path):
    from datasets import Dataset

    rows = [
        {"prompt": [{"role": "user", "content": f"q{i}"}], "ids": [i, 2], "reward": i / 2} for i in range(5)
    ]
    runs.write_rows(tmp_path, rows, "list.parquet")
    runs.write_rows(tmp_path, Dataset.from_list(rows).select([4, 0]), "set.parquet")
    assert runs.read_rows(tmp_path / "list.parquet").to_list() == rows
    assert runs.read_rows(tmp_path / "set.parquet").to_list() == [rows[4], rows[0]]
    with pytest.raises(KitError, match="does not exist"):
        runs.read_rows(tmp_path / "none.parquet")


def test_records_and_names(run, monkeypatch):
    monkeypatch.setenv("RLHF_KIT_NOTEBOOK", "03_reward_model")
    runs.record(run, "metrics", "accuracy", 0.8)
    assert runs.records(run, "metrics") == {
        "accuracy": {"name": "accuracy", "value": 0.8, "notebook": "03_reward_model"}
    }
    for bad in ("../up", "", "a b"):
        with pytest.raises(KitError, match="may hold only"):
            runs.open_run(bad, run.path)
        with pytest.raises(KitError, match="may hold only"):
            runs.record(run, "metrics", bad, 1)


def test_threads_may_write_one_file_at_once(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda k: runs.write_json(tmp_path / "one.json", {"k": k % 2, "fill": "x" * 20_000}), range(400)))
    assert runs.read_json(tmp_path / "one.json")["k"] in (0, 1) and [f.name for f in tmp_path.iterdir()] == ["one.json"]
