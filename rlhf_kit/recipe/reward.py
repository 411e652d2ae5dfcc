"""Cached stages and numbers that tell how good a reward model is: against labels, the truth, and
optimisation."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_kit.course import Course
from rlhf_kit.errors import KitError
from rlhf_kit.evaluation import (
    bayes_accuracy,
    cluster_interval,
    reward_accuracy,
)
from rlhf_kit.recipe.answers import SCORING, responses, scorer_inputs, scorer_of, scores, with_prompts
from rlhf_kit.recipe.data import preferences
from rlhf_kit.recipe.policy import sft
from rlhf_kit.runs import Ledger, Stage, write_rows

# ---------------------------------------------------------------- held-out labels


def reward_test(course: Course, model: Stage | None = None, scorer: str = "bt") -> Stage:
    """A scorer on the held-out preference pairs, one row a pair.

    Rows: prompt_id, prompt, category, source, chosen, rejected (texts), chosen_reward, rejected_reward,
    chosen_length, rejected_length (characters), and in the pocket world chosen_gold, rejected_gold and
    label_probability: the probability with which the annotator gives this label, which bounds every model.
    For scorer "pairwise" the rewards are P(chosen over rejected) and its complement, and shown_first,
    shown_second are P(chosen) with the chosen answer in first and in second place. Pairs too long for the
    model are dropped.
    """
    pairs = preferences(course)
    inputs = {"preferences": pairs, **scorer_inputs(course, scorer, model)}
    known = course.profile.data.kind == "world"

    def build(folder):
        judge = scorer_of(course, scorer, inputs.get("model", model))
        everything = list(pairs.rows("heldout.parquet"))
        kept = [row for row in everything if _fits(course, judge, row)]
        prompts = [row["prompt"] for row in kept]
        sides = {side: [row[side][-1]["content"] for row in kept] for side in ("chosen", "rejected")}
        columns: dict[str, Any] = {"prompt_id": [r["prompt_id"] for r in kept], "prompt": prompts, **sides}
        columns |= {name: [row[name] for row in kept] for name in ("category", "source")}
        columns |= {f"{side}_length": list(map(len, texts)) for side, texts in sides.items()}
        if scorer == "pairwise":
            first, second = judge.both_orders(prompts, sides["chosen"], sides["rejected"])
            columns |= {"shown_first": list(first), "shown_second": list(second)}
            columns |= {
                "chosen_reward": list((first + second) / 2),
                "rejected_reward": list(1 - (first + second) / 2),
            }
        else:
            for side, texts in sides.items():
                columns[f"{side}_reward"] = [float(x) for x in judge.score(prompts, texts)]
        if known:
            columns |= _truth(course, prompts, sides)
        write_rows(
            folder,
            [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)],
        )
        return Ledger(
            "reward-test", len(everything), len(kept), {"too long for the model": len(everything) - len(kept)}
        )

    params = {
        "scorer": scorer,
        "annotator": course.profile.data.annotator,
        "seed": course.seed if scorer == "random" else None,
        "max_length": course.profile.model.max_length,
    }
    code = ["recipe/reward", *SCORING, *(["world"] if known else [])]
    return course.stage(f"reward-test-{scorer}", build, inputs=inputs, params=params, code=code)


def _truth(course: Course, prompts: Sequence, sides: Mapping[str, Sequence[str]]) -> dict[str, list[float]]:
    from rlhf_kit import world

    judge = world.Annotator(**course.profile.data.annotator.model_dump())
    columns = {
        f"{side}_gold": [float(g) for g in world.gold_utility(prompts, texts)]
        for side, texts in sides.items()
    }
    columns["label_probability"] = [
        _label_probability(judge, *row)
        for row in zip(prompts, sides["chosen"], sides["rejected"], strict=True)
    ]
    return columns


def _label_probability(judge: Any, prompt: Sequence, a: str, b: str) -> float:
    """P(the annotator prefers a); the mean over both orders, as nobody recorded which answer was shown
    first."""
    return (judge.probability(prompt, a, b) + 1 - judge.probability(prompt, b, a)) / 2


def pair_fits(course: Course, judge: Any, prompt: Sequence, a: str, b: str) -> bool:
    """Whether the pairwise model can read a prompt with two answers, in either order."""
    from rlhf_kit import chat

    limit = getattr(judge.model.config, "max_position_embeddings", None) or course.profile.model.max_length
    asked = (chat.pair_messages(prompt, *order) for order in ((a, b), (b, a)))
    return all(len(chat.encode_prompt(judge.tokenizer, one)) < limit for one in asked)


def _fits(course: Course, judge: Any, row: Mapping) -> bool:
    from rlhf_kit import chat

    if not hasattr(judge, "tokenizer"):
        return True
    limit = course.profile.model.max_length
    if hasattr(judge, "letters"):
        answers = (row[side][-1]["content"] for side in ("chosen", "rejected"))
        return pair_fits(course, judge, row["prompt"], *answers)
    return all(
        len(chat.encode_conversation(judge.tokenizer, row[side])) <= limit for side in ("chosen", "rejected")
    )


def reward_accuracy_heldout(course: Course, model: Stage | None = None, scorer: str = "bt") -> dict[str, Any]:
    """How often the scorer agrees with the held-out labels, ties half, with a 95 % interval clustered by
    prompt.

    Keys: accuracy, low, high, n, by_category; in the pocket world also ceiling (the best any model could
        expect on
    these pairs: the mean of max(p, 1 - p)), gold_accuracy, gold_low, gold_high (agreement with the true
        order).
    """
    return accuracy_of(reward_test(course, model, scorer), course)


def accuracy_of(test: Stage, course: Course) -> dict[str, Any]:
    """The numbers of `reward_accuracy_heldout` from the rows of a `reward_test`."""
    rows, resamples = test.rows().to_list(), course.profile.evaluation.bootstrap
    if not rows:
        raise KitError("no held-out pair is short enough for the model; raise model.max_length")
    ids, categories = [row["prompt_id"] for row in rows], [row["category"] for row in rows]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    found = _accuracy(columns["chosen_reward"], columns["rejected_reward"], ids, categories, resamples)
    if "label_probability" in columns:
        found["ceiling"] = bayes_accuracy(columns["label_probability"])
        gold = reward_accuracy(
            columns["chosen_reward"],
            columns["rejected_reward"],
            columns["chosen_gold"],
            columns["rejected_gold"],
            ids,
            resamples,
        )
        found |= {f"gold_{key}": gold[key] for key in ("accuracy", "low", "high")}
    return found


def _accuracy(
    better: Sequence[float], worse: Sequence[float], ids: Sequence, categories: Sequence[str], resamples: int
) -> dict[str, Any]:
    """{accuracy, low, high, n, by_category: {category: the same}}: how often `better` is above `worse`, ties
    half."""
    right = (np.sign(np.asarray(better, dtype=float) - np.asarray(worse, dtype=float)) + 1) / 2

    def share(places: Sequence[int]) -> dict[str, Any]:
        found = cluster_interval(right[places], [ids[i] for i in places], resamples)
        return {"accuracy": found.mean, "low": found.low, "high": found.high, "n": len(places)}

    places = {c: [i for i, own in enumerate(categories) if own == c] for c in dict.fromkeys(categories)}
    return {**share(range(len(right))), "by_category": {c: share(here) for c, here in places.items()}}


# ---------------------------------------------------------------- fresh samples


def reward_accuracy_fresh(
    course: Course,
    model: Stage | None = None,
    policy: Stage | None = None,
    scorer: str = "bt",
    split: str = "choose",
) -> dict[str, Any]:
    """Whether a scorer orders a policy's own samples as the truth does: the distribution proxy labels come
    from.

    policy: by default the SFT policy, asked n times (profile) on the prompts of `split`. See
        `reward_accuracy_on`.
    """
    return reward_accuracy_on(course, responses(course, policy or sft(course), split), model, scorer)


def reward_accuracy_on(
    course: Course, answers: Stage, model: Stage | None = None, scorer: str = "bt"
) -> dict[str, Any]:
    """The same for any stage of responses: all pairs of answers to one prompt whose gold utilities differ.

    Ties of the scorer count half; the interval is clustered by prompt. Keys: accuracy, low, high, n (pairs),
    prompts, annotator (share of these pairs that one annotator would order rightly), by_category. Where no
    two answers differ in gold utility (a policy that only babbles) n is 0 and the numbers are nan.
    KitError outside the pocket world.
    """
    from rlhf_kit import world

    gold = np.array(scores(course, answers, "gold").rows()["reward"], dtype=float)
    proxy = np.array(scores(course, answers, scorer, model).rows()["reward"], dtype=float)
    rows = with_prompts(answers)
    judge = world.Annotator(**course.profile.data.annotator.model_dump())
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row["prompt_id"], []).append(place)
    pairs = [
        (i, j) if gold[i] > gold[j] else (j, i)
        for group in places.values()
        for i, j in itertools.combinations(group, 2)
        if gold[i] != gold[j]
    ]
    if not pairs:
        unknown = dict.fromkeys(("accuracy", "low", "high", "annotator"), float("nan"))
        return {**unknown, "n": 0, "prompts": 0, "by_category": {}}
    better, worse = (np.array(side) for side in zip(*pairs, strict=True))
    ids, categories = ([rows[i][field] for i in better] for field in ("prompt_id", "category"))
    found = _accuracy(proxy[better], proxy[worse], ids, categories, course.profile.evaluation.bootstrap)
    easy = [_label_probability(judge, rows[i]["prompt"], rows[i]["text"], rows[j]["text"]) for i, j in pairs]
    return {**found, "prompts": len(set(ids)), "annotator": float(np.mean(easy))}


def label_accuracy(course: Course, pairs: Stage) -> dict[str, Any]:
    """How many proxy labels are right: pairs whose chosen answer truly is the better one (equal gold counts
    half).

    Keys: accuracy, low, high, n, and rows: the pairs with chosen_gold and rejected_gold, the most wrong ones
        first.
    """
    from rlhf_kit import world

    rows = pairs.rows().to_list()
    chosen = world.gold_utility([r["prompt"] for r in rows], [r["chosen"] for r in rows])
    rejected = world.gold_utility([r["prompt"] for r in rows], [r["rejected"] for r in rows])
    right = (np.sign(chosen - rejected) + 1) / 2
    share = cluster_interval(right, [r["prompt_id"] for r in rows], course.profile.evaluation.bootstrap)
    told = [
        {**r, "chosen_gold": float(c), "rejected_gold": float(x)}
        for r, c, x in zip(rows, chosen, rejected, strict=True)
    ]
    found = {"accuracy": share.mean, "low": share.low, "high": share.high, "n": len(rows)}
    return {**found, "rows": sorted(told, key=lambda r: r["chosen_gold"] - r["rejected_gold"])}
