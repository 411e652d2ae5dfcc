"""A policy's answers in the official input formats of AlpacaEval, MT-Bench and Arena-Hard.

The official tools run in environments of their own, since their pins exclude ours; `OFFICIAL` holds the commands.
Layouts: alpaca_eval 0.6.6, FastChat's llm_judge, arena-hard-auto (v2, with `uid` and `messages`). `importers` reads the
questions, and the judgements that come back.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlhf_kit.errors import KitError
from rlhf_kit.evaluation.arena_hard import style_of
from rlhf_kit.evaluation.importers import unique
from rlhf_kit.files import stable_hash, write_json, write_text

OFFICIAL = {
    "alpaca_eval": """python -m venv side-alpaca && side-alpaca/bin/pip install "alpaca-eval==0.6.6" "scikit-learn<1.10"
OPENAI_API_KEY=... side-alpaca/bin/alpaca_eval --model_outputs {path} --annotators_config weighted_alpaca_eval_gpt4_turbo
# judgements: {folder}/weighted_alpaca_eval_gpt4_turbo/annotations.json; its fit needs the hub for df_gamed.csv""",
    "mt_bench": """git clone https://github.com/lm-sys/FastChat && cd FastChat
python -m venv side-mt && side-mt/bin/pip install -e ".[model_worker,llm_judge]"
cp {path} fastchat/llm_judge/data/mt_bench/model_answer/ && cd fastchat/llm_judge
OPENAI_API_KEY=... ../../side-mt/bin/python gen_judgment.py --model-list {model} --parallel 2
# judgements: data/mt_bench/model_judgment/gpt-4_single.jsonl""",
    "arena_hard": """git clone https://github.com/lmarena/arena-hard-auto && cd arena-hard-auto
python -m venv side-arena && side-arena/bin/pip install -r requirements.txt
cp {path} data/BENCH/model_answer/       # and name the model in config/arena-hard-v2.0.yaml
OPENAI_API_KEY=... side-arena/bin/python gen_judgment.py
# judgements: data/BENCH/model_judgment/JUDGE/{model}.jsonl""",
}


def official_command(benchmark: str, path: str | Path, model: str) -> str:
    """The commands that judge an exported file with the official tool, in an environment of its own; KitError for no key of `OFFICIAL`."""
    if benchmark not in OFFICIAL:
        raise KitError(f"unknown benchmark {benchmark!r}; known: {', '.join(OFFICIAL)}")
    return OFFICIAL[benchmark].format(path=path, folder=Path(path).parent, model=model)


# ---------------------------------------------------------------- what is asked


def next_turn(questions: Sequence[Mapping], answers: Sequence[Sequence[str]]) -> list[list[dict]]:
    """The messages to answer next, after the answers given so far (one list a question): MT-Bench's second turn.

    KitError for another number of questions than of answers, a question twice, and one with all its turns answered.
    """
    _same(questions, answers)
    prompts = []
    for row, given in zip(questions, answers, strict=True):
        if len(given) >= len(row["turns"]):
            raise KitError(f"question {row['question_id']} has {len(row['turns'])} turns and {len(given)} answers already")
        messages = []
        for turn, answer in zip(row["turns"], given, strict=False):
            messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": answer}]
        prompts.append([*messages, {"role": "user", "content": row["turns"][len(given)]}])
    return prompts


# ---------------------------------------------------------------- answers out


def export_alpaca_eval(path: str | Path, questions: Sequence[Mapping], answers: Sequence[str], model: str) -> Path:
    """The outputs file of AlpacaEval: a JSON list of {instruction, output, generator, dataset}.

    KitError for another number of questions than of answers, and for a question twice.
    """
    _same(questions, answers)
    return write_json(path, [{"instruction": row["turns"][0], "output": answer, "generator": model,
                              "dataset": row.get("category") or "own"} for row, answer in zip(questions, answers, strict=True)])


def export_mt_bench(path: str | Path, questions: Sequence[Mapping], answers: Sequence[Sequence[str]], model: str) -> Path:
    """FastChat's model_answer JSONL; answers: for each question a list with one text a turn.

    KitError as for `export_alpaca_eval`, for another number of texts than turns, and for a model name that is no file name.
    """
    _same(questions, answers)
    rows = []
    for row, turns in zip(questions, answers, strict=True):
        if isinstance(turns, str) or len(turns) != len(row["turns"]):
            raise KitError(f"question {row['question_id']} has {len(row['turns'])} turns; give one answer for each of them")
        rows.append({"question_id": row["question_id"], "answer_id": stable_hash(model, row["question_id"], list(turns), length=22),
                     "model_id": model, "choices": [{"index": 0, "turns": list(turns)}], "tstamp": time.time()})
    return _write_lines(path, rows, model)


def export_arena_hard(path: str | Path, questions: Sequence[Mapping], answers: Sequence[str], model: str,
                      tokens: Sequence[int] | None = None) -> Path:
    """arena-hard-auto's model_answer JSONL, with the style counts that its style control reads.

    tokens: lengths by GPT-4o's tokenizer where you have them; else words stand in for token_len. Their
    utils/add_markdown_info.py recounts both. KitError as for `export_mt_bench`.
    """
    _same(questions, answers)
    rows = []
    for number, (row, answer) in enumerate(zip(questions, answers, strict=True)):
        style = style_of(answer, None if tokens is None else tokens[number])
        metadata = {"token_len": style["length"], "header_count": {"all": style["headers"]},
                    "list_count": {"all": style["lists"]}, "bold_count": {"all": style["bold"]}}
        messages = [{"role": "user", "content": row["turns"][0]}, {"role": "assistant", "content": {"answer": answer}}]
        rows.append({"uid": row["question_id"], "ans_id": stable_hash(model, row["question_id"], answer, length=22),
                     "model": model, "messages": messages, "tstamp": time.time(), "metadata": metadata})
    return _write_lines(path, rows, model)


def single_turns(asked: Mapping[str, Sequence[Mapping]], *sides: Sequence[Mapping]) -> tuple[list[dict], list[list[str]]]:
    """(questions, texts of each side): the prompts of one turn, as AlpacaEval asks them, and the policies' answers.

    asked: prompt_id -> messages. sides: answers to the same prompts, row by row, with prompt_id, category and text.
    """
    kept = [rows for rows in zip(*sides, strict=True) if len(asked[rows[0]["prompt_id"]]) == 1]
    questions = [{"question_id": rows[0]["prompt_id"], "turns": [asked[rows[0]["prompt_id"]][0]["content"]],
                  "category": rows[0]["category"]} for rows in kept]  # fmt: skip
    return questions, [[rows[k]["text"] for rows in kept] for k in range(len(sides))]


def write_alpaca_eval(
    path: str | Path,
    questions: Sequence[Mapping],
    baseline: tuple[str, Sequence[str]],
    model: tuple[str, Sequence[str]],
    preference: Mapping[str, float],
) -> Path:
    """annotations.json as AlpacaEval's own judge would write it, from another judge's verdicts.

    baseline, model: (name, its answers). preference: question_id -> probability that the model's answer is better; nan (no
    verdict) becomes null.
    """
    rows = []
    for question, first, second in zip(questions, baseline[1], model[1], strict=True):
        won = preference[question["question_id"]]
        rows.append({"instruction": question["turns"][0], "output_1": first, "output_2": second, "generator_1": baseline[0],
                     "generator_2": model[0], "preference": None if math.isnan(won) else 1 + won})  # fmt: skip
    return write_json(path, rows)


# ---------------------------------------------------------------- small things


def _write_lines(path: str | Path, rows: list[dict], model: str) -> Path:
    if not re.fullmatch(r"[\w.+-]+", model):
        raise KitError(f"model name {model!r} becomes a file name there; use letters, digits, '.', '_', '+' and '-'")
    return write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _same(questions, answers) -> None:
    if len(questions) != len(answers):
        raise KitError(f"{len(questions)} questions but {len(answers)} answers")
    unique([row["question_id"] for row in questions], "the questions")
