"""Cached stages that measure policies on prompts that nobody trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_kit.course import Course, model_folder
from rlhf_kit.errors import KitError
from rlhf_kit.recipe.answers import SCORING, sampling_code, scorer_of
from rlhf_kit.recipe.data import pick, prompt_table
from rlhf_kit.recipe.policy import reward_model, sft
from rlhf_kit.runs import Ledger, Stage, derive_seed, write_json, write_rows

# What it takes to solve a task of the pocket world, form apart.
SOLVED = ("correctness", "constraints", "relevance", "refusal")

# ---------------------------------------------------------------- policies


def evaluation(
    course: Course,
    policies: Mapping[str, Stage],
    *,
    temperatures: Sequence[float] = (1.0, 0.0),
    split: str = "eval",
    reward: Stage | None = None,
) -> Stage:
    """Every policy on the prompts of a split, at each temperature (0 = greedy): one row an answer.

    Rows: policy, temperature, prompt_id, category, sample, text, length (characters), tokens, finish_reason,
    reward (of the course's reward model, or of `reward`), gold and parts (pocket world only), kl. kl: nats by
    which this response adds to KL(policy at this temperature || SFT policy at temperature 1); null when
    greedy. split "eval" is for final numbers; use "choose" to choose between checkpoints or settings.
    Each policy is measured once: a call with one policy more measures that one only.
    """
    if not policies:
        raise KitError("evaluation needs at least one policy, such as {'sft': stages.sft(course)}")
    measured = {
        name: _answers(course, policy, tuple(temperatures), split, reward)
        for name, policy in policies.items()
    }

    def build(folder):
        from datasets import concatenate_datasets

        parts = [
            stage.rows().add_column("policy", [name] * len(stage.rows())) for name, stage in measured.items()
        ]
        rows = concatenate_datasets(parts)
        write_rows(folder, rows)
        write_json(folder / "kl.json", {name: stage.json("kl.json") for name, stage in measured.items()})
        return Ledger("evaluation", sum(map(len, parts)), len(rows))

    params = {"policies": list(measured), "split": split, "bootstrap": course.profile.evaluation.bootstrap}
    return course.stage("evaluation", build, inputs=measured, params=params)


def _answers(
    course: Course, policy: Stage, temperatures: tuple[float, ...], split: str, reward: Stage | None
) -> Stage:
    settings, table, reference = course.profile.sampling, prompt_table(course), sft(course)
    reward = reward or reward_model(course)
    world_known = course.profile.data.kind == "world"

    def build(folder):
        from rlhf_kit import models, sampling

        asked = pick(table, split)
        prompt_of = {row["prompt_id"]: row for row in asked}
        # All samples first: an engine wants the memory that the models of the KL take afterwards.
        drawn = []
        with sampling.opened(model_folder(policy), course.machine, course.profile.model.max_length) as answering:
            for temperature in temperatures:
                made = sampling.sample(
                    answering,
                    asked,
                    n=course.profile.evaluation.samples if temperature else 1,
                    temperature=temperature,
                    max_new_tokens=settings.max_new_tokens,
                    seed=derive_seed(course.seed, "evaluation"),
                    iteration=0,
                    machine=course.machine,
                    batch_size=settings.batch_size,
                    name=policy.name,
                )
                drawn.append((temperature, made))
        opened = answering if isinstance(answering, tuple) else model_folder(policy)
        held_to = models.load_policy(model_folder(reference), course.machine)
        rows = []
        for temperature, made in drawn:
            prompts = [prompt_of[row["prompt_id"]]["prompt"] for row in made]
            if temperature == 1.0:
                kl = list(sampling.kl_rows(opened, held_to, made, course.machine, asked)["exact"])
            elif temperature > 0:
                at_one = sampling.response_logprobs(
                    held_to, prompts, [r["token_ids"] for r in made], course.machine
                )
                kl = [row["logprob"] - float(base) for row, base in zip(made, at_one, strict=True)]
            else:
                kl = [None] * len(made)
            rows += [{**row, "kl": None if k is None else float(k)} for row, k in zip(made, kl, strict=True)]
        prompts = [prompt_of[row["prompt_id"]]["prompt"] for row in rows]
        texts = [row["text"] for row in rows]
        rewards = scorer_of(course, "bt", reward).score(prompts, texts)
        golds = _golds(prompts, texts) if world_known else [None] * len(rows)
        write_rows(
            folder,
            [
                {
                    "temperature": row["temperature"],
                    "prompt_id": row["prompt_id"],
                    "sample": row["sample"],
                    "category": prompt_of[row["prompt_id"]]["category"],
                    "text": row["text"],
                    "length": len(row["text"]),
                    "tokens": len(row["token_ids"]),
                    "finish_reason": row["finish_reason"],
                    "reward": float(r),
                    "gold": g.utility if g else None,
                    "parts": g.parts if g else None,
                    "kl": row["kl"],
                }
                for row, r, g in zip(rows, rewards, golds, strict=True)
            ],
        )
        write_json(
            folder / "kl.json",
            {
                f"{t:g}": dict(zip(("mean", "standard_error"), _kl(rows, t), strict=True))
                for t in temperatures
                if t > 0
            },
        )
        asked_for = sum(len(asked) * (course.profile.evaluation.samples if t else 1) for t in temperatures)
        return Ledger("answers", asked_for, len(rows))

    params = {
        "temperatures": temperatures,
        "split": split,
        "max_new_tokens": settings.max_new_tokens,
        "samples": course.profile.evaluation.samples,
        "seed": course.seed,
        "backend": course.machine.backend,
    }
    inputs = {"policy": policy, "reference": reference, "reward": reward, "prompts": table}
    code = ["recipe/evaluation", *sampling_code(course), *SCORING, *(["world"] if world_known else [])]
    return course.stage("answers", build, inputs=inputs, params=params, code=code)


def _golds(prompts: Sequence, texts: Sequence[str]) -> list:
    from rlhf_kit import world

    return [world.gold(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]


def _kl(rows: Sequence[Mapping], temperature: float) -> tuple[float, float]:
    """(mean, standard error over prompts) of the kl column at one temperature, in nats a response."""
    by_prompt: dict[str, list[float]] = {}
    for row in rows:
        if row["temperature"] == temperature:
            by_prompt.setdefault(row["prompt_id"], []).append(row["kl"])
    means = np.array([np.mean(values) for values in by_prompt.values()])
    error = means.std(ddof=1) / np.sqrt(len(means)) if len(means) > 1 else float("nan")
    return float(means.mean()), float(error)


def summarise(stage: Stage, baseline: str = "sft") -> list[dict]:
    """One dict a (policy, temperature): means with 95 % intervals, prompts being what is resampled.

    Keys: policy, temperature, n (prompts), gold, gold_low, gold_high, reward, win_rate, win_low, win_high
    (against `baseline` at the same temperature; None for itself), judge, length (characters), truncated
    (share), kl, kl_se. judge is "gold" in the pocket world; elsewhere it is "reward": the model that labelled
    the training pairs then judges the result, which is circular and says nothing about quality.
    """
    from rlhf_kit import evaluation as measure

    table = stage.rows().to_list()
    keys = list(dict.fromkeys((row["policy"], row["temperature"]) for row in table))
    resamples = stage.manifest["params"]["bootstrap"]
    judge = "gold" if all(row["gold"] is not None for row in table) else "reward"
    found, summary = {key: [r for r in table if (r["policy"], r["temperature"]) == key] for key in keys}, []
    for policy, temperature in keys:
        rows, base = found[policy, temperature], found.get((baseline, temperature))
        ids = [row["prompt_id"] for row in rows]
        line: dict[str, Any] = {"policy": policy, "temperature": temperature, "n": len(set(ids))}
        gold = (
            measure.cluster_interval([r["gold"] for r in rows], ids, resamples)
            if judge == "gold"
            else [None] * 3
        )
        line |= dict(zip(("gold", "gold_low", "gold_high"), gold, strict=True))
        line["reward"] = float(np.mean([row["reward"] for row in rows]))
        won: dict[str, Any] = {"win_rate": None, "low": None, "high": None}
        if base and policy != baseline:
            if [(r["prompt_id"], r["sample"]) for r in base] != [(r["prompt_id"], r["sample"]) for r in rows]:
                raise KitError(f"{policy!r} and {baseline!r} did not answer the same prompts")
            won = measure.win_rate([r[judge] for r in rows], [r[judge] for r in base], ids, resamples)
        line |= {"win_rate": won["win_rate"], "win_low": won["low"], "win_high": won["high"], "judge": judge}
        line["length"] = float(np.mean([row["length"] for row in rows]))
        line["truncated"] = float(np.mean([row["finish_reason"] == "length" for row in rows]))
        line["kl"], line["kl_se"] = _kl(rows, temperature) if temperature > 0 else (None, None)
        summary.append(line)
    return summary


def skills(stage: Stage, after: str, before: str = "sft", temperature: float = 0.0) -> list[dict]:
    """What a policy gained or forgot: the share of prompts solved, by category and in all, paired by prompt.

    Solved: every task part of the gold utility (correctness, constraints, relevance, refusal) is 1; form does
    not count. Keys: category, n, before, after, difference, low, high (95 %), gained, lost (numbers of
    answers). KitError without gold utilities (your own data), or for a policy or temperature that was not
    evaluated.
    """
    from rlhf_kit.evaluation import cluster_interval

    rows = [row for row in stage.rows().to_list() if row["temperature"] == temperature]
    sides = []
    for name in (before, after):
        mine = {(r["prompt_id"], r["sample"]): r for r in rows if r["policy"] == name}
        if not mine:
            known = ", ".join(
                sorted({f"{r['policy']} at {r['temperature']:g}" for r in stage.rows().to_list()})
            )
            raise KitError(
                f"policy {name!r} was not evaluated at temperature {temperature:g}; there is {known}"
            )
        if any(r["parts"] is None for r in mine.values()):
            raise KitError("skills need the pocket world's gold utility; your own data has none")
        sides.append(
            {key: (all(r["parts"][p] >= 0.999 for p in SOLVED), r["category"]) for key, r in mine.items()}
        )
    table, categories = [], list(dict.fromkeys(category for _, category in sides[0].values()))
    for category in [*categories, "all"]:
        keys = [key for key, (_, own) in sides[0].items() if category in (own, "all")]
        old, new = (np.array([side[key][0] for key in keys], dtype=float) for side in sides)
        ids = [key[0] for key in keys]
        mean, low, high = cluster_interval(new - old, ids)  # resampling keeps a share's difference within [-1, 1]
        if not (new - old).any():  # no prompt changed: the interval for a share of zero, to either side
            low = -high
        table.append(
            {
                "category": category,
                "n": len(keys),
                "before": float(old.mean()),
                "after": float(new.mean()),
                "difference": float(mean),
                "low": float(low),
                "high": float(high),
                "gained": int(((new - old) > 0).sum()),
                "lost": int(((new - old) < 0).sum()),
            }
        )
    return table
