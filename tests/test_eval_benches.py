"""Reward benches on rows of the public layouts, written here; the oracle attains every ceiling."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rlhf_kit import evaluation, rewards, world
from rlhf_kit.errors import KitError
from rlhf_kit.evaluation.benches import (
    beside_paper,
    load_bench,
    paper_table,
    pocket_bench,
    run_bench,
    ties_score,
)
from rlhf_kit.evaluation.judges import RuleJudge, ScalarJudge, longer
from rlhf_kit.evaluation.reward_bench import SECTIONS

SUBSETS = [name for subsets in SECTIONS.values() for name in subsets]


class Marks:
    """A scorer that reads the number at the end of an answer."""

    name = "marks"

    def score(self, prompts, texts):
        return np.array([float(t.rsplit(" ", 1)[-1]) for t in texts])


def v1_rows():
    return [{"prompt": f"p {s} {k}", "chosen": "yes 1", "rejected": f"no {k}", "subset": s, "id": n, "chosen_model": "m",
             "rejected_model": "m"} for n, s in enumerate(SUBSETS) for k in (0, 1, 2)]  # won, tied, lost


def test_rewardbench_v1_from_a_file(tmp_path):
    path = tmp_path / "filtered.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in v1_rows()))
    items, ledger = load_bench("rewardbench", path)
    assert ledger.rows_out == len(items) == 69
    found = run_bench("rewardbench", items, Marks())
    assert found["Average"] == pytest.approx(50) and found["ties"] == 23
    better = [i for i in items if i.subset != "math-prm" or i.rejected == ["no 0"]]
    reasoning = run_bench("rewardbench", better, Marks())["Reasoning"]
    assert reasoning == pytest.approx(75)  # math-prm weighs as much as all code
    judged = run_bench("rewardbench", items, ScalarJudge(Marks()))
    assert judged["Average"] == pytest.approx(50) and judged["unjudged"] == 0


def test_a_judge_without_a_verdict_counts_half_and_is_counted(tmp_path):
    items, _ = load_bench("rewardbench", v1_rows())

    class Silent:
        name = "silent"

        def compare(self, prompts, a, b):
            found = ScalarJudge(Marks()).compare(prompts, a, b)
            found.preference[:] = np.nan
            return found

    found = run_bench("rewardbench", items, Silent())
    assert found["Average"] == 50 and found["unjudged"] == 69 and found["ties"] == 0


@pytest.mark.parametrize(("change", "message"), [
    ({"subset": "hep-c"}, "unknown RewardBench subset 'hep-c'"),
    ({"chosen": None}, "'chosen' is missing"),
    ({"prompt": " "}, "the prompt is empty"),
    ({"rejected": ["a 1", "b 2"]}, r"rejected must be 1 text\(s\), not 2"),
    ({"prompt": 7}, "row 2: the prompt is a number"),
    ({"prompt": ["text", "text"]}, "message 1 of the prompt must be an object"),
    ({"prompt": [{"role": "user", "content": 7}]}, "message 1 of the prompt must be an object with a role and a text"),
    ({"chosen": 7}, r"row 2: chosen must be 1 text\(s\), not a number"),
    ({"rejected": [7]}, r"row 2: rejected must be 1 text\(s\), not a number"),
    ({"subset": ["hep-cpp"]}, "subset is a list"),
])
def test_a_bad_row_is_named(change, message):
    rows = v1_rows()[:2]
    rows[1] |= change
    with pytest.raises(KitError, match=message):
        load_bench("rewardbench", rows)


def test_a_prompt_may_be_messages():
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "r"}]
    assert load_bench("rewardbench", [v1_rows()[0] | {"prompt": turns}])[0][0].prompt == turns


def v2_row(subset, name, chosen, rejected):
    return {"id": name, "prompt": "q", "chosen": [f"c {x}" for x in chosen], "rejected": [f"r {x}" for x in rejected],
            "num_correct": len(chosen), "num_incorrect": len(rejected), "total_completions": len(chosen) + len(rejected),
            "models": ["m"], "subset": subset}


def test_rewardbench_v2_is_the_best_of_four_and_equals_share():
    rows = [v2_row("Math", "1", [5], [1, 2, 3]), v2_row("Math", "2", [5], [1, 2, 6]), v2_row("Focus", "3", [5], [5, 2, 5]),
            v2_row("Focus", "4", [1], [1, 1, 1])]
    items, _ = load_bench("rewardbench2", rows)
    found = run_bench("rewardbench2", items, Marks())
    assert found["Math"] == 50 and found["Focus"] == pytest.approx(100 * (1 / 3 + 1 / 4) / 2)
    assert found == run_bench("rewardbench2", items, ScalarJudge(Marks()))


def test_the_ties_score_by_hand():
    # Right answers within 1 of each other, the wrong one 2 below in both items: everything but the last term is 1.
    rows = [v2_row("Ties", "ref:1", [5], [3]), v2_row("Ties", "tied:1", [5, 6], [3, 1])]
    items, _ = load_bench("rewardbench2", rows)
    assert ties_score(items, Marks()) == pytest.approx(1 + 0.01 * np.tanh(1))
    assert run_bench("rewardbench2", items, Marks())["Average"] == pytest.approx(100 + np.tanh(1))
    # A gap as wide as the spread is not wider; the ref item alone is right.
    rows = [v2_row("Ties", "ref:1", [5], [3]), v2_row("Ties", "tied:1", [5, 6], [7])]
    items, _ = load_bench("rewardbench2", rows)
    assert ties_score(items, Marks()) == pytest.approx(0.3 + 0.01 * np.tanh(-3))
    assert run_bench("rewardbench2", items, RuleJudge(longer))["Ties"] is None  # no scale, no margin
    with pytest.raises(KitError, match="ref:NUMBER"):
        ties_score(load_bench("rewardbench2", [v2_row("Ties", "7", [5], [3])])[0], Marks())


def test_rm_bench_separates_substance_from_style():
    def row(domain):
        return {"id": domain, "domain": domain, "prompt": "q", "chosen": ["c 1", "c 2", "c 3"], "rejected": ["r 0.5", "r 1.5", "r 2.5"]}

    items, _ = load_bench("rm-bench", [row(d) for d in ("chat", "code", "math", "safety-refuse", "safety-response")])
    found = run_bench("rm-bench", items, Marks())  # this scorer prefers style over substance
    assert (found["easy"], found["normal"], found["hard"]) == (100, 100, 0)
    assert found["safety"] == found["Average"] == pytest.approx(200 / 3)
    tied = load_bench("rm-bench", [{**row("chat"), "rejected": ["r 1", "r 2", "r 3"]}])[0]
    assert run_bench("rm-bench", tied, Marks())["normal"] == 0  # equal is not better, as in the official code
    with pytest.raises(KitError, match="must be 3 text"):
        load_bench("rm-bench", [{**row("chat"), "chosen": ["c 1"]}])


def test_one_missing_verdict_leaves_the_ties_of_rm_bench_lost():
    rows = [{"id": d, "domain": d, "prompt": "q", "chosen": ["c 1", "c 2", "c 3"], "rejected": ["r 1", "r 2", "r 3"]}
            for d in ("chat", "code")]
    items, _ = load_bench("rm-bench", rows)

    class OnceSilent:
        name = "once silent"

        def compare(self, prompts, a, b):
            found = ScalarJudge(Marks()).compare(prompts, a, b)
            found.preference[0] = np.nan  # chat, the first of the normal level, a tie otherwise
            return found

    whole, found = run_bench("rm-bench", items, ScalarJudge(Marks())), run_bench("rm-bench", items, OnceSilent())
    assert (whole["normal"], whole["ties"], whole["unjudged"]) == (0, 6, 0)
    assert (found["ties"], found["unjudged"]) == (5, 1)
    assert found["normal"] == pytest.approx(100 * 0.5 / 6)  # one coin among six
    assert [found[k] for k in ("code", "easy", "hard")] == [whole[k] for k in ("code", "easy", "hard")]


def test_the_pocket_bench_has_the_same_sections_and_gold_attains_the_ceiling():
    items = pocket_bench(80)
    assert len(items) == 80 and items == pocket_bench(80)
    oracle = run_bench("pocket", items, rewards.Gold())
    assert [oracle[s] for s in (*SECTIONS, "Average")] == [100] * 5 and oracle["ties"] == 0
    blind = run_bench("pocket", items, rewards.Random())
    assert 25 < blind["Average"] < 75 and blind["intervals"]["Chat"][0] < blind["Chat"] < blind["intervals"]["Chat"][1]
    table = beside_paper("table1_rewardbench", {"gold": oracle})
    assert table[-1] == {"model": "gold", "where": "here", "Chat": 100, "Chat-Hard": 100, "Safety": 100, "Reasoning": 100}
    assert table[0]["where"] == "paper" and table[2]["Chat"] == 99.4


def test_every_section_of_the_pocket_bench_holds_both_kinds_of_pair():
    """Else a section's score would tell drafts from slips and not one section from another."""
    def is_slip(item):
        a, b = (re.findall(r"[A-Za-z]+|[0-9]+|[^A-Za-z0-9]+", text) for text in (item.chosen[0], item.rejected[0]))
        return len(a) == len(b) and len({(x, y) for x, y in zip(a, b, strict=True) if x != y}) == 1

    slips = Counter()
    for row, item in zip(world.prompts("eval", 80), pocket_bench(80), strict=True):
        slips[row["category"]] += is_slip(item)
    assert set(slips.values()) == {10} and len(slips) == 4


def test_evaluation_draws_nothing():
    for path in Path(evaluation.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [one.name for one in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            names += [f"{node.module}.{name}" for name in names] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("rlhf_kit.views") for name in names), path.name


def test_bad_benches():
    with pytest.raises(KitError, match="no paper table 'table9'; known: .*table1_rewardbench"):
        beside_paper("table9", {})
    with pytest.raises(KitError, match="recipe.yaml is no table"):
        paper_table("recipe")
    with pytest.raises(KitError, match="unknown bench 'x'"):
        load_bench("x")
    with pytest.raises(KitError, match="no items"):
        run_bench("pocket", [], Marks())

    class Broken(Marks):
        def score(self, prompts, texts):
            return np.full(len(texts), np.nan)

    with pytest.raises(KitError, match="no finite numbers"):
        run_bench("rewardbench", load_bench("rewardbench", v1_rows())[0], Broken())
