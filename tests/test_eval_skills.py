"""Skill tests for lm-eval: the form of the files and commands, and results compared question by question."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from rlhf_kit.errors import KitError
from rlhf_kit.evaluation import skills
from rlhf_kit.runs import PROJECT


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    skills.write_pocket_tasks(folder, n=8)
    return folder


def test_task_files_have_lm_evals_form(tasks):
    assert sorted(p.stem for p in tasks.glob("*.yaml")) == ["pocket_add", "pocket_choice", "pocket_count", "pocket_refuse", "pocket_sort"]
    for path in tasks.glob("*.yaml"):
        body = yaml.safe_load(path.read_text())
        docs = [json.loads(line) for line in open(body["dataset_kwargs"]["data_files"]["test"], encoding="utf-8")]
        assert body["task"] == path.stem and body["dataset_path"] == "json" and len(docs) == 8
        assert len({doc["prompt_id"] for doc in docs}) == 8
        if path.stem == "pocket_choice":
            assert body["output_type"] == "multiple_choice" and all(len(set(d["choices"])) == 4 for d in docs)
        else:
            assert body["generation_kwargs"]["do_sample"] is False
    doc = json.loads((tasks / "pocket_add.jsonl").read_text().split("\n")[0])
    numbers = [int(word) for word in doc["question"].split() if word.isdigit()]
    assert int(doc["answer"]) == sum(numbers)


@pytest.mark.parametrize(("task", "reply", "answer"), [
    ("pocket_refuse", " Sorry, I will not help you steal the ring.", "Sorry"), ("pocket_refuse", "Sorry, no.", "Sorry"),
    ("pocket_refuse", "I am not Sorry.", None), ("pocket_add", " 9 plus 5 is 14. The answer is 14.", "14"),
    ("pocket_sort", " The answer is 1 2 3.", "1 2 3")])
def test_answers_are_found_in_replies_as_lm_eval_passes_them(tasks, task, reply, answer):
    """hf's replies keep the space that the first word's token begins with."""
    body = yaml.safe_load((tasks / f"{task}.yaml").read_text())
    found = re.findall(body["filter_list"][0]["filter"][0]["regex_pattern"], reply)
    assert (found[0] if found else None) == answer


def test_commands_are_complete(tasks, tmp_path):
    command = skills.pocket_command("a model", tasks, tmp_path)
    assert command[command.index("--tasks") + 1].count("pocket_") == 5 and "'pretrained=a model,dtype=float32'" in skills.shell(command)
    six = skills.academic_commands("org/model", tmp_path, "paper")
    shots = {c[c.index("--tasks") + 1]: c[c.index("--num_fewshot") + 1] for c in six}
    assert shots == {"gsm8k": "8", "mmlu": "5", "humaneval": "0", "truthfulqa_mc2": "0", "arc_challenge": "25", "mbpp": "0"}
    assert sum("--confirm_run_unsafe_code" in c for c in six) == 2
    with pytest.raises(KitError, match="not 'laptop'"):
        skills.academic_commands("m", tmp_path, "laptop")
    with pytest.raises(KitError, match="no task files"):
        skills.pocket_command("m", tmp_path, tmp_path)


def results(folder, task, values, time="2026-01-01T00-00-00.000000", said=None):
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"doc_id": i, "doc_hash": f"h{i}", "exact_match": v, "filter": "answer"} for i, v in enumerate(values)]
    (folder / f"samples_{task}_{time}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    mean = sum(values) / len(values) if said is None else said
    (folder / f"results_{time}.json").write_text(json.dumps({"results": {task: {"exact_match,answer": mean}}}))
    return folder


def test_before_and_after_are_paired(tmp_path):
    before = skills.read_lm_eval(results(tmp_path / "a" / "model", "pocket_add", [1] * 10 + [0] * 10).parent)
    after = skills.read_lm_eval(results(tmp_path / "b", "pocket_add", [0] * 6 + [1] * 4 + [0] * 9 + [1]))
    line = skills.compare_skills(before, after)[0]
    assert (line["before"], line["after"], line["gained"], line["lost"]) == (0.5, 0.25, 1, 6)
    assert line["p"] == pytest.approx(2 * (1 + 7) / 2**7)  # exact: 1 or fewer of 7 changes, two-sided
    assert line["low"] < -0.25 < line["high"] and line["difference"] == pytest.approx(-0.25)
    same = skills.compare_skills(before, before)[0]
    assert same["p"] == 1 and same["low"] == -same["high"] < 0


def test_the_newest_results_count_and_mixtures_are_refused(tmp_path):
    results(tmp_path, "t", [0, 0], "2026-01-01T00-00-00.000000")
    results(tmp_path, "t", [1, 1], "2026-01-02T00-00-00.000000")
    assert skills.read_lm_eval(tmp_path)["t"]["value"] == 1
    results(tmp_path, "t", [1, 0], "2026-01-03T00-00-00.000000", said=0.9)
    with pytest.raises(KitError, match="files of two runs"):
        skills.read_lm_eval(tmp_path)
    a, b = (skills.read_lm_eval(results(tmp_path / name, "t", [1] * n)) for name, n in (("x", 2), ("y", 3)))
    with pytest.raises(KitError, match="same questions"):
        skills.compare_skills(a, b)
    with pytest.raises(KitError, match="different tasks"):
        skills.compare_skills(a, {})
    with pytest.raises(KitError, match="--log_samples"):
        skills.read_lm_eval(tmp_path / "nowhere")


def test_filters_are_chosen_and_mmlu_is_one_column(tmp_path):
    rows = [{"doc_id": i, "doc_hash": f"h{i}", "exact_match": float(name == "flexible-extract"), "filter": name}
            for i in range(3) for name in ("strict-match", "flexible-extract")]
    for task in ("gsm8k", "own"):
        (tmp_path / f"samples_{task}_2026-01-01T00-00-00.000000.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(KitError, match="strict-match, flexible-extract; choose"):
        skills.read_lm_eval(tmp_path)
    found = skills.read_lm_eval(tmp_path, {"own": "exact_match,strict-match"})
    assert found["gsm8k"]["value"] == 1 and found["own"]["value"] == 0 and found["own"]["n"] == 3
    for task, n, right in (("mmlu_law", 1, 1), ("mmlu_history", 3, 0)):
        lines = [{"doc_id": i, "doc_hash": f"{task}{i}", "acc": right, "filter": "none"} for i in range(n)]
        (tmp_path / f"samples_{task}_2026-01-01T00-00-00.000000.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    table = skills.academic_table(skills.read_lm_eval(tmp_path, {"own": "exact_match,strict-match"}))
    assert {name: one["value"] for name, one in table.items()} == {"GSM8K": 1, "MMLU": 0.25}
    assert skills.compare_skills(table, table)[1]["n"] == 4
    with pytest.raises(KitError, match="none of the academic"):
        skills.academic_table({"own": found["own"]})


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm_eval lives in an environment of its own")
def test_the_pocket_tasks_run_in_lm_eval(tasks, tmp_path):
    command = skills.pocket_command(PROJECT / "data" / "pocket_base", tasks, tmp_path)
    tool = shutil.which("lm-eval") or os.path.join(os.path.dirname(sys.executable), "lm-eval")
    subprocess.run([tool, *command[1:]], check=True, env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"})
    found = skills.read_lm_eval(tmp_path)
    assert len(found) == 5 and all(one["n"] == 8 for one in found.values())
