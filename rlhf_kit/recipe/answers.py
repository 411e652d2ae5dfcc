"""Cached stages in which policies answer and scorers judge: responses, scores, pairs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from rlhf_kit.course import Course, changed, model_folder
from rlhf_kit.errors import KitError
from rlhf_kit.recipe.data import pick, prompt_table
from rlhf_kit.recipe.policy import pairwise_model, reward_model
from rlhf_kit.runs import Ledger, Stage, write_rows

# Modules whose source decides what sampling and scoring make: part of the content keys.
SAMPLING = ("sampling", "engines/shards", "engines/decoding", "engines/likelihood", "batching", "chat", "tokens", "models")
BACKENDS = {"vllm": ("engines/sampling_vllm", "engines/vllm_worker"), "server": ("engines/sampling_server",)}
SCORING = (
    "rewards", "checkpoints/released", "checkpoints/multi_objective", "scoring", "batching", "chat", "tokens", "models",
)  # fmt: skip
TRAINED = ("bt", "pairwise", "ensemble")  # scorers that are models


def sampling_code(course: Course) -> tuple[str, ...]:
    """Modules that decide what this course's sampling makes."""
    return (*SAMPLING, *BACKENDS.get(course.machine.backend, ()))


def responses(
    course: Course,
    policy: Stage,
    split: str,
    *,
    n: int | None = None,
    temperature: float | None = None,
    prompts: int | None = None,
    table: Stage | None = None,
    iteration: int | None = None,
) -> Stage:
    """n sampled answers to each prompt of a split: rows of design "responses", and the prompts in
    prompts.parquet.

    n and temperature come from the profile's `sampling` section unless given. prompts: the first so many of
    the split. `iteration` is part of every sample's seed; for the splits "iteration-<t>" it is t.
    """
    settings = course.profile.sampling
    n = settings.n if n is None else n
    temperature = settings.temperature if temperature is None else temperature
    table = table or prompt_table(course)
    if iteration is None:
        iteration = int(split.removeprefix("iteration-")) if split.startswith("iteration-") else 0

    def build(folder):
        from rlhf_kit import sampling
        from rlhf_kit.processes import sharding

        asked = pick(table, split, prompts)
        draw = sampling.sample
        if shares(course) > 1 and course.machine.backend == "transformers":  # engines and servers share them out themselves
            draw = partial(sharding.sample, processes=shares(course))
        rows = draw(
            model_folder(policy),
            asked,
            n=n,
            temperature=temperature,
            top_p=settings.top_p,
            max_new_tokens=settings.max_new_tokens,
            seed=course.sampling_seed(),
            iteration=iteration,
            machine=course.machine,
            batch_size=settings.batch_size,
            name=policy.name,
            folder=folder / "shards",
        )
        shutil.rmtree(folder / "shards", ignore_errors=True)
        write_rows(folder, asked, "prompts.parquet")
        write_rows(folder, rows)
        cut = sum(row["finish_reason"] == "length" for row in rows)
        return {
            "ledger": Ledger("responses", len(asked) * n, len(rows)),
            "prompts": len(asked),
            "truncated": cut,
        }

    params = {
        "split": split,
        "n": n,
        "temperature": temperature,
        "top_p": settings.top_p,
        "prompts": prompts,
        "max_new_tokens": settings.max_new_tokens,
        "seed": course.sampling_seed(),
        "iteration": iteration,
        "backend": course.machine.backend,
    }
    inputs = {"policy": policy, "prompts": table}
    return course.stage(f"responses-{split}", build, inputs=inputs, params=params, code=sampling_code(course))


def shares(course: Course) -> int:
    """In how many processes this course samples and scores (`launch.processes` of the profile)."""
    return course.profile.launch.processes


def with_prompts(responses_stage: Stage) -> list[dict]:
    """The response rows, each with its `prompt` (messages) and `category`."""
    asked = {row["prompt_id"]: row for row in responses_stage.rows("prompts.parquet")}
    return [
        {**row, "prompt": asked[row["prompt_id"]]["prompt"], "category": asked[row["prompt_id"]]["category"]}
        for row in responses_stage.rows()
    ]


def scorer_of(course: Course, scorer: str = "bt", model: Stage | Sequence[Stage] | None = None) -> Any:
    """An open scorer with `score(prompts, responses)`: "bt", "pairwise", "gold", "random", or "ensemble"
    (then `model` is a list of reward models). Without `model` the course's own reward or pairwise model is
    used."""
    from rlhf_kit import rewards
    from rlhf_kit.processes import sharding

    if scorer in TRAINED:
        return sharding.open_scorer(scorer, _scorer_folders(course, scorer, model), course.machine)
    if scorer == "gold":
        if course.profile.data.kind != "world":
            raise KitError(
                "the gold utility exists in the pocket world only; your own data has no known truth"
            )
        return rewards.Gold()
    if scorer == "random":
        return rewards.Random(course.seed)
    raise KitError(f"unknown scorer {scorer!r}; one of bt, pairwise, gold, random, ensemble")


def _scorer_folders(course: Course, scorer: str, model: Stage | Sequence[Stage] | None) -> list[str]:
    if scorer == "ensemble":
        return [model_folder(one) for one in model or ()]
    return [model_folder(model or (reward_model if scorer == "bt" else pairwise_model)(course))]


def scorer_inputs(
    course: Course, scorer: str, model: Stage | Sequence[Stage] | None = None
) -> dict[str, Stage]:
    """The stages that a scorer's numbers depend on, made if need be."""
    if scorer == "bt":
        return {"model": model or reward_model(course)}
    if scorer == "pairwise":
        return {"model": model or pairwise_model(course)}
    if scorer == "ensemble":
        return {f"model-{i}": m for i, m in enumerate(model or ())}
    return {}


def scores(
    course: Course, responses: Stage, scorer: str = "bt", model: Stage | Sequence[Stage] | None = None
) -> Stage:
    """One reward a response: rows {prompt_id, sample, scorer, reward}, in the order of the responses.

    See `scorer_of` for scorers. "pairwise" gives the mean probability of beating the prompt's other
    responses.
    """
    inputs = {"responses": responses, **scorer_inputs(course, scorer, model)}

    def build(folder):
        from datasets import Dataset

        from rlhf_kit.processes import sharding

        rows = with_prompts(responses)
        asked, texts = [row["prompt"] for row in rows], [row["text"] for row in rows]
        if shares(course) > 1 and scorer in TRAINED:
            folders = _scorer_folders(course, scorer, inputs.get("model", model))
            values = sharding.score(
                scorer, folders, asked, texts, processes=shares(course), machine=course.machine, folder=folder / "shares"
            )
            shutil.rmtree(folder / "shares", ignore_errors=True)
        else:
            values = scorer_of(course, scorer, inputs.get("model", model)).score(asked, texts)
        columns = {
            "prompt_id": [row["prompt_id"] for row in rows],
            "sample": [row["sample"] for row in rows],
            "scorer": [scorer] * len(rows),
            "reward": values.astype("float32"),
        }
        write_rows(folder, Dataset.from_dict(columns))
        return Ledger("scores", len(rows), len(values))

    params = {"scorer": scorer, "seed": course.seed if scorer == "random" else None}
    code = ["world"] if scorer == "gold" else SCORING
    return course.stage(f"scores-{scorer}", build, inputs=inputs, params=params, code=code)


def pairs(course: Course, responses: Stage, scores: Stage, **overrides: Any) -> Stage:
    """One (chosen, rejected) pair a prompt by the profile's labelling rule: rows of design "pairs".

    overrides: rule, length_penalty, length_unit, min_margin, max_pairs. The ledger says which prompts gave no pair, and
        why.
    """
    section = changed(course.profile.labeling, overrides, "labeling")

    def build(folder):
        from rlhf_kit import labeling

        rows, ledger = labeling.select_pairs_with_ledger(
            responses.rows().to_list(),
            scores.rows().to_list(),
            **section.model_dump(exclude={"max_pairs"}),
            seed=course.seed,
            prompts=responses.rows("prompts.parquet").to_list(),
        )
        if not rows:
            raise KitError(
                f"no pair is left of {ledger.rows_in} prompts ({ledger.dropped}); lower min_margin"
            )
        beyond = rows[section.max_pairs :] if section.max_pairs else []
        if beyond:
            rows = rows[: section.max_pairs]
            ledger = replace(ledger, rows_out=len(rows), dropped=ledger.dropped | {"beyond max_pairs": len(beyond)})
        write_rows(folder, rows)
        return ledger

    inputs = {"responses": responses, "scores": scores}
    return course.stage(
        "pairs", build, inputs=inputs, params={"settings": section, "seed": course.seed}, code=["labeling"]
    )
