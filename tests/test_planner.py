"""The plan of a profile: complete, offline, and honest about what does not fit or cannot be known."""

from __future__ import annotations

import json
import re
import shlex
import socket

import pytest

from rlhf_kit import cli, doctor, profiles
from rlhf_kit.errors import KitError
from rlhf_kit.files import tool
from rlhf_kit.planning import plan_advice, plan_text, planner
from rlhf_kit.planning.memory import CARDS, GIB
from rlhf_kit.runs import PROJECT


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the planner went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def paper():
    return planner.plan("paper")


def steps(plan) -> dict:
    return {s["name"]: s for s in plan["steps"]}


def test_the_paper_plan_has_every_stage_with_size_tokens_memory_and_hours(paper):
    found = steps(paper)
    rounds = [f"{name}-{t}" for t in (1, 2, 3) for name in ("sample", "score", "dpo")]
    assert list(found) == ["sft", "reward", "pairwise", *rounds, "evaluation"]
    for one in paper["steps"]:
        assert one["parameters"] in (8_030_261_248, 7_504_928_768) and one["tokens"] > 0
        assert 0 < one["hours"][0] < one["hours"][1] and sum(one["memory"].values()) < 79.1 * GIB
    assert paper["hours"] == (sum(s["hours"][0] for s in paper["steps"]), sum(s["hours"][1] for s in paper["steps"]))
    assert paper["problems"] == [] and found["dpo-1"]["memory"]["weights"] == 2 * 8_030_261_248
    assert paper["host_memory"] == 8 * 2 * 2 * 8_030_261_248  # policy and reference in bf16, opened by 8 processes
    assert found["sample-1"]["rows"] == 160_000 and found["dpo-1"]["accumulation"] == 8


def test_updates_agree_with_those_of_the_published_runs(paper):
    """Reward model: 700,000 / 512. DPO: 20,000 x 2 / 128. Pairwise: its checkpoint is called 1308, rows packed to 3,072
    tokens; ours follows from the mean lengths of table 5 alone."""
    found = steps(paper)
    assert found["reward"]["optimizer_steps"] == 1368 and found["dpo-1"]["optimizer_steps"] == 313
    assert found["pairwise"]["optimizer_steps"] == pytest.approx(1308, rel=0.02)


def test_the_text_has_every_value_with_its_source_and_every_command(paper):
    text = plan_text.text(paper)
    for one in paper["values"]:
        name = one["field"].rsplit(".", 1)[-1]
        assert re.search(rf"^    {name} .*{re.escape(one['source'])}$", text, re.M), one["field"]
    for entry in paper["beside"]:
        assert f"  {entry}: " in text
    for one in paper["commands"]:
        assert f"\n  {one['command']}" in text
    assert "also said: 0.7 (paper algorithm 2, the other half). Why: no released script" in text
    assert "meta-llama/Meta-Llama-3-8B: the Meta Llama 3 licence" in text and "hf auth login" in text
    assert "dpo x 3" in text and "dpo-2" not in text and "problems: none found" in text
    assert "an estimate and not a measurement" in text
    commands = [one["command"] for one in paper["commands"]]
    assert f"{tool('python')} -m rlhf_kit run --profile paper --only 08" in commands
    assert any("data/accelerate/zero2.yaml --num_processes 8" in c for c in commands)


def test_the_line_that_starts_processes():
    words = plan_advice.launcher(profiles.load_profile("paper"), CARDS["a100-80"])
    assert words[:4] == [tool("accelerate"), "launch", "--config_file", "data/accelerate/zero2.yaml"]
    assert words[words.index("--num_processes") + 1] == "8" and words[words.index("--mixed_precision") + 1] == "bf16"
    if (PROJECT / "data" / "accelerate").is_dir():
        assert (PROJECT / words[3]).is_file()
    assert plan_advice.launcher(profiles.load_profile("gpu"), CARDS["a100-80"]) == []


def test_the_plan_is_plain_json(paper):
    assert json.loads(json.dumps(paper, allow_nan=False))["profile"] == "paper"


def test_what_does_not_fit_is_one_sentence_and_its_advice_helps():
    (told,) = [p for p in planner.plan("paper", card="a100-40")["problems"] if p.startswith("dpo-1")]
    assert re.match(r"dpo-1: about 4\d GiB on each GPU, more than the 39 of the A100 40 GB; set launch.strategy to zero3", told)
    helped = planner.plan("paper", {"launch.strategy": "zero3"}, card="a100-40")
    assert not [p for p in helped["problems"] if p.startswith("dpo")]
    (told,) = planner.plan("gpu", {"dpo.gradient_checkpointing": False, "dpo.micro_batch_size": 16})["problems"]
    assert told.endswith("set dpo.gradient_checkpointing to true")
    (told,) = planner.plan("gpu", {"dpo.micro_batch_size": 128})["problems"]
    assert told.endswith("lower dpo.micro_batch_size (128)")
    told = planner.plan("gpu", card="t4")["problems"]
    assert any("vLLM has no room on the T4 16 GB for one sequence of model.max_length (4096" in p for p in told)
    assert any(p.startswith("dpo-1") and p.endswith("set model.lora.quantization to nf4") for p in told)


def test_an_engine_over_two_cards_has_twice_the_room():
    one, two = (
        steps(planner.plan("gpu", {"sampling.vllm.tensor_parallel": n, "launch.card": "l4"}))["sample-1"] for n in (1, 2)
    )
    assert one["fits_at_once"] < two["fits_at_once"] and two["hours"][1] < one["hours"][1]
    assert two["memory"]["weights"] * 2 == one["memory"]["weights"]


def test_training_all_weights_without_a_strategy_that_keeps_masters_takes_float32_weights():
    ddp = planner.plan("paper", {"launch.strategy": "ddp"})
    assert steps(ddp)["dpo-1"]["memory"]["weights"] == 4 * 8_030_261_248
    assert any(p.startswith("dpo-1") and "zero3 or fsdp2" in p for p in ddp["problems"])


def test_the_shipped_gpu_profiles_fit_their_cards():
    for name, most in (("colab", 3), ("gpu", 30)):
        made = planner.plan(name)
        assert made["problems"] == [] and made["hours"][1] < most
        assert all(sum(s.get("memory", {}).values()) < made["card"]["memory"] * GIB for s in made["steps"])
    assert steps(planner.plan("colab"))["reward"]["trained"] == 8_798_208 + 896
    saved = [steps(planner.plan("gpu", {"model.lora.quantization": q}))["dpo-1"]["memory"] for q in ("none", "nf4")]
    assert saved[0]["weights"] - saved[1]["weights"] > 9 * GIB


def test_an_unknown_id_is_said_and_not_guessed():
    made = planner.plan("gpu", {"sft.released": "someone/else-7B"})
    assert any(s.startswith("the number of parameters of someone/else-7B is not known") for s in made["unknown"])
    found = steps(made)
    assert found["sft"]["parameters"] is None and "memory" not in found["dpo-1"] and "hours" not in found["sample-1"]
    text = plan_text.text(made)
    assert "unknown" in text and "cannot be known here" in text and "give its folder instead" in text
    json.dumps(made, allow_nan=False)


def test_a_local_model_and_file_of_your_own_are_planned(tiny_folder, tmp_path):
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    own = {"model.path": str(tiny_folder), "data.preferences": str(tmp_path / "pairs.jsonl")}
    made = planner.plan("byo", own)
    assert steps(made)["sft"]["parameters"] > 1000 and made["hours"] is None and made["card"] is None
    assert made["disk"]["models_from_hub"] == 0 and made["licences"] == {}
    assert any("how many rows the chosen responses has" in s for s in made["unknown"])
    assert "not estimated for a CPU" in plan_text.text(made)


@pytest.mark.parametrize("name", ["laptop", "smoke"])
def test_the_pocket_profiles_have_a_plan_too(name):
    made = planner.plan(name)
    assert made["problems"] == [] and made["unknown"] == [] and made["disk"]["data_from_hub"] == 0
    assert steps(made)["dpo-1"]["parameters"] == (1_957_440 if name == "laptop" else 162_752)


def test_the_commands_carry_what_was_set():
    commands = [c["command"] for c in planner.plan("paper", {"dpo.beta": 0.2, "reward.released": None})["commands"]]
    assert f"{tool('python')} -m rlhf_kit run --profile paper --set dpo.beta=0.2 --set reward.released=null" in commands


def test_what_the_doctor_advises_carries_what_was_set(tiny_folder, tmp_path, capsys):
    """`byo` without its two values is refused, so the command must have them."""
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    sets = [f"model.path={tiny_folder}", f"data.preferences={tmp_path / 'pairs.jsonl'}"]
    assert cli.main(["doctor", "--profile", "byo", *(word for one in sets for word in ("--set", one))]) == 0
    (told,) = re.findall(r"run the course here \(byo\): +(.+)$", capsys.readouterr().out, re.M)
    words = cli.parser().parse_args(shlex.split(told)[3:])
    assert (words.profile, words.sets) == ("byo", sets)
    # what does not fit here is not what is advised
    assert cli.main(["doctor", "--profile", "paper", "--set", "dpo.beta=0.2"]) == 1
    (told,) = re.findall(r"run the course here \(\w+\): +(.+)$", capsys.readouterr().out, re.M)
    assert "paper" not in told and "--set" not in told


def test_a_fault_of_the_plan_is_told_as_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "missing_for", lambda profile: [])
    assert cli.main(["doctor", "--profile", "gpu", "--set", "dpo.micro_batch_size=128"]) == 1
    told = capsys.readouterr().out
    assert re.search(r"profile gpu does not fit: dpo-1: about \d+ GiB on each GPU, more than", told) and "it needs dpo-1" not in told


def test_commands_name_the_interpreter_as_it_must_be_typed(monkeypatch):
    from rlhf_kit import files

    monkeypatch.setattr(files.sys, "prefix", str(PROJECT / ".venv"))
    assert files.tool("python") == ".venv/bin/python"
    assert planner.plan("paper")["commands"][-2]["command"].startswith(".venv/bin/python -m rlhf_kit run")
    monkeypatch.setattr(files.sys, "prefix", str(PROJECT / "elsewhere"))
    assert files.tool("hf") == "hf"


# ---------------------------------------------------------------- the command


def test_the_doctor_prints_the_plan_of_a_named_profile_on_any_machine(capsys, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["doctor", "--profile", "paper"]) == 1  # it does not fit here, and the whole plan is shown
    out = capsys.readouterr().out
    assert "Profile paper cannot run here: needs a CUDA GPU" in out and "profile paper does not fit here: it needs" in out
    assert "plan of profile paper on 8 x A100 80 GB; nothing is started" in out and "commands\n" in out
    assert cli.main(["doctor", "--profile", "paper", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"][0]["name"] == "sft"
    assert cli.main(["doctor", "--profile", "gpu", "--json", "--card", "t4", "--set", "dpo.beta=0.2"]) == 1
    made = json.loads(capsys.readouterr().out)
    assert [v["value"] for v in made["values"] if v["field"] == "dpo.beta"] == [0.2] and made["problems"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--card", "t4"], "--set, --card and --json are about a profile's plan; name it with --profile"),
        (["--profile", "gpu", "--card", "b9"], "unknown card 'b9'; known: t4, l4, a100-40"),
        (["--profile", "gpu", "--set", "dpo.bta=1"], "unknown key 'dpo.bta'; did you mean 'dpo.beta'?"),
    ],
)
def test_wrong_options_of_the_doctor_are_one_sentence(words, message, capsys):
    assert cli.main(["doctor", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_doctor_without_a_profile_has_no_plan(capsys):
    cli.main(["doctor"])
    assert "plan of profile" not in capsys.readouterr().out


def test_an_unknown_card_is_named():
    with pytest.raises(KitError, match="unknown card 'p100'"):
        planner.plan("gpu", card="p100")
