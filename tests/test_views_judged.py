"""Figures of the evaluation suite draw what they are given, also where something is not known."""

from __future__ import annotations

import warnings

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest

from rlhf_kit.views import judged


@pytest.fixture(autouse=True)
def strict_and_tidy():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    plt.close("all")


def texts(fig) -> str:
    fig.canvas.draw()
    return " ".join(t.get_text() for t in fig.findobj(plt.Text))


def test_benches_and_categories_name_judges_and_chance():
    rows = [{"section": s, "score": 80.0, "low": 70.0, "high": 90.0, "n": 12} for s in ("Chat", "Safety")]
    said = texts(judged.draw_bench({"gold": rows, "reward model": rows}))
    assert all(word in said for word in ("gold", "reward model", "chance", "12 pairs"))
    lines = [{"category": c, "win_rate": 0.6, "low": 0.5, "high": 0.7} for c in ("chat", "all")]
    assert "longer wins" in texts(judged.draw_categories({"gold": lines, "longer wins": lines}, "title"))


def test_faults_of_a_judge_without_order_are_said_to_have_none():
    slope = {"slope": 0.2, "slope_low": 0.1, "slope_high": 0.3, "slope_biased": True}
    blind = {"name": "scalar", "first_place": None, "low": None, "high": None, "biased": False, **slope}
    seen = {"name": "planted", "first_place": 0.7, "low": 0.6, "high": 0.8, "biased": True, **slope}
    fig = judged.draw_judge_faults([blind, seen])
    assert "sees no order" in texts(fig) and "bias found" in texts(fig)


def test_flattery_and_length_control_draw_what_is_missing():
    row = {"name": "online, by x", "judge": "x", "difference": 0.1, "low": 0.0, "high": 0.2, "tied": None, "tied_low": None, "tied_high": None}
    fig = judged.draw_flattery([row, {**row, "judge": "y", "tied": 0.6, "tied_low": 0.5, "tied_high": 0.7}])
    assert "Battles that gold calls a tie" in texts(fig)
    fig = judged.draw_controlled([{"name": "a", "win_rate": 60.0, "win_rate_se": 2.0, "lc_win_rate": 55.0, "lc_win_rate_se": 2.0},
                                  {"name": "b", "win_rate": 60.0, "win_rate_se": 2.0, "lc_win_rate": None, "lc_win_rate_se": None}])
    assert "not defined" in texts(fig)


def test_ratings_and_goodhart():
    players = [{"player": p, "rating": r, "low": r - 5, "high": r + 5} for p, r in (("online-1", 20.0), ("sft", -20.0))]
    models = [{"model": "online-1", "score": 60.0, "low": 55.0, "high": 65.0}, {"model": "sft", "score": 50.0, "low": 50.0, "high": 50.0}]
    assert "online-1" in texts(judged.draw_ratings({"gold": players}, {"raw": models, "style controlled": models}))
    point = {"name": "sft", "kl": 0.0, "kl_se": 0.0, "reward": 0.0, "reward_low": 0.0, "reward_high": 0.0}
    far = {**point, "name": "online-1", "kl": 0.3, "kl_se": None, "reward": 0.4, "reward_high": 0.5, "reward_low": 0.3}
    assert "truth" not in texts(judged.draw_goodhart({"online": [{**point, "gold": None}, {**far, "gold": None}]}))
    known = [{**p, "gold": 0.1, "gold_low": 0.0, "gold_high": 0.2} for p in (point, far)]
    assert "truth: gold" in texts(judged.draw_goodhart({"online": known, "offline": known}))


def test_tables_beside_the_papers_say_whose_numbers_are_whose():
    rows, heads = judged.beside("table2_chat", {"mine": {"Arena-Hard (%)": 51.0}}, ["MT-Bench", "Arena-Hard (%)"])
    assert heads == ["model", "numbers of", "MT-Bench", "Arena-Hard (%)"]
    assert rows[0] == ["SFT (theirs)", "paper, unverified", 7.69, 5.6] and rows[-1] == ["mine", "this run", None, 51.0]
