"""The recipe's stages as cached calls over a course: what the notebooks use.

    course = stages.start("laptop")
    sft, reward = stages.sft(course), stages.reward_model(course)
    online, offline = stages.online(course), stages.offline(course)
    answers = stages.evaluation(course, {"sft": sft, "online": online[-1].policy})
    table = stages.summarise(answers)

Every call returns a `Stage`: a folder named by the hash of the work that made it (see `rlhf_kit.runs`). Equal work is found
again, so a lesson opened on its own makes what it needs from earlier ones once. Policies and reward models
lie in the folder's `model`; their training history in `history.json`.
"""

from __future__ import annotations

from typing import Any

from rlhf_kit.course import Course, finish, model_folder, start
from rlhf_kit.errors import KitError
from rlhf_kit.online import Iteration, Steps, loop
from rlhf_kit.recipe.answers import pairs, responses, scorer_of, scores, with_prompts
from rlhf_kit.recipe.best_of_n import best_of_n
from rlhf_kit.recipe.data import assert_disjoint, demonstrations, preferences, prompt_table, prompts
from rlhf_kit.recipe.evaluation import evaluation, skills, summarise
from rlhf_kit.recipe.judged import judge_of, label_verdicts, reward_bench, verdicts, verdicts_of
from rlhf_kit.recipe.mass import answers_over_training
from rlhf_kit.recipe.own import left_out
from rlhf_kit.recipe.policy import dpo, pairwise_model, reward_model, sft
from rlhf_kit.recipe.reward import (
    label_accuracy,
    pair_fits,
    reward_accuracy_fresh,
    reward_accuracy_heldout,
    reward_accuracy_on,
    reward_test,
)
from rlhf_kit.recipe.skill_tests import skill_results, skill_tests
from rlhf_kit.runs import Ledger, Stage, write_rows

__all__ = [
    "annotator_pairs", "answers_over_training", "assert_disjoint", "assert_fixed_reference", "best_of_n", "Course", "demonstrations",
    "dpo", "evaluation", "finish", "Iteration", "judge_of", "label_accuracy", "label_verdicts", "left_out", "model_folder", "offline",
    "online", "pair_fits", "pairs", "pairwise_model", "preferences", "prompt_table", "prompts", "responses",
    "reward_accuracy_fresh", "reward_accuracy_heldout", "reward_accuracy_on", "reward_bench", "reward_model", "reward_test",
    "scorer_of", "scores", "sft", "skill_results", "skill_tests", "skills", "start", "summarise", "verdicts", "verdicts_of", "with_prompts",
]  # fmt: skip


def online(
    course: Course,
    iterations: int | None = None,
    *,
    reference: str | None = None,
    warm_start: bool | None = None,
    scorer: str = "bt",
    model: Any = None,
    rule: str | None = None,
    length_penalty: float | None = None,
    beta: float | None = None,
    prompts_per_iteration: int | None = None,
    sampler: str = "policy",
    name: str | None = None,
    n: int | None = None,
    temperature: float | None = None,
    labeling: dict | None = None,
    **training: Any,
) -> list[Iteration]:
    """The online loop (paper Algorithm 2): each iteration samples, scores, pairs and trains on new prompts.

    Whatever is None comes from the profile. reference: "sft" (paper; checked by weights hash) or "previous";
    warm_start: from the last policy (paper) or from SFT each time. sampler: "policy" (online) or "sft"
    (offline). scorer and model: see `scorer_of`. labeling: further fields of that section. **training: fields
    of the profile's `dpo` section, such as learning_rate. name: labels the iterations and does not change
    what is made, so arms that agree up to some point share their stages: the first iteration of online and
    offline is one and the same.
    Returns one Iteration(number, name, policy, responses, scores, pairs) a batch of prompts, all of them
    Stages.
    """
    settings = course.profile.dpo
    reference = settings.reference if reference is None else reference
    warm_start = settings.warm_start if warm_start is None else warm_start
    rounds = course.profile.data.iterations if iterations is None else iterations
    if rounds < 1:
        raise KitError(f"iterations is {rounds}; the loop needs at least 1")
    table = _table(course, rounds, prompts_per_iteration)
    label = {**(labeling or {}), **_given(rule=rule, length_penalty=length_penalty)}
    training = {**training, **_given(beta=beta)}
    steps = Steps(
        sample=lambda policy, split, t: responses(
            course, policy, split, n=n, temperature=temperature, table=table, prompts=prompts_per_iteration
        ),
        score=lambda answers: scores(course, answers, scorer, model),
        pair=lambda answers, rewards: pairs(course, answers, rewards, **label),
        train=lambda begin, held_to, chosen, t: dpo(
            course, begin, chosen, reference=held_to, iteration=t, **training
        ),
    )
    splits = [f"iteration-{t}" for t in range(1, rounds + 1)]
    name = name or ("online" if sampler == "policy" else "offline")
    made = loop(
        sft(course), splits, steps, sampler=sampler, reference=reference, warm_start=warm_start, name=name
    )
    if reference == "sft":
        assert_fixed_reference(made)
    return made


def offline(
    course: Course,
    kind: str = "sft-samples",
    *,
    like: list[Iteration] | None = None,
    iterations: int | None = None,
    **changes: Any,
) -> list[Iteration]:
    """The offline baseline: as many DPO trainings with equal settings, on data that no trained policy made.

    kind "sft-samples": `online` with one thing changed, the sampler: the SFT policy answers every batch of
        prompts.
    kind "annotator": the reward model's own labelled pairs, no sampling: the preference training set from its
        start, cut into as many parts of the same size (prompts_per_iteration, or exactly the sizes of `like`,
        the online arm's iterations), so every arm takes the same number of gradient steps. responses and
        scores are None.
    Other arguments as in `online`. KitError for another kind or too few preference pairs.
    """
    if kind == "sft-samples":
        return online(course, iterations, sampler="sft", **{"name": "offline", **changes})
    if kind != "annotator":
        raise KitError(f"unknown kind of offline data {kind!r}; one of sft-samples, annotator")
    data, settings = course.profile.data, course.profile.dpo
    per_iteration = changes.pop("prompts_per_iteration", None) or data.prompts_per_iteration
    reference = changes.pop("reference", None) or settings.reference
    warm_start = changes.pop("warm_start", settings.warm_start)
    name = changes.pop("name", "annotator")
    rounds = len(like) if like else iterations or data.iterations
    sizes = [len(one.pairs.rows()) for one in like] if like else [per_iteration] * rounds
    steps = Steps(
        sample=lambda policy, part, t: None,
        score=lambda answers: None,
        pair=lambda answers, rewards: next(parts),
        train=lambda begin, held_to, chosen, t: dpo(
            course, begin, chosen, reference=held_to, iteration=t, **changes
        ),
    )
    parts = iter([annotator_pairs(course, sum(sizes[:t]), sizes[t]) for t in range(rounds)])
    made = loop(
        sft(course), sizes, steps, sampler="sft", reference=reference, warm_start=warm_start, name=name
    )
    if reference == "sft":
        assert_fixed_reference(made)
    return made


def annotator_pairs(course: Course, first: int, n: int) -> Stage:
    """Rows first ... first + n - 1 of the preference training set in the layout of `pairs`; rewards null."""
    source = preferences(course)

    def build(folder):
        rows = source.rows("train.parquet")
        if first + n > len(rows):
            raise KitError(
                f"{first + n} annotator pairs were asked for, but the preference training set has "
                f"{len(rows)}; lower prompts_per_iteration or iterations"
            )
        made = []
        for row in rows.select(range(first, first + n)):
            chosen, rejected = row["chosen"][-1]["content"], row["rejected"][-1]["content"]
            made.append(
                {
                    "prompt_id": row["prompt_id"],
                    "prompt": row["prompt"],
                    "chosen": chosen,
                    "rejected": rejected,
                    "chosen_reward": None,
                    "rejected_reward": None,
                    "chosen_length": len(chosen),
                    "rejected_length": len(rejected),
                    "rule": "annotator",
                }
            )
        write_rows(folder, made)
        return Ledger("pairs", len(rows), n, {"of another iteration or not used": len(rows) - n})

    return course.stage("pairs", build, inputs={"preferences": source}, params={"first": first, "n": n})


def assert_fixed_reference(iterations: list[Iteration]) -> str | None:
    """The weights hash of the reference that all iterations were held to; KitError if they differ."""
    hashes = {one.policy.manifest["facts"]["reference"]["before"] for one in iterations}
    if len(hashes) > 1:
        raise KitError(
            f"the DPO reference changed between iterations ({', '.join(map(str, sorted(hashes, key=str)))})"
        )
    return hashes.pop() if hashes else None


def _table(course: Course, rounds: int, per_iteration: int | None) -> Stage:
    """The course's own prompt table, or a larger one when more prompts are asked for than the profile has."""
    data = course.profile.data
    if rounds <= data.iterations and (per_iteration or 0) <= data.prompts_per_iteration:
        return prompt_table(course)
    size = max(per_iteration or 0, data.prompts_per_iteration)
    return prompt_table(course, iterations=max(rounds, data.iterations), per_iteration=size)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
