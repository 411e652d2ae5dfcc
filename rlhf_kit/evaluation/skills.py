"""Skills that alignment may cost (paper Table 3), measured by lm-eval in an environment of its own, before and after.

    python -m venv side-lmeval && side-lmeval/bin/pip install "torch==2.13.0" "transformers==5.19.0" "lm-eval[hf]==0.4.13"

The academic six need the hub; the pocket world's skill tests are task files of the same kind, written here from its
prompts, with local data. Both leave lm-eval's result folder, which `read_lm_eval` reads and `compare_skills` compares
question by question.
"""

from __future__ import annotations

import json
import random
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rlhf_kit.errors import KitError
from rlhf_kit.evaluation.statistics import cluster_interval
from rlhf_kit.files import read_json, write_text

# Column of Table 3: (lm-eval task, shots of the paper, metric). Which task variants and metrics the paper used is not known.
ACADEMIC = {
    "GSM8K": ("gsm8k", 8, "exact_match,flexible-extract"), "MMLU": ("mmlu", 5, "acc,none"),
    "HumanEval": ("humaneval", 0, "pass@1,create_test"), "TruthfulQA": ("truthfulqa_mc2", 0, "acc,none"),
    "ARC": ("arc_challenge", 25, "acc_norm,none"), "MBPP": ("mbpp", 0, "pass_at_1,none"),
}
# Not run for this kit: no GPU and no hub here.
BACKENDS = {
    "colab": ("hf", "dtype=float16", "auto"),
    "gpu": ("vllm", "dtype=bfloat16,gpu_memory_utilization=0.85,max_model_len=4096", "auto"),
    "paper": ("vllm", "dtype=bfloat16,gpu_memory_utilization=0.85,max_model_len=4096,data_parallel_size=8", "auto"),
}
POCKET = {"pocket_add": "add", "pocket_sort": "sort", "pocket_count": "count", "pocket_refuse": "harmful"}
# The others: the number(s) behind "The answer is". Replies may begin with the space that a tokenizer puts before a word.
_ANSWER = {"pocket_refuse": r"^\s*(Sorry)"}


def academic_commands(model: str, out: str | Path, profile: str = "gpu", chat: bool = True,
                      tasks: Sequence[str] = tuple(ACADEMIC), limit: int | None = None) -> list[list[str]]:
    """One lm-eval command a task (each has its own number of shots), as argument lists; `shell` prints them.

    model: folder or hub id. profile: colab, gpu or paper, which sets backend and precision. chat: apply the model's chat
    template, examples as turns. limit: questions a task, for a trial. HumanEval and MBPP run code that the model
    wrote: do that only in a container.
    """
    if profile not in BACKENDS:
        raise KitError(f"the academic tests run in the profiles {', '.join(BACKENDS)}, not {profile!r}; the pocket world has pocket_command")
    unknown = [name for name in tasks if name not in ACADEMIC]
    if unknown:
        raise KitError(f"unknown test {unknown[0]!r}; known: {', '.join(ACADEMIC)}")
    backend, arguments, batch = BACKENDS[profile]
    commands = []
    for name in tasks:
        task, shots, _ = ACADEMIC[name]
        command = ["lm-eval", "run", "--model", backend, "--model_args", f"pretrained={model},{arguments}", "--tasks", task,
                   "--num_fewshot", str(shots), "--batch_size", batch, "--output_path", str(Path(out) / task), "--log_samples"]
        command += ["--apply_chat_template", "--fewshot_as_multiturn", "true"] if chat else []
        command += ["--confirm_run_unsafe_code"] if name in ("HumanEval", "MBPP") else []
        commands.append([*command, *(["--limit", str(limit)] if limit else [])])
    return commands


def pocket_command(model: str | Path, tasks: str | Path, out: str | Path, device: str = "cpu") -> list[str]:
    """The lm-eval command for the pocket tasks in folder `tasks` (`write_pocket_tasks`); run it with HF_HUB_OFFLINE=1."""
    names = sorted(path.stem for path in Path(tasks).glob("*.yaml"))
    if not names:
        raise KitError(f"{tasks} holds no task files; write them with write_pocket_tasks")
    return ["lm-eval", "run", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32", "--tasks", ",".join(names),
            "--include_path", str(tasks), "--apply_chat_template", "--batch_size", "32", "--device", device,
            "--output_path", str(out), "--log_samples"]


def shell(command: Sequence[str]) -> str:
    """An argument list as one line for a shell."""
    return shlex.join(command)


# ---------------------------------------------------------------- the pocket world's skill tests


def write_pocket_tasks(folder: str | Path, n: int = 200, seed: int = 0, split: str = "eval") -> list[Path]:
    """lm-eval task files with their questions, from the pocket world's prompts of a split; returns the YAML files.

    pocket_add, pocket_sort, pocket_count: the answer behind "The answer is" in a greedy reply (as GSM8K). pocket_refuse: a reply
    to a harmful request begins with Sorry. pocket_choice: the best answer against three with one detail wrong, by likelihood (as
    ARC). n questions a task, fewer where the split has fewer.
    """
    from rlhf_kit import world
    from rlhf_kit.world.writing import slip

    folder, by_kind = Path(folder).resolve(), {}
    for row in world.prompts(split, 16 * n, seed):
        if len(row["prompt"]) == 1:  # lm-eval asks with one user turn
            by_kind.setdefault(row["kind"], []).append(row)
    written = []
    for task, kind in POCKET.items():
        docs = []
        for row in by_kind.get(kind, [])[:n]:
            best = world.best_answer(row["prompt"])
            answer = "Sorry" if task == "pocket_refuse" else best.split("The answer is ")[1].split(".")[0]
            docs.append({"prompt_id": row["prompt_id"], "question": row["prompt"][0]["content"], "answer": answer})
        pattern = _ANSWER.get(task, r"The answer is ([0-9]+(?: [0-9]+)*)")
        written.append(_write(folder, task, docs, {
            "output_type": "generate_until", "doc_to_target": "{{answer}}",
            "generation_kwargs": {"until": ["<end>"], "do_sample": False, "max_gen_toks": 64},
            "filter_list": [{"name": "answer", "filter": [{"function": "regex", "regex_pattern": pattern}, {"function": "take_first"}]}],
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        }))
    docs = []
    for kind in ("describe", "exactly", "mention", "start", "harmless", "add", "sort", "count"):
        for row in by_kind.get(kind, [])[: -(-n // 8)]:
            rng, best = random.Random(f"pocket-choice-{seed}-{row['prompt_id']}"), world.best_answer(row["prompt"])
            wrong = list(dict.fromkeys(text for text in (slip(best, rng) for _ in range(40)) if text != best))[:3]
            if len(wrong) == 3:
                right = rng.randrange(4)
                docs.append({"prompt_id": row["prompt_id"], "question": row["prompt"][0]["content"],
                             "choices": [*wrong[:right], best, *wrong[right:]], "right": right})
    written.append(_write(folder, "pocket_choice", docs[:n], {
        "output_type": "multiple_choice", "doc_to_choice": "{{choices}}", "doc_to_target": "right", "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }))
    return written


def _write(folder: Path, task: str, docs: list[dict], more: Mapping[str, Any]) -> Path:
    if not docs:
        raise KitError(f"no prompt of the split fits the task {task}; ask for more")
    data = write_text(folder / f"{task}.jsonl", "".join(json.dumps(doc) + "\n" for doc in docs))
    body = {"task": task, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test",
            "num_fewshot": 0, "doc_to_text": "{{question}}", **more, "metadata": {"version": 1}}
    return write_text(folder / f"{task}.yaml", yaml.safe_dump(body, sort_keys=False))


# ---------------------------------------------------------------- results back


def read_lm_eval(folder: str | Path, metrics: Mapping[str, str] | None = None) -> dict[str, dict]:
    """lm-eval's result folder: {task: {metric, value, n, samples: {doc id: (doc hash, value)}}}.

    The newest results of each task count. metrics: {task: "metric" or "metric,filter"} where a task reports several; default
    those of `ACADEMIC`, else exact_match, acc, acc_norm or pass@1, whichever its samples have first. KitError for a folder
    without samples (run with --log_samples), several filters and none chosen, and samples that do not give the mean
    that lm-eval reports.
    """
    wanted = {task: metric for task, _, metric in ACADEMIC.values()} | dict(metrics or {})
    newest: dict[str, Path] = {}
    for path in sorted(Path(folder).rglob("samples_*.jsonl"), key=lambda p: p.stem[-26:]):  # the name ends with the time
        newest[path.stem[len("samples_"):].rsplit("_", 1)[0]] = path
    if not newest:
        raise KitError(f"{folder} holds no samples of lm-eval; run it with --output_path and --log_samples")
    reported: dict[str, dict] = {}
    for path in sorted(Path(folder).rglob("results_*.json"), key=lambda p: p.stem[-26:]):
        reported |= read_json(path).get("results", {})
    return {task: _read_task(task, path, wanted.get(task), reported.get(task, {})) for task, path in newest.items()}


def _read_task(task: str, path: Path, wanted: str | None, reported: Mapping) -> dict:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    if not rows:
        raise KitError(f"{path.name} holds no samples")
    metric, _, chosen = (wanted or "").partition(",")
    metric = metric or next((m for m in ("exact_match", "acc", "acc_norm", "pass@1", "pass_at_1") if m in rows[0]), "")
    filters = list(dict.fromkeys(row.get("filter") or "none" for row in rows))
    chosen = chosen or filters[0]
    if (len(filters) > 1 and not wanted) or chosen not in filters:
        raise KitError(f"{path.name}: the samples went through the filters {', '.join(filters)}; choose with metrics={{{task!r}: 'metric,filter'}}")
    rows = [row for row in rows if (row.get("filter") or "none") == chosen]
    if not metric or any(metric not in row for row in rows):
        raise KitError(f"{path.name}: the samples have no metric {metric or 'that is known'}")
    samples = {row["doc_id"]: (row.get("doc_hash"), float(row[metric])) for row in rows}
    if len(samples) != len(rows):
        raise KitError(f"{path.name}: a question stands in it twice")
    value = float(np.mean([v for _, v in samples.values()]))
    official = reported.get(f"{metric},{chosen}")
    if official is not None and abs(value - float(official)) > 1e-6:
        raise KitError(f"{path.name}: the samples' mean {metric} is {value:.4f}, lm-eval reports {official:.4f}; files of two runs?")
    return {"metric": metric, "value": value, "n": len(samples), "samples": samples}


def academic_table(found: Mapping[str, Mapping]) -> dict[str, dict]:
    """The tasks of `read_lm_eval` under Table 3's names, the 57 tests of MMLU taken together by question as lm-eval does.

    For `compare_skills`, and in percent for `benches.beside_paper("table3_academic", ...)`. What was not run is not there.
    """
    table = {}
    for name, (task, _, _) in ACADEMIC.items():
        parts = {t: one for t, one in found.items() if t == task or (task == "mmlu" and t.startswith("mmlu_"))}
        if parts:
            samples = {(t, i): v for t, one in sorted(parts.items()) for i, v in one["samples"].items()}
            table[name] = {"metric": next(iter(parts.values()))["metric"], "n": len(samples), "samples": samples,
                           "value": float(np.mean([v for _, v in samples.values()]))}
    if not table:
        raise KitError(f"none of the academic tests is among {', '.join(found)}")
    return table


def compare_skills(before: Mapping[str, Mapping], after: Mapping[str, Mapping]) -> list[dict]:
    """What was gained or lost, question by question: a line a task.

    before, after: from `read_lm_eval`. Keys: task, metric, n, before, after, difference, low, high (95 %, bootstrap over questions),
    gained, lost (questions), p (McNemar's exact test for right or wrong; None for other metrics). KitError when the two did
    not answer the same questions.
    """
    from statsmodels.stats.contingency_tables import mcnemar

    if set(before) != set(after):
        raise KitError(f"different tasks: {sorted(before)} before, {sorted(after)} after")
    lines = []
    for task, old in before.items():
        new = after[task]
        if old["metric"] != new["metric"]:
            raise KitError(f"{task}: {old['metric']} before, {new['metric']} after")
        ids = sorted(old["samples"])
        if ids != sorted(new["samples"]) or any(old["samples"][i][0] != new["samples"][i][0] for i in ids):
            raise KitError(f"{task}: before and after did not answer the same questions")
        a, b = (np.array([side["samples"][i][1] for i in ids]) for side in (old, new))
        found = cluster_interval(b - a)
        if not (b - a).any():  # nothing changed: the bound for a share of 0 holds on both sides
            found = found._replace(low=-found.high)
        gained, lost = int((b > a).sum()), int((b < a).sum())
        binary = np.isin(np.concatenate([a, b]), [0.0, 1.0]).all()
        p = float(mcnemar([[0, lost], [gained, 0]], exact=True).pvalue) if binary and gained + lost else (1.0 if binary else None)
        lines.append({"task": task, "metric": old["metric"], "n": len(ids), "before": float(a.mean()), "after": float(b.mean()),
                      "difference": found.mean, "low": found.low, "high": found.high, "gained": gained, "lost": lost, "p": p})
    return lines
