"""The colab profile end to end, offline: its own hub ids, found as copies in the hub's file format; a tiny Qwen2 as the model."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import nbformat
import pytest

from rlhf_kit.runs import PROJECT

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ONLY = "02,08,09,10"  # they make what the others need, too
# The profile's counts, made small. Everything else (LoRA, float16 or not, n = 8, rule, beta, three iterations) is its own.
SMALL = {
    "requires_gpu": "false", "model.max_length": 128, "sampling.max_new_tokens": 12, "sampling.batch_size": 256,
    "data.sft_rows": 64, "data.preference_pairs": 96, "data.heldout_pairs": 24, "data.prompts_per_iteration": 10,
    "data.choose_prompts": 8, "data.eval_prompts": 12, "sft.max_length": 128, "reward.max_length": 128,
    "pairwise.max_length": 128, "dpo.max_length": 128, "evaluation.bootstrap": 50, "evaluation.best_of_prompts": 6,
    "dpo.batch_size": 8, "reward.batch_size": 16, "pairwise.batch_size": 16, "sft.batch_size": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny_qwen(tmp_path_factory):
    """Qwen2's shape and special tokens: no BOS, turns end with <|im_end|>, pad is <|endoftext|>."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers import models as tokenizer_models
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, set_seed

    raw = Tokenizer(tokenizer_models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    raw.train_from_iterator(
        ["please tell me of the red cat and the blue bird"] * 8,
        trainers.BpeTrainer(vocab_size=340, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], show_progress=False,
                            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = TEMPLATE
    set_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=True,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("qwen") / "model"
    tokenizer.save_pretrained(folder)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def say(role, text):
    return {"role": role, "content": text}


@pytest.fixture(scope="module")
def hub_copies(tmp_path_factory):
    """The profile's three sources as the hub stores them: a folder an id, Parquet shards under data/."""
    import pandas

    root, rng = tmp_path_factory.mktemp("copies"), random.Random(0)
    colours, things = ("red", "blue", "green", "black", "white", "grey"), ("cat", "lamp", "bird", "boat", "tree", "road")

    def asked(verb):
        return [f"{verb} the {a} {b} {k}." for a in colours for b in things for k in range(8)]

    def write(name, rows, shards=2):
        (root / name / "data").mkdir(parents=True)
        for k in range(shards):
            file = root / name / "data" / f"train-{k:05d}-of-{shards:05d}.parquet"
            pandas.DataFrame(rows[k::shards]).to_parquet(file)

    pairs = []
    for prompt in asked("Tell me of"):
        good, bad = f"It is {prompt.split()[-3]}.", "No." + " No." * rng.randrange(3)
        pairs.append({"chosen": [say("user", prompt), say("assistant", good)], "rejected": [say("user", prompt), say("assistant", bad)],
                      "chosen_score": 2.0, "rejected_score": 1.0})  # fmt: skip
    write("hendrydong--preference_700K", pairs)
    write("RLHFlow--RLHFlow-SFT-Dataset-ver2", [{"messages": [say("user", p), say("assistant", "It is so.")]} for p in asked("Draw")])
    for t in (1, 2, 3, 4):  # the set after the last iteration gives the prompts for choosing and evaluating
        rows = [{"context_messages": [say("user", p)]} for p in asked(f"Find ({t})")[:60]]
        write(f"RLHFlow--iterative-prompt-v1-iter{t}-20K", rows, shards=1)
    return root


def test_the_colab_profile_runs_offline_on_local_copies(tiny_qwen, hub_copies, tmp_path):
    env = os.environ | {"RLHF_KIT_DATA": str(hub_copies), "RLHF_KIT_RUNS": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    sets = {"model.path": tiny_qwen, **SMALL}
    options = [x for name, value in sets.items() for x in ("--set", f"{name}={value}")]
    done = subprocess.run([sys.executable, "-m", "rlhf_kit", "run", "--profile", "colab", "--run", "dry", "--only", ONLY, *options],
                          cwd=PROJECT, env=env, capture_output=True, text=True, timeout=900)  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    run = tmp_path / "dry"
    timings = json.loads((run / "timings.json").read_text())
    assert len(timings["notebooks"]) == len(ONLY.split(","))
    for path in (run / "notebooks").glob("*.ipynb"):
        book = nbformat.read(path, 4)
        assert not [o for c in book.cells if c.cell_type == "code" for o in c.outputs if o.output_type == "error"]

    def manifests(name):
        return [json.loads(p.read_text()) for p in run.glob(f"{name}-*/manifest.json")]

    # the recipe in the manifests: three iterations, each with its own prompt set, reference = SFT, adapters
    trained = manifests("dpo")
    first = {m["facts"]["reference"]["before"] for m in trained}
    assert len({m["stage"] for m in trained}) == 3 and len(trained) >= 5
    sft = [m for m in manifests("sft") if "weights" in m["facts"]]
    assert len(sft) == 1 and first == {sft[0]["facts"]["weights"]}, "the reference of every DPO training is the SFT policy"
    starts = [m for m in trained if m["facts"]["start"]["is_reference"]]
    assert starts and all(abs(m["facts"]["step_zero"]["loss"] - 0.693147) < 1e-4 for m in starts)
    import pandas

    texts = pandas.concat(pandas.read_parquet(p) for p in run.glob("prompts-*/*.parquet"))
    for t in (1, 2, 3):
        mine = texts[texts["split"] == f"iteration-{t}"]
        assert len(mine) == 10 and all(turns[-1]["content"].startswith(f"Find ({t})") for turns in mine["prompt"])
