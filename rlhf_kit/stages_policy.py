"""Cached stages that train models and let them answer: SFT, reward models, responses, scores, pairs, DPO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_kit.course import Course, base_key, model_folder, source_key
from rlhf_kit.errors import KitError
from rlhf_kit.runs import Ledger, Stage, derive_seed, project_path, write_json, write_rows
from rlhf_kit.stages_data import demonstrations, pick, preferences, prompt_table

# Modules whose source decides what training and answering make: part of the content keys.
TRAINING = ("training", "training_common", "training_rows", "batching", "chat", "models")
SAMPLING = ("sampling", "decoding", "batching", "chat", "models")
SCORING = ("rewards", "batching", "chat", "models")

# ---------------------------------------------------------------- models


def sft(course: Course, **overrides: Any) -> Stage:
    """The initial policy pi_0: the base model fine-tuned on the demonstrations, loss on the answers only.

    overrides: fields of the profile's `sft` section, such as learning_rate=1e-3.
    """
    section = _changed(course.profile.sft, overrides, "sft")
    if section.released:
        return _released(course, "sft", section.released)
    rows = demonstrations(course)

    def build(folder):
        from rlhf_kit import training

        return _trained(
            training.train_sft, _base(course, section), rows.rows(), folder, section, course, seed
        )

    seed = derive_seed(course.model_seed, "sft")
    params = {"settings": section, "seed": seed, "base": base_key(course), "start": source_key(section.start)}
    return course.stage("sft", build, inputs={"demonstrations": rows}, params=params, code=TRAINING)


def reward_model(
    course: Course,
    n_pairs: int | None = None,
    *,
    start: Stage | None = None,
    seed: int | None = None,
    **overrides: Any,
) -> Stage:
    """The Bradley-Terry reward model (paper section 2.1), started from the SFT policy with a new scalar head.

    n_pairs: train on the first n_pairs preference pairs only (a learning curve, a weak model to be hacked).
    seed: another model seed, for an ensemble. overrides: fields of the profile's `reward` section.
    """
    return _preference_trained(
        course, "reward_model", "reward", "train_reward", n_pairs, start, seed, overrides
    )


def pairwise_model(
    course: Course,
    n_pairs: int | None = None,
    *,
    start: Stage | None = None,
    seed: int | None = None,
    **overrides: Any,
) -> Stage:
    """The pairwise preference model: which of two answers, as the letter A or B (paper section 2.1).

    Arguments as in `reward_model`; overrides are fields of the profile's `pairwise` section.
    """
    return _preference_trained(
        course, "pairwise_model", "pairwise", "train_pairwise", n_pairs, start, seed, overrides
    )


def _preference_trained(course, name, section_name, trainer, n_pairs, start, model_seed, overrides) -> Stage:
    section = _changed(getattr(course.profile, section_name), overrides, section_name)
    if section.released:
        return _released(course, name, section.released)
    rows = preferences(course)
    inputs = {"preferences": rows}
    if section.start is None:
        inputs["start"] = start or sft(course)

    def build(folder):
        from rlhf_kit import training

        pairs = rows.rows("train.parquet")
        if n_pairs is not None:
            if not 0 < n_pairs <= len(pairs):
                raise KitError(f"n_pairs is {n_pairs}; there are {len(pairs)} preference pairs to train on")
            pairs = pairs.select(range(n_pairs))
        begin = section.start or model_folder(inputs["start"])
        return _trained(getattr(training, trainer), begin, pairs, folder, section, course, seed)

    seed = derive_seed(course.model_seed if model_seed is None else model_seed, name)
    params = {
        "settings": section,
        "seed": seed,
        "pairs": n_pairs,
        "start": source_key(section.start),
        "max_length": course.profile.model.max_length,
        "trainer": trainer,
    }
    return course.stage(name, build, inputs=inputs, params=params, code=TRAINING)


def dpo(
    course: Course,
    policy: Stage,
    pairs: Stage,
    *,
    reference: Stage | None = None,
    iteration: int = 1,
    **overrides: Any,
) -> Stage:
    """One DPO training (eq. 5) from `policy` on `pairs`, held to `reference` (default: the SFT policy).

    iteration decides the seed only: offline and online arms with equal inputs make the same policy.
    overrides: fields of the profile's `dpo` section. The manifest's facts keep the reference's weights hash and the
    loss before the first step, which is ln 2 when policy and reference are the same weights.
    """
    section = _changed(course.profile.dpo, overrides, "dpo")
    reference = reference or sft(course)

    def build(folder):
        from rlhf_kit import training

        def train(begin, rows, *rest, **more):
            return training.train_dpo(begin, model_folder(reference), rows, *rest, **more)

        return _trained(train, model_folder(policy), pairs.rows(), folder, section, course, seed)

    seed = derive_seed(course.seed, "dpo", iteration)
    # Which policy and reference to use is decided by the inputs; the loop's switches must not change the key.
    settings = section.model_dump(exclude={"reference", "warm_start", "start", "released"})
    inputs = {"policy": policy, "reference": reference, "pairs": pairs}
    params = {
        "settings": settings,
        "seed": seed,
        "iteration": iteration,
        "max_length": course.profile.model.max_length,
    }
    return course.stage(f"dpo-{iteration}", build, inputs=inputs, params=params, code=TRAINING)


def _trained(
    train: Any, begin: str, rows: Any, folder: Path, section: Any, course: Course, seed: int
) -> dict:
    """Runs a trainer into folder/model; its facts and ledger go into the stage's manifest, its history beside it."""
    if not len(rows):
        raise KitError(f"there are no rows to train {folder.name} on")
    model = course.profile.model
    made = train(
        begin, rows, folder / "model", section, course.machine, seed, model.max_length, lora=model.lora
    )
    write_json(folder / "history.json", made.history)
    return {"train_seconds": made.seconds, **made.facts}


def _base(course: Course, section: Any) -> Any:
    model = course.profile.model
    if section.start or model.path:
        return section.start or model.path
    return {**model.init.model_dump(), "tokenizer": model.tokenizer, "positions": max(512, model.max_length)}


def _released(course: Course, name: str, released: str) -> Stage:
    """A stage that stands for a released model; nothing is trained or copied."""

    def build(folder):
        return {"released": str(project_path(released)) if project_path(released).exists() else released}

    return course.stage(name, build, params={"released": source_key(released)})


def _changed(section: Any, overrides: Mapping[str, Any], name: str) -> Any:
    """The profile's section with some fields changed, checked like the profile itself."""
    unknown = set(overrides) - set(type(section).model_fields)
    if unknown:
        known = ", ".join(type(section).model_fields)
        raise KitError(f"{name} has no setting {sorted(unknown)[0]!r}; known: {known}")
    try:
        return type(section).model_validate({**section.model_dump(), **overrides})
    except ValueError as error:
        raise KitError(f"{name}: {' '.join(str(error).split())}") from None


# ---------------------------------------------------------------- answers and their rewards


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
    """n sampled answers to each prompt of a split: rows of design "responses", and the prompts in prompts.parquet.

    n and temperature come from the profile's `sampling` section unless given. prompts: the first so many of the split.
    `iteration` is part of every sample's seed; for the splits "iteration-<t>" it is t.
    """
    settings = course.profile.sampling
    n = settings.n if n is None else n
    temperature = settings.temperature if temperature is None else temperature
    table = table or prompt_table(course)
    if iteration is None:
        iteration = int(split.removeprefix("iteration-")) if split.startswith("iteration-") else 0

    def build(folder):
        from rlhf_kit import sampling

        asked = pick(table, split, prompts)
        rows = sampling.sample(
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
        _remove(folder / "shards")
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
    }
    inputs = {"policy": policy, "prompts": table}
    return course.stage(f"responses-{split}", build, inputs=inputs, params=params, code=SAMPLING)


def with_prompts(responses_stage: Stage) -> list[dict]:
    """The response rows, each with its `prompt` (messages) and `category`."""
    asked = {row["prompt_id"]: row for row in responses_stage.rows("prompts.parquet")}
    return [
        {**row, "prompt": asked[row["prompt_id"]]["prompt"], "category": asked[row["prompt_id"]]["category"]}
        for row in responses_stage.rows()
    ]


def scorer_of(course: Course, scorer: str = "bt", model: Stage | Sequence[Stage] | None = None) -> Any:
    """An open scorer with `score(prompts, responses)`: "bt", "pairwise", "gold", "random", or "ensemble" (then
    `model` is a list of reward models). Without `model` the course's own reward or pairwise model is used."""
    from rlhf_kit import rewards

    if scorer == "bt":
        return rewards.BradleyTerry(model_folder(model or reward_model(course)), course.machine)
    if scorer == "pairwise":
        return rewards.Pairwise(model_folder(model or pairwise_model(course)), course.machine)
    if scorer == "ensemble":
        members = [rewards.BradleyTerry(model_folder(m), course.machine) for m in model or ()]
        return rewards.Ensemble(members)
    if scorer == "gold":
        if course.profile.data.kind != "world":
            raise KitError(
                "the gold utility exists in the pocket world only; your own data has no known truth"
            )
        return rewards.Gold()
    if scorer == "random":
        return rewards.Random(course.seed)
    raise KitError(f"unknown scorer {scorer!r}; one of bt, pairwise, gold, random, ensemble")


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

    See `scorer_of` for scorers. "pairwise" gives the mean probability of beating the prompt's other responses.
    """
    inputs = {"responses": responses, **scorer_inputs(course, scorer, model)}

    def build(folder):
        from datasets import Dataset

        rows = with_prompts(responses)
        judge = scorer_of(course, scorer, inputs.get("model", model))
        values = judge.score([row["prompt"] for row in rows], [row["text"] for row in rows])
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

    overrides: rule, length_penalty, length_unit, min_margin. The ledger says which prompts gave no pair, and why.
    """
    section = _changed(course.profile.labeling, overrides, "labeling")

    def build(folder):
        from rlhf_kit import labeling

        rows, ledger = labeling.select_pairs_with_ledger(
            responses.rows().to_list(),
            scores.rows().to_list(),
            **section.model_dump(),
            seed=course.seed,
            prompts=responses.rows("prompts.parquet").to_list(),
        )
        if not rows:
            raise KitError(
                f"no pair is left of {ledger.rows_in} prompts ({ledger.dropped}); lower min_margin"
            )
        write_rows(folder, rows)
        return ledger

    inputs = {"responses": responses, "scores": scores}
    return course.stage(
        "pairs", build, inputs=inputs, params={"settings": section, "seed": course.seed}, code=["labeling"]
    )


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
