"""The report command: paired where prompts are equal, escaped, in three formats."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from rlhf_kit import claims, cli, runs
from rlhf_kit.errors import KitError
from rlhf_kit.running import results
from rlhf_kit.running.report import compare, report


def make(name, shift, prompts=60, offset=0, evil=False):
    """A finished run with one evaluation stage whose gold is hard or easy by prompt, plus `shift`."""
    run = runs.open_run(name, quiet=True)
    runs.record(run, "metrics", "gold", float(shift))
    if evil:
        runs.record(run, "metrics", "evil", "<script>alert(1)</script> | b\nc")
    runs.record(run, "metrics", "broken", float("nan"))
    claims.claim(run, "kl-grows", 1.5, profile="laptop")

    def build(folder):
        rng = np.random.default_rng(int(100 * shift))
        hard = np.random.default_rng(0).normal(size=1000)
        rows = [{"policy": "online-3", "temperature": 1.0, "prompt_id": f"p{i}", "sample": s, "category": "chat" if i % 2 else "safety",
                 "gold": float(5 + 2 * hard[i] + shift + 0.05 * rng.normal()), "reward": 1.0, "length": 10 * i, "text": "x"}
                for i in range(offset, offset + prompts) for s in (0, 1)]
        runs.write_rows(folder, rows)

    run.stage("evaluation", build, params={"split": "eval", "policies": ["online-3"]})
    def choose(folder):  # another split: not the final numbers
        runs.write_rows(folder, [{"policy": "online-3", "temperature": 1.0, "prompt_id": "p", "sample": 0, "gold": -100.0}])

    run.stage("evaluation", choose, params={"split": "choose"})
    results.write_results(run)
    return run


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_KIT_RUNS", str(tmp_path))
    return tmp_path


def gold(found, category="all"):
    return next(line for line in found["policies"] if line["measure"] == "gold" and line["category"] == category)


def test_equal_prompts_are_paired_and_others_are_not(root):
    make("a", 0.2), make("b", 0.0), make("c", 0.0, offset=500)
    found = gold(compare("a", "b"))
    assert found["paired"] and found["n"] == 60 and 0.15 < found["low"] < 0.2 < found["high"] < 0.25
    assert gold(compare("a", "b"), "chat")["n"] == 30
    other = gold(compare("a", "c"))
    assert not other["paired"] and other["low"] < 0 < other["high"]  # the prompts' difficulty hides so small a gain
    alone = gold(compare("a"))
    assert alone["low"] < alone["value"] < alone["high"] and "difference" not in alone


def test_the_command_prints_and_writes_three_files(root, capsys):
    make("a", 0.2, evil=True), make("b", 0.0)
    capsys.readouterr()
    assert cli.main(["report", "--run", "a", "--against", "b"]) == 0
    out = capsys.readouterr().out
    assert "| online-3 | 1 | gold |" in out and "paired" in out and "<script>" not in out
    folder = root / "a" / "report"
    assert (folder / "report-against-b.md").read_text() == out and out.startswith("# Run a against b\n")
    page = (folder / "report-against-b.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page and "default-src 'none'" in page
    content = json.loads((folder / "report-against-b.json").read_text(), parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))
    assert content["against"] == "b" and gold(content)["paired"]
    assert {line["metric"]: line["value"] for line in content["metrics"]}["broken"] is None
    assert cli.main(["report", "--run", "a"]) == 0 and (folder / "report.json").is_file()


def test_tables_that_lessons_record_are_tables_of_the_report(root, capsys):
    a, b = make("a", 0.2), make("b", 0.0)
    bench = [{"judge": "gold|<b>", "section": "Chat", "score": 100.0}, {"judge": "bt", "section": "Chat", "score": None}]
    runs.record(a, "metrics", "05.reward_bench", bench)
    runs.record(a, "metrics", "ragged", [{"x": [1, 2]}])  # no table: it stays a metric
    results.write_results(a)
    capsys.readouterr()
    assert cli.main(["report", "--run", "a"]) == 0
    alone = capsys.readouterr().out
    assert "## 05.reward_bench" in alone and "| judge | section | score |" in alone and "| gold&#124;&lt;b&gt; | Chat | 100 |" in alone
    assert "| ragged | x 1, 2 |" in alone and "| 05.reward_bench |" not in alone
    assert cli.main(["report", "--run", "a", "--against", "b"]) == 0
    one_sided = capsys.readouterr().out
    assert "Not measured in b." in one_sided
    runs.record(b, "metrics", "05.reward_bench", [{**bench[1], "score": 70.0, "n": 3}])
    results.write_results(b)
    assert cli.main(["report", "--run", "a", "--against", "b"]) == 0
    both = capsys.readouterr().out
    assert "| run | judge | section | score | n |" in both and "| b | bt | Chat | 70 | 3 |" in both and "| a | bt | Chat |  |  |" in both
    page = (root / "a" / "report" / "report-against-b.html").read_text()
    assert "<h2>05.reward_bench</h2>" in page and "<b>" not in page
    assert json.loads((root / "a" / "report" / "report-against-b.json").read_text())["metrics"]


def test_values_are_shown_with_the_digits_that_they_need(root, capsys):
    a, b = make("a", 0.2), make("b", 0.0)
    for run, more in ((a, 0.0), (b, 0.01)):
        runs.record(run, "metrics", "diversity", [0.928466796875 + more, 0.9 + more])
        runs.record(run, "metrics", "heldout", {"accuracy": 2 / 3, "n": 600, "biased": False})
        rows = [{"name": "x", "score": 100.0, "p": 1.12e-07, "sure": True}, {"name": "y", "score": 96.303, "p": 0.25, "sure": False}]
        runs.record(run, "metrics", "bench", rows)
        results.write_results(run)
    capsys.readouterr()
    report("a")
    alone = (root / "a" / "report" / "report.md").read_text()
    assert "| diversity | 0.9285, 0.9000 |" in alone and "| heldout | accuracy 0.6667, n 600, biased no |" in alone
    assert "| name | score | p | sure |\n| --- | ---: | ---: | --- |\n| x | 100.0 | 1.1e-07 | yes |\n| y | 96.3 | 0.25 | no |" in alone
    assert "]," not in alone and "{" not in alone
    assert "\n\n1 claims: " in alone  # below the table, and not its last row
    report("a", "b")
    both = (root / "a" / "report" / "report-against-b.md").read_text()
    assert "| diversity | 0.9285, 0.9000 | 0.9385, 0.9100 | -0.0100, -0.0100 |" in both
    page = (root / "a" / "report" / "report.html").read_text()
    assert 'name="viewport"' in page and page.count("<table>") == page.count('<div class="box"><table>') and "<p></p>" not in page


def test_without_a_name_the_newest_finished_run_is_taken_and_told(root, capsys):
    assert cli.main(["report"]) == 2
    assert "there is no finished run in" in capsys.readouterr().err
    for age, name in enumerate(("new", "old")):
        run = make(name, 0.1 * age)
        os.utime(run.path / "claims.json", (10**9 - age, 10**9 - age))
    runs.open_run("half", quiet=True)
    capsys.readouterr()
    assert cli.main(["report"]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("# Run new\n") and "run new, the newest finished one; --run names another" in told.err
    assert "report.html" in told.err and (root / "new" / "report" / "report.html").is_file()
    assert cli.main(["report", "--against", "new"]) == 0
    assert capsys.readouterr().out.startswith("# Run old against new\n")


def test_help_says_what_is_written(capsys):
    with pytest.raises(SystemExit):
        cli.main(["report", "--help"])
    said = capsys.readouterr().out
    assert all(word in said for word in ("Markdown", "HTML", "JSON", "--against"))


def test_bad_runs(root, capsys):
    make("a", 0.2)
    runs.open_run("half", quiet=True)
    with pytest.raises(KitError, match="'half' has not finished"):
        report("half")
    with pytest.raises(KitError, match="with itself"):
        report("a", "a")
    assert cli.main(["report", "--run", "a", "--against", "nope"]) == 2
    assert "there is no run 'nope' in " in (said := capsys.readouterr().err) and "finished runs: a\n" in said
    assert not (root / "a" / "report").exists()


def test_a_spoilt_file_of_a_run_is_named(root, capsys):
    make("a", 0.2)
    for rows in (root / "a").glob("evaluation-*/rows.parquet"):
        rows.write_bytes(b"PAR1xx")
    capsys.readouterr()
    assert cli.main(["report", "--run", "a"]) == 2
    said = capsys.readouterr().err
    assert "rows.parquet cannot be read; remove its folder, and the run makes it again" in said and said.count("\n") == 1
    (root / "a" / "claims.json").write_text("[1, 2]")
    for words in (["report", "--run", "a"], ["site", "--run", "a", "--out", str(root / "out")]):
        runs.record(runs.open_run("a", quiet=True), "executed", "00_a", {})
        (root / "a" / "notebooks").mkdir(exist_ok=True)
        (root / "a" / "notebooks" / "00_a.ipynb").write_text("{}")
        assert cli.main(words) == 2
        said = capsys.readouterr().err
        assert "claims.json does not hold what a run writes; `python -m rlhf_kit run --run a` writes it anew" in said and said.count("\n") == 1
    assert not (root / "out").exists()


def test_what_the_system_refuses_is_one_sentence(root, capsys, monkeypatch):
    from rlhf_kit.running import report as module

    make("a", 0.2)
    for error, said in (
        (PermissionError(13, "Permission denied", str(root / "a" / ".x.tmp")), f"{root / 'a'}: Permission denied; make it readable and writable for you"),
        (OSError(28, "No space left on device"), "the disk is full; make room"),
    ):
        monkeypatch.setattr(module, "write_json", lambda *_, error=error: (_ for _ in ()).throw(error))
        capsys.readouterr()
        assert cli.main(["report", "--run", "a"]) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"error: {said}") and told.count("\n") == 1
