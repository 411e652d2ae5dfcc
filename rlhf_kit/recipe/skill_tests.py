"""Cached stage of the pocket world's skill tests: lm-eval's items, answered without lm-eval."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_kit.course import Course, model_folder
from rlhf_kit.errors import KitError
from rlhf_kit.recipe.answers import sampling_code
from rlhf_kit.runs import Ledger, Stage, derive_seed, stable_hash, write_rows


def skill_tests(course: Course, policy: Stage, n: int = 100) -> Stage:
    """A policy on the pocket world's skill tests, the items that `evaluation.skills.write_pocket_tasks` gives to lm-eval.

    n: questions a task, at most. Greedy replies, the answer read with the task file's own pattern; pocket_choice by the likelihood of
    each choice. Rows: task, doc_id, doc_hash, metric, value (1 right, 0 wrong), said. `skill_results` gives them the shape
    of `evaluation.skills.read_lm_eval`, for `compare_skills`. KitError outside the pocket world.
    """
    if course.profile.data.kind != "world":
        raise KitError("the pocket skill tests ask about the pocket world; for a model of your own take evaluation.skills.academic_commands")

    def build(folder):
        from rlhf_kit import models, sampling

        tasks = _tasks(n, course.seed)
        # A handful of short questions: no engine is worth its start for them.
        near = replace(course.machine, backend="transformers")
        opened = models.load_policy(model_folder(policy), near)
        rows = []
        for task, (body, docs) in tasks.items():
            asked = [{"prompt_id": f"{task}-{i}", "prompt": [{"role": "user", "content": doc["question"]}]} for i, doc in enumerate(docs)]
            if body["output_type"] == "multiple_choice":
                said = _choices(opened, asked, docs, near)
                right = [place == doc["right"] for place, doc in zip(said, docs, strict=True)]
            else:
                limit = body["generation_kwargs"]["max_gen_toks"]
                made = sampling.sample(opened, asked, n=1, temperature=0.0, max_new_tokens=limit, seed=derive_seed(course.seed, "skills"),
                                       machine=near, batch_size=course.profile.sampling.batch_size)  # fmt: skip
                pattern = body["filter_list"][0]["filter"][0]["regex_pattern"]
                said = [_read(pattern, row["text"]) for row in made]
                right = [answer == doc["answer"] for answer, doc in zip(said, docs, strict=True)]
            metric = body["metric_list"][0]["metric"]
            rows += [{"task": task, "doc_id": i, "doc_hash": stable_hash(doc), "metric": metric, "value": float(ok), "said": str(answer)}
                     for i, (doc, answer, ok) in enumerate(zip(docs, said, right, strict=True))]  # fmt: skip
        write_rows(folder, rows)
        return Ledger("skill-tests", sum(len(docs) for _, docs in tasks.values()), len(rows))

    code = ["recipe/skill_tests", "evaluation/skills", *sampling_code(course), "world"]
    return course.stage("skill-tests", build, inputs={"policy": policy}, params={"n": n, "seed": course.seed}, code=code)


def skill_results(stage: Stage) -> dict[str, dict]:
    """The rows of `skill_tests` as `evaluation.skills.read_lm_eval` reads lm-eval's: {task: {metric, value, n, samples}}."""
    found: dict[str, dict] = {}
    for row in stage.rows():
        one = found.setdefault(row["task"], {"metric": row["metric"], "samples": {}})
        one["samples"][row["doc_id"]] = (row["doc_hash"], row["value"])
    for one in found.values():
        values = [value for _, value in one["samples"].values()]
        one |= {"value": float(np.mean(values)), "n": len(values)}
    return found


def _tasks(n: int, seed: int) -> dict[str, tuple[dict, list[dict]]]:
    """{task: (the task file, its questions)}, read from the very files that lm-eval would read."""
    import yaml

    from rlhf_kit.evaluation.skills import write_pocket_tasks

    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for path in sorted(write_pocket_tasks(folder, n, seed)):
            body = yaml.safe_load(path.read_text(encoding="utf-8"))
            lines = Path(body["dataset_kwargs"]["data_files"]["test"]).read_text(encoding="utf-8").splitlines()
            found[body["task"]] = (body, [json.loads(line) for line in lines])
    return found


def _read(pattern: str, text: str) -> str:
    """What lm-eval's regex filter takes out of a reply: the first match, "[invalid]" where there is none."""
    match = re.search(pattern, text)
    return match.group(1).strip() if match else "[invalid]"


def _choices(opened: tuple, asked: Sequence[Mapping], docs: Sequence[Mapping], machine: Any) -> list[int]:
    """The most likely choice of each question: log-likelihood of the text alone, not divided by its length, no end token."""
    from rlhf_kit import sampling

    tokenizer = opened[1]
    prompts = [row["prompt"] for row, doc in zip(asked, docs, strict=True) for _ in doc["choices"]]
    tokens = [tokenizer(text, add_special_tokens=False)["input_ids"] for doc in docs for text in doc["choices"]]
    likely = iter(sampling.response_logprobs(opened, prompts, tokens, machine))
    return [int(np.argmax([next(likely) for _ in doc["choices"]])) for doc in docs]
