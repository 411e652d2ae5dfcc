"""Cached stages that train models: SFT policy, reward model, pairwise model, DPO."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rlhf_kit.course import Course, base_key, changed, model_folder, source_key
from rlhf_kit.errors import KitError
from rlhf_kit.recipe.data import demonstrations, preferences
from rlhf_kit.runs import Stage, derive_seed, project_path, write_json

# Modules whose source decides what training makes: part of the content keys.
TRAINING = (
    "recipe/policy", "training", "trainers", "batching", "chat", "tokens", "models",
)


def sft(course: Course, **overrides: Any) -> Stage:
    """The initial policy pi_0: the base model fine-tuned on the demonstrations, loss on the answers only.

    overrides: fields of the profile's `sft` section, such as learning_rate=1e-3.
    """
    section = changed(course.profile.sft, overrides, "sft")
    if section.released:
        return _released(course, "sft", section.released)
    rows = demonstrations(course)

    def build(folder):
        return _trained("train_sft", [_base(course, section)], rows.rows(), folder, section, course, seed)

    seed = derive_seed(course.model_seed, "sft")
    params = {
        "settings": section,
        "seed": seed,
        "base": base_key(course),
        "start": source_key(section.start),
        "max_length": course.profile.model.max_length,
        **_launched(course),
    }
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
    section = changed(getattr(course.profile, section_name), overrides, section_name)
    if section.released:
        return _released(course, name, section.released)
    rows = preferences(course)
    inputs = {"preferences": rows}
    if section.start is None:
        inputs["start"] = start or sft(course)

    def build(folder):
        pairs = rows.rows("train.parquet")
        if n_pairs is not None:
            if not 0 < n_pairs <= len(pairs):
                raise KitError(f"n_pairs is {n_pairs}; there are {len(pairs)} preference pairs to train on")
            pairs = pairs.select(range(n_pairs))
        begin = section.start or model_folder(inputs["start"])
        return _trained(trainer, [begin], pairs, folder, section, course, seed)

    seed = derive_seed(course.model_seed if model_seed is None else model_seed, name)
    params = {
        "settings": section,
        "seed": seed,
        "pairs": n_pairs,
        "start": source_key(section.start),
        "max_length": course.profile.model.max_length,
        **_launched(course),
        "lora": course.profile.model.lora,
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
    overrides: fields of the profile's `dpo` section. The manifest's facts keep the reference's weights hash
    and the loss before the first step, which is ln 2 when policy and reference are the same weights.
    """
    section = changed(course.profile.dpo, overrides, "dpo")
    reference = reference or sft(course)

    def build(folder):
        models = [model_folder(policy), model_folder(reference)]
        return _trained("train_dpo", models, pairs.rows(), folder, section, course, seed)

    seed = derive_seed(course.seed, "dpo", iteration)
    # Which policy and reference to use is decided by the inputs; the loop's switches must not change the key.
    settings = section.model_dump(exclude={"reference", "warm_start", "start", "released"})
    inputs = {"policy": policy, "reference": reference, "pairs": pairs}
    params = {
        "settings": settings,
        "seed": seed,
        "iteration": iteration,
        "max_length": course.profile.model.max_length,
        **_launched(course),
        "lora": course.profile.model.lora,
    }
    return course.stage(f"dpo-{iteration}", build, inputs=inputs, params=params, code=TRAINING)


def _trained(
    call: str, begin: list[Any], rows: Any, folder: Path, section: Any, course: Course, seed: int
) -> dict:
    """Runs a trainer into folder/model, in as many processes as the profile says; its facts and ledger go into the
    stage's manifest, its history beside it."""
    if not len(rows):
        raise KitError(f"there are no rows to train {folder.name} on")
    model, launched = course.profile.model, course.profile.launch
    order = [*begin, rows, folder / "model", section, course.machine, seed, model.max_length]
    if launched.processes > 1:
        from rlhf_kit.processes import launch

        made = launch.train(
            call, *order, lora=model.lora, processes=launched.processes, strategy=launched.strategy,
            tell=None if course.run.quiet or os.environ.get("RLHF_KIT_QUIET") else print,
        )
    else:
        from rlhf_kit import training

        made = getattr(training, call)(*order, lora=model.lora)
    write_json(folder / "history.json", made.history)
    return {"train_seconds": made.seconds, **made.facts}


def _launched(course: Course) -> dict:
    """The part of a training's key that says in how many processes: rounding and the last rows of an epoch differ."""
    launched = course.profile.launch
    return {"launch": launched.model_dump(exclude={"card"})} if launched.processes > 1 else {}  # the card is for plans


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
