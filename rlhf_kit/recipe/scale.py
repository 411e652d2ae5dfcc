"""Cached stages of lesson 10: small trainings that show what larger machines must not change."""

from __future__ import annotations

from rlhf_kit.course import Course, model_folder
from rlhf_kit.profile_schema import Lora
from rlhf_kit.recipe.policy import TRAINING
from rlhf_kit.runs import Stage, derive_seed, write_json

CODE = ("recipe/scale", "processes/launch", "processes/worker", *TRAINING)


def lora_references(course: Course, start: Stage, pairs: Stage, rows: int = 64, r: int = 8) -> Stage:
    """Two DPO trainings with LoRA, the second from the first's merged policy, against two candidates for the reference.

    start: the policy pi_0. "losses.json" of the stage: {"iteration 1", "iteration 2, reference pi_0",
    "iteration 2, reference = last policy"}: the loss before the first step, in nats a pair.
    """

    def build(folder):
        from rlhf_kit import training

        lora = Lora(r=r, alpha=2 * r)
        # Ten times the rate of full training: an adapter's small matrices move little at a small one.
        settings = course.profile.dpo.model_copy(update={"learning_rate": 10 * course.profile.dpo.learning_rate, "epochs": 1})
        first, chosen = model_folder(start), pairs.rows().select(range(min(rows, len(pairs.rows()))))

        def train(policy, reference, name):
            return training.train_dpo(policy, reference, chosen, folder / name, settings, course.machine, seed, course.profile.model.max_length, lora=lora)

        one = train(first, first, "lora-1")
        losses = {
            "iteration 1": one,
            "iteration 2, reference pi_0": train(folder / "lora-1", first, "lora-2"),
            "iteration 2, reference = last policy": train(folder / "lora-1", folder / "lora-1", "moving"),
        }
        write_json(folder / "losses.json", {name: made.facts["step_zero"]["loss"] for name, made in losses.items()})
        return {"rows": len(chosen), "r": r}

    seed = derive_seed(course.seed, "lora-references")
    params = {"settings": course.profile.dpo, "rows": rows, "r": r, "seed": seed, "max_length": course.profile.model.max_length}
    return course.stage("lora-references", build, inputs={"start": start, "pairs": pairs}, params=params, code=CODE)


def same_training(course: Course, start: Stage, pairs: Stage, rows: int = 128, processes: int = 2) -> Stage:
    """One DPO training in this process and once more in several: "histories.json", {"1": rows, "2": rows} of the trainer.

    The global batch is the same. rows: at most so many pairs, a multiple of `processes` of them is taken. A GPU that is
    there is not used, so that it runs anywhere.
    """

    def build(folder):
        from dataclasses import replace

        from rlhf_kit import training
        from rlhf_kit.processes import launch

        machine = replace(course.machine, device="cpu", dtype="float32", autocast_bf16=False)
        settings = course.profile.dpo.model_copy(update={"epochs": 1, "micro_batch_size": course.profile.dpo.batch_size // processes})
        whole = [row for row in pairs.rows().to_list() if row["chosen"].strip() and row["rejected"].strip()][:rows]
        chosen = whole[: len(whole) // processes * processes]  # of an odd row out, one process would see nothing
        given = (model_folder(start), model_folder(start), chosen)
        rest = (settings, machine, seed, course.profile.model.max_length)
        alone = training.train_dpo(*given, folder / "alone", *rest)
        together = launch.train("train_dpo", *given, folder / "together", *rest, processes=processes)
        write_json(folder / "histories.json", {"1": alone.history, str(processes): together.history})
        return {"rows": len(chosen), "processes": processes}

    seed = derive_seed(course.seed, "same-training")
    params = {"settings": course.profile.dpo, "rows": rows, "processes": processes, "seed": seed, "max_length": course.profile.model.max_length}
    return course.stage("same-training", build, inputs={"start": start, "pairs": pairs}, params=params, code=CODE)
