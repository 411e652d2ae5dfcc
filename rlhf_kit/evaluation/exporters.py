"""A policy's answers in the official input formats of AlpacaEval, MT-Bench and Arena-Hard, and their judgements read back.

The official tools run in environments of their own, since their pins exclude ours; `OFFICIAL` holds the commands.
Layouts: alpaca_eval 0.6.6, FastChat's llm_judge, arena-hard-auto (v2 layout with `uid` and `messages`; of the older one with
`question_id` and `choices`, questions, answers and judgements are read too).
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_kit.errors import KitError
from rlhf_kit.evaluation.arena_hard import LABELS, style_of
from rlhf_kit.files import read_json, stable_hash, write_json, write_text
from rlhf_kit.runs import Ledger
from rlhf_kit.sources.fields import kind_of

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
    """The commands that judge an exported file with the official tool, in an environment of its own."""
    if benchmark not in OFFICIAL:
        raise KitError(f"unknown benchmark {benchmark!r}; known: {', '.join(OFFICIAL)}")
    return OFFICIAL[benchmark].format(path=path, folder=Path(path).parent, model=model)


# ---------------------------------------------------------------- questions in


def benchmark_prompts(benchmark: str, path: str | Path) -> list[dict]:
    """The questions of an official file: rows with question_id, prompt (messages of the first turn), turns, category.

    "alpaca_eval": alpaca_eval.json of the hub's tatsu-lab/alpaca_eval; "mt_bench", "arena_hard": question.jsonl.
    """
    rows = read_json(path) if benchmark == "alpaca_eval" else _lines(path)
    found = []
    for number, row in enumerate(rows):
        if benchmark == "alpaca_eval":
            turns, category, name = [row.get("instruction")], row.get("dataset"), number
        elif benchmark == "mt_bench":
            turns, category, name = row.get("turns"), row.get("category"), row.get("question_id")
        elif benchmark == "arena_hard":
            turns = [row["prompt"]] if "prompt" in row else [t.get("content") for t in row.get("turns") or []]
            category, name = row.get("category"), row.get("uid") or row.get("question_id")
        else:
            raise KitError(f"unknown benchmark {benchmark!r}; known: {', '.join(OFFICIAL)}")
        if name is None or not turns or not all(isinstance(t, str) and t.strip() for t in turns):
            raise KitError(f"{path}, row {number + 1}: a question of {benchmark} needs an id and a text")
        found.append({"question_id": name, "prompt": [{"role": "user", "content": turns[0]}], "turns": list(turns),
                      "category": category})
    _unique([row["question_id"] for row in found], str(path))
    return found


def next_turn(questions: Sequence[Mapping], answers: Sequence[Sequence[str]]) -> list[list[dict]]:
    """The messages to answer next, after the answers given so far (one list a question): MT-Bench's second turn."""
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
    """The outputs file of AlpacaEval: a JSON list of {instruction, output, generator, dataset}."""
    _same(questions, answers)
    return write_json(path, [{"instruction": row["turns"][0], "output": answer, "generator": model,
                              "dataset": row.get("category") or "own"} for row, answer in zip(questions, answers, strict=True)])


def export_mt_bench(path: str | Path, questions: Sequence[Mapping], answers: Sequence[Sequence[str]], model: str) -> Path:
    """FastChat's model_answer JSONL; answers: for each question a list with one text a turn."""
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
    utils/add_markdown_info.py recounts both.
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


# ---------------------------------------------------------------- judgements back


def read_alpaca_eval(path: str | Path) -> tuple[list[dict], Ledger]:
    """annotations.json as rows for `length_controlled_win_rate`: instruction, preference (in [0, 1], that the model, output_2,
    beats the baseline), length_model, length_baseline (characters), model, baseline, dataset; and the ledger.

    There 1 is the baseline's win, 2 the model's, and 0 a tie; annotations without a preference are dropped and counted.
    """
    rows, dropped = [], 0
    table = read_json(path)
    if not isinstance(table, list):
        raise KitError(f"{path} is no list of annotations")
    for number, row in enumerate(table):
        if not isinstance(row, dict):
            raise KitError(f"{path}, annotation {number + 1}: {kind_of(row)} where an object is needed")
        missing = [k for k in ("instruction", "output_1", "output_2", "preference", "generator_1", "generator_2") if k not in row]
        if missing:
            raise KitError(f"{path}, annotation {number + 1}: the field {missing[0]!r} is missing")
        value = row["preference"]
        if value is None or value != value:
            dropped += 1
            continue
        _number(value, f"{path}, annotation {number + 1}", "preference")
        for field in ("output_1", "output_2"):
            if not isinstance(row[field], str):
                raise KitError(f"{path}, annotation {number + 1}: {field} is {kind_of(row[field])}; it must be a text")
        value = 1.5 if value == 0 else float(value)
        if not 1 <= value <= 2:
            raise KitError(f"{path}, annotation {number + 1}: preference is {value}; it must lie in [1, 2], or be 0 for a tie")
        rows.append({"instruction": row["instruction"], "preference": value - 1, "length_model": len(row["output_2"]),
                     "length_baseline": len(row["output_1"]), "model": row["generator_2"], "baseline": row["generator_1"],
                     "dataset": row.get("dataset")})
    return rows, Ledger("AlpacaEval annotations", len(table), len(rows), {"no preference": dropped}).check()


def read_mt_bench(path: str | Path) -> tuple[list[dict], Ledger]:
    """gpt-4_single.jsonl as rows: question_id, turn, model, judge, score (1 to 10); and the ledger.

    The score -1 means that FastChat found no rating in the judge's reply; such rows are dropped and counted.
    """
    rows, dropped, table = [], 0, _lines(path)
    for number, row in enumerate(table):
        missing = [k for k in ("question_id", "model", "score", "turn") if k not in row]
        if missing:
            raise KitError(f"{path}, line {number + 1}: the field {missing[0]!r} is missing")
        _number(row["score"], f"{path}, line {number + 1}", "score")
        if row["score"] == -1:
            dropped += 1
            continue
        if not 0 <= row["score"] <= 10:
            raise KitError(f"{path}, line {number + 1}: the score {row['score']} is not between 0 and 10")
        rows.append({"question_id": row["question_id"], "turn": row["turn"], "model": row["model"],
                     "judge": row.get("judge"), "score": float(row["score"])})
    return rows, Ledger("MT-Bench judgements", len(table), len(rows), {"no rating in the reply": dropped}).check()


def mt_bench_scores(rows: Sequence[Mapping]) -> list[dict]:
    """A line a model, the best first: model, turn_1, turn_2, score (mean over all turns), low, high (over questions), n."""
    from rlhf_kit.evaluation.statistics import cluster_interval

    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        found = cluster_interval([row["score"] for row in mine], [row["question_id"] for row in mine])
        turns = {turn: [row["score"] for row in mine if row["turn"] == turn] for turn in (1, 2)}
        lines.append({"model": model, **{f"turn_{t}": sum(v) / len(v) if v else None for t, v in turns.items()},
                      "score": found.mean, "low": found.low, "high": found.high, "n": len({r["question_id"] for r in mine})})
    return sorted(lines, key=lambda line: -line["score"])


def read_arena_hard(path: str | Path, answers: Mapping[str, str | Path] | None = None,
                    baseline: str | None = None) -> tuple[list[dict], Ledger]:
    """A model_judgment JSONL as rows for `arena_hard_scores`: model, question_id, outcomes; and the ledger.

    Game 1 shows the baseline as A, game 2 the model; a question with a game without a verdict is dropped, as officially, and
    counted. answers: {model: its model_answer JSONL, of either layout}, with `baseline` among them, adds style and
    baseline_style. The lengths are the files' token_len where they have it, so both must count alike; else words.
    """
    styles = {name: _styles(file) for name, file in (answers or {}).items()}
    if answers and baseline not in styles:
        raise KitError(f"style needs the answers of the baseline {baseline!r} too; given: {', '.join(styles)}")
    rows, dropped, table = [], 0, _lines(path)
    for number, row in enumerate(table):
        where, name = f"{path}, line {number + 1}", row.get("uid") or row.get("question_id")
        games = row.get("games")
        if name is None or "model" not in row or not isinstance(games, list) or len(games) != 2 \
                or not all(isinstance(game, dict | None) for game in games):
            raise KitError(f"{where}: an Arena-Hard judgement needs uid, model and two games")
        verdicts = [(game or {}).get("score") for game in games]
        if None in verdicts:
            dropped += 1
            continue
        unknown = [v for v in verdicts if not isinstance(v, str) or v not in LABELS]
        if unknown:
            raise KitError(f"{where}: unknown verdict {unknown[0]!r}; known: {', '.join(LABELS)}")
        found: dict[str, Any] = {"model": row["model"], "question_id": name, "category": row.get("category"),
                                 "outcomes": [1 - o for o in LABELS[verdicts[0]]] + LABELS[verdicts[1]]}
        if answers:
            for key, model in (("style", row["model"]), ("baseline_style", baseline)):
                if name not in styles.get(model, {}):
                    raise KitError(f"{where}: there is no answer of {model!r} to question {name}")
                found[key] = styles[model][name]
        rows.append(found)
    return rows, Ledger("Arena-Hard judgements", len(table), len(rows), {"no verdict in a game": dropped}).check()


def _styles(path: str | Path) -> dict[str, dict]:
    """{question: its answer's style} of a model_answer file in either layout."""
    found = {}
    for number, row in enumerate(_lines(path), 1):
        name, (text, tokens) = row.get("uid") or row.get("question_id"), _answer(row)
        if not isinstance(name, str | int) or not isinstance(text, str):
            raise KitError(f"{path}, line {number}: an Arena-Hard answer needs uid and messages that end with a text, or in the "
                           "older layout question_id and choices with a turn")
        if tokens is not None:
            _number(tokens, f"{path}, line {number}", "token_len")
        found[name] = style_of(text, tokens)
    return found


def _answer(row: Mapping) -> tuple[Any, Any]:
    """(text, tokens or None) of one answer; (None, None) where the row has neither layout."""
    try:
        if "messages" in row:
            answer, counts = row["messages"][-1]["content"], row.get("metadata") or {}
            return answer["answer"] if isinstance(answer, Mapping) else answer, counts.get("token_len")
        turn, counts = row["choices"][0]["turns"][0], row.get("conv_metadata") or {}
        return turn["content"], turn.get("token_len", counts.get("token_len"))  # later files count beside the turns
    except (KeyError, IndexError, TypeError, AttributeError):
        return None, None


# ---------------------------------------------------------------- small things


def _number(value: Any, where: str, field: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        shown = kind_of(value) if not isinstance(value, float) else value
        raise KitError(f"{where}: {field} is {shown}; it must be a number")


def _lines(path: str | Path) -> list[dict]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise KitError(f"{path} does not exist") from None
    rows = []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: answers may hold other line breaks
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise KitError(f"{path}, line {number}: not valid JSON ({error})") from None
            if not isinstance(rows[-1], dict):
                raise KitError(f"{path}, line {number}: a {type(rows[-1]).__name__} where an object is needed")
    if not rows:
        raise KitError(f"{path} holds no rows")
    return rows


def _write_lines(path: str | Path, rows: list[dict], model: str) -> Path:
    if not re.fullmatch(r"[\w.+-]+", model):
        raise KitError(f"model name {model!r} becomes a file name there; use letters, digits, '.', '_', '+' and '-'")
    return write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _same(questions, answers) -> None:
    if len(questions) != len(answers):
        raise KitError(f"{len(questions)} questions but {len(answers)} answers")
    _unique([row["question_id"] for row in questions], "the questions")


def _unique(names: Sequence, where: str) -> None:
    seen: set = set()
    for name in names:
        if name in seen:
            raise KitError(f"{where}: question {name!r} stands there twice")
        seen.add(name)
