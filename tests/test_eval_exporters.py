"""Answers out in the official layouts, judgements back with nothing lost."""

from __future__ import annotations

import json

import pytest

from rlhf_kit import evaluation
from rlhf_kit.errors import KitError
from rlhf_kit.evaluation import exporters, importers
from rlhf_kit.evaluation.arena_hard import arena_hard_scores


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_alpaca_eval_there_and_back(tmp_path):
    questions = tmp_path / "alpaca_eval.json"
    questions.write_text(json.dumps([{"instruction": f"q{i}", "dataset": "koala", "output": "x"} for i in range(4)]))
    rows = importers.benchmark_prompts("alpaca_eval", questions)
    assert rows[0]["prompt"] == [{"role": "user", "content": "q0"}]
    out = exporters.export_alpaca_eval(tmp_path / "outputs.json", rows, ["a", "b\u2028c", "d", "e"], "mine")
    assert json.loads(out.read_text())[1] == {"instruction": "q1", "output": "b\u2028c", "generator": "mine", "dataset": "koala"}
    judged = [{"instruction": r["turns"][0], "output_1": "base", "output_2": a, "preference": p, "generator_1": "gpt",
               "generator_2": "mine"} for r, a, p in zip(rows, ["a", "bb", "d", "e"], [2.0, 1.25, 0, None], strict=True)]
    back = tmp_path / "annotations.json"
    back.write_text(json.dumps(judged))
    found, ledger = importers.read_alpaca_eval(back)
    assert [r["preference"] for r in found] == [1, 0.25, 0.5] and ledger.dropped == {"no preference": 1}
    assert found[1]["length_model"] == 2 and found[1]["length_baseline"] == 4
    columns = [[r[k] for r in found] for k in ("preference", "length_model", "length_baseline")]
    assert evaluation.length_controlled_win_rate(*columns)["win_rate"] == pytest.approx(100 * 1.75 / 3)
    judged[0]["preference"] = 3
    back.write_text(json.dumps(judged))
    with pytest.raises(KitError, match="annotation 1: preference is 3"):
        importers.read_alpaca_eval(back)


def test_mt_bench_there_and_back(tmp_path):
    file = lines(tmp_path / "question.jsonl", [{"question_id": 81, "category": "writing", "turns": ["one", "two"]}])
    rows = importers.benchmark_prompts("mt_bench", file)
    second = exporters.next_turn(rows, [["first answer"]])[0]
    assert [m["role"] for m in second] == ["user", "assistant", "user"] and second[-1]["content"] == "two"
    out = exporters.export_mt_bench(tmp_path / "mine.jsonl", rows, [["first answer", "second"]], "mine")
    row = json.loads(out.read_text())
    assert row["choices"] == [{"index": 0, "turns": ["first answer", "second"]}] and row["model_id"] == "mine"
    with pytest.raises(KitError, match="81 has 2 turns"):
        exporters.export_mt_bench(out, rows, [["only one"]], "mine")
    judged = [{"question_id": q, "model": "mine", "judge": ["gpt-4", "single"], "score": s, "turn": t}
              for q, t, s in ((81, 1, 8), (81, 2, 6), (82, 1, -1), (82, 2, 4))]
    found, ledger = importers.read_mt_bench(lines(tmp_path / "judged.jsonl", judged))
    assert ledger.dropped == {"no rating in the reply": 1}
    score = importers.mt_bench_scores(found)[0]
    assert (score["turn_1"], score["turn_2"], score["score"], score["n"]) == (8, 5, 6, 2)


def test_arena_hard_there_and_back(tmp_path):
    file = lines(tmp_path / "question.jsonl", [{"uid": u, "category": "hard", "prompt": f"q {u}"} for u in "abc"])
    rows = importers.benchmark_prompts("arena_hard", file)
    mine = exporters.export_arena_hard(tmp_path / "mine.jsonl", rows, ["# Title\nlong answer here", "**x**", "y"], "mine")
    base = exporters.export_arena_hard(tmp_path / "base.jsonl", rows, ["s", "t", "u"], "base", tokens=[9, 9, 9])
    row = json.loads(mine.read_text().split("\n")[0])
    assert row["messages"][-1]["content"]["answer"].startswith("# Title")
    assert row["metadata"]["header_count"] == {"all": 1} and json.loads(base.read_text().split("\n")[0])["metadata"]["token_len"] == 9
    games = {"a": ("B>>A", "A>B"), "b": ("A=B", "B>A"), "c": ("A>B", None)}
    judged = lines(tmp_path / "judged.jsonl", [
        {"uid": u, "category": "hard", "model": "mine", "judge": "j", "games": [{"score": s} for s in pair]}
        for u, pair in games.items()])
    found, ledger = importers.read_arena_hard(judged, {"mine": mine, "base": base}, "base")
    assert [r["outcomes"] for r in found] == [[1, 1, 1, 1], [0.5, 0]] and ledger.dropped == {"no verdict in a game": 1}
    assert found[0]["style"]["headers"] == 1 and found[0]["baseline_style"]["length"] == 9
    score = {line["model"]: line for line in arena_hard_scores(found, "base")}["mine"]
    assert score["score"] == pytest.approx(75) and score["n"] == 2
    lines(tmp_path / "judged.jsonl", [{"uid": "a", "model": "mine", "games": [{"score": "A~B"}, {"score": "A>B"}]}])
    with pytest.raises(KitError, match="line 1: unknown verdict 'A~B'"):
        importers.read_arena_hard(judged)
    with pytest.raises(KitError, match="the baseline 'base' too"):
        importers.read_arena_hard(judged, {"mine": mine}, "base")


def old_answer(name, text, counts, **more):
    return {"question_id": name, "answer_id": "x", "model_id": "m", "choices": [{"index": 0, "turns": [{"content": text, **counts}]}],
            **more}


def test_arena_hard_answers_in_the_older_layout(tmp_path):
    mine = lines(tmp_path / "mine.jsonl", [old_answer("a", "# T\none two", {"token_len": 7}), old_answer("b", "x y", {})])
    base = lines(tmp_path / "base.jsonl", [old_answer("a", "**s**", {}, conv_metadata={"token_len": 9}), old_answer("b", "z", {})])
    judged = lines(tmp_path / "judged.jsonl", [
        {"question_id": u, "model": "mine", "judge": "j", "games": [{"score": "B>A"}, {"score": "A=B"}]} for u in "ab"])
    found, ledger = importers.read_arena_hard(judged, {"mine": mine, "base": base}, "base")
    assert ledger.rows_out == 2 and [r["outcomes"] for r in found] == [[1, 0.5]] * 2
    assert [(r["style"]["length"], r["baseline_style"]["length"]) for r in found] == [(7, 9), (2, 1)]
    assert found[0]["style"]["headers"] == 1 and found[0]["baseline_style"]["bold"] == 1


@pytest.mark.parametrize(("row", "message"), [
    ({"model": "m", "messages": [{"role": "assistant", "content": "x"}]}, "line 1: an Arena-Hard answer needs uid"),
    ({"question_id": "a", "text": "x"}, "line 1: an Arena-Hard answer needs uid and messages"),
    ({"uid": "a", "messages": []}, "line 1: an Arena-Hard answer needs uid and messages"),
    (old_answer("a", None, {}), "question_id and choices with a turn"),
    (old_answer("a", "x", {"token_len": "many"}), "line 1: token_len is text; it must be a number"),
])
def test_arena_hard_answers_in_neither_layout(tmp_path, row, message):
    file = lines(tmp_path / "x.jsonl", [row])
    judged = lines(tmp_path / "judged.jsonl", [{"uid": "a", "model": "mine", "games": [{"score": "A>B"}] * 2}])
    with pytest.raises(KitError, match=message):
        importers.read_arena_hard(judged, {"mine": file, "base": file}, "base")


@pytest.mark.parametrize(("change", "message"), [
    ({"output_1": None}, "annotation 1: output_1 is null; it must be a text"),
    ({"output_2": 3}, "annotation 1: output_2 is a number"),
    ({"preference": "m"}, "annotation 1: preference is text; it must be a number"),
])
def test_bad_annotations_are_named(tmp_path, change, message):
    row = {"instruction": "q", "output_1": "a", "output_2": "b", "preference": 1.5, "generator_1": "x", "generator_2": "y"}
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps([row | change]))
    with pytest.raises(KitError, match=message):
        importers.read_alpaca_eval(file)
    file.write_text("[7]")
    with pytest.raises(KitError, match="annotation 1: a number where an object is needed"):
        importers.read_alpaca_eval(file)


@pytest.mark.parametrize(("score", "message"), [(None, "score is null"), ("8", "score is text"), (float("nan"), "score is nan"),
                                                (11, "score 11 is not between")])
def test_bad_scores_are_named(tmp_path, score, message):
    rows = [{"question_id": 1, "model": "m", "turn": 1, "score": s} for s in (8, score)]
    with pytest.raises(KitError, match=f"judged.jsonl, line 2: .*{message}"):
        importers.read_mt_bench(lines(tmp_path / "judged.jsonl", rows))


def test_bad_arena_hard_games_and_rows_without_outcomes(tmp_path):
    for games in (["A>B", "A>B"], [{"score": ["A>B"]}, {"score": "A>B"}]):
        file = lines(tmp_path / "judged.jsonl", [{"uid": "a", "model": "mine", "games": games}])
        with pytest.raises(KitError, match="line 1: "):
            importers.read_arena_hard(file)
    full, empty = ({"model": "m", "question_id": q, "outcomes": o} for q, o in (("a", [1.0]), ("b", [])))
    for rows, number in (([empty], 0), ([full, empty], 1)):
        with pytest.raises(KitError, match=f"Arena-Hard row {number} has no outcomes"):
            arena_hard_scores(rows, "base")


def test_bad_files_and_commands(tmp_path):
    rows = [{"question_id": 1, "turns": ["q"]}] * 2
    with pytest.raises(KitError, match="1 stands there twice"):
        exporters.export_alpaca_eval(tmp_path / "x.json", rows, ["a", "b"], "m")
    with pytest.raises(KitError, match="2 questions but 1"):
        exporters.export_arena_hard(tmp_path / "x.json", rows, ["a"], "m")
    with pytest.raises(KitError, match="becomes a file name"):
        exporters.export_arena_hard(tmp_path / "x.json", rows[:1], ["a"], "a/b")
    with pytest.raises(KitError, match="line 2: not valid JSON"):
        (tmp_path / "bad.jsonl").write_text('{"a": 1}\n{\n')
        importers.read_mt_bench(tmp_path / "bad.jsonl")
    assert not (tmp_path / "x.json").exists()
    assert "--model_outputs out/outputs.json" in exporters.official_command("alpaca_eval", "out/outputs.json", "m")
    with pytest.raises(KitError, match="unknown benchmark"):
        exporters.official_command("x", "y", "z")


def test_own_verdicts_go_into_alpaca_evals_layout_and_come_back(tmp_path):
    user, more = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    asked = {"one": [{**user, "content": "first"}], "two": [user, more, user], "three": [{**user, "content": "third"}]}
    base, ours = ([{"prompt_id": key, "category": "chat", "text": f"{side} {key}"} for key in asked] for side in ("old", "new"))
    questions, texts = exporters.single_turns(asked, base, ours)
    assert [(row["question_id"], row["turns"]) for row in questions] == [("one", ["first"]), ("three", ["third"])]
    assert texts == [["old one", "old three"], ["new one", "new three"]]
    won = {"one": 0.75, "two": 0.0, "three": float("nan")}
    path = exporters.write_alpaca_eval(tmp_path / "annotations.json", questions, ("sft", texts[0]), ("mine", texts[1]), won)
    rows, ledger = importers.read_alpaca_eval(path)
    assert (ledger.rows_in, ledger.rows_out) == (2, 1)
    assert [(row["instruction"], row["preference"], row["model"], row["baseline"]) for row in rows] == [("first", 0.75, "mine", "sft")]
    assert rows[0]["length_model"] == len("new one") and rows[0]["length_baseline"] == len("old one")
