"""The lessons: their form, and the whole course executed at smoke through the runner."""

from __future__ import annotations

import json
import subprocess
import sys

import nbformat
import pytest

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


def test_the_whole_course_runs_at_smoke(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_KIT_RUNS", str(tmp_path))
    command = [sys.executable, "-m", "rlhf_kit", "run", "--profile", "smoke"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "smoke"
    timings = json.loads((run / "timings.json").read_text())
    assert set(timings["notebooks"]) == {p.stem for p in PATHS}
    assert max(timings["peak_memory_mb"].values()) < 4096
    found = {c["id"]: c["status"] for c in json.loads((run / "claims.json").read_text())}
    assert found["bt-loss-matches-trl"] == found["dpo-loss-matches-trl"] == "holds"
    assert "outside" not in found.values()
    for path in PATHS:
        assert (run / "site" / f"{path.stem}.html").is_file()
    assert (run / "site" / "index.html").is_file()
    # with nothing changed nothing is executed again
    again = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0 and again.stdout.count("found (nothing changed)") == len(PATHS)
