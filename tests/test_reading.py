"""Every kind of source gives the same rows, and every unreadable one a sentence with its place."""

from __future__ import annotations

import csv
import gzip
import json
import lzma

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from talk import assistant, pair, user

from rlhf_kit.errors import KitError
from rlhf_kit.preferences import load_preferences, load_with_ledger
from rlhf_kit.sources.fields import STRUCTURAL

ROWS = [pair(1, source=None), pair(2, "ümlaut 你好 \u2028 end"), pair(3, source="mine")]


def write(folder, name, text):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


# ---------------------------------------------------------------- sources


def sources(folder):
    yield "rows", ROWS
    yield "dataset", datasets.Dataset.from_list(ROWS)
    yield "dict", datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})
    yield "jsonl", write(folder, "a.jsonl", "\ufeff" + lines(ROWS).replace("\n", "\r\n\r\n"))
    yield "as text", str(folder / "a.jsonl")
    yield "gzip", write(folder, "b.jsonl.gz", gzip.compress(lines(ROWS).encode()))
    yield "array", write(folder, "c.json", json.dumps(ROWS, indent=2, ensure_ascii=False))
    yield "lines in .json", write(folder, "d.json", lines(ROWS))
    yield "LMFlow", write(folder, "h.json", json.dumps({"type": "pairs", "instances": ROWS}))
    yield "LMFlow over lines", write(folder, "i.json", json.dumps({"type": "pairs", "instances": ROWS}, indent=1))
    yield "xz", write(folder, "j.jsonl.xz", lzma.compress(lines(ROWS).encode()))
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "e.parquet")
    yield "parquet", folder / "e.parquet"
    with open(folder / "f.csv", "w", newline="") as handle:
        writer = csv.DictWriter(handle, ["prompt", "chosen", "rejected", "source"])
        writer.writeheader()
        writer.writerows(ROWS)
    yield "csv", folder / "f.csv"
    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder / "saved"))
    yield "saved to disk", folder / "saved"
    (folder / "stage").mkdir()
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "stage" / "rows.parquet")
    write(folder / "stage", "manifest.json", '{"params": {}}')
    yield "stage folder", folder / "stage"


def test_every_kind_of_source_gives_the_same_rows(tmp_path):
    expected = load_preferences(ROWS)
    assert expected.column_names == ["prompt", "chosen", "rejected", "source"]
    assert expected[0] == {
        "prompt": [user("question 1?")],
        "chosen": [user("question 1?"), assistant("yes")],
        "rejected": [user("question 1?"), assistant("no")],
        "source": "rows",
    }
    for kind, source in sources(tmp_path):
        found, ledger = load_with_ledger(source)
        columns = ["prompt", "chosen", "rejected"]
        assert found.select_columns(columns)[:] == expected.select_columns(columns)[:], kind
        assert found["source"][2] == "mine", kind
        assert (ledger.rows_in, ledger.rows_out, ledger.dropped) == (3, 3, {}), kind


def test_the_standard_format_is_read_back_unchanged(tmp_path):
    first = load_preferences([pair(1, chosen_score=2.0, rejected_score=0.5), pair(2)])
    assert first.column_names == [
        "prompt",
        "chosen",
        "rejected",
        "source",
        "chosen_score",
        "rejected_score",
        "margin",
    ]
    assert first["margin"][:] == [1.5, None]
    first.to_parquet(tmp_path / "x.parquet")
    assert load_preferences(tmp_path / "x.parquet")[:] == first[:]


def test_a_folder_reads_its_files_in_order_each_in_its_own_layout(tmp_path):
    write(tmp_path, "1.jsonl", lines([pair(1)]))
    write(
        tmp_path,
        "2.jsonl",
        lines([{"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}]),
    )
    write(tmp_path, ".hidden.jsonl", "nonsense")
    found = load_preferences(tmp_path)
    assert found["source"][:] == ["1.jsonl", "2.jsonl"]
    write(tmp_path, "3.csv", "prompt,chosen,rejected\nq,a,b\n")
    with pytest.raises(KitError, match="csv and jsonl files side by side"):
        load_preferences(tmp_path)


def test_more_than_one_batch_of_rows():
    found = load_preferences([pair(i) for i in range(2500)])
    assert len(found) == 2500
    assert found[2499]["prompt"] == [user("question 2499?")]


def test_equal_content_has_an_equal_fingerprint():
    first, again, other = (load_preferences([pair(1), pair(2, chosen)]) for chosen in ("a", "a", "b"))
    assert first._fingerprint == again._fingerprint != other._fingerprint


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "text, message",
    [
        (lines([pair(1)]) + '{"prompt": "q", "cho\n', "line 2: is not valid JSON"),
        (lines([pair(1)]) + "\n" + '{"prompt": "q", "chosen": "a"}\n', "line 3: has no 'rejected'"),
        ('{"prompt": "q", "chosen": "a"}\n' + lines([pair(1)]), "line 1: has no 'rejected'"),
        (lines([pair(1)]).encode() + b'{"prompt": "\xff"}\n', "line 2: is not UTF-8 text"),
        (lines([pair(1)]).encode("utf-16"), "line 1: is not UTF-8 text"),
        (lines([pair(1)]) + "[1, 2]\n", "line 2: is a list"),
        (lines([pair(1)]) + "[" * 100_000 + "\n", "line 2: is not"),
        (lines([pair(1)]) + '{"margin": ' + "9" * 5000 + "}\n", "line 2: is not usable JSON"),
        (lines([pair(1)]) + '{"prompt": "q", "chosen": "a", "rejected": "\\ud800"}\n', "line 2: .*surrogate"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_or_counted(tmp_path, text, message):
    path = write(tmp_path, "mine.jsonl", text)
    with pytest.raises(KitError, match=r"mine\.jsonl, " + message):
        load_preferences(path)
    if isinstance(text, bytes) and text.startswith(b"\xff\xfe"):
        return  # nothing of a UTF-16 file can be read
    found, ledger = load_with_ledger(path, on_error="drop")
    assert len(found) == 1
    assert (ledger.rows_in, sum(ledger.dropped.values())) == (2, 1)
    assert set(ledger.dropped) < set(STRUCTURAL)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.json", '[{"prompt": "q"},\n {"x" 1}]', "is not valid JSON .* line 2, column 7"),
        ("a.json", b'["\n\xff"]', "is not UTF-8 text .line 2."),
        ("a.json", '"text"', "found text"),
        ("config.json", '{\n "model": "x",\n "sizes": 1}', "holds one JSON object .'model', 'sizes'., which is no table"),
        ("a.json", '{"prompt": "q", "cho\n' + lines([pair(1)]), "line 1: is not valid JSON"),
        ("a.jsonl.xz", lzma.compress(lines(ROWS * 9).encode())[:-20], "cannot be read beyond"),
        ("a.jsonl", "", "no preference pair is left of 0 rows"),
        (
            "a.jsonl",
            lines([pair(1, "same", "same")]),
            "no preference pair is left of 1 rows .1 identical_responses",
        ),
        ("a.jsonl.gz", gzip.compress(lines(ROWS * 9).encode())[:-20], "cannot be read beyond"),
        ("a.jsonl.gz", b"no gzip", "cannot be read beyond the beginning"),
        ("a.parquet", b"PAR1 no parquet", "not a readable Parquet file"),
        ("a.csv", "prompt,chosen,rejected\nq,a,b\nq,a,b,c\n", "line 3: has more cells than the header"),
        ("a.csv", "prompt,chosen,rejected\nq,a,b\nq,a\n", "line 3: has no 'rejected'"),
        ("a.csv", b"prompt,chosen,rejected\nq,a,\xff\n", "line 2: is not UTF-8"),
        ("a.txt", "text", "unknown kind of file"),
        ("a.jsonl", lines([{"messages": [user("q"), assistant("a")], "label": True}]), "unpaired labels"),
        ("a.jsonl", lines([{"instruction": "i", "input": "", "output": "o"}]), "instruction data for SFT"),
    ],
)
def test_a_file_that_cannot_serve_gives_one_sentence(tmp_path, name, content, message):
    path = write(tmp_path, name, content)
    with pytest.raises(KitError, match=message) as caught:
        load_preferences(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: load_preferences("nowhere/mine.jsonl"), "nowhere/mine.jsonl: no such file"),
        (lambda: load_preferences("x\0y"), "no such file"),
        (lambda: load_preferences("a" * 5000), "no such file"),
        (lambda: load_preferences(7), "not from int"),
        (lambda: load_preferences({"test": ROWS, "dev": ROWS}), "no split 'train' .it has: 'test', 'dev'"),
        (lambda: load_preferences({"test": ROWS}, split="train"), "no split 'train'"),
        (lambda: load_preferences(ROWS, limit=0), "limit must be a whole number of 1 or more"),
        (lambda: load_preferences(ROWS, per_prompt=1.5), "per_prompt must be a whole number"),
        (lambda: load_preferences("mix3"), "no such file.*did you mean the public set 'mix2'"),
        (lambda: load_preferences(ROWS, adapter="string"), "did you mean 'strings'"),
        (lambda: load_preferences(ROWS, on_error="ignore"), "on_error"),
        (lambda: load_preferences(ROWS + ["text"]), "row 4: is text"),
    ],
)
def test_a_wrong_call_gives_one_sentence(call, message):
    with pytest.raises(KitError, match=message):
        call()


def test_a_hub_id_goes_to_the_hub_and_its_failure_is_one_sentence(monkeypatch):
    asked = []

    def load(name, subset, split):
        asked.append((name, subset, split))
        if name == "some/preferences":
            return datasets.Dataset.from_list(ROWS)
        raise ConnectionError("no\nnetwork")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("rlhf_kit.hub.reachable", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert load_preferences("some/preferences", split="test", subset="en")["source"][0] == "some/preferences"
    assert asked == [("some/preferences", "en", "test")]
    with pytest.raises(KitError, match=r"other/one is not on this machine, and the hub .* cannot be reached"):
        load_preferences("other/one")
    monkeypatch.setattr("rlhf_kit.hub.reachable", lambda: False)
    with pytest.raises(KitError, match="the hub .* cannot be reached"):
        load_preferences("other/two")
    assert len(asked) == 2


# ---------------------------------------------------------------- copies of hub data sets


def test_of_a_folder_with_splits_only_the_one_asked_for_is_read(tmp_path):
    for split, number in (("train", 1), ("test", 2)):
        (tmp_path / "data").mkdir(exist_ok=True)
        for shard in (0, 1):
            write(tmp_path / "data", f"{split}-{shard:05d}-of-00002.jsonl", lines([pair(10 * number + shard)]))
    numbers = {split: [p[0]["content"] for p in load_preferences(tmp_path, split=split)["prompt"]]
               for split in (None, "train", "test")}  # fmt: skip
    assert numbers[None] == numbers["train"] == ["question 10?", "question 11?"]
    assert numbers["test"] == ["question 20?", "question 21?"]
    with pytest.raises(KitError, match="no split 'dev' .it has: 'train', 'test'"):
        load_preferences(tmp_path, split="dev")
    write(tmp_path / "data", "extra.jsonl", lines([pair(3)]))
    with pytest.raises(KitError, match="extra.jsonl belongs to no split, but others do"):
        load_preferences(tmp_path)
    (tmp_path / "data" / "extra.jsonl").unlink()
    for path in (tmp_path / "data").glob("train*"):
        path.unlink()
    assert len(load_preferences(tmp_path)) == 2  # the only split there is
    with pytest.raises(KitError, match="no split 'train'"):
        load_preferences(tmp_path, split="train")


def test_a_readme_says_which_files_are_which_subset(tmp_path):
    for name in ("easy", "hard"):
        write(tmp_path, f"{name}.jsonl", lines([pair(len(name), name)]))
    write(tmp_path, "README.md", """---
configs:
- config_name: first
  data_files: [{split: train, path: easy.jsonl}]
- config_name: second
  data_files: [{split: train, path: hard.jsonl}]
---
""")
    assert load_preferences(tmp_path, subset="second")["chosen"][0][-1] == assistant("hard")
    assert load_preferences(tmp_path, subset="first")["chosen"][0][-1] == assistant("easy")
    for subset, words in ((None, "Config name is missing"), ("third", "'third' not found")):
        with pytest.raises(KitError, match=words) as caught:
            load_preferences(tmp_path, subset=subset)
        assert "\n" not in str(caught.value)
    write(tmp_path, "README.md", "Only words.\n")
    assert len(load_preferences(tmp_path)) == 2
    with pytest.raises(KitError, match="no split 'test'"):
        (tmp_path / "README.md").unlink()
        load_preferences(tmp_path, split="test")


@pytest.mark.parametrize("streaming", [False, True])
def test_the_hubs_own_client_gives_rows_of_a_sub_folder(tmp_path, monkeypatch, streaming):
    """`datasets` itself, with a folder in the place of the hub: what is asked for as a hub set is asked for."""
    for folder in ("good", "other"):
        (tmp_path / "set" / folder).mkdir(parents=True)
        write(tmp_path / "set" / folder, "train.jsonl", lines([pair(i, folder) for i in range(3)]))
        write(tmp_path / "set" / folder, "test.jsonl", lines([pair(9)]))
    monkeypatch.setattr("rlhf_kit.hub.require", lambda name: None)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    from rlhf_kit.sources.reading import _from_hub

    rows = list(_from_hub(str(tmp_path / "set"), "train", None, {"data_dir": "good", "streaming": streaming}))
    assert [place for place, _ in rows] == ["row 1", "row 2", "row 3"]
    assert {row["chosen"] for _, row in rows} == {"good"}
    for split, subset, words in (("dev", None, "dev"), ("train", "nothing", "nothing")):
        with pytest.raises(KitError, match=words) as caught:
            list(_from_hub(str(tmp_path / "set"), split, subset, {"streaming": streaming}))
        assert "\n" not in str(caught.value)


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.binary(max_size=200), st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.parquet", "a.jsonl.gz"]))
def test_any_bytes_give_rows_or_a_kit_error(tmp_path, content, name):
    path = write(tmp_path, name, content)
    with pytest.raises(KitError):  # no two hundred random bytes hold a pair
        load_preferences(path, on_error="drop")
