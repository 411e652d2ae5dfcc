"""Best-of-n as a cached stage: optimising the proxy without training, beside the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlhf_kit.course import Course
from rlhf_kit.evaluation import best_of_n_mean, bon_kl_bound
from rlhf_kit.recipe.answers import responses, scores, with_prompts
from rlhf_kit.recipe.data import pick, prompt_table
from rlhf_kit.recipe.policy import sft
from rlhf_kit.runs import Ledger, Stage, write_json, write_rows


def best_of_n(
    course: Course,
    policy: Stage | None = None,
    model: Stage | None = None,
    *,
    ns: Sequence[int] | None = None,
    prompts: int | None = None,
    scorer: str = "bt",
    split: str = "choose",
) -> Stage:
    """Best-of-n against the proxy and the truth: optimisation without training.

    max(ns) answers a prompt, scored. Rows: prompt_id, category, sample, text, length, reward, gold (null
    without the pocket world). curve.json: a list of {n, proxy, gold, length, oracle, kl_bound}, each the
    unbiased mean over all subsets of size n; kl_bound = log n - (n - 1) / n nats (paper section 3.3); oracle
    picks by gold.
    """
    ns = sorted(ns or course.profile.evaluation.best_of)
    asked = prompts
    if asked is None:  # a small file of your own may have fewer prompts than the profile asks for
        asked = min(course.profile.evaluation.best_of_prompts, len(pick(prompt_table(course), split)))
    answers = responses(course, policy or sft(course), split, n=ns[-1], prompts=asked)
    rewards = scores(course, answers, scorer, model)
    known = course.profile.data.kind == "world"

    def build(folder):
        from rlhf_kit import world

        rows, values = with_prompts(answers), list(rewards.rows()["reward"])
        golds = (
            world.gold_utility([r["prompt"] for r in rows], [r["text"] for r in rows])
            if known
            else [None] * len(rows)
        )
        write_rows(
            folder,
            [
                {
                    "prompt_id": r["prompt_id"],
                    "category": r["category"],
                    "sample": r["sample"],
                    "text": r["text"],
                    "length": len(r["text"]),
                    "reward": v,
                    "gold": None if g is None else float(g),
                }
                for r, v, g in zip(rows, values, golds, strict=True)
            ],
        )
        shape = (-1, ns[-1])
        proxy = np.array(values, dtype=float).reshape(shape)
        measured = {
            "proxy": proxy,
            "length": np.array([len(r["text"]) for r in rows], dtype=float).reshape(shape),
        }
        if known:
            measured["gold"] = np.array(golds, dtype=float).reshape(shape)
        curve = []
        for n in ns:
            line = {"n": n, "kl_bound": bon_kl_bound(n)}
            line |= {
                name: float(best_of_n_mean(proxy, values, n).mean()) for name, values in measured.items()
            }
            line["oracle"] = (
                float(best_of_n_mean(measured["gold"], measured["gold"], n).mean()) if known else None
            )
            curve.append(line)
        write_json(folder / "curve.json", curve)
        return Ledger("best-of-n", len(rows), len(values))

    inputs = {"responses": answers, "scores": rewards}
    return course.stage(
        "best-of-n",
        build,
        inputs=inputs,
        params={"ns": ns},
        code=["evaluation/over_optimisation", *(["world"] if known else [])],
    )
