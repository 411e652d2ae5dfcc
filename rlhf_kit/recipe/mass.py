"""A cached stage that follows answers through the DPO trainings: how likely each is under every policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rlhf_kit.course import Course, model_folder
from rlhf_kit.recipe.answers import SAMPLING, SCORING, scorer_of, with_prompts
from rlhf_kit.recipe.policy import reward_model, sft
from rlhf_kit.runs import Ledger, write_rows


def answers_over_training(course: Course, iterations: Sequence[Any], prompts: int = 3) -> list[dict]:
    """Rows for the view `where_did_the_mass_go`: answers under SFT and every iteration's policy.

    iterations: of `stages.online` or `stages.offline`. Takes, of the first 24 pairs of iteration 1, the prompts whose
    chosen answer lost and gained most, and some between. Its answers: those that SFT gave in iteration 1, and as many
    fresh ones of the last policy. Rows: prompt_id, prompt, text, role ("chosen", "rejected", "other of SFT" or "new"),
    reward, gold (None where unknown), logps: the log-probability of the whole answer under each policy, in nats.
    """
    first, last = iterations[0], iterations[-1]
    stages_of = [sft(course), *(one.policy for one in iterations)]
    inputs = {f"policy-{t}": stage for t, stage in enumerate(stages_of)}
    inputs |= {"responses": first.responses, "pairs": first.pairs, "reward": reward_model(course)}
    settings = course.profile.sampling

    def build(folder):
        from rlhf_kit import models, sampling

        here = replace(course.machine, backend="transformers")  # a few answers of models that are open already

        def opened(t: int) -> Any:  # one at a time: four large policies would not fit into memory together
            return models.load_policy(model_folder(stages_of[t]), course.machine)

        by_prompt: dict[str, list[dict]] = {}
        for row in with_prompts(first.responses):
            by_prompt.setdefault(row["prompt_id"], []).append(row)
        pairs = first.pairs.rows().to_list()[:24]
        chosen = [
            next(row for row in by_prompt[pair["prompt_id"]] if row["text"] == pair["chosen"])
            for pair in pairs
        ]
        ids = [row["token_ids"] for row in chosen]
        before = sampling.response_logprobs(opened(0), chosen, ids, course.machine)
        newest = opened(len(stages_of) - 1)
        moved = sampling.response_logprobs(newest, chosen, ids, course.machine) - before
        order = np.argsort(moved)
        made = []
        for place in dict.fromkeys(
            int(order[i]) for i in np.linspace(0, len(order) - 1, prompts).round().astype(int)
        ):
            pair, old = pairs[place], by_prompt[pairs[place]["prompt_id"]]
            new = sampling.sample(newest, [{"prompt_id": pair["prompt_id"], "prompt": pair["prompt"]}], n=settings.n,
                                  temperature=1.0, max_new_tokens=settings.max_new_tokens, seed=course.sampling_seed(), iteration=1000,
                                  machine=here, batch_size=settings.batch_size, name=last.name)  # fmt: skip
            for text, (row, role) in _distinct(pair, old, new).items():
                same = {"prompt_id": pair["prompt_id"], "prompt": pair["prompt"], "text": text, "role": role}
                made.append({**same, "token_ids": row["token_ids"]})
        del newest
        asked, ids = [row["prompt"] for row in made], [row["token_ids"] for row in made]
        each = [
            sampling.response_logprobs(opened(t), asked, ids, course.machine) for t in range(len(stages_of))
        ]
        logps = np.stack(each, axis=1)
        rewards = scorer_of(course, "bt").score(asked, [row["text"] for row in made])
        golds: Sequence = [None] * len(made)
        if course.profile.data.kind == "world":
            from rlhf_kit import world

            golds = [float(g) for g in world.gold_utility(asked, [row["text"] for row in made])]
        write_rows(folder, [{**row, "logps": list(map(float, lp)), "reward": float(r), "gold": g}
                            for row, lp, r, g in zip(made, logps, rewards, golds, strict=True)])  # fmt: skip
        return Ledger("mass", len(made), len(made))

    params = {
        "prompts": prompts,
        "n": settings.n,
        "max_new_tokens": settings.max_new_tokens,
        "seed": course.sampling_seed(),
    }
    code = ["recipe/mass", *SAMPLING, *SCORING]
    return course.stage("mass", build, inputs=inputs, params=params, code=code).rows().to_list()


def _distinct(
    pair: Mapping, old: Sequence[Mapping], new: Sequence[Mapping]
) -> dict[str, tuple[Mapping, str]]:
    """text -> (row, role) of each distinct answer that is not empty; the pair's two first."""
    found: dict[str, tuple[Mapping, str]] = {}
    for role, text in (("chosen", pair["chosen"]), ("rejected", pair["rejected"])):
        found[text] = (next(row for row in old if row["text"] == text), role)
    for role, rows in (("other of SFT", old), ("new", new)):
        for row in rows:
            if row["token_ids"]:
                found.setdefault(row["text"], (row, role))
    return found
