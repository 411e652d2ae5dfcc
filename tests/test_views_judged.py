"""Figures of the evaluation suite draw what they are given, also where something is not known."""

from __future__ import annotations

from figures_kit import strict_and_tidy, texts  # noqa: F401  a fixture of every test

from rlhf_kit.views import judged


def test_benches_name_judges_and_chance():
    rows = [{"section": s, "score": 80.0, "low": 70.0, "high": 90.0, "n": 12} for s in ("Chat", "Safety")]
    said = texts(judged.draw_bench({"gold": rows, "reward model": rows}))
    assert all(word in said for word in ("gold", "reward model", "chance", "12 pairs"))


def test_gold_is_right_by_definition_and_has_no_interval_on_the_bench():
    rows = [{"section": "Chat", "score": 100.0, "low": 96.0, "high": 100.0, "n": 100}]
    bars = {bar.get_label(): bar.has_yerr for bar in judged.draw_bench({"gold": rows, "reward model": rows}).axes[0].containers}
    assert bars == {"gold": False, "reward model": True}


def test_win_rates_stand_judge_by_judge_and_have_sections_where_there_are_some():
    rows = [{"judge": j, "policy": p, "temperature": t, "category": c, "win_rate": 0.6, "low": 0.5, "high": 0.7}
            for j in ("gold", "mine") for p in ("online-2", "offline-2") for t in (1.0, 0.0) for c in ("chat", "safety", "all")]
    fig = judged.draw_win_rates([row for row in rows if (row["judge"], row["policy"]) != ("mine", "offline-2")], "online-2")  # one was not read
    said = texts(fig)
    assert all(word in said for word in ("gold", "mine", "no difference", "offline-2\ngreedy", "safety", "online-2, temperature 1"))
    marks = [[len(bars.lines[0].get_xdata()) for bars in ax.containers] for ax in fig.axes]
    assert marks == [[4, 2], [2, 2]]
    assert len(judged.draw_win_rates([row for row in rows if row["category"] == "all"], "online-2").axes) == 1
    said = judged.say_win_rate({**rows[0], "ties": 0.25, "lost": 3})
    assert said.startswith("online-2, temperature 1, judge: gold: 0.60") and "ties 25%" in said and "3 pairs too long" in said


def test_faults_of_a_judge_without_order_are_said_to_have_none():
    slope = {"slope": 0.2, "slope_low": 0.1, "slope_high": 0.3, "slope_biased": True}
    blind = {"name": "scalar", "first_place": None, "low": None, "high": None, "biased": False, **slope}
    seen = {"name": "planted", "first_place": 0.7, "low": 0.6, "high": 0.8, "biased": True, **slope}
    fig = judged.draw_judge_faults([blind, seen])
    assert "sees no order" in texts(fig) and "bias found" in texts(fig)


def test_flattery_draws_and_says_what_is_missing():
    surplus, right = {"difference": 0.1, "low": 0.02, "high": 0.2, "p": 0.01}, {"accuracy": 0.8, "low": 0.7, "high": 0.9, "n": 5}
    none = {"n_tied": 0, "tied": None, "tied_low": None, "tied_high": None, "flips": None}
    ties = {"n_tied": 9, "tied": 0.6, "tied_low": 0.5, "tied_high": 0.7, "flips": 0.25}
    row = judged.flattery_row("x", "online-2", surplus, right, none)
    strict = judged.flattery_row("y", "online-2", {"difference": -0.1, "low": -0.2, "high": -0.05}, right, ties)
    fig = judged.draw_flattery([row, strict])
    said = texts(fig)
    assert all(word in said for word in ("Whom it favours where gold ties", "x, online-2", "(dotted: none)", "(dotted: even)", "(dotted: coin toss)"))
    assert [len(ax.containers) for ax in fig.axes] == [2, 1, 2]
    assert judged.say_flattery(row) == "x flatters: +0.100 [+0.020, +0.200]; gold ties 0 battles"
    said = judged.say_flattery(strict)
    assert "y is stricter than gold" in said and "0.60 [0.50, 0.70]" in said and "order in 25%" in said
    assert "not told apart" in judged.say_flattery({**row, "low": -0.01})


def test_length_control_names_what_length_decides_and_keeps_its_note_off_the_names():
    one = {"judge": "gold", "policy": "a", "win_rate": 60.0, "win_rate_se": 2.0, "lc_win_rate": 55.0, "lc_win_rate_se": 2.0}
    fig = judged.draw_length_control({"sft": [10, 20], "online": [30, 30]}, [one, {**one, "policy": "b", "win_rate": 52.0, "lc_win_rate": None}])
    said = texts(fig)
    assert "mean 15" in said and "length decides alone" in said and "at equal length" in said and "difficulty" not in said
    axes, pen = fig.axes[1], fig.canvas.get_renderer()
    (note,) = [text for text in axes.texts if "length decides" in text.get_text()]
    assert note.get_window_extent(pen).x0 > axes.get_window_extent(pen).x0
    assert "difficulty" in texts(judged.draw_length_control({"sft": [10, 20]}, [{**one, "hard_win_rate": 57.0, "hard_win_rate_se": 2.0}]))


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
    assert rows[0] == ["SFT (theirs)", "paper (as quoted)", 7.69, 5.6] and rows[-1] == ["mine", "this run", None, 51.0]
    rows, heads = judged.alone({"mine": {"pocket_add": 51.0, "pocket_sort": 2.0}})
    assert (rows, heads) == ([["mine", "this run", 51.0, 2.0]], ["model", "numbers of", "add", "sort"])


def test_a_step_is_over_optimised_only_where_proxy_and_truth_part_beyond_doubt():
    up, down, unclear = (0.5, 0.4, 0.6, 0.0), (-0.5, -0.6, -0.4, 0.0), (-0.1, -0.3, 0.1, 0.2)
    assert judged.say_step("a", "b", up, down) == "a to b: reward +0.50 [+0.40, +0.60], gold -0.50 [-0.60, -0.40]: over-optimisation"
    for proxy, truth in ((up, unclear), (unclear, down), (up, up)):
        assert judged.say_step("a", "b", proxy, truth).endswith("no over-optimisation shown")


def test_what_a_reward_model_has_learnt_in_words():
    from rlhf_kit.views import words

    beyond = {"rule": "longer", "accuracy": 0.7, "low": 0.02}
    assert "may be coin tosses" in words.learnt(0.5, beyond)
    said = words.learnt(0.6, beyond)
    assert "knows something" in said and "longer" not in said
    assert "more than 'the longer answer wins', which is right on 0.700 of them" in words.learnt(0.6, {**beyond, "low": -0.1})


def test_faults_are_named_detector_by_detector():
    rows = [{"name": "a", "biased": True, "slope_biased": True}, {"name": "b", "biased": False, "slope_biased": True}]
    assert judged.say_judge_faults(rows) == "taste for place found in: a\ntaste for length found in: a, b"
    assert judged.say_judge_faults(rows[1:]).startswith("taste for place found in: nobody\n")
