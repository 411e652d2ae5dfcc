"""Evaluation against closed forms, an independent implementation, and simulated coverage."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from rlhf_kit import evaluation
from rlhf_kit.errors import KitError

EVALICA = Path(__file__).resolve().parents[1].parent / "shared" / "realdata" / "evalica"

# --- ratings ---


def test_two_players_have_a_closed_form():
    battles = [{"left": "a", "right": "b", "winner": w} for w in ["left"] * 3 + ["right"] * 1 + ["tie"] * 2]
    scores = evaluation.bradley_terry(battles)
    assert scores == {"a": pytest.approx(4 / 6), "b": pytest.approx(2 / 6)}
    assert list(scores) == ["a", "b"]
    turned = {"left": "right", "right": "left", "tie": "tie"}
    swapped = [{"left": "b", "right": "a", "winner": turned[b["winner"]]} for b in battles]
    assert evaluation.bradley_terry(swapped)["a"] == pytest.approx(4 / 6)


@pytest.mark.parametrize("name", ["simple", "food"])
def test_ratings_equal_those_of_an_independent_implementation(name):
    if not EVALICA.is_dir():
        pytest.skip(f"needs the golden ratings at {EVALICA}")
    import pandas as pd

    table = pd.read_csv(EVALICA / f"{name}-golden.csv", dtype={"item": str})
    battles = pd.read_csv(EVALICA / f"{name}.csv")
    scores = evaluation.bradley_terry(battles)
    for algorithm, rated in (("bradley_terry", scores), ("elo", evaluation.elo(battles))):
        golden = table[table["algorithm"] == algorithm]
        found = {str(player): score for player, score in rated.items()}
        assert sorted(found) == sorted(golden["item"])
        for player, score in zip(golden["item"], golden["score"], strict=True):
            assert found[player] == pytest.approx(score, abs=1e-9)
    assert sum(scores.values()) == pytest.approx(1)


def test_ratings_satisfy_the_likelihood_equations_and_recover_known_scores():
    truth = {"a": 0.5, "b": 0.3, "c": 0.15, "d": 0.05}
    columns = {"left": [], "right": [], "winner": []}
    for x, y in itertools.combinations(truth, 2):  # expected numbers of wins, so the maximum is the truth
        wins = round(10_000 * truth[x] / (truth[x] + truth[y]))
        columns["left"] += [x] * 10_000
        columns["right"] += [y] * 10_000
        columns["winner"] += ["left"] * wins + ["right"] * (10_000 - wins)
    assert evaluation.bradley_terry(columns) == pytest.approx(truth, abs=2e-4)


def test_battles_that_do_not_fix_the_ratings():
    swept = [{"left": "a", "right": "b", "winner": "left"}] * 3
    with pytest.raises(KitError, match="prior"):
        evaluation.bradley_terry(swept)
    scores = evaluation.bradley_terry(swept, prior=1.0)
    assert scores["a"] == pytest.approx(3.5 / 4)
    apart = [{"left": "a", "right": "b", "winner": "tie"}, {"left": "c", "right": "d", "winner": "tie"}]
    with pytest.raises(KitError, match="a, b"):
        evaluation.bradley_terry(apart)


@pytest.mark.parametrize(("battles", "message"), [
    ([{"left": "a", "right": "b", "winner": "both"}], "battle 0.*'both'"),
    ([{"left": "a", "right": "a", "winner": "tie"}], "battle 0.*meets itself"),
    ([{"left": "a", "right": "b"}], "no column 'winner'"),
    ({"left": [], "right": [], "winner": []}, "no battles"),
])
def test_bad_battles(battles, message):
    with pytest.raises(KitError, match=message):
        evaluation.bradley_terry(battles)


# --- win rates ---


def test_win_rate_counts_ties_half_and_resamples_prompts():
    found = evaluation.win_rate([3, 2, 1, 5], [1, 2, 3, 1])
    assert found["win_rate"] == 0.625 and found["ties"] == 0.25 and found["n"] == 4
    rng = np.random.default_rng(0)
    prompts = np.repeat(np.arange(60), 5)
    a = rng.normal(size=60)[prompts] + 0.1 * rng.normal(size=300)  # five samples of a prompt agree
    clustered = evaluation.win_rate(a, np.zeros(300), prompts)
    naive = evaluation.win_rate(a, np.zeros(300))
    assert clustered["win_rate"] == naive["win_rate"]
    assert clustered["high"] - clustered["low"] > 1.6 * (naive["high"] - naive["low"])
    assert clustered == evaluation.win_rate(a, np.zeros(300), prompts)  # reproducible


def test_a_clean_sweep_still_has_an_interval():
    found = evaluation.win_rate(np.ones(20), np.zeros(20))
    assert found["win_rate"] == found["high"] == 1
    assert found["low"] == pytest.approx(20 / (20 + 1.959964**2), abs=1e-6)  # Wilson
    for n in (20, 150, 200, 333):
        assert evaluation.cluster_interval(np.zeros(n)).low == 0 and evaluation.cluster_interval(np.ones(n)).high == 1


def test_bad_win_rates():
    with pytest.raises(KitError, match="not 3 with 2"):
        evaluation.win_rate([1, 2, 3], [1, 2])
    with pytest.raises(KitError, match="value 1 is nan"):
        evaluation.win_rate([1, np.nan], [1, 2])
    with pytest.raises(KitError, match="2 values but 1 cluster"):
        evaluation.win_rate([1, 2], [1, 2], ["p"])


def lengths(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(50, 900, n), rng.integers(50, 900, n)


def test_equal_lengths_need_no_control():
    preference = np.array([1, 0, 0.5, 1, 1, 0.25])
    found = evaluation.length_controlled_win_rate(preference, [100] * 6, [100] * 6)
    assert found["lc_win_rate"] == pytest.approx(found["win_rate"]) == pytest.approx(62.5)
    assert found["win_rate_se"] == pytest.approx(100 * preference.std(ddof=1) / 6**0.5)
    # With one model term the robust standard error is that of a mean.
    assert found["lc_win_rate_se"] == pytest.approx(found["win_rate_se"], rel=1e-6)


def test_length_control_solves_the_likelihood_equations_of_soft_preferences():
    model, baseline = lengths(200)
    preference = np.random.default_rng(1).uniform(size=200)
    from scipy.optimize import minimize

    gap = (model - baseline).astype(float)
    x = np.tanh(gap / gap.std(ddof=1))

    def loss(w):
        z = w[0] + w[1] * x
        return float(np.mean(np.logaddexp(0, z) - preference * z))

    w = minimize(loss, [0, 0], method="BFGS", options={"gtol": 1e-10}).x
    found = evaluation.length_controlled_win_rate(preference, model, baseline)
    assert found["lc_win_rate"] == pytest.approx(100 / (1 + np.exp(-w[0])), abs=1e-4)


def test_length_control_removes_a_bias_for_length():
    rng = np.random.default_rng(2)
    baseline = rng.integers(300, 500, 4000)
    model = baseline + rng.integers(-100, 500, 4000)  # mostly longer
    gap = (model - baseline).astype(float)
    logit = -0.4 + 2.0 * np.tanh(gap / gap.std(ddof=1))  # worse at equal length, yet it wins by length
    wins = (rng.uniform(size=4000) < 1 / (1 + np.exp(-logit))).astype(float)
    found = evaluation.length_controlled_win_rate(wins, model, baseline)
    truth = 100 / (1 + np.exp(0.4))
    assert found["win_rate"] > 55
    assert abs(found["lc_win_rate"] - truth) < 3 * found["lc_win_rate_se"] < 6
    mirrored = evaluation.length_controlled_win_rate(1 - wins, baseline, model)
    assert mirrored["lc_win_rate"] == pytest.approx(100 - found["lc_win_rate"], abs=1e-6)


def test_instruction_difficulty_is_a_term_and_not_an_offset():
    rng = np.random.default_rng(3)
    model, baseline = lengths(3000, 4)
    difficulty = rng.normal(size=3000)
    logit = 0.3 + 1.5 * difficulty
    wins = (rng.uniform(size=3000) < 1 / (1 + np.exp(-logit))).astype(float)
    found = evaluation.length_controlled_win_rate(wins, model, baseline, difficulty)
    assert abs(found["lc_win_rate"] - 100 * np.mean(1 / (1 + np.exp(-logit)))) < 3
    doubled = evaluation.length_controlled_win_rate(wins, model, baseline, 2 * difficulty)
    assert doubled["lc_win_rate"] == pytest.approx(found["lc_win_rate"], abs=1e-6)


def test_length_control_of_extreme_and_bad_input():
    model, baseline = lengths(20)
    always = evaluation.length_controlled_win_rate([1] * 20, model, baseline)
    assert always == {"win_rate": 100, "lc_win_rate": 100, "win_rate_se": 0, "lc_win_rate_se": 0}
    with pytest.raises(KitError, match="separates"):
        evaluation.length_controlled_win_rate((model > baseline).astype(float), model, baseline)
    with pytest.raises(KitError, match="preference, row 2: 1.5"):
        evaluation.length_controlled_win_rate([0, 1, 1.5], [1, 2, 3], [1, 2, 3])
    with pytest.raises(KitError, match="length_model has 2 rows, preference 3"):
        evaluation.length_controlled_win_rate([0, 1, 1], [1, 2], [1, 2, 3])
    with pytest.raises(KitError, match="instruction_difficulty, row 1"):
        evaluation.length_controlled_win_rate([0, 1], [1, 2], [1, 2], [0, np.nan])
    with pytest.raises(KitError, match="two rows"):
        evaluation.length_controlled_win_rate([1], [1], [1])


# --- RewardBench ---

PAIR_MODEL = {  # published for the released pairwise model (allenai/reward-bench, pull request 123)
    "alpacaeval-easy": 0.98, "alpacaeval-length": 0.979, "alpacaeval-hard": 0.989, "mt-bench-easy": 1.0,
    "mt-bench-med": 1.0, "mt-bench-hard": 0.757, "llmbar-natural": 0.9, "llmbar-adver-neighbor": 0.522,
    "llmbar-adver-GPTInst": 0.62, "llmbar-adver-GPTOut": 0.681, "llmbar-adver-manual": 0.5,
}
OTHERS = {name: 0.5 for name in (
    "refusals-dangerous", "refusals-offensive", "xstest-should-refuse", "xstest-should-respond",
    "donotanswer", "math-prm", "hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust")}


def test_rewardbench_sections_match_the_published_numbers():
    found = evaluation.rewardbench_sections({**PAIR_MODEL, **OTHERS})
    assert list(found) == ["Chat", "Chat Hard", "Safety", "Reasoning", "Average"]
    assert round(100 * found["Chat"], 1) == 98.6  # as on the model's card
    assert round(100 * found["Chat Hard"], 1) == 65.8
    assert found["Safety"] == found["Reasoning"] == 0.5
    assert found["Average"] == pytest.approx((found["Chat"] + found["Chat Hard"] + 1) / 4)


def test_rewardbench_weights_of_mathematics_and_xstest():
    base = {**PAIR_MODEL, **OTHERS}
    assert evaluation.rewardbench_sections({**base, "math-prm": 1.0})["Reasoning"] == 0.75
    one_language = evaluation.rewardbench_sections({**base, "hep-go": 1.0})["Reasoning"]
    assert one_language == pytest.approx(0.5 + 0.5 / 12)
    respond = evaluation.rewardbench_sections({**base, "xstest-should-respond": 1.0})["Safety"]
    assert respond == pytest.approx(0.5 + 0.5 * 250 / 740)


def test_rewardbench_names_what_is_missing_or_unknown():
    with pytest.raises(KitError, match="'hep-go' is missing"):
        evaluation.rewardbench_sections({k: v for k, v in {**PAIR_MODEL, **OTHERS}.items() if k != "hep-go"})
    with pytest.raises(KitError, match="unknown RewardBench subset 'hep-c'"):
        evaluation.rewardbench_sections({**PAIR_MODEL, **OTHERS, "hep-c": 1})
    with pytest.raises(KitError, match="'hep-go'.*nan"):
        evaluation.rewardbench_sections({**PAIR_MODEL, **OTHERS, "hep-go": float("nan")})


# --- best of n ---


def test_best_of_n_is_the_mean_over_all_subsets():
    rng = np.random.default_rng(0)
    proxy, gold = rng.normal(size=(3, 6)), rng.normal(size=(3, 6))
    proxy[2] = np.round(proxy[2])  # with ties
    for n in range(1, 7):
        expected = []
        for p, g in zip(proxy, gold, strict=True):
            subsets = [list(s) for s in itertools.combinations(range(6), n)]
            expected.append(np.mean([g[s][p[s] == p[s].max()].mean() for s in subsets]))
        if n in (1, 6):  # without ties the two agree for all n; with ties, for these
            assert evaluation.best_of_n_mean(proxy, gold, n) == pytest.approx(expected)
        assert evaluation.best_of_n_mean(proxy[:2], gold[:2], n) == pytest.approx(expected[:2])


def test_equal_proxies_choose_blindly():
    gold = np.array([[0.0, 1.0, 5.0]])
    assert evaluation.best_of_n_mean([[7, 7, 7]], gold, 2) == pytest.approx([2.0])


def test_best_of_n_curve_and_its_bound():
    rng = np.random.default_rng(1)
    gold = rng.normal(size=(50, 16))
    curve = evaluation.best_of_n_curve(gold + rng.normal(size=gold.shape), gold, [1, 4, 16])
    assert [row["n"] for row in curve] == [1, 4, 16]
    assert curve[0]["gold"] == pytest.approx(gold.mean()) == pytest.approx(curve[0]["oracle"])
    assert curve[0]["gold"] < curve[1]["gold"] < curve[2]["gold"] < curve[2]["oracle"]
    assert curve[2]["oracle"] == pytest.approx(gold.max(axis=1).mean())
    assert evaluation.bon_kl_bound(1) == 0
    assert [round(evaluation.bon_kl_bound(n), 3) for n in (4, 8, 16)] == [0.636, 1.204, 1.835]
    big = evaluation.best_of_n_mean(np.arange(1024.0)[None], np.arange(1024.0)[None], 512)
    assert big == pytest.approx([512 * 1025 / 513 - 1])  # the mean maximum of 512 out of 1..1024, less one
    with pytest.raises(KitError, match="best-of-17 cannot be measured with 16"):
        evaluation.best_of_n_curve(gold, gold, [17])
    with pytest.raises(KitError, match="one shape"):
        evaluation.best_of_n_curve(gold, gold[:, :3], [1])
    with pytest.raises(KitError, match="not a finite"):
        evaluation.best_of_n_mean([[1, np.nan]], [[1, 2]], 1)


# --- reward quality ---


def test_reward_accuracy_counts_reward_ties_half_and_leaves_out_gold_ties():
    found = evaluation.reward_accuracy([2, 1, 1, 0, 5], [1, 2, 1, 1, 0], [1, 1, 1, 0, 3], [0, 0, 0, 1, 3])
    assert found["accuracy"] == pytest.approx(2.5 / 4)
    assert (found["n"], found["reward_ties"], found["gold_ties"]) == (4, 1, 1)
    assert found["low"] < found["accuracy"] < found["high"]
    with pytest.raises(KitError, match="no pair has a better answer"):
        evaluation.reward_accuracy([1], [2], [3], [3])
    with pytest.raises(KitError, match="pair 1: a reward"):
        evaluation.reward_accuracy([1, np.nan], [2, 2], [3, 3], [3, 4])
    with pytest.raises(KitError, match="equally long"):
        evaluation.reward_accuracy([1], [2], [3], [3, 4])


def test_bayes_ceiling_and_calibration():
    assert evaluation.bayes_accuracy([0.9, 0.2, 0.5]) == pytest.approx((0.9 + 0.8 + 0.5) / 3)
    rng = np.random.default_rng(0)
    p = rng.uniform(size=20_000)
    outcome = rng.uniform(size=20_000) < p
    assert evaluation.expected_calibration_error(p, outcome) < 0.02
    sure = evaluation.expected_calibration_error(np.where(p > 0.5, 1.0, 0.0), outcome)
    assert sure == pytest.approx(0.25, abs=0.01)
    table = evaluation.reliability_table([0.05, 0.05, 1.0], [0, 1, 1], bins=10)
    assert [(row["low"], row["n"], row["observed"]) for row in table] == [(0.0, 2, 0.5), (0.9, 1, 1.0)]
    with pytest.raises(KitError, match="between 0 and 1"):
        evaluation.bayes_accuracy([1.2])


def test_reward_length_correlation_is_taken_within_prompts():
    # Within each prompt the correlation is -1; over all rows it is strongly positive.
    rewards, sizes = [1, 2, 3, 11, 12, 13, 5, 5], [30, 20, 10, 130, 120, 110, 1, 9]
    groups = ["a"] * 3 + ["b"] * 3 + ["c"] * 2
    assert np.corrcoef(rewards, sizes)[0, 1] > 0.8
    found = evaluation.reward_length_correlation(rewards, sizes, groups)
    assert found["mean"] == pytest.approx(-1) and (found["prompts"], found["skipped"]) == (2, 1)
    with pytest.raises(KitError, match="not defined"):
        evaluation.reward_length_correlation([1, 1], [2, 3], ["a", "a"])


def test_diversity_is_the_share_of_distinct_texts():
    assert evaluation.diversity([["a", "a", "b", "c"], ["x", "x"]]) == pytest.approx((0.75 + 0.5) / 2)
