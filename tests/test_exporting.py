"""Policies taken out of a run: safetensors, merged LoRA, GGUF, the model card, the command."""

from __future__ import annotations

import pytest
import torch

from rlhf_kit import chat, cli, models, runs
from rlhf_kit.checkpoints import exporting, gguf_writing, model_card
from rlhf_kit.errors import KitError

TALK = [{"role": "user", "content": "Tell of a brave bear"}]


@pytest.fixture(scope="module")
def stage(tiny_folder, machine, tmp_path_factory):
    """A finished DPO stage as a run leaves it, with the SFT stage that it came from and an evaluation."""
    run = runs.open_run("shown", root=tmp_path_factory.mktemp("runs"), quiet=True)

    def policy(folder):
        models.save_model(*models.load_policy(tiny_folder, machine), folder / "model")

    def trained(folder):
        policy(folder)
        return {"ledger": runs.Ledger("dpo", 24, 23, {"empty response": 1}), "reference": {"before": "abc123"}}

    def answers(folder):
        rows = [
            {"policy": name, "temperature": 1.0, "prompt_id": str(i), "sample": 0, "category": "chat", "text": "x",
             "length": 10 + i, "finish_reason": "stop", "reward": 1.0 + i, "gold": 2.0 + i + (name == "online-1"),
             "parts": None, "kl": 0.25}
            for name in ("sft", "online-1") for i in range(4)
        ]  # fmt: skip
        runs.write_rows(folder, rows)

    sft = run.stage("sft", policy, params={"base": "b0", "settings": {"epochs": 1.0}})
    dpo = run.stage("dpo-1", trained, inputs={"policy": sft}, params={"settings": {"beta": 0.1, "loss": "sigmoid"}})
    other = run.stage("answers", lambda folder: None, inputs={"policy": sft})
    mine = run.stage("answers", lambda folder: None, inputs={"policy": dpo})
    run.stage("evaluation", answers, inputs={"sft": other, "online-1": mine}, params={"bootstrap": 50})
    return dpo


def test_safetensors_export_is_the_policy(stage, machine, tmp_path):
    out = exporting.export(stage.path, tmp_path / "out")
    assert models.weights_hash(out) == models.weights_hash(stage.path / "model")
    model, tokenizer = models.load_policy(out, machine)
    prompt = chat.encode_prompt(tokenizer, TALK)
    own = models.load_policy(stage.path / "model", machine)
    assert exporting.greedy(model, tokenizer, prompt) == exporting.greedy(*own, prompt)
    half = exporting.export(stage.path, tmp_path / "half", dtype="bfloat16")
    from safetensors.torch import load_file

    assert {t.dtype for t in load_file(half / "model.safetensors").values()} == {torch.bfloat16}
    assert {f.name for f in tmp_path.iterdir()} == {"out", "half"}


def test_gguf_export_gives_the_same_tokens(stage, machine, tmp_path):
    own, tokenizer = models.load_policy(stage.path / "model", machine)
    prompt = chat.encode_prompt(tokenizer, TALK)
    for dtype in ("float32", None):
        out = exporting.export(stage.path, tmp_path / str(dtype), "gguf", dtype=dtype)
        file = next(out.glob("*.gguf"))
        assert file.name == f"{stage.path.name}-{dtype or 'float16'}.gguf" and (out / "README.md").is_file()
        again, again_tokenizer = models.load_policy(file, machine)
        expected = exporting.greedy(own, tokenizer, prompt, 40)
        assert exporting.greedy(again, again_tokenizer, prompt, 40) == expected


def test_lora_is_merged_in_float32(tiny_folder, machine, tmp_path):
    from peft import LoraConfig, get_peft_model

    base, tokenizer = models.load_policy(tiny_folder, machine)
    before = {name: weight.clone() for name, weight in base.named_parameters()}
    lora = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    torch.manual_seed(1)
    parts = {}
    with torch.no_grad():
        for name, weight in lora.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.3)
                parts[name.removeprefix("base_model.model.")] = weight.clone()
    lora.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    merged, _, named = exporting.merge_lora(tmp_path / "adapter", str(tiny_folder))
    assert named == str(tiny_folder)
    for name, weight in merged.named_parameters():
        expected = before[name]
        a = parts.get(name.replace(".weight", ".lora_A.default.weight"))
        if a is not None:
            expected = expected + 2.0 * parts[name.replace(".weight", ".lora_B.default.weight")] @ a
        assert weight.dtype == torch.float32 and torch.allclose(weight, expected, atol=1e-6), name
    assert any(not torch.equal(weight, before[name]) for name, weight in merged.named_parameters())
    out = exporting.export(tmp_path / "adapter", tmp_path / "merged", base=str(tiny_folder))
    assert models.weights_hash(out) == models.weights_hash(merged)
    card = (out / "README.md").read_text()
    assert "merged into" in card and "in float32" in card and "weights in float32" in card
    with pytest.raises(KitError, match="--base is for a LoRA adapter"):
        exporting.export(tiny_folder, tmp_path / "x", base="me/mine")


def test_card_says_what_the_manifests_say_and_no_more(stage, tiny_folder, machine):
    model, _ = models.load_policy(stage.path / "model", machine)
    facts = {"format": "gguf", "dtype": "float16", "weights": "w0", "merged": None}
    card = model_card.text(stage.path / "model", model, facts)
    for words in (
        "# " + stage.path.name, "format gguf, weights in float16, weights hash `w0`", "dpo 23 of 24",
        "loss sigmoid, beta 0.1", "weights hash `abc123`", "content key `b0`",
        # the policy's own line: gold 3.0 + 1.5, one better than SFT on each of the four prompts
        "| 1 | 4 | 4.500 [", "| 1.000 [", "] | gold | 2.500 | 0.250 | 12 |",
    ):  # fmt: skip
        assert words in card, card
    alone = model_card.text(tiny_folder, model, facts)
    assert "Not known" in alone and "Nothing: no evaluation" in alone and "| 1 |" not in alone


def test_nothing_is_left_of_a_failed_export(stage, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    for out, more, words in (
        ("full", {}, "exists already"),
        ("new", {"format": "onnx"}, "unknown format 'onnx'"),
        ("new", {"dtype": "int8"}, "unknown dtype 'int8'"),
    ):
        with pytest.raises(KitError, match=words):
            exporting.export(stage.path, tmp_path / out, **more)
    # a wrong permutation of the query rows is caught by the answers, before the file gets its name
    monkeypatch.setattr(gguf_writing, "interleaved", lambda weight, heads: weight)
    with pytest.raises(KitError, match="exported weights differ from the policy's at .*q_proj"):
        exporting.export(stage.path, tmp_path / "wrong", "gguf", dtype="float32")
    monkeypatch.undo()
    monkeypatch.setattr(exporting, "_PROBE_TOKENS", 1)
    monkeypatch.setattr(exporting, "greedy", lambda model, *_: id(model))  # equal weights, other answers
    with pytest.raises(KitError, match="answers probe 0 with other tokens"):
        exporting.export(stage.path, tmp_path / "wrong", dtype="float32")
    monkeypatch.undo()
    monkeypatch.setattr(gguf_writing, "split_name", lambda raw: "llama-bpe")
    with pytest.raises(KitError, match="splits a probe text differently"):
        exporting.export(stage.path, tmp_path / "wrong", "gguf", dtype="float32")
    assert {f.name for f in tmp_path.iterdir()} == {"full"} and (tmp_path / "full" / "x").read_text() == "mine"


def test_command(stage, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert cli.main(["export", "--policy", str(stage.path), "--out", out, "--format", "gguf"]) == 0
    assert "exported to" in capsys.readouterr().out
    assert cli.main(["export", "--policy", str(stage.path), "--out", out]) == 2
    assert "exists already" in capsys.readouterr().err
    assert cli.main(["export", "--policy", str(tmp_path / "none"), "--out", str(tmp_path / "b")]) == 2
    assert "does not exist" in capsys.readouterr().err and not (tmp_path / "b").exists()


def test_an_adapter_of_4_bit_weights_is_not_merged_into_others(tmp_path):
    (tmp_path / "adapter").mkdir()
    runs.write_json(tmp_path / "adapter" / "adapter_config.json", {"base_model_name_or_path": "x/y"})
    runs.write_json(tmp_path / "adapter" / "kit.json", {"quantization": "nf4", "r": 8, "base": "abc"})
    with pytest.raises(KitError, match="was trained on 4-bit weights.*export the merged policy beside it"):
        exporting.merge_lora(tmp_path / "adapter")
