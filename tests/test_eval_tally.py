"""Rows picked and summed up for lesson 09: nothing is lost on the way, and what cannot be said is None."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_kit import evaluation
from rlhf_kit.evaluation import tally
from rlhf_kit.evaluation.judges import Verdicts
from rlhf_kit.runs import Ledger


def verdicts(preference, first=None, second=None) -> Verdicts:
    n = len(preference)
    sides = (None if side is None else np.array(side, dtype=float) for side in (first, second))
    return Verdicts("x", np.array(preference, dtype=float), Ledger("judge x", n, n), *sides)


def battle(place: int, preference, policy="new", judge="gold", sample=0, temperature=1.0, longer=10) -> dict:
    return {"judge": judge, "policy": policy, "temperature": temperature, "prompt_id": f"p{place}", "sample": sample,
            "category": "chat" if place % 2 else "safety", "preference": preference, "length_a": 100 + longer + place, "length_b": 100,
            "style_a": {"length": 110}, "style_b": {"length": 100}}  # fmt: skip


def test_rows_are_picked_by_all_that_is_wanted_and_groups_keep_their_names():
    rows = [{"a": 1, "b": 2}, {"a": 1, "b": 3}, {"a": 2, "b": 3}]
    assert tally.pick(rows, a=1, b=3) == [rows[1]] and tally.pick(rows) == rows and tally.pick(rows, a=9) == []
    with pytest.raises(KeyError):
        tally.pick(rows, c=1)
    assert tally.flat({"x": rows[:1], "y": rows[1:2]}, "arm", of="z") == [{"of": "z", "arm": "x", **rows[0]}, {"of": "z", "arm": "y", **rows[1]}]
    table = {"main": {"Arena-Hard (%)": 51.0, "length": 80}}
    assert tally.records(table, ["score", "length"], judge="gold") == [{"judge": "gold", "model": "main", "score": 51.0, "length": 80}]
    with pytest.raises(ValueError):
        tally.records(table, ["score"])
    told = [{"prompt_id": i // 3, "gold": float(i % 5)} for i in range(30)]
    assert tally.mean_of(told, "gold") == evaluation.cluster_interval([row["gold"] for row in told], [i // 3 for i in range(30)])


def test_win_rates_leave_out_and_count_what_a_judge_could_not_read():
    rows = [battle(i, 1.0) for i in range(6)]
    said = verdicts([1, 1, 0, 0.5, 1, np.nan])
    found = tally.win_rates(rows, said)
    assert [line["category"] for line in found] == ["safety", "chat", "all"] and {line["lost"] for line in found} == {1}
    assert found[-1]["win_rate"] == pytest.approx(3.5 / 5) and (found[-1]["judge"], found[-1]["policy"]) == ("gold", "new")
    same = evaluation.win_rates_by_category(said.preference, [r["category"] for r in rows], [r["prompt_id"] for r in rows], missing="drop")
    assert [line["low"] for line in found] == [line["low"] for line in same]
    assert tally.win_rates(rows, verdicts([np.nan] * 6)) == []
    own = [{**row, "category": "all"} for row in rows]  # a file of one's own without sections
    assert [line["category"] for line in tally.win_rates(own, said)] == ["all"]


def test_where_gold_ties_the_judge_is_asked_alone():
    truth, ids = verdicts([0.5, 0.5, 0.5, 1, 0]), list("aabcd")
    found = tally.on_ties(verdicts([1, 1, 0, 0, np.nan]), truth, ids)
    assert (found["n_tied"], found["flips"]) == (3, None) and found["tied"] == pytest.approx(2 / 3)
    assert found["tied_low"] < 2 / 3 < found["tied_high"]
    one = tally.on_ties(verdicts([np.nan, 1, np.nan, 0, 0]), truth, ids)  # one prompt alone has no interval
    assert (one["n_tied"], one["tied"], one["tied_low"]) == (1, None, None)
    seen = verdicts([0.5] * 5, [1, 1, 0, 0.9, 0.9], [0, 1, 0, 0.9, 0.1])
    assert tally.on_ties(seen, truth, ids)["flips"] == pytest.approx(2 / 5)


def test_arena_battles_are_the_sampled_ones_of_one_judge():
    rows = [battle(0, 1.0), battle(1, 0.0, judge="bt"), battle(2, 0.5, temperature=0.0), battle(3, 0.5)]
    found = tally.arena_battles(rows, "gold")
    assert [(row["question_id"], row["outcomes"]) for row in found] == [("p0", [1.0]), ("p3", [0.5])]
    assert found[0]["style"] == {"length": 110} and found[0]["baseline_style"] == {"length": 100}


def test_lengths_are_of_one_answer_a_prompt_and_of_those_with_a_verdict():
    rows = [battle(0, 1.0), battle(0, 0.0, sample=1), battle(1, None), battle(2, 0.25), battle(3, 1.0, policy="old")]
    preference, own, base = tally.lengths(rows, "gold", "new")
    assert (preference.tolist(), own.tolist(), base.tolist()) == ([1.0, 0.25], [110, 112], [100, 100])


def made(seed: int, n: int = 60):
    draw = np.random.default_rng(seed)
    own = 100 + draw.integers(-40, 60, n)
    return (draw.uniform(size=n) < 0.6).astype(float), own, np.full(n, 100)


def test_length_control_takes_the_difficulty_from_others_judged_on_all_prompts():
    mine, others = made(0), {"a": made(1), "b": made(2)}
    plain = evaluation.length_controlled_win_rate(*mine)
    hard = evaluation.estimate_difficulty({k: v[0] for k, v in others.items()}, {k: v[1] for k, v in others.items()}, mine[2])
    found = tally.length_control(mine, others)
    assert {key: found[key] for key in plain} == plain
    assert found["hard_win_rate"] == evaluation.length_controlled_win_rate(*mine, hard)["lc_win_rate"] != found["lc_win_rate"]
    none = tuple(np.array([]) for _ in range(3))
    for too_few in ({}, {"a": made(1)}, {"a": made(1), "b": none}, {"a": made(1), "b": made(2, 59)}):
        assert tally.length_control(mine, too_few)["hard_win_rate"] is None
    assert tally.length_control(mine, {**others, "c": none}) == found


def test_where_length_decides_alone_there_is_no_controlled_win_rate():
    won, longer = np.array([1.0, 1, 1, 0, 0, 0]), np.array([120, 130, 140, 80, 70, 60])
    found = tally.length_control((won, longer, np.full(6, 100)), {"a": made(1, 6), "b": made(2, 6)})
    assert (found["lc_win_rate"], found["lc_win_rate_se"], found["hard_win_rate"]) == (None, None, None)
    assert found["win_rate"] == 50.0 and found["win_rate_se"] == pytest.approx(100 * won.std(ddof=1) / 6**0.5)  # as where it can be controlled


def test_answers_that_end_and_a_reward_model_beside_the_rule_of_length():
    assert tally.ended([{"finish_reason": "stop"}, {"finish_reason": "length"}]) == 0.5
    pairs = [{"prompt_id": str(i), "chosen_reward": float(i % 10 != 0), "rejected_reward": 0.5, "chosen_length": 10, "rejected_length": 12 - 4 * (i % 3 == 0)}
             for i in range(60)]  # fmt: skip
    found = tally.beyond_length(pairs)
    assert found["rule"] == "shorter" and found["accuracy"] == pytest.approx(2 / 3)
    assert found["difference"] == pytest.approx(0.9 - 2 / 3) and found["low"] < found["difference"] < found["high"]
    turned = [{**row, "chosen_length": row["rejected_length"], "rejected_length": row["chosen_length"]} for row in pairs]
    assert tally.beyond_length(turned)["rule"] == "longer"
