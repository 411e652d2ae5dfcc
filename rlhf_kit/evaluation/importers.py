"""The official files of AlpacaEval, MT-Bench and Arena-Hard read: their questions, and the judgements of their tools.

Layouts: alpaca_eval 0.6.6, FastChat's llm_judge, arena-hard-auto (v2 layout with `uid` and `messages`; of the older one with
`question_id` and `choices`, questions, answers and judgements are read too). `exporters` writes the answers in between.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_kit.errors import KitError
from rlhf_kit.evaluation.arena_hard import LABELS, style_of
from rlhf_kit.evaluation.statistics import cluster_interval
from rlhf_kit.files import read_json
from rlhf_kit.runs import Ledger
from rlhf_kit.sources.fields import kind_of

BENCHMARKS = ("alpaca_eval", "mt_bench", "arena_hard")


def benchmark_prompts(benchmark: str, path: str | Path) -> list[dict]:
    """The questions of an official file: rows with question_id, prompt (messages of the first turn), turns, category.

    "alpaca_eval": alpaca_eval.json of the hub's tatsu-lab/alpaca_eval; "mt_bench", "arena_hard": question.jsonl. KitError for
    another benchmark, a file that cannot be read, a question without id or text, and one that stands there twice.
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
            raise KitError(f"unknown benchmark {benchmark!r}; known: {', '.join(BENCHMARKS)}")
        if name is None or not turns or not all(isinstance(t, str) and t.strip() for t in turns):
            raise KitError(f"{path}, row {number + 1}: a question of {benchmark} needs an id and a text")
        found.append({"question_id": name, "prompt": [{"role": "user", "content": turns[0]}], "turns": list(turns),
                      "category": category})
    unique([row["question_id"] for row in found], str(path))
    return found


# ---------------------------------------------------------------- judgements


def read_alpaca_eval(path: str | Path) -> tuple[list[dict], Ledger]:
    """annotations.json as rows for `length_controlled_win_rate`: instruction, preference (in [0, 1], that the model, output_2,
    beats the baseline), length_model, length_baseline (characters), model, baseline, dataset; and the ledger.

    There 1 is the baseline's win, 2 the model's, and 0 a tie; annotations without a preference are dropped and counted.
    KitError names the annotation that lacks a field or holds no text or number where one belongs.
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

    The score -1 means that FastChat found no rating in the judge's reply; such rows are dropped and counted. KitError names the
    line that lacks a field or holds another score.
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
    baseline_style. The lengths are the files' token_len where they have it, so both must count alike; else words. KitError
    names the line of a judgement without its fields or with an unknown verdict, and an answer that is missing.
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


def unique(names: Sequence, where: str) -> None:
    """KitError that starts with `where` when a question stands there twice."""
    seen: set = set()
    for name in names:
        if name in seen:
            raise KitError(f"{where}: question {name!r} stands there twice")
        seen.add(name)
