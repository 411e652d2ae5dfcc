"""The announced comparison over seeds, on made-up results and once for real at a toy size."""

from __future__ import annotations

import math

import pytest

from rlhf_kit.errors import KitError
from rlhf_kit.running import experiments


def result(seed, online, offline, model_seed=None):
    def row(arm, iteration, gold):
        rest = {"kl": 1.0, "length": 80.0, "reward": 0.5, "label_accuracy": 0.8}
        return {"arm": arm, "iteration": iteration, "gold": gold, "gold_greedy": gold + 1, **rest}

    curves = [row("sft", 0, 5.0), row("online", 1, 9.9), row("offline", 1, 0.0),
              row("online", 2, online), row("offline", 2, offline)]  # fmt: skip
    return {"seed": seed, "model_seed": seed // 2 if model_seed is None else model_seed, "curves": curves}


def test_effect_is_the_mean_paired_difference_at_the_last_iteration():
    found = experiments.summarise(
        "online_vs_offline", [result(1, 7.2, 7.0), result(0, 7.4, 7.0), result(2, 7.6, 7.0)]
    )
    assert found["effect"] == pytest.approx(0.4)
    half = 4.302652729911275 * 0.2 / math.sqrt(3)  # t at two degrees of freedom, standard deviation 0.2
    assert (found["low"], found["high"]) == (pytest.approx(0.4 - half), pytest.approx(0.4 + half))
    assert found["verdict"] == "inconclusive" and found["low"] < 0
    assert [line["seed"] for line in found["per_seed"]] == [0, 1, 2]
    assert found["per_seed"][0]["gold_difference"] == pytest.approx(0.4)


@pytest.mark.parametrize(("sign", "word"), [(1, "online better"), (-1, "offline better")])
def test_verdict_needs_an_interval_clear_of_zero(sign, word):
    results = [result(s, 7.0 + sign * (0.30 + 0.01 * s), 7.0) for s in range(4)]
    found = experiments.summarise("online_vs_offline", results)
    assert found["verdict"] == found["greedy"]["verdict"] == word
    assert found["by_models"]["groups"] == 2
    assert found["by_models"]["effect"] == pytest.approx(found["effect"])
    # Two groups of seeds that share their models leave one degree of freedom: wider than four single seeds.
    assert found["by_models"]["high"] - found["by_models"]["low"] > found["high"] - found["low"]


def test_one_seed_is_never_a_verdict_and_none_or_a_double_one_is_refused():
    found = experiments.summarise("online_vs_offline", [result(0, 9.0, 1.0)])
    assert found["effect"] == 8.0 and found["low"] is None and found["verdict"] == "inconclusive"
    with pytest.raises(KitError, match="no finished seed"):
        experiments.summarise("online_vs_offline", [])
    with pytest.raises(KitError, match="twice"):
        experiments.summarise("online_vs_offline", [result(0, 1, 1), result(0, 1, 1)])
    with pytest.raises(KitError, match="unknown experiment 'x'"):
        experiments.summarise("x", [])


def test_a_seed_runs_every_arm_and_leaves_no_policies(tiny_folder, tmp_path):
    from rlhf_kit.profiles import load_profile

    profile = load_profile("smoke", {
        "model.init": None, "model.tokenizer": None, "model.path": str(tiny_folder), "data.sft_rows": 32,
        "data.preference_pairs": 32, "data.heldout_pairs": 8, "data.iterations": 2,
        "data.prompts_per_iteration": 6, "model.max_length": 400,
        "data.choose_prompts": 4, "data.eval_prompts": 4, "sampling.n": 2, "sampling.max_new_tokens": 6,
        "dpo.batch_size": 4, "evaluation.bootstrap": 20,
    })  # fmt: skip
    made = experiments.run_seed("online_vs_offline", profile, 3, root=tmp_path)
    assert (made["seed"], made["model_seed"]) == (3, 1)
    places = {(row["arm"], row["iteration"]) for row in made["curves"]}
    assert places == {("sft", 0)} | {(a, t) for a in ("online", "offline") for t in (1, 2)}
    first = {row["arm"]: row for row in made["curves"] if row["iteration"] == 1}
    assert (
        first["online"]["gold"] == first["offline"]["gold"]
        and first["online"]["kl"] == first["offline"]["kl"]
    )
    assert made["pairs"]["online"] == made["pairs"]["offline"]
    left = {p.name.rsplit("-", 1)[0] for p in (tmp_path / "sweep-online_vs_offline-work").iterdir()}
    assert {"sft", "reward_model", "evaluation"} <= left
    assert not {"dpo-1", "dpo-2", "pairs", "responses-iteration-1"} & left


def test_the_recorded_comparison_belongs_to_the_shipped_laptop_profile():
    """Lesson 08's verdict: eight seeds of this profile, this base model and this world, and all of its own numbers."""
    import json

    from rlhf_kit.profiles import load_profile
    from rlhf_kit.running.sweep import result_key
    from rlhf_kit.runs import PROJECT

    recorded = json.loads((PROJECT / "data/expected/online_vs_offline.json").read_text(encoding="utf-8"))
    assert recorded["key"] == result_key("online_vs_offline", load_profile("laptop"))
    assert recorded["seeds"] == list(range(8)) and not recorded["failed_seeds"]
    differences = [row["gold_difference"] for row in recorded["per_seed"]]
    assert recorded["effect"] == pytest.approx(sum(differences) / 8)
    found = experiments._interval(differences)
    assert (recorded["low"], recorded["high"]) == (pytest.approx(found["low"]), pytest.approx(found["high"]))
