"""Ratings against scikit-learn's logistic regression and closed forms; intervals that cover; style control."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from rlhf_kit import evaluation
from rlhf_kit.errors import KitError
from rlhf_kit.evaluation.arena_hard import LABELS, arena_hard_scores, style_of
from rlhf_kit.evaluation.ratings import bradley_terry_intervals, elo

SKILL = {"a": 1.0, "b": 0.4, "c": 0.0, "d": -0.8}


def battles(n, seed, ties=0.2):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        left, right = rng.choice(list(SKILL), 2, replace=False)
        won = rng.uniform() < 1 / (1 + np.exp(SKILL[right] - SKILL[left]))
        rows.append({"left": str(left), "right": str(right), "winner": "left" if won else "right"})
    for row in rows[: int(ties * n)]:
        row["winner"] = "tie"
    return rows


def test_bradley_terry_equals_a_logistic_regression():
    rows, names = battles(400, 0), list(SKILL)
    x, y, w = [], [], []
    for row in rows:
        line = np.zeros(4)
        line[names.index(row["left"])], line[names.index(row["right"])] = 1, -1
        share = {"left": 1.0, "right": 0.0, "tie": 0.5}[row["winner"]]
        x += [line, line]
        y += [1, 0]
        w += [share, 1 - share]
    fit = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-12, max_iter=10_000, solver="newton-cg")
    coefficients = fit.fit(np.array(x)[:, 1:], y, sample_weight=w).coef_[0]  # the first player is the anchor
    expected = np.exp([0, *coefficients]) / np.exp([0, *coefficients]).sum()
    found = evaluation.bradley_terry(rows)
    assert [found[name] for name in names] == pytest.approx(expected, abs=1e-7)


def test_intervals_of_ratings_cover_the_truth():
    logs = np.array(list(SKILL.values())) * 400 / np.log(10)
    truth = dict(zip(SKILL, logs - logs.mean(), strict=True))
    inside = []
    for seed in range(30):
        found = bradley_terry_intervals(battles(120, seed, ties=0), prior=0.1, n_resamples=80, seed=seed)
        inside += [line["low"] <= truth[line["player"]] <= line["high"] for line in found]
    assert 0.88 <= np.mean(inside) <= 0.99
    assert [line["rating"] for line in found] == sorted((line["rating"] for line in found), reverse=True)


def test_battles_of_one_prompt_are_resampled_together():
    rows = battles(60, 1, ties=0) * 4
    narrow = bradley_terry_intervals(rows, n_resamples=200, prior=0.1)
    wide = bradley_terry_intervals(rows, [i % 60 for i in range(240)], n_resamples=200, prior=0.1)
    assert wide[0]["high"] - wide[0]["low"] > 1.5 * (narrow[0]["high"] - narrow[0]["low"])
    assert wide[0]["rating"] == pytest.approx(narrow[0]["rating"])
    with pytest.raises(KitError, match="240 battles but 3 cluster"):
        bradley_terry_intervals(rows, [1, 2, 3], prior=0.1)
    one_loss = [{"left": "a", "right": "b", "winner": "left"}] * 30 + [{"left": "a", "right": "b", "winner": "right"}]
    with pytest.raises(KitError, match="resamples do not fix"):
        bradley_terry_intervals(one_loss, n_resamples=100)


def test_elo_in_closed_form():
    found = elo([{"left": "a", "right": "b", "winner": "left"}], k=32)
    assert found == {"a": 1016.0, "b": 984.0}
    tied = elo([{"left": "a", "right": "b", "winner": "left"}, {"left": "b", "right": "a", "winner": "tie"}], k=32)
    expected_b = 1 / (1 + 10 ** (32 / 400))
    assert tied["b"] == pytest.approx(984 + 32 * (0.5 - expected_b))
    with pytest.raises(KitError, match="battle 1: winner is 'draw'"):
        elo([{"left": "a", "right": "b", "winner": "tie"}, {"left": "a", "right": "b", "winner": "draw"}])


# --- Arena-Hard ---


def test_style_counts_markdown_outside_of_code():
    text = "# Head\n\nSome **bold** and __bold__ words\n- one\n2. two\n```\n# code\n- code\n```"
    found = style_of(text)
    assert (found["headers"], found["lists"], found["bold"]) == (1, 2, 2)
    hostile = "\n" * 200_000 + "```" + "**" * 50_000 + "#" * 50_000  # linear time, or this test does not end
    assert style_of(hostile)["lists"] == 0
    assert style_of("\n\n  - one\n\n\n 3. three")["lists"] == 2
    assert style_of("a b c")["length"] == 3 and style_of("a b c", tokens=9)["length"] == 9


def arena_rows(n, seed, skill, taste):
    """A model whose answers are longer, before a judge with this taste for length."""
    rng = np.random.default_rng(seed)
    rows = []
    for question in range(n):
        own, other = int(rng.integers(150, 400)), int(rng.integers(100, 300))
        relative = (own - other) / (own + other)
        p = 1 / (1 + np.exp(-skill - taste * relative))
        style = {"headers": 0, "lists": 0, "bold": 0}
        rows.append({"model": "m", "question_id": question, "outcomes": list((rng.uniform(size=2) < p).astype(float)),
                     "style": {**style, "length": own}, "baseline_style": {**style, "length": other}})
    return rows


def test_style_control_removes_a_taste_for_length():
    rows = arena_rows(600, 0, skill=-0.35, taste=3.0)
    raw, controlled = (arena_hard_scores(rows, "base", style, n_resamples=60) for style in (False, True))
    score = {line["model"]: line for line in raw}["m"]
    assert score["score"] > 50  # it wins by length
    fair = {line["model"]: line for line in controlled}["m"]
    assert fair["low"] < 100 / (1 + np.exp(0.35)) < fair["high"] < 50
    assert controlled[0] == {"model": "base", "score": 50.0, "low": 50.0, "high": 50.0, "n": 600}


def test_arena_hard_without_style_is_the_mean_verdict():
    rows = [{"model": "m", "question_id": 1, "outcomes": LABELS["A>>B"] + LABELS["A=B"]},
            {"model": "m", "question_id": 2, "outcomes": LABELS["B>A"] + LABELS["A<B"]}]
    found = arena_hard_scores(rows, "base")
    assert {line["model"]: line["score"] for line in found}["m"] == pytest.approx(100 * 3.5 / 6)
    with pytest.raises(KitError, match="among the judged"):
        arena_hard_scores(rows, "m")
    with pytest.raises(KitError, match="row 0 has no style"):
        arena_hard_scores(rows, "base", style=True)
    with pytest.raises(KitError, match="no Arena-Hard verdicts"):
        arena_hard_scores([], "base")
