"""The lessons: their form, and the whole course executed at smoke through the runner."""

from __future__ import annotations

import json
import math
import subprocess
from types import SimpleNamespace

import nbformat
import pytest
from site_checks import faults

from rlhf_kit.evaluation import tally
from rlhf_kit.files import locked
from rlhf_kit.running import notebooks
from rlhf_kit.runs import PROJECT

PATHS = sorted(notebooks.FOLDER.glob("[0-9][0-9]_*.ipynb"))
pytestmark = pytest.mark.skipif(not PATHS, reason="no notebooks yet")


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_a_lesson_keeps_its_form(path):
    book = notebooks.load(path)
    assert {"PROFILE", "SEED", "RUN", "INTERACTIVE", "EXERCISES"} <= set(book.parameters)
    assert (
        len(book.parameters) <= 6 and book.parameters["PROFILE"] == "laptop" and book.parameters["SEED"] == 0
    )
    node = nbformat.read(path, 4)
    assert "widgets" not in node.metadata and "papermill" not in node.metadata
    code = [c for c in node.cells if c.cell_type == "code"]
    assert f'"{path.stem}"' in code[-1].source and "finish(" in code[-1].source
    assert not [o for c in code for o in c.outputs if o.output_type == "error"]
    assert not [c for c in code if "injected-parameters" in c.metadata.get("tags", [])]
    assert path.stat().st_size < 1_000_000


def test_the_whole_course_runs_at_smoke(smoke_course):
    done, run = smoke_course.done, smoke_course.run
    assert done is None or done.returncode == 0, done.stdout + done.stderr
    timings = json.loads((run / "timings.json").read_text())
    assert set(timings["notebooks"]) == {p.stem for p in PATHS}
    assert max(timings["peak_memory_mb"].values()) < 4096
    found = {c["id"]: c["status"] for c in json.loads((run / "claims.json").read_text())}
    assert found["bt-loss-matches-trl"] == found["dpo-loss-matches-trl"] == "holds"
    assert "outside" not in found.values()
    assert {p.stem for p in PATHS} | {"index", "figures"} <= {p.stem for p in (run / "site").glob("*.html")}
    assert not faults(run / "site")
    # with nothing changed nothing is executed again; it writes the results anew, and nobody may copy them meanwhile
    with locked(smoke_course.lock, "the smoke course of the tests"):
        again = subprocess.run(smoke_course.command, cwd=PROJECT, env=smoke_course.env, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0 and again.stdout.count("found (nothing changed)") == len(PATHS)


def test_lessons_run_with_released_models(smoke_course):
    """The models of the smoke run stand for released ones: lessons on them train none of the three and say so."""
    names = {"sft": "sft", "reward": "reward_model", "pairwise": "pairwise_model"}
    given = {name: min(smoke_course.run.glob(f"{stage}-*"), key=_made) / "model" for name, stage in names.items()}
    sets = [word for name, folder in given.items() for word in ("--set", f"{name}.released={folder}")]
    sets += ["--set", "data.prompts_per_iteration=8"]  # a lesson's length is in its rounds of sampling
    command = [*smoke_course.command, "--run", "released", "--only", "02,03,04,08", *sets]
    done = subprocess.run(command, cwd=PROJECT, env=smoke_course.env, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    run = smoke_course.run.parent / "released"
    for name, stage in names.items():
        facts = [json.loads(file.read_text())["facts"] for file in run.glob(f"{stage}-*/manifest.json")]
        own = [one for one in facts if "released" not in one]
        assert [one["released"] for one in facts if "released" in one] == [str(given[name])]
        assert not own if name == "sft" else all("weights" in one for one in own)
    # the online loop starts from the released policy and is held to it
    trained = [json.loads(file.read_text())["facts"] for file in run.glob("dpo-1-*/manifest.json")]
    assert trained and {one["reference"]["path"] for one in trained} == {str(given["sft"])}
    assert all(abs(one["step_zero"]["loss"] - math.log(2)) < 1e-4 for one in trained)


def _made(stage):
    """When a stage was begun: lessons train variants of a model later."""
    return json.loads((stage / "manifest.json").read_text())["started"]


def test_the_cell_of_table_4_can_be_run_again():
    book = nbformat.read(notebooks.FOLDER / "09_evaluation.ipynb", 4)
    (source,) = [c.source for c in book.cells if c.cell_type == "code" and "table4_ablation" in c.source]
    rows = [{"judge": "gold", "policy": "concise", "temperature": 1.0}]
    made = SimpleNamespace(rows=lambda: SimpleNamespace(to_list=lambda: list(rows)))
    summary = [{"policy": name, "temperature": 1.0, "length": 9.0} for name in ("one", "concise")]
    told = [{"judge": "gold", "policy": "one", "temperature": 0.0}, {"judge": "bt", "policy": "one", "temperature": 1.0}]
    seen, shown = [], []

    def arena(verdicts, style):
        seen.append(list(verdicts))
        return [{"model": row["policy"], "score": 50.0} for row in summary]

    names = {
        "stages": SimpleNamespace(verdicts=lambda *a: made, summarise=lambda both: summary), "course": SimpleNamespace(metric=lambda *a: None),
        "both": None, "first": SimpleNamespace(name="one"), "judge": "gold", "judges": {"gold": "gold"}, "PENALTY": 0.02, "arena": arena,
        "show": lambda *a, **k: shown.append(a), "told": list(told), "pick": tally.pick, "judged": SimpleNamespace(beside=lambda *a: a[1:]),
        "tally": SimpleNamespace(lengths=lambda *a: (), controlled=lambda: {"lc_win_rate": 60.0}, records=tally.records),
    }  # fmt: skip
    exec(source, names)
    exec(source, names)
    assert names["told"] == told and seen == [told + rows] * 2 and shown[0] == shown[1]
    ours, columns = shown[0]
    assert [list(row.values()) for row in ours.values()] == [[0.0, 60.0, 50.0, 9.0], [0.02, 60.0, 50.0, 9.0]]
    assert all(list(row) == columns for row in ours.values())
