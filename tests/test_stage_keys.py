"""Which settings move which content keys: a setting that moves none would give back what was made with another value.

Stages are named and not built: `Run.stage` only computes the key.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rlhf_kit import course, profiles, stages
from rlhf_kit.files import code_hash, plain, stable_hash
from rlhf_kit.recipe import best_of_n
from rlhf_kit.runs import Run, Stage


def named(run, name, build, *, inputs=None, params=None, code=(), about=None):
    keys = {label: one.key if isinstance(one, Stage) else str(one) for label, one in (inputs or {}).items()}
    params = plain(dict(params or {}))
    key = stable_hash(name, keys, params, code_hash(code))
    facts = {"weights": "w", "reference": {"before": "w", "after": "w"}}
    return Stage(name, key, Path("nowhere") / f"{name}-{key}", {"facts": facts, "params": params, "ledger": []}, False)


def keys(root, changes, **seeds) -> dict[str, str]:
    made = stages.start("laptop", run="keys", root=root, quiet=True, overrides=changes, **seeds)
    online, offline = stages.online(made), stages.offline(made)
    answers = stages.evaluation(made, {"sft": stages.sft(made), "online": online[-1].policy})
    found = {
        "preferences": stages.preferences(made), "demonstrations": stages.demonstrations(made), "prompts": stages.prompt_table(made),
        "sft": stages.sft(made), "reward": stages.reward_model(made), "pairwise": stages.pairwise_model(made),
        "responses": online[-1].responses, "scores": online[-1].scores, "pairs": online[-1].pairs, "dpo": online[-1].policy,
        "offline": offline[-1].policy, "evaluation": answers, "best-of-n": stages.best_of_n(made), "bench": stages.reward_bench(made),
        "reward-test": stages.reward_test(made), "verdicts": stages.verdicts(made, answers, [("online", "sft")], {"judge": "pairwise"}),
        "skills": stages.skill_tests(made, online[-1].policy),
    }  # fmt: skip
    return {name: stage.key for name, stage in found.items()}


@pytest.fixture(scope="module")
def keys_of(tmp_path_factory):
    """(changes) -> the key of each stage of the course."""
    root, patch = tmp_path_factory.mktemp("keys"), pytest.MonkeyPatch()
    patch.setattr(Run, "stage", named)
    patch.setattr(best_of_n, "pick", lambda table, split, n=None: range(n or 150))
    yield lambda changes, **seeds: keys(root, changes, **seeds)
    patch.undo()


def different(one: dict, other: dict) -> set[str]:
    return {name for name, key in one.items() if key != other[name]}


@pytest.fixture(scope="module")
def counted(keys_of):
    """(changes) -> the names of the stages whose keys they move."""
    base = keys_of({})
    return lambda changes, **seeds: different(keys_of(changes, **seeds), base)


LOOP = {"responses", "scores", "pairs", "dpo", "offline", "evaluation", "verdicts", "skills"}  # and what measures its policies
TRAINING = {
    "epochs": 3, "learning_rate": 1e-5, "batch_size": 8, "schedule": "linear", "warmup_ratio": 0.2, "weight_decay": 0.1,
    "max_grad_norm": 0.5, "max_length": 100, "truncation": "keep_end",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "moved"),
    [
        ({"labeling.rule": "max_max"}, LOOP),
        ({"labeling.length_penalty": 0.01}, LOOP),
        ({"labeling.min_margin": 0.1}, LOOP),
        ({"labeling.max_pairs": 50}, LOOP),
        ({"sampling.temperature": 0.7}, {*LOOP, "best-of-n"}),
        ({"sampling.top_p": 0.9}, {*LOOP, "best-of-n"}),
        ({"sampling.max_new_tokens": 40}, {*LOOP, "best-of-n"}),
        ({"sampling.n": 4}, LOOP),
        ({"dpo.beta": 0.2}, LOOP),
        ({"dpo.loss": "ipo"}, LOOP),
        ({"dpo.label_smoothing": 0.1}, LOOP),
        ({"dpo.reference": "previous"}, LOOP),
        ({"dpo.warm_start": False}, LOOP),
        ({"reward.center_coefficient": 0.01}, {"reward", "best-of-n", "bench", "reward-test", *LOOP}),
        ({"evaluation.samples": 3}, {"evaluation", "verdicts"}),
        ({"evaluation.best_of": [1, 2, 4]}, {"best-of-n"}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_setting_moves_the_stages_it_decides(counted, changes, moved):
    assert counted(changes) == moved


@pytest.mark.parametrize("field", TRAINING)
@pytest.mark.parametrize("section", ["sft", "reward", "pairwise", "dpo"])
def test_every_setting_of_a_training_moves_its_model(counted, section, field):
    assert section in counted({f"{section}.{field}": TRAINING[field]})


def test_the_size_of_sampling_batches_decides_nothing(counted):
    """Each sample has a seed of its own, so how many are drawn at once is no part of a key."""
    assert counted({"sampling.batch_size": 3}) == set()


def test_seeds_move_all_that_is_drawn(counted):
    assert {"prompts", "responses", "dpo", "evaluation", "skills"} <= counted({}, seed=5, model_seed=0)
    assert not {"sft", "reward", "pairwise", "demonstrations", "preferences"} & counted({}, seed=5, model_seed=0)
    assert {"sft", "reward", "pairwise", "dpo"} <= counted({}, seed=0, model_seed=5)


@pytest.mark.parametrize("other", [{"device": "cuda"}, {"dtype": "bfloat16"}, {"autocast_bf16": True}], ids=str)
def test_device_and_number_format_move_what_a_model_computes(keys_of, monkeypatch, other):
    machine = replace(profiles.resolve(profiles.load_profile("laptop")), device="cpu", dtype="float32", autocast_bf16=False)
    monkeypatch.setattr(course, "resolve", lambda profile: machine)
    here = keys_of({})
    monkeypatch.setattr(course, "resolve", lambda profile: replace(machine, **other))
    moved = different(keys_of({}), here)
    assert {"sft", "reward", "responses", "scores", "dpo", "evaluation"} <= moved
    assert not {"preferences", "demonstrations", "prompts"} & moved
    monkeypatch.setattr(course, "resolve", lambda profile: replace(machine, threads=7))
    assert not different(keys_of({}), here)  # told by the manifest, see `rlhf_kit.runs`
