"""The runner: parameters checked first, tiny notebooks executed and judged by what they produced."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
import yaml

from rlhf_kit import cli, runs
from rlhf_kit.errors import KitError
from rlhf_kit.running import notebooks, results, runner

PARAMETERS = 'PROFILE = "laptop"\nSEED = 0\nRUN = None\nINTERACTIVE = True\nBETA = 0.1\nROWS: int | None = 5'
OPEN = "from rlhf_kit import claims, runs\nrun = runs.open_run(RUN)"
STAGE = (
    "stage = run.stage('rows', lambda folder: runs.Ledger('rows', 2, 2), params={'seed': SEED})\n"
    "runs.record(run, 'metrics', 'beta', BETA)\n"
    "_ = claims.claim(run, 'kl-grows', 0.3, profile='laptop')"
)


def book(folder, name, *sources, parameters=PARAMETERS):
    cells = [nbformat.v4.new_markdown_cell(f"# Lesson {name}: $x^2$")]
    for place, source in enumerate([parameters, *sources]):
        tags = {"tags": ["parameters"]} if place == 0 else {}
        cells.append(nbformat.v4.new_code_cell(source, metadata=tags))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def finish(name):
    return f"runs.finish(run, '{name}')"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_KIT_RUNS", str(tmp_path / "runs"))
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks"


def go(folder, *arguments):
    return cli.main(["run", "--run", "trial", "--notebooks", str(folder), *arguments])


# ---------------------------------------------------------------- without a kernel


def test_parameters_are_read_from_the_tagged_cell(folder):
    found = notebooks.load(book(folder, "01_a", "x = 1"))
    assert found.parameters == {
        "PROFILE": "laptop",
        "SEED": 0,
        "RUN": None,
        "INTERACTIVE": True,
        "BETA": 0.1,
        "ROWS": 5,
    }
    assert found.optional == {"RUN", "ROWS"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("SEED = 0\nB = SEED + 1", "parameter B must be a literal"),
        ("import os", "may hold only `NAME = literal` lines, not `import os`"),
        ("SEED = (", "not valid Python"),
    ],
)
def test_a_parameters_cell_holds_literals_only(folder, source, message):
    with pytest.raises(KitError, match=f"01_a.ipynb: .*{message}"):
        notebooks.load(book(folder, "01_a", parameters=source))


def test_exactly_one_parameters_cell(folder):
    path = book(folder, "01_a", "x = 1")
    node = nbformat.read(path, 4)
    node.cells[2].metadata["tags"] = ["parameters"]
    nbformat.write(node, path)
    with pytest.raises(KitError, match="01_a.ipynb has 2 cells tagged `parameters`"):
        notebooks.load(path)
    path.write_text("{}")
    with pytest.raises(KitError, match="01_a.ipynb is not a readable notebook"):
        notebooks.load(path)


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"BETA": "1"}, 1.0),
        ({"BETA": "1e-3"}, 0.001),
        ({"SEED": "7"}, 7),
        ({"INTERACTIVE": "false"}, False),
        ({"RUN": "mine"}, "mine"),
        ({"ROWS": "null"}, None),
        ({"PROFILE": "3"}, "3"),
    ],
)
def test_parameters_take_the_type_of_their_default(folder, given, value):
    book(folder, "01_a")
    ((name, injected),) = notebooks.check_parameters(notebooks.select(folder), given)["01_a"].items()
    assert name in given and injected == value and type(injected) is type(value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--param", "BETTA=1"],
            "error: --param BETTA: no chosen notebook has this parameter; did you mean 'BETA'?",
        ),
        (["--param", "BETA=much"], "error: --param BETA=much: 01_a wants float (its default is 0.1)"),
        (["--param", "ROWS=1.5"], "error: --param ROWS=1.5: 01_a wants int (its default is 5)"),
        (["--param", "ROWS=true"], "error: --param ROWS=true: 01_a wants int (its default is 5)"),
        (["--param", "SEED=-4"], "error: --param SEED: the run itself sets this parameter; give --seed"),
        (["--param", "PROFILE=nope"], "error: --param PROFILE: the run itself sets this parameter; give --profile"),
        (["--only", ""], "error: --only '': no such notebook; there are 01_a, 02_b"),
        (["--from", ""], "error: --from '': no such notebook; there are 01_a, 02_b"),
        (["--param", "INTERACTIVE=1"], "error: --param INTERACTIVE=1: 01_a wants bool (its default is True)"),
        (["--param", "BETA"], "error: --param 'BETA' must look like name=value"),
        (["--only", "7"], "error: --only '7': no such notebook; there are 01_a, 02_b"),
        (
            ["--from", "02", "--only", "01"],
            "error: --from 02 leaves none of the notebooks named by --only 01",
        ),
        (["--profile", "labtop"], "error: unknown profile 'labtop'"),
        (["--seed", "-1"], "error: --seed -1: the seed must be between 0 and 2147483647"),
        (["--seed", str(10**12)], "error: --seed 1000000000000: the seed must be between 0 and 2147483647"),
        (
            ["--profile", "smoke", "--set", "data.sft_rows=99999"],
            "error: data.sft_rows is 99999, but data/world/sft.parquet has 12000 rows; ask for fewer",
        ),
        (["--set", "dpo.bta=1"], "error: data/profiles/laptop.yaml with dpo.bta=1: unknown key 'dpo.bta'"),
    ],
)
def test_wrong_input_is_one_sentence_and_starts_nothing(folder, capsys, arguments, message):
    book(folder, "01_a")
    book(folder, "02_b")
    assert go(folder, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(message) and error.count("\n") == 1
    assert not (folder.parent / "runs").exists()


def test_selecting(folder):
    for name in ("00_a", "03_b", "10_c", "notes"):
        book(folder, name)
    names = lambda **k: [b.name for b in notebooks.select(folder, **k)]  # noqa: E731
    assert names() == ["00_a", "03_b", "10_c"]
    assert names(only="3") == names(only="03_b") == ["03_b"]
    assert names(only="10,0") == ["00_a", "10_c"]
    assert names(start="03") == ["03_b", "10_c"]
    with pytest.raises(KitError, match="holds no notebooks"):
        notebooks.select(folder.parent)


def test_the_content_key_ignores_outputs_but_not_sources(folder):
    path = book(folder, "01_a", "x = 1")
    key = notebooks.content_key(notebooks.load(path), {"SEED": 0}, "code")
    node = nbformat.read(path, 4)
    node.cells[-1].outputs = [nbformat.v4.new_output("stream", text="hello")]
    nbformat.write(node, path)
    assert notebooks.content_key(notebooks.load(path), {"SEED": 0}, "code") == key
    assert notebooks.content_key(notebooks.load(path), {"SEED": 1}, "code") != key
    assert notebooks.content_key(notebooks.load(path), {"SEED": 0}, "other code") != key
    book(folder, "01_a", "x = 2")
    assert notebooks.content_key(notebooks.load(path), {"SEED": 0}, "code") != key


def test_a_held_run_is_refused(folder, capsys):
    book(folder, "01_a")
    lock = runs.open_run("trial").path / ".locks" / "runner"
    with runs.locked(lock, "run trial"):
        assert go(folder, "--profile", "smoke") == 2
    assert "run trial is held by process" in capsys.readouterr().err


def test_default_run_names():
    assert runner.default_run("laptop", 0) == "laptop" and runner.default_run("laptop", 3) == "laptop-seed3"


# ---------------------------------------------------------------- with kernels


def test_notebooks_run_in_order_are_found_again_and_collected(folder, capsys, monkeypatch):
    monkeypatch.setattr(notebooks, "code_key", lambda: "the package as it is now")
    book(folder, "00_a", OPEN, STAGE, finish("00_a"))
    book(folder, "01_b", OPEN, "print('<script>alert(1)</script>', SEED, INTERACTIVE, BETA)", finish("01_b"))
    assert go(folder, "--param", "BETA=0.25", "--seed", "4") == 0
    out = capsys.readouterr().out
    assert "[1/2] 00_a: done in" in out and "[2/2] 01_b: done in" in out and "rows: made in" in out
    assert "1 claims: 1 holds" in out
    run = folder.parent / "runs" / "trial"
    executed = nbformat.read(run / "notebooks" / "01_b.ipynb", 4)
    assert executed.cells[-2].outputs[0].text == "<script>alert(1)</script> 4 False 0.25\n"
    assert json.loads((run / "metrics.json").read_text()) == {"beta": 0.25}
    (claim,) = json.loads((run / "claims.json").read_text())
    assert (claim["id"], claim["status"], claim["notebook"]) == ("kl-grows", "holds", "00_a")
    timings = json.loads((run / "timings.json").read_text())
    assert set(timings["notebooks"]) == set(timings["peak_memory_mb"]) == {"00_a", "01_b"}
    assert all(mb > 10 for mb in timings["peak_memory_mb"].values())
    assert [name.split("-")[0] for name in timings["stages"]] == ["rows"]
    assert (run / "logs" / "00_a.log").stat().st_size > 0 and not list((run / "notebooks").glob(".partial*"))
    page = (run / "site" / "01_b.html").read_text()
    assert "<script>alert" not in page and "alert(1)" in page and 'href="00_a.html"' in page and "<math" in page
    index = (run / "site" / "index.html").read_text()
    assert "kl-grows" in index and 'href="01_b.html"' in index
    assert not re.search(r'(src|srcset)="http|<link[^>]*href="http|url\(', index)  # it links to the paper, and fetches nothing
    # nothing changed: found; a source changed: only that one again
    assert go(folder, "--param", "BETA=0.25", "--seed", "4") == 0
    assert capsys.readouterr().out.count("found (nothing changed)") == 2
    book(folder, "01_b", OPEN, "print('changed')", finish("01_b"))
    assert go(folder, "--param", "BETA=0.25", "--seed", "4") == 0
    out = capsys.readouterr().out
    assert "[1/2] 00_a: found" in out and "[2/2] 01_b: done in" in out
    # the lessons take the outputs, but not the runner's traces
    before = (folder / "01_b.ipynb").read_text()
    assert [path.name for path in results.store_outputs(runs.open_run("trial"), folder, ["00_a"])] == ["00_a.ipynb"]
    assert (folder / "01_b.ipynb").read_text() == before  # of other lessons the run may hold outputs of older code
    results.store_outputs(runs.open_run("trial"), folder)
    stored = nbformat.read(folder / "01_b.ipynb", 4)
    assert stored.cells[-2].outputs[0].text == "changed\n" and len(stored.cells) == 5
    assert "papermill" not in (folder / "01_b.ipynb").read_text()
    results.store_timings(runs.open_run("trial"), "laptop", folder / "timings.yaml")
    assert set(yaml.safe_load((folder / "timings.yaml").read_text())["laptop"]) == {"00_a", "01_b"}
    own = runs.open_run("trial").path / "lesson-01" / "my_labels.jsonl"
    own.parent.mkdir()
    own.write_text("{}\n")
    with pytest.raises(KitError, match="my_labels.jsonl holds labels of your own"):
        results.store_outputs(runs.open_run("trial"), folder)
    assert results.store_outputs(runs.open_run("trial"), folder, ["00_a"])
    # a faster machine's whole execution replaces the entry, one that found its stages does not, nor one not asked for
    trial = runs.open_run("trial")
    for name, stages in (("00_a", 40.0), ("01_b", 3.0)):
        runs.record(trial, "executed", name, {"seconds": 50.4, "stages": {"sft": stages}, "peak_memory_mb": 1})
    (folder / "timings.yaml").write_text("laptop: {00_a: 200, 01_b: 200}\n")
    results.store_timings(trial, "laptop", folder / "timings.yaml", only=["01_b"])
    assert yaml.safe_load((folder / "timings.yaml").read_text())["laptop"] == {"00_a": 200, "01_b": 200}
    results.store_timings(trial, "laptop", folder / "timings.yaml")
    assert yaml.safe_load((folder / "timings.yaml").read_text())["laptop"] == {"00_a": 50, "01_b": 200}


def test_the_readmes_figure_is_stored_with_the_lesson_that_draws_it(folder, monkeypatch, tmp_path):
    run, kept = runs.open_run("trial", quiet=True), tmp_path / "summary.png"
    kept.write_text("the figure of before")
    monkeypatch.setattr(results, "FIGURE", kept)
    monkeypatch.setattr(notebooks, "FOLDER", folder)
    for place in ("notebooks", "figures"):
        (run.path / place).mkdir()
    (run.path / "figures" / kept.name).write_text("a new figure")
    for name in ("08_online_dpo", "09_evaluation"):
        shutil.copy(book(folder, name), run.path / "notebooks")
        runs.record(run, "executed", name, {"parameters": {}})
    results.store_outputs(run, folder, ["08_online_dpo"])
    assert kept.read_text() == "the figure of before"
    results.store_outputs(run, folder)
    assert kept.read_text() == "a new figure"
    source = "".join(c.source for c in nbformat.read(runs.PROJECT / "notebooks" / f"{results.DRAWN_BY}.ipynb", 4).cells)
    assert f'save_figure(fig, course.run, "{results.FIGURE.stem}")' in source


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        (
            [OPEN, "import os\nos.kill(os.getpid(), 9)", "y = 2", finish("00_a")],
            "the kernel died in code cell 3 of 5, which begins `import os`",
        ),
        (
            [OPEN, "x = 1", "x / 0", finish("00_a")],
            "ZeroDivisionError in code cell 4 of 5, which begins `x / 0`: division by zero",
        ),
        ([OPEN, "x = 1"], "it ran, but its last cell left no closing record"),
        ([OPEN, finish("00_a"), "import sys; sys.exit(0)", "y = 2"], "SystemExit in code cell 4 of 5"),
    ],
)
def test_what_did_not_finish_is_not_believed(folder, capsys, cells, problem):
    book(folder, "00_a", *cells)
    book(folder, "01_b", OPEN, finish("01_b"))
    assert go(folder) == 1
    out = capsys.readouterr().out
    assert f"[1/2] 00_a: FAILED: {problem}" in out and "01_b: running" not in out
    run = folder.parent / "runs" / "trial"
    assert (
        not (run / "notebooks" / "00_a.ipynb").exists() and (run / "notebooks" / "00_a.failed.ipynb").exists()
    )
    assert "00_a" not in json.loads((run / "timings.json").read_text())["notebooks"]


def test_a_claim_outside_its_band_fails_the_run(folder, capsys):
    wrong = "_ = claims.claim(run, 'rm-accuracy-fresh', 0.5, profile='laptop')"
    book(folder, "00_a", OPEN, wrong, finish("00_a"))
    assert go(folder) == 1
    assert "outside their bands: rm-accuracy-fresh" in capsys.readouterr().out
    book(folder, "00_a", OPEN, finish("00_a"))  # the claim is gone from the notebook, and so from the run
    assert go(folder) == 0
    assert "no claims were recorded" in capsys.readouterr().out


def test_a_terminated_run_leaves_no_kernel_and_continues(folder, capsys):
    wait = "import os, time, pathlib\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(100)"
    book(folder, "00_a", OPEN, finish("00_a"))
    book(folder, "01_b", OPEN, wait, finish("01_b"))
    process = subprocess.Popen(
        [sys.executable, "-m", "rlhf_kit", "run", "--run", "trial", "--notebooks", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=runs.PROJECT,
    )
    deadline = time.monotonic() + 300  # where much else runs two kernels take that long
    while not (folder / "pid").exists() or not (folder / "pid").read_text():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.terminate()
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130 and "the same command continues" in error
    kernel = int((folder / "pid").read_text())
    # a zombie counts as gone: some containers have no init that collects them
    assert not psutil.pid_exists(kernel) or psutil.Process(kernel).status() == psutil.STATUS_ZOMBIE
    book(folder, "01_b", OPEN, finish("01_b"))
    assert go(folder) == 0
    out = capsys.readouterr().out
    assert "[1/2] 00_a: found" in out and "[2/2] 01_b: done" in out
