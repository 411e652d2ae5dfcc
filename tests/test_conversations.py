"""Demonstrations and prompts: the layouts of people's files, of the released sets and of the benchmarks."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf_kit.errors import KitError
from rlhf_kit.sources.conversations import load_conversations, load_prompts


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


SHARED = [user("hi"), assistant("hello"), user("a joke?")]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"context_messages": SHARED, "dataset": "x"}, SHARED),  # iterative-prompt-v1: earlier answers belong to it
        ({"context_messages": [{"content": "hi", "role": "user"}]}, SHARED[:1]),
        ({"question_id": 81, "category": "writing", "turns": ["hi", "shorter!"]}, SHARED[:1]),  # MT-Bench
        ({"uid": "x", "category": "hard", "cluster": "c", "prompt": "hi"}, SHARED[:1]),  # Arena-Hard
        ({"question_id": "x", "cluster": "c", "turns": [{"content": "hi"}]}, SHARED[:1]),  # its first version
        ({"question": "hi", "answer": "hello"}, SHARED[:1]),
        ({"prompt": SHARED}, SHARED),
        ({"prompt": "hi", "system": "Be kind."}, [{"role": "system", "content": "Be kind."}, SHARED[0]]),
        ({"messages": [*SHARED, assistant("knock")]}, SHARED),
        ({"instruction": "hi", "input": "there", "output": "x"}, [user("hi\nthere")]),
    ],
)
def test_a_prompt_is_found_in_each_layout(row, expected):
    found, ledger = load_prompts([row])
    assert found == [expected]
    assert (ledger.rows_in, ledger.rows_out) == (1, 1)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [*SHARED, assistant("knock")]},  # SFT-OpenHermes-2.5-Standard
        {"conversations": [{"from": {"user": "human", "assistant": "gpt"}[t["role"]], "value": t["content"]}
                           for t in [*SHARED, assistant("knock")]]},
        {"transcript": "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: a joke?\n\nAssistant: knock"},
        {"prompt": SHARED, "response": "knock"},
    ],
)  # fmt: skip
def test_a_demonstration_is_found_in_each_layout(row):
    assert load_conversations([row])[0] == [[*SHARED, assistant("knock")]]


def test_rows_that_teach_nothing_are_counted_and_odd_ones_end_the_reading():
    good = {"messages": [user("q"), assistant("a")]}
    rows = [good, {"messages": [user("q")]}, {"messages": [user(""), assistant("a")]}, {"messages": []},
            {"messages": [user("q"), {"role": "tool", "content": "a"}, assistant("b")]}]  # fmt: skip
    _, ledger = load_conversations(rows)
    assert ledger.check().dropped == {"empty": 2, "turns": 1, "unknown_role": 1}
    for bad, words in (
        ({"messages": "text"}, "rows, row 2: has text under 'messages'"),
        ({"prompt": "q"}, "row 2: has no 'response'"),
        ("text", "row 2: is text"),
    ):
        with pytest.raises(KitError, match=words):
            load_conversations([good, bad])
    with pytest.raises(KitError, match="row 1: has a number under 'turns'"):
        load_prompts([{"turns": [3]}])
    with pytest.raises(KitError, match="no usable row"):
        load_prompts([{"turns": []}])


def test_released_sets_are_found_under_the_root_by_split(tmp_path, monkeypatch):
    folder = tmp_path / "RLHFlow--test_generation_2k" / "data"
    folder.mkdir(parents=True)
    for split, text in (("train", "hi"), ("test", "not this")):
        table = pa.Table.from_pylist([{"context_messages": [user(text)]}])
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    assert load_prompts("RLHFlow/test_generation_2k", root=tmp_path)[0] == [[user("hi")]]
    assert load_prompts("RLHFlow/test_generation_2k", root=tmp_path, split="test")[0] == [[user("not this")]]
    monkeypatch.setenv("RLHF_KIT_DATA", str(tmp_path))
    assert load_prompts("RLHFlow/test_generation_2k")[0] == [[user("hi")]]
    with pytest.raises(KitError, match="the data set RLHFlow/other is not on this machine"):
        load_prompts("RLHFlow/other")


def test_only_what_is_asked_for_is_read(tmp_path):
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"q{i}"}) + "\n" for i in range(5)) + "not json\n")
    from rlhf_kit.sources.conversations import prompt, read

    assert [next(rows).place for rows in [read(path, prompt)] for _ in range(3)] == ["line 1", "line 2", "line 3"]
    with pytest.raises(KitError, match="many.jsonl, line 6: is not valid JSON"):
        load_prompts(path)
