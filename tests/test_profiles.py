"""Profiles: the shipped ones load, wrong input gives one sentence, the machine is resolved with reasons."""

from __future__ import annotations

import re

import pytest
import yaml

from rlhf_kit import profiles
from rlhf_kit.errors import KitError
from rlhf_kit.planning import provenance

OWN = {"model.path": "some/model", "data.preferences": "pairs.jsonl"}


def test_all_six_profiles_load():
    assert profiles.known() == ["laptop", "byo", "colab", "gpu", "paper", "smoke"]
    for name in profiles.known():
        profile = profiles.load_profile(name, OWN if name == "byo" else None)
        assert profile.name == name
        assert profile.requires_gpu == (name in ("colab", "gpu", "paper"))


def test_the_paper_profile_holds_the_papers_values():
    paper = profiles.load_profile("paper")
    assert (paper.sft.learning_rate, paper.sft.batch_size, paper.sft.epochs) == (2e-5, 32, 1)
    assert (paper.reward.learning_rate, paper.reward.batch_size, paper.reward.warmup_ratio) == (
        2e-6,
        512,
        0.03,
    )
    assert (paper.pairwise.learning_rate, paper.pairwise.batch_size, paper.pairwise.max_length) == (
        5e-6,
        128,
        3072,
    )
    assert (paper.dpo.learning_rate, paper.dpo.batch_size, paper.dpo.epochs, paper.dpo.beta) == (
        5e-7,
        128,
        2,
        0.1,
    )
    assert (paper.data.iterations, paper.data.prompts_per_iteration, paper.sampling.n) == (3, 20000, 8)
    assert paper.dpo.reference == "sft" and paper.dpo.warm_start and paper.labeling.rule == "max_min"


@pytest.mark.parametrize("name", ["paper", "gpu", "colab"])
def test_every_leaf_value_stands_in_the_file_with_its_source(name):
    shown = {v.field: v.source for v in provenance.values(name)}
    fields = provenance.comments(profiles.FOLDER / f"{name}.yaml")
    for field, value in provenance.leaves(profiles.load_profile(name)).items():
        assert field in fields, f"{name}.yaml leaves {field} to a default"
        kind = re.match(r"[a-z]+", shown[field])
        assert kind and kind.group() in provenance.KINDS, f"{name}.yaml: {field} ({value}) says {shown[field]!r}"


def test_the_papers_profile_agrees_with_the_table_of_what_its_sources_say():
    """A value that claims a source has that very value in data/paper_numbers/recipe.yaml; a change of one fails."""
    table = provenance.recipe()["fields"]
    values = {v.field: v for v in provenance.values("paper")}
    assert not set(table) - set(values), "the table speaks of fields that no profile has"
    for field, one in values.items():
        place = re.split(r"[:;]", one.source)[0].strip()
        if place == "ours":
            if field in table:  # the sources say something and it was not taken
                assert table[field]["why"] and one.others, field
            continue
        claimed = [s for s in table[field]["says"] if s["where"].startswith(place)]
        assert [s["value"] for s in claimed if s["value"] == one.value], f"{field}: {one.value} ({one.source})"
        assert not one.others or one.why, f"{field}: sources disagree and nothing says why {one.value} was taken"


def test_the_papers_disagreements_are_all_in_the_table():
    said = {v.field: {str(o["value"]) for o in v.others} for v in provenance.values("paper")}
    assert said["sampling.n"] == {"16", "4"} and said["sampling.temperature"] == {"0.7"}
    assert said["dpo.reference"] == {"previous"} and said["dpo.batch_size"] == {"32"}
    assert said["dpo.label_smoothing"] == {"0.1"} and said["dpo.truncation"] == {"keep_start"}
    assert said["dpo.warmup_ratio"] == {"0.0", "100 steps"} and said["sft.epochs"] == {"2", "3"}
    for group in (provenance.recipe()["fields"], provenance.recipe()["beside"]):
        for name, entry in group.items():
            assert all(set(s) == {"value", "where"} for s in entry["says"]), name
    assert "bf16" in provenance.recipe()["beside"]["number format"]["taken"]
    assert sum(row[1] for row in provenance.recipe()["lengths"]) == 848965  # table 5's pairs


def test_sources_of_changed_and_inherited_values(tmp_path):
    one = {v.field: v for v in provenance.values("paper", {"dpo.reference": "previous", "dpo.beta": 0.2})}
    assert one["dpo.reference"].source == one["dpo.beta"].source == "given with --set"
    assert [o["value"] for o in one["dpo.reference"].others] == ["sft", "sft"] and one["dpo.reference"].why is None
    path = tmp_path / "mine.yaml"
    path.write_text("extends: paper\ndpo:\n  beta: 0.3  # ours: a try\n  epochs: 1\n")
    mine = {v.field: v.source for v in provenance.values(path)}
    assert mine["dpo.beta"] == "ours: a try" and mine["dpo.epochs"] == "no source is named in mine.yaml"
    assert mine["dpo.learning_rate"] == "paper section 3.3" and mine["launch.card"].startswith("ours")
    assert {v.field: v.source for v in provenance.values("smoke")}["launch.processes"] == "the kit's default"


def test_every_value_of_the_paper_and_laptop_profiles_names_its_source():
    for name in ("paper", "laptop"):
        for line in (profiles.FOLDER / f"{name}.yaml").read_text().splitlines():
            key, _, value = line.partition(":")
            plain = value.split("#")[0].strip()
            if key.startswith("  ") and plain and plain not in ("null", "auto", "world", "file"):
                assert re.search(r"#.*(paper|ours|code)", line), f"{name}.yaml: {line!r} names no source"


def test_overrides_are_dotted_keys():
    base = profiles.load_profile("laptop").model_dump()
    changed = profiles.load_profile("laptop", {"dpo.beta": 0.2, "data.annotator.verbosity": 0.5}).model_dump()
    base["dpo"]["beta"], base["data"]["annotator"]["verbosity"] = 0.2, 0.5
    assert changed == base


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"dpo.bta": 0.2},
            r"data/profiles/laptop.yaml with dpo.bta=0.2: unknown key 'dpo.bta'; did you mean 'dpo.beta'\?",
        ),
        ({"dpoo.beta": 0.2}, r"unknown key 'dpoo'; did you mean 'dpo'\?"),
        (
            {"data.annotator.verbose": 1},
            r"unknown key 'data.annotator.verbose'; did you mean 'data.annotator.verbosity'\?",
        ),
        ({"dpo.zzz": 1}, r"unknown key 'dpo.zzz'; known here: epochs, learning_rate"),
        ({"dpo.beta": "much"}, r"dpo.beta is 'much': input should be a valid number"),
        ({"dpo.beta": 0}, r"dpo.beta is 0: input should be greater than 0"),
        ({"sampling.n": 2.5}, r"sampling.n is 2.5"),
        ({"sampling.n": 1}, r"sampling.n is 1: input should be greater than or equal to 2"),
        ({"dpo.loss": "dpo"}, r"dpo.loss is 'dpo': input should be 'sigmoid', "),
        ({"evaluation.best_of": []}, r"evaluation.best_of is \[\]"),
        ({"evaluation.best_of": [0]}, r"evaluation.best_of.0 is 0"),
        ({"labeling.rule": "best"}, r"labeling.rule is 'best'"),
        ({"sampling.max_new_tokens": 500}, r"max_new_tokens \(500\) must be smaller than model.max_length"),
        ({"model.path": None}, r"model.path and model.init are both empty"),
        ({"model.init": {"hidden_size": 64}}, r"exclude each other"),
        ({"launch.strategy": "zero3"}, r"launch.strategy zero3 divides work .* launch.processes is 1; set"),
        ({"launch.processes": 2}, r"launch.processes is 2 and launch.strategy is none; say ddp"),
        (
            {"launch.processes": 3, "launch.strategy": "ddp"},
            r"sft.batch_size 32 is not a multiple of launch.processes 3",
        ),
        (
            {"launch.processes": 2, "launch.strategy": "ddp", "dpo.micro_batch_size": 3},
            r"dpo.batch_size 16 is not a multiple of dpo.micro_batch_size 3 x launch.processes 2",
        ),
        ({"reward.micro_batch_size": 5}, r"reward.batch_size 16 is not a multiple of reward.micro_batch_size 5"),
        (
            {"sampling.server": ["http://a:8000/v1"], "sampling.backend": "vllm"},
            r"sampling.server and sampling.backend vllm exclude each other",
        ),
        ({"sampling.temperature": 0}, r"sampling.temperature is 0, so all 8 responses .* make no pair"),
        ({"dpo.label_smoothing": 0.1, "dpo.loss": "hinge"}, r"dpo.label_smoothing 0.1 does nothing under dpo.loss hinge"),
        ({"reward.max_length": 200}, r"reward.max_length \(200\) is larger than model.max_length \(192\)"),
        ({"sampling.server": []}, r"sampling.server is empty"),
        ({"dpo.packing": True}, r"dpo.packing cannot be true"),
        ({"dpo.truncation": "left"}, r"dpo.truncation is 'left': input should be 'drop', 'keep_end' or"),
        (
            {"model.lora.quantization": "nf4"},
            r"model.lora.quantization needs an adapter, and model.lora is null",
        ),
        (
            {
                "model.lora": {"quantization": "nf4"},
                "launch.processes": 2,
                "launch.strategy": "fsdp2",
            },
            r"model.lora.quantization nf4 and launch.strategy fsdp2: 4-bit",
        ),
    ],
)
def test_wrong_values_give_one_sentence(overrides, message):
    with pytest.raises(KitError, match=message) as caught:
        profiles.load_profile("laptop", overrides)
    assert "\n" not in str(caught.value)


def test_unknown_profiles_and_broken_files(tmp_path):
    with pytest.raises(
        KitError, match=r"unknown profile 'labtop'; known: laptop, .*; did you mean 'laptop'\?"
    ):
        profiles.load_profile("labtop")
    with pytest.raises(KitError, match="none.yaml does not exist"):
        profiles.load_profile(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_text("dpo: [beta: 0.1\n")
    with pytest.raises(KitError, match="a.yaml is not valid YAML"):
        profiles.load_profile(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(KitError, match="b.yaml is not UTF-8"):
        profiles.load_profile(tmp_path / "b.yaml")
    (tmp_path / "c.yaml").write_text("- dpo\n")
    with pytest.raises(KitError, match="c.yaml must be a mapping"):
        profiles.load_profile(tmp_path / "c.yaml")


def test_a_file_can_extend_a_shipped_profile(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"extends": "laptop", "dpo": {"beta": 0.3}}))
    profile = profiles.load_profile(path)
    assert profile.dpo.beta == 0.3 and profile.name == "mine"
    assert profile.dpo.learning_rate == profiles.load_profile("laptop").dpo.learning_rate


def test_byo_says_what_must_be_given():
    with pytest.raises(KitError, match="byo.yaml: model.path and data.preferences must be given"):
        profiles.load_profile("byo")
    with pytest.raises(KitError, match="with model.path=x: data.preferences must be given"):
        profiles.load_profile("byo", {"model.path": "x"})
    assert profiles.needs_hub(profiles.load_profile("byo", OWN))


def test_resolving_gives_a_reason_for_everything(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("RLHF_KIT_THREADS", raising=False)
    machine = profiles.resolve(profiles.load_profile("laptop"))
    assert (
        machine.device in ("cpu", "mps") and machine.dtype == "float32" and machine.backend == "transformers"
    )
    assert set(machine.reasons) == {"device", "dtype", "autocast_bf16", "threads", "backend"}
    assert 1 <= machine.threads <= 8
    monkeypatch.setenv("RLHF_KIT_THREADS", "3")
    assert profiles.resolve(profiles.load_profile("laptop")).threads == 3
    monkeypatch.setenv("RLHF_KIT_THREADS", "many")
    with pytest.raises(KitError, match="RLHF_KIT_THREADS is 'many'"):
        profiles.resolve(profiles.load_profile("laptop"))


def test_a_gpu_profile_without_a_gpu_is_refused(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(KitError, match="profile gpu needs a CUDA GPU"):
        profiles.resolve(profiles.load_profile("gpu"))


def test_a_later_field_at_its_default_leaves_the_keys_of_recorded_results_alone():
    """Keys as they were before `launch`, `server`, `truncation`, `packing` and `quantization` existed."""
    from rlhf_kit.files import stable_hash

    laptop = profiles.load_profile("laptop")
    assert stable_hash(laptop) == "0af5be61d3e9" and stable_hash(laptop.dpo) == "1e12e8060017"
    assert "launch" not in laptop.model_dump() and "packing" not in laptop.sft.model_dump(mode="json")
    two = profiles.load_profile("laptop", {"launch.processes": 2, "launch.strategy": "ddp"})
    assert stable_hash(two) != "0af5be61d3e9"
    changed = profiles.load_profile("laptop", {"dpo.truncation": "keep_end", "sampling.server": ["http://a:1/v1"]})
    assert changed.dpo.model_dump()["truncation"] == "keep_end" and "packing" not in changed.dpo.model_dump()
    assert profiles.Profile.model_validate(changed.model_dump()) == changed


def test_the_sampling_backend_follows_from_profile_and_machine(monkeypatch):
    import torch

    from rlhf_kit import machine as machines

    laptop = profiles.load_profile("laptop", {"sampling.backend": "vllm"})
    gpu = profiles.load_profile("gpu")
    monkeypatch.setattr(machines, "find_spec", lambda name: None)
    with pytest.raises(KitError, match="vLLM is not installed here; install it with .*requirements-gpu.txt"):
        profiles.resolve(laptop)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    found = profiles.resolve(gpu)
    assert found.backend == "transformers" and "vLLM is not installed" in found.reasons["backend"]
    monkeypatch.setattr(machines, "find_spec", lambda name: "found")
    assert profiles.resolve(gpu).backend == profiles.resolve(laptop).backend == "vllm"
    assert profiles.resolve(profiles.load_profile("laptop")).backend == "transformers"
    wide = profiles.load_profile("gpu", {"sampling.vllm.tensor_parallel": 2})
    assert profiles.resolve(wide).vllm.tensor_parallel == 2
