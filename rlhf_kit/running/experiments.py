"""Experiments over many seeds whose arms, measurements and test are fixed here, before any seed is run.

`run_seed(name, profile, seed)` runs every arm of one seed and returns plain numbers; `summarise(name,
results)` makes the one comparison that was announced. Nothing is chosen after the fact: no seed is left out,
no checkpoint picked.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rlhf_kit import stages
from rlhf_kit.course import Course
from rlhf_kit.errors import KitError
from rlhf_kit.online import Iteration
from rlhf_kit.profiles import Profile, load_profile
from rlhf_kit.runs import Stage

# Answers to each evaluation prompt at temperature 1 after the last iteration, where the comparison is made.
FINAL_SAMPLES = 4


@dataclass(frozen=True)
class Experiment:
    """What is compared. `arms` maps an arm's name to the call that makes its iterations.

    primary: (treatment arm, control arm); the effect is treatment minus control in mean gold utility at
    temperature 1 on the eval prompts, after the last iteration, paired within a seed. Verdict by a two-sided
    95 % t-interval.
    shared_models_every: so many seeds in a row share the SFT policy and the reward model (model seed = seed
        // that).
    dpo: fields of the profile's `dpo` section that the experiment sets, for all arms.
    """

    question: str
    arms: dict[str, Callable[[Course], list[Iteration]]]
    primary: tuple[str, str]
    shared_models_every: int = 1
    dpo: dict[str, Any] = field(default_factory=dict)


EXPERIMENTS: dict[str, Experiment] = {
    "online_vs_offline": Experiment(
        question="Does sampling from the newest policy beat sampling from SFT, everything else equal?",
        arms={
            "online": lambda course: stages.online(course),
            "offline": lambda course: stages.offline(course, "sft-samples"),
        },
        primary=("online", "offline"),
        shared_models_every=2,
        # Chosen on seed 100 before any seed of the experiment was run, because the arms differed there at temperature 1
        # (+0.23; -0.07 at 4e-5): a walk of about 3 nats, on which the samples of SFT grow stale. The laptop profile had
        # the same rate then; it went back to 4e-5 after seed 0, the experiment stayed.
        dpo={"learning_rate": 8.0e-5},
    ),
    "reference_and_start": Experiment(
        question="Does the fixed SFT reference with warm start beat the other three cells of the 2x2?",
        arms={
            "sft-warm": lambda course: stages.online(course, reference="sft", warm_start=True),
            "previous-warm": lambda course: stages.online(course, reference="previous", warm_start=True),
            "sft-cold": lambda course: stages.online(course, reference="sft", warm_start=False),
            "previous-cold": lambda course: stages.online(course, reference="previous", warm_start=False),
        },
        primary=("sft-warm", "previous-warm"),
        shared_models_every=2,
    ),
    "length_penalty": Experiment(
        question="Does a length penalty of 0.005 reward per character cost gold utility?",
        arms={
            "none": lambda course: stages.online(course, length_penalty=0.0),
            "penalised": lambda course: stages.online(course, length_penalty=0.005),
        },
        primary=("penalised", "none"),
        shared_models_every=2,
    ),
}


def known(name: str) -> Experiment:
    """The experiment of this name; KitError listing those that exist."""
    if name not in EXPERIMENTS:
        raise KitError(f"unknown experiment {name!r}; known: {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]


def profile_of(name: str, profile: Any) -> Profile:
    """The profile (a shipped name, a file or a Profile) with what the experiment sets."""
    loaded = profile if isinstance(profile, Profile) else load_profile(profile)
    return loaded.model_copy(update={"dpo": loaded.dpo.model_copy(update=known(name).dpo)})


def run_seed(
    name: str, profile: Any, seed: int, *, keep: bool | None = None, root: Any = None
) -> dict[str, Any]:
    """Every arm of one seed, in the run `sweep-<name>-work`; the numbers of each arm after each iteration.

    keep: leave the seed's policies and samples on disk (default: only if RLHF_KIT_KEEP is set; they are
    otherwise removed once measured). SFT policy and reward model stay for the seeds that share them.
    Returns {seed, model_seed, profile, seconds, reward_accuracy, curves: [row]}: one row an (arm, iteration)
    with gold, gold_greedy, win_rate, kl, reward, length (characters), label_accuracy (share of the pairs that this
    policy was trained on whose order agrees with gold; None for "sft"), and steps (optimizer steps).
    fresh_accuracy: of the reward model on the SFT policy's own samples.
    """
    plan, started = known(name), time.monotonic()
    keep = bool(os.environ.get("RLHF_KIT_KEEP")) if keep is None else keep
    model_seed = seed // plan.shared_models_every
    course = stages.start(
        profile_of(name, profile), run=f"sweep-{name}-work", seed=seed, model_seed=model_seed, root=root
    )
    if course.profile.data.kind != "world":
        raise KitError(
            f"experiment {name} needs the pocket world's gold utility; profile {course.profile.name} has none"
        )
    stages.assert_disjoint(course)
    made = {arm: make(course) for arm, make in plan.arms.items()}
    policies: dict[str, Stage] = {"sft": stages.sft(course)}
    for arm, iterations in made.items():
        policies |= {f"{arm}-{one.number}": one.policy for one in iterations}
    last = max(one.number for iterations in made.values() for one in iterations)
    finals = {name: policy for name, policy in policies.items() if name in ("sft", *(f"{a}-{last}" for a in made))}
    rows = stages.summarise(stages.evaluation(course, policies))
    rows += stages.summarise(stages.evaluation(_with_samples(course, FINAL_SAMPLES), finals))  # these replace the first
    by_place = {(row["policy"], row["temperature"]): row for row in rows}
    _check_equal(made, seed)
    right = {
        f"{arm}-{one.number}": stages.label_accuracy(course, one.pairs)["accuracy"]
        for arm, iterations in made.items()
        for one in iterations
    }
    curves = []
    for policy_name, policy in policies.items():
        arm, _, number = policy_name.rpartition("-")
        warm, greedy = by_place[policy_name, 1.0], by_place[policy_name, 0.0]
        curves.append(
            {
                "arm": arm or "sft",
                "iteration": int(number) if arm else 0,
                "gold": warm["gold"],
                "gold_greedy": greedy["gold"],
                "win_rate": warm["win_rate"],
                "win_rate_greedy": greedy["win_rate"],
                "kl": warm["kl"],
                "reward": warm["reward"],
                "length": warm["length"],
                "label_accuracy": right.get(policy_name),
                "steps": policy.manifest["facts"]["steps"],
            }
        )
    heldout = stages.reward_accuracy_heldout(course)
    result = {
        "seed": seed,
        "model_seed": model_seed,
        "profile": course.profile.name,
        "reward_accuracy": {k: heldout[k] for k in ("accuracy", "ceiling", "gold_accuracy") if k in heldout},
        "fresh_accuracy": stages.reward_accuracy_fresh(course)["accuracy"],
        "pairs": {arm: [len(one.pairs.rows()) for one in iterations] for arm, iterations in made.items()},
        "curves": curves,
        "seconds": round(time.monotonic() - started, 1),
    }
    if not keep:
        _release(made)
    return result


def _with_samples(course: Course, samples: int) -> Course:
    """The same course with another number of answers to each evaluation prompt at temperature 1."""
    evaluation = course.profile.evaluation.model_copy(update={"samples": samples})
    return replace(course, profile=course.profile.model_copy(update={"evaluation": evaluation}))


def _check_equal(made: dict[str, list[Iteration]], seed: int) -> None:
    """KitError unless every arm took equally many optimizer steps in each iteration: else budgets are compared."""
    steps = {arm: [one.policy.manifest["facts"]["steps"] for one in its] for arm, its in made.items()}
    if len({tuple(counts) for counts in steps.values()}) > 1:
        raise KitError(f"seed {seed}: the arms took different numbers of steps ({steps}); lower labeling.max_pairs")


def _release(made: dict[str, list[Iteration]]) -> None:
    """Removes this seed's policies and samples; the result has their numbers. Shared models stay."""
    folders = set()
    for iterations in made.values():
        for one in iterations:
            folders |= {stage.path for stage in (one.policy, one.responses, one.scores, one.pairs) if stage}
    for folder in folders:
        (folder / "_SUCCESS").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def summarise(name: str, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The announced comparison over seeds: {effect, low, high, verdict, per_seed, greedy, by_models, means}.

    effect: mean over seeds of treatment minus control at temperature 1 after the last iteration, with its
    95 % t-interval over seeds. greedy: the same for greedy decoding (secondary). by_models: the same over the
    means of seeds that share SFT policy and reward model, the cautious reading when such seeds resemble each
    other.
    verdict: "<treatment> better", "<control> better" or "inconclusive" (the interval covers 0, or fewer than
        2 seeds).
    """
    plan = known(name)
    treatment, control = plan.primary
    if not results:
        raise KitError(f"experiment {name} has no finished seed")
    if len({r["seed"] for r in results}) != len(results):
        raise KitError(f"experiment {name}: a seed appears twice among the results")
    per_seed = []
    for result in sorted(results, key=lambda r: r["seed"]):
        last = {arm: _last(result, arm) for arm in plan.primary}
        line = {"seed": result["seed"], "model_seed": result["model_seed"]}
        for measure in ("gold", "gold_greedy", "kl", "length", "reward", "label_accuracy"):
            line |= {f"{measure}_{arm}": last[arm][measure] for arm in plan.primary}
            line[f"{measure}_difference"] = last[treatment][measure] - last[control][measure]
        line["curves"] = result["curves"]
        per_seed.append(line)
    primary = _interval([line["gold_difference"] for line in per_seed])
    greedy = _interval([line["gold_greedy_difference"] for line in per_seed])
    models: dict[int, list[float]] = {}
    for line in per_seed:
        models.setdefault(line["model_seed"], []).append(line["gold_difference"])
    by_models = _interval([sum(v) / len(v) for v in models.values()])
    return {
        "question": plan.question,
        "settings": {f"dpo.{name}": value for name, value in plan.dpo.items()},
        "test": f"{treatment} minus {control}, gold utility at temperature 1, last iteration",
        "effect": primary["effect"],
        "low": primary["low"],
        "high": primary["high"],
        "seeds_run": len(per_seed),
        "verdict": _verdict(primary, treatment, control),
        "greedy": {**greedy, "verdict": _verdict(greedy, treatment, control)},
        "by_models": {**by_models, "groups": len(models), "verdict": _verdict(by_models, treatment, control)},
        "per_seed": per_seed,
        "means": _means(results),
    }


def _last(result: dict, arm: str) -> dict:
    rows = [row for row in result["curves"] if row["arm"] == arm]
    if not rows:
        raise KitError(f"seed {result['seed']} has no arm {arm!r}")
    return max(rows, key=lambda row: row["iteration"])


def _interval(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and two-sided 95 % t-interval; without one for a single value."""
    from rlhf_kit.evaluation import mean_interval

    if len(values) < 2:
        return {"effect": float(values[0]), "low": None, "high": None}
    found = mean_interval(values)
    return {"effect": found.mean, "low": found.low, "high": found.high}


def _verdict(interval: dict, treatment: str, control: str) -> str:
    if interval["low"] is None or interval["low"] <= 0 <= interval["high"]:
        return "inconclusive"
    return f"{treatment if interval['low'] > 0 else control} better"


def _means(results: Sequence[dict]) -> list[dict]:
    """Every arm's mean over seeds after each iteration, for the curves of gold utility against KL."""
    places: dict[tuple, list[dict]] = {}
    for result in results:
        for row in result["curves"]:
            places.setdefault((row["arm"], row["iteration"]), []).append(row)
    measures = ("gold", "gold_greedy", "kl", "reward", "length")
    return [
        {"arm": arm, "iteration": t, **{m: sum(r[m] for r in rows) / len(rows) for m in measures}}
        for (arm, t), rows in places.items()
    ]
