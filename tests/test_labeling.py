"""Pair selection: the four rules, the length penalty in choice and order, and a ledger that balances."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_kit.errors import KitError
from rlhf_kit.labeling import RULES, select_pairs, select_pairs_with_ledger

LONG, SHORT = "l" * 900, "s" * 300


def one(rewards, texts, **options):
    pairs, ledger = select_pairs_with_ledger([texts], [rewards], **options)
    return (pairs[0] if pairs else None), ledger.dropped


def test_max_min_takes_best_and_worst_of_plain_lists():
    pairs = select_pairs([["a", "bb", "ccc"], ["d", "e"]], [[1, 3, 2], [0.5, -1]])
    assert [(p["chosen"], p["rejected"]) for p in pairs] == [("bb", "a"), ("d", "e")]
    assert pairs[0]["chosen_reward"] == 3 and pairs[0]["rejected_reward"] == 1
    assert pairs[0]["chosen_length"] == 2 and pairs[0]["rejected_length"] == 1
    assert pairs[0]["rule"] == "max_min"


def test_the_penalty_decides_the_order_and_not_only_the_choice():
    # Raw 5.0 at 900 characters against 4.6 at 300: penalised 4.1 against 4.3, the short one wins (eq. 9).
    pair, _ = one([5.0, 4.6], [LONG, SHORT], length_penalty=0.001)
    assert pair["chosen"] == SHORT and pair["rejected"] == LONG
    assert pair["chosen_reward"] == 4.6 and pair["rejected_reward"] == 5.0
    pair, _ = one([5.0, 4.6], [LONG, SHORT])
    assert pair["chosen"] == LONG


def test_the_penalty_counts_the_unit_it_is_told():
    texts = ["one two three four", "abcdefghijklmnopqrstuvwxyz"]  # 4 words and 18 characters, 1 and 26
    assert one([1.0, 1.0], texts, length_penalty=0.1, length_unit="words")[0]["chosen"] == texts[1]
    assert one([1.0, 1.0], texts, length_penalty=0.1, length_unit="chars")[0]["chosen"] == texts[0]
    rows = [{"prompt_id": "p", "prompt": [], "texts": texts, "token_ids": [[1, 2], [1, 2, 3]]}]
    pair = select_pairs(rows, [[1.0, 1.0]], length_penalty=0.1, length_unit="tokens")[0]
    assert (pair["chosen"], pair["chosen_length"]) == (texts[0], 2)
    with pytest.raises(KitError, match="token_ids"):
        one([1.0, 2.0], texts, length_unit="tokens")


def test_ties_same_texts_small_margins_and_lone_samples_are_dropped_by_reason():
    responses = [["a", "b"], ["a", "a"], ["a", "b"], ["a"], ["a", "b"]]
    rewards = [[1, 1], [1, 2], [1, 1.2], [1], [1, 1.5]]
    pairs, ledger = select_pairs_with_ledger(responses, rewards, min_margin=0.5)
    assert ledger.dropped == {"tie": 1, "same text": 1, "margin": 1, "fewer than two responses": 1}
    assert (ledger.rows_in, ledger.rows_out, len(pairs)) == (5, 1, 1)


def test_a_tie_made_by_the_penalty_is_a_tie_despite_rounding():
    assert one([1.0, 1.1], ["x" * 100, "y" * 200], length_penalty=0.001)[1] == {"tie": 1}


def test_ties_are_drawn_by_lot_and_not_by_the_alphabet():
    """Right-or-wrong rewards: of four right and four wrong answers one each; an even share of them begins with A."""
    texts = [[f"{first} {i}" for first in "AZ" for _ in range(4)] for i in range(400)]
    texts = [[f"{text} {j}" for j, text in enumerate(row)] for row in texts]
    rewards = [[1, 0] * 4] * 400
    pairs = select_pairs(texts, rewards)
    for side in ("chosen", "rejected"):
        share = sum(pair[side][0] == "A" for pair in pairs) / 400
        assert abs(share - 0.5) < 4 * 0.025  # four standard errors
    shuffled = select_pairs([row[::-1] for row in texts], [row[::-1] for row in rewards])
    assert [p["chosen"] for p in shuffled] == [p["chosen"] for p in pairs]


def test_truncated_chosen_responses_can_be_dropped():
    row = {"prompt_id": 1, "prompt": [], "texts": ["cut", "done"], "finish_reasons": ["length", "stop"]}
    assert len(select_pairs([row], [[2, 1]])) == 1
    pairs, ledger = select_pairs_with_ledger([row], [[2, 1]], drop_truncated=True)
    assert not pairs and ledger.dropped == {"truncated": 1}
    assert len(select_pairs([row], [[1, 2]], drop_truncated=True)) == 1


def test_max_max_takes_the_second_and_max_random_any_other():
    texts, rewards = [list("abcd")] * 300, [[4, 3, 2, 1]] * 300
    assert {(p["chosen"], p["rejected"]) for p in select_pairs(texts, rewards, "max_max")} == {("a", "b")}
    seen = Counter((p["chosen"], p["rejected"]) for p in select_pairs(texts, rewards, "max_random"))
    assert set(seen) == {("a", "b"), ("a", "c"), ("a", "d")} and min(seen.values()) > 60
    seen = Counter((p["chosen"], p["rejected"]) for p in select_pairs(texts, rewards, "random"))
    assert len(seen) == 6 and min(seen.values()) > 20  # all pairs, each in the order of its rewards
    assert all(chosen < rejected for chosen, rejected in seen)


def test_random_rules_follow_the_seed():
    texts, rewards = [list("abcdefgh")] * 40, [list(range(8))] * 40
    first = select_pairs(texts, rewards, "random", seed=1)
    assert first == select_pairs(texts, rewards, "random", seed=1)
    assert first != select_pairs(texts, rewards, "random", seed=2)


def test_flat_rows_join_scores_by_prompt_and_sample():
    prompt = [{"role": "user", "content": "q"}]
    rows = [{"prompt_id": p, "sample": s, "text": f"{p}{s}", "finish_reason": "stop", "token_ids": [1]}
            for p in "xy" for s in range(3)]
    scores = [{"prompt_id": r["prompt_id"], "sample": r["sample"], "reward": np.float32(r["sample"])}
              for r in reversed(rows)]
    pairs = select_pairs(rows, scores, prompts=[{"prompt_id": p, "prompt": prompt} for p in "yx"])
    assert [(p["chosen"], p["rejected"]) for p in pairs] == [("x2", "x0"), ("y2", "y0")]
    assert pairs[0]["prompt"] == prompt
    datasets = pytest.importorskip("datasets")
    again = select_pairs(datasets.Dataset.from_list(rows), datasets.Dataset.from_list(scores))
    assert [p["chosen"] for p in again] == ["x2", "y2"]
    with pytest.raises(KitError, match="'y'.*sample 2 has no score"):
        select_pairs(rows, [{**scores[1], "sample": 9}, *scores[1:]])
    with pytest.raises(KitError, match="scored twice"):
        select_pairs(rows, [scores[1], *scores[1:]])
    with pytest.raises(KitError, match="not among the given prompts"):
        select_pairs(rows, scores, prompts=[{"prompt_id": "x", "prompt": prompt}])


@pytest.mark.parametrize(("call", "message"), [
    (lambda: select_pairs([["a", "b"], ["c", "d"]], [[1, 2], [1, math.nan]]), "prompt 1, response 1.*nan"),
    (lambda: select_pairs([["a", "b"]], [[1, math.inf]]), "prompt 0, response 1.*inf"),
    (lambda: select_pairs([["a", "b"]], [[1, None]]), "prompt 0, response 1.*None is not a number"),
    (lambda: select_pairs([["a", "b"]], [[1, 2, 3]]), "prompt 0 has 2 responses but 3 rewards"),
    (lambda: select_pairs([["a", "b"]], [[1, 2], [1, 2]]), "1 prompts with responses but 2"),
    (lambda: select_pairs(["ab", "cd"], [[1, 2], [1, 2]]), "single text"),
    (lambda: select_pairs([], []), "no responses"),
    (lambda: select_pairs([["a", "b"]], [0.1]), "0.1 where a list is wanted"),
    (lambda: select_pairs([["a", "b"]], 0.1), "0.1 where a list is wanted"),
    (lambda: select_pairs([["a", None]], [[1, 2]]), "not a string"),
    (lambda: select_pairs([["a", "b"]], [[1, 2]], "best"), "unknown rule 'best'"),
    (lambda: select_pairs([["a", "b"]], [[1, 2]], length_unit="bytes"), "unknown length_unit"),
    (lambda: select_pairs([["a", "b"]], [[1, 2]], length_penalty=-1), "length_penalty"),
    (lambda: select_pairs([["a", "b"]], [[1, 2]], min_margin=math.nan), "min_margin"),
])
def test_bad_input_is_one_clear_sentence(call, message):
    with pytest.raises(KitError, match=message):
        call()


CANDIDATES = st.lists(st.tuples(st.text("ab ", max_size=6), st.floats(-50, 50, width=32)), max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.lists(CANDIDATES, min_size=1, max_size=5), st.sampled_from(RULES),
       st.sampled_from([0.0, 0.01, 1.0]), st.sampled_from([0.0, 0.5]), st.randoms(use_true_random=False))
def test_properties_of_every_rule(groups, rule, penalty, min_margin, shuffler):
    def select(groups):
        texts, rewards = ([[c[k] for c in g] for g in groups] for k in (0, 1))
        return select_pairs_with_ledger(texts, rewards, rule, length_penalty=penalty, min_margin=min_margin)

    pairs, ledger = select(groups)
    assert ledger.rows_in == len(groups) == len(pairs) + sum(ledger.dropped.values())
    for pair in pairs:
        margin = (pair["chosen_reward"] - penalty * len(pair["chosen"])
                  - pair["rejected_reward"] + penalty * len(pair["rejected"]))
        assert margin > 0 and margin >= min_margin - 1e-6 and pair["chosen"] != pair["rejected"]
    shuffled = [shuffler.sample(g, len(g)) for g in groups]
    assert select(shuffled) == (pairs, ledger)  # the order of the samples does not matter
