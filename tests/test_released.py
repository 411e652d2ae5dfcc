"""The released checkpoints, each as a tiny model of the same architecture, head and file format made here."""

from __future__ import annotations

import json

import llama3
import numpy as np
import pytest
import torch

from rlhf_kit import chat, models, rewards, sampling
from rlhf_kit.checkpoints import released
from rlhf_kit.checkpoints.multi_objective import OBJECTIVES, MultiObjective
from rlhf_kit.errors import KitError

FSFAIRX, PAIR = "sfairXC/FsfairX-LLaMA3-RM-v0.1", "RLHFlow/pair-preference-model-LLaMA3-8B"
PROMPTS = [
    [{"role": "user", "content": "Who sat on the mat? "}],
    [
        {"role": "user", "content": "a story"},
        {"role": "assistant", "content": "the moon told"},
        {"role": "user", "content": " about cats"},
    ],
    [{"role": "user", "content": "12345 stars it's"}],
]
ANSWERS = ["The brave bear.", "cats and cats and cats, it is fine! Yes.", " the moon "]


def talk(k, text=None):
    return [*PROMPTS[k], {"role": "assistant", "content": ANSWERS[k] if text is None else text}]


# ---------------------------------------------------------------- scalar reward models


TOKENIZERS = {
    "own pad": {"pad": "[PAD]"},  # as the released one was trained: a pad token and row of its own
    "pad is eos": {"pad": "<|eot_id|>", "eos": "<|eot_id|>"},  # the trap: transformers then reads a token early
    "no pad": {},
    "first template": {"template": llama3.FIRST_TEMPLATE, "pad": "[PAD]"},
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_reward_model_equals_a_plain_forward_without_padding(kind, machine, tmp_path):
    from transformers import AutoTokenizer, LlamaForSequenceClassification

    setup = TOKENIZERS[kind]
    llama3.save(tmp_path / "rm", "LlamaForSequenceClassification", tokenizer=setup, shards=True, num_labels=1)
    assert len(list((tmp_path / "rm").glob("*.safetensors"))) > 1
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "rm")
    model = LlamaForSequenceClassification.from_pretrained(tmp_path / "rm").eval()
    model.config.pad_token_id = None  # one row at a time: its last token is read
    expected, without = [], []
    for k in range(3):
        text = tokenizer.apply_chat_template(talk(k), tokenize=False).replace(tokenizer.bos_token, "")
        ids = tokenizer(text)["input_ids"]
        assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
        with torch.no_grad():
            expected.append(float(model(torch.tensor([ids])).logits))
            without.append(float(model(torch.tensor([ids[1:]])).logits))
        last = tokenizer.convert_ids_to_tokens(ids[-1])
        assert (last == "<|eot_id|>") == (kind != "first template")
    for batch_size in (1, 3):  # alone, and padded to the longest
        scorer = rewards.BradleyTerry(tmp_path / "rm", machine, like=FSFAIRX, batch_size=batch_size)
        assert scorer.tokenizer.pad_token_id not in (scorer.tokenizer.eos_token_id, None)
        assert np.allclose(scorer.score(PROMPTS, ANSWERS), expected, atol=1e-5)
    bare = rewards.BradleyTerry((scorer.model, scorer.tokenizer), machine, like=FSFAIRX, bos=False)
    assert np.allclose(bare.score(PROMPTS, ANSWERS), without, atol=1e-5)
    assert not np.allclose(expected, without, atol=1e-2)
    plain = rewards.BradleyTerry((scorer.model, scorer.tokenizer), machine).score(PROMPTS, ANSWERS)
    assert np.allclose(plain, expected, atol=1e-5) == (kind != "first template")  # only there the kit's own end differs


def test_released_ids_know_how_they_are_asked(monkeypatch, machine, tmp_path):
    llama3.save(tmp_path / "rm", "LlamaForSequenceClassification", num_labels=1)
    opened = models.load_reward_model(tmp_path / "rm", machine)
    monkeypatch.setattr(models, "load_reward_model", lambda path, machine: opened)
    assert rewards.BradleyTerry(FSFAIRX, machine).rendered and rewards.BradleyTerry(FSFAIRX.lower(), machine).bos
    assert not rewards.BradleyTerry("someone/else", machine).rendered
    assert rewards.BradleyTerry("any/copy", machine, like="Salesforce/LLaMA-3-8B-SFR-RM-R").rendered
    with pytest.raises(KitError, match="is a pairwise model; open it with rewards.Pairwise"):
        rewards.BradleyTerry(PAIR, machine)
    with pytest.raises(KitError, match="no released model"):
        rewards.BradleyTerry(tmp_path, machine, like="me/mine")


def test_table_has_the_papers_releases():
    names = {row["id"] for row in released.rows()} | {a for row in released.rows() for a in row["aliases"]}
    assert names >= {
        FSFAIRX, PAIR, "RLHFlow/ArmoRM-Llama3-8B-v0.1", "RLHFlow/LLaMA3-SFT", "RLHFlow/LLaMA3-SFT-v2",
        "RLHFlow/LLaMA3-iterative-DPO-final", "Salesforce/SFR-Iterative-DPO-LLaMA-3-8B-R",
        "Salesforce/LLaMA-3-8B-SFR-Iterative-DPO-R", "TriAiExperiments/SFR-Iterative-DPO-LLaMA-3-8B-R",
        "qwp4w3hyb/SFR-Iterative-DPO-LLaMA-3-8B-R-iMat-GGUF", "sirovub/SFR-Iterative-DPO-LLaMA-3-8B-R-GGUF",
    }  # fmt: skip
    assert len(names) == sum(1 + len(row["aliases"]) for row in released.rows())  # no id twice
    assert released.find("triaiexperiments/sfr-iterative-dpo-llama-3-8b-r").kind == "policy"
    assert released.find("data/pocket_base") is None and released.find(None) is None


# ---------------------------------------------------------------- the pairwise model


def pair_text(messages, a, b):
    """The released format (facts of the model's own README), written out anew: Jinja with trim_blocks and line breaks."""
    context = "\n"
    for message in messages:
        context += "\n<turn> " + message["role"] + "\n " + message["content"]
    context += "\n"
    return "[CONTEXT] " + context + " [RESPONSE A] " + a + " [RESPONSE B] " + b + " \n"


@pytest.mark.parametrize("template", [llama3.TEMPLATE, llama3.FIRST_TEMPLATE])
def test_pair_model_equals_a_plain_forward_in_both_orders(template, machine, tmp_path):
    from transformers import AutoTokenizer, LlamaForCausalLM

    llama3.save(tmp_path / "pm", tokenizer={"template": template, "eos": "<|eot_id|>", "pad": "<|eot_id|>"})
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "pm")
    model = LlamaForCausalLM.from_pretrained(tmp_path / "pm").eval()
    letters = [tokenizer.encode(letter, add_special_tokens=False) for letter in "AB"]
    assert [len(ids) for ids in letters] == [1, 1]

    def shown_first(messages, a, b):
        turn = [{"role": "user", "content": pair_text(messages, a, b)}]
        assert chat.pair_messages(messages, a, b) == turn  # byte for byte
        text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        ids = tokenizer.encode(text.replace(tokenizer.bos_token, ""), add_special_tokens=False)
        assert tokenizer.bos_token_id not in ids
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        return float(torch.softmax(logits[[letters[0][0], letters[1][0]]], dim=0)[0])

    other = ANSWERS[::-1]
    judge = rewards.Pairwise(tmp_path / "pm", machine, like=PAIR, batch_size=2)
    found = judge.preference(PROMPTS, ANSWERS, other)
    for k in range(3):
        first, second = shown_first(PROMPTS[k], ANSWERS[k], other[k]), shown_first(PROMPTS[k], other[k], ANSWERS[k])
        assert found[k] == pytest.approx((first + 1 - second) / 2, abs=1e-5)
    with_bos = rewards.Pairwise((judge.model, judge.tokenizer), machine).preference(PROMPTS, ANSWERS, other)
    assert not np.allclose(found, with_bos, atol=1e-4)


# ---------------------------------------------------------------- ArmoRM


def save_armo(folder, drop=(), pad="[PAD]"):
    """Weights by the names of the released checkpoint, a config with custom code that must not run; the raw tensors."""
    from safetensors.torch import save_file
    from transformers import LlamaModel

    raw = llama3.save_tokenizer(folder, pad=pad)
    config = llama3.config(raw.get_vocab_size(), gating_hidden_dim=24, num_objectives=19, gating_temperature=10)
    torch.manual_seed(3)
    backbone = LlamaModel(config).eval()
    draw = torch.Generator().manual_seed(4)
    sizes = {"regression_layer.weight": (19, 64), "reward_transform_matrix": (19, 19), "gating.logit_scale": (1,)}
    for k, (a, b) in enumerate([(64, 24), (24, 24), (24, 24), (24, 19)]):
        sizes |= {f"gating.layers.{k}.weight": (b, a), f"gating.layers.{k}.bias": (b,)}
    head = {name: torch.randn(size, generator=draw) for name, size in sizes.items()}
    weights = {f"model.{name}": tensor.clone() for name, tensor in backbone.state_dict().items()} | head
    save_file({n: t for n, t in weights.items() if n not in drop}, folder / "model.safetensors", {"format": "pt"})
    stored = config.to_dict() | {
        "architectures": ["LlamaForRewardModelWithGating"],
        "auto_map": {"AutoModelForSequenceClassification": "modeling_custom.LlamaForRewardModelWithGating"},
    }
    (folder / "config.json").write_text(json.dumps(stored))
    (folder / "modeling_custom.py").write_text("raise SystemExit('custom code ran')\n")
    return backbone, head


def test_armo_equals_a_forward_by_hand(machine, tmp_path):
    backbone, head = save_armo(tmp_path / "armo")
    scorer = rewards.open_reward(tmp_path / "armo", machine)
    assert isinstance(scorer, MultiObjective) and scorer.names == OBJECTIVES and len(set(OBJECTIVES)) == 19
    tokenizer, numbers = scorer.tokenizer, {name: tensor.double().numpy() for name, tensor in head.items()}
    found, (objectives, gate) = scorer.score(PROMPTS, ANSWERS), scorer.objectives(PROMPTS, ANSWERS)
    assert np.allclose(gate.sum(axis=1), numbers["gating.logit_scale"], atol=1e-5)
    for k in range(3):
        text = tokenizer.apply_chat_template(talk(k), tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        # the gate reads the end of the last user turn: the <|eot_id|> before the last header
        starts = [i for i, token in enumerate(ids) if token == tokenizer.convert_tokens_to_ids("<|start_header_id|>")]
        with torch.no_grad():
            hidden = backbone(torch.tensor([ids])).last_hidden_state[0].double().numpy()
        assert tokenizer.convert_ids_to_tokens(ids[starts[-1] - 1]) == "<|eot_id|>"
        h = hidden[starts[-1] - 1]
        for layer in range(4):
            h = numbers[f"gating.layers.{layer}.weight"] @ h + numbers[f"gating.layers.{layer}.bias"]
            h = np.maximum(h, 0) if layer < 3 else h
        weights = np.exp(h / 10) / np.exp(h / 10).sum() * numbers["gating.logit_scale"]
        own = numbers["regression_layer.weight"] @ hidden[-1]
        assert np.allclose(objectives[k], own, atol=1e-4) and np.allclose(gate[k], weights, atol=1e-5)
        assert found[k] == pytest.approx(float(weights @ (own @ numbers["reward_transform_matrix"])), abs=1e-3)
    alone = [float(scorer.score([p], [a])[0]) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    assert np.allclose(found, alone, atol=1e-4)


def test_armo_keeps_its_heads_in_float32(machine, tmp_path):
    from dataclasses import replace

    _, head = save_armo(tmp_path / "armo")
    model = MultiObjective(tmp_path / "armo", replace(machine, dtype="bfloat16")).model
    assert model.model.dtype == torch.bfloat16
    assert torch.equal(model.regression_layer.weight, head["regression_layer.weight"])
    assert torch.equal(model.gating.layers[2].bias, head["gating.layers.2.bias"])


def test_armo_bad_input(machine, tmp_path):
    save_armo(tmp_path / "cut", drop=["gating.layers.2.bias", "regression_layer.weight"])
    with pytest.raises(KitError, match=r"no weights for gating.layers.2.bias and 1 more"):
        MultiObjective(tmp_path / "cut", machine)
    save_armo(tmp_path / "armo")
    with pytest.raises(KitError, match="multi-objective reward model; a policy"):
        models.load_policy(tmp_path / "armo", machine)
    with pytest.raises(KitError, match="open it with `rewards.open_reward`"):
        models.load_reward_model(tmp_path / "armo", machine)
    scorer = MultiObjective(tmp_path / "armo", machine)
    scorer.tokenizer.chat_template = chat.PLAIN_TEMPLATE
    with pytest.raises(KitError, match="prompt 0 does not end a turn"):
        scorer.score(PROMPTS[:1], ANSWERS[:1])
    llama3.save(tmp_path / "lm")
    with pytest.raises(KitError, match="not a multi-objective"):
        MultiObjective(tmp_path / "lm", machine)


# ---------------------------------------------------------------- policies


@pytest.fixture(scope="module")
def policy(tmp_path_factory, machine):
    """A policy as LLaMA3-SFT is published: EOS <|end_of_text|>, turns that end with <|eot_id|>, no pad token."""
    folder = tmp_path_factory.mktemp("sft") / "model"
    llama3.save(folder, shards=True)
    return models.load_policy(folder, machine)


def test_policy_gets_end_tokens_and_a_pad_of_its_own(policy, machine, tmp_path):
    model, tokenizer = policy
    assert tokenizer.eos_token == "<|eot_id|>" and tokenizer.pad_token == "<|reserved_special_token_0|>"
    ends = [tokenizer.convert_tokens_to_ids(t) for t in ("<|eot_id|>", "<|end_of_text|>")]
    assert chat.stop_ids(tokenizer) == ends == model.generation_config.eos_token_id
    assert model.config.vocab_size == len(tokenizer)  # no row was added for pad
    ids, own = chat.encode_turns(tokenizer, talk(1))
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(talk(1), tokenize=False)
    assert ids.count(tokenizer.bos_token_id) == 1 and tokenizer.pad_token_id not in ids
    assert [i for i, mine in zip(ids, own, strict=True) if mine].count(ends[0]) == 2  # each answer's end is trained
    models.save_model(model, tokenizer, tmp_path / "again")
    again, again_tokenizer = models.load_policy(tmp_path / "again", machine)
    assert again_tokenizer.kit_notes == [] and chat.stop_ids(again_tokenizer) == ends
    assert models.weights_hash(again) == models.weights_hash(model) == models.weights_hash(tmp_path / "again")


@pytest.mark.parametrize("end", ["<|eot_id|>", "<|end_of_text|>"])
def test_sampling_stops_at_either_end_token(policy, machine, end):
    model, tokenizer = policy
    token, prompt = tokenizer.convert_tokens_to_ids(end), {"prompt_id": "p", "prompt": PROMPTS[0]}
    ids = torch.tensor([chat.encode_prompt(tokenizer, PROMPTS[0])])
    with torch.no_grad():
        hidden = model.model(ids).last_hidden_state[0, -1]
        kept = model.lm_head.weight[token].clone()
        model.lm_head.weight[token] = 100 * hidden / hidden.norm() ** 2  # the end is now the likeliest first token
    try:
        row = sampling.sample(policy, [prompt], n=1, temperature=0, max_new_tokens=5, seed=0, machine=machine)[0]
    finally:
        with torch.no_grad():
            model.lm_head.weight[token] = kept
    assert row["token_ids"] == [token] and row["finish_reason"] == "stop" and row["text"] == ""


def test_base_model_without_template_gets_llama3s(machine, tmp_path):
    llama3.save(tmp_path / "base", tokenizer={"template": None})
    _, tokenizer = models.load_policy(tmp_path / "base", machine)
    assert any("Llama-3's was added" in note for note in tokenizer.kit_notes)
    from transformers import AutoTokenizer

    llama3.save_tokenizer(tmp_path / "instruct")
    instruct = AutoTokenizer.from_pretrained(tmp_path / "instruct")
    for k in range(3):
        assert tokenizer.apply_chat_template(talk(k), tokenize=False) == instruct.apply_chat_template(
            talk(k), tokenize=False
        )


def test_judges_without_a_chat_template_are_refused(machine, tmp_path):
    llama3.save(tmp_path / "rm", "LlamaForSequenceClassification", tokenizer={"template": None}, num_labels=1)
    with pytest.raises(KitError, match="has no chat template"):
        rewards.BradleyTerry(tmp_path / "rm", machine)
    llama3.save(tmp_path / "pm", tokenizer={"template": None})
    with pytest.raises(KitError, match="has no chat template"):
        rewards.Pairwise(tmp_path / "pm", machine)


def test_a_folder_with_a_released_models_name_is_asked_like_it(tmp_path):
    for name in ("FsfairX-LLaMA3-RM-v0.1", "sfairXC--FsfairX-LLaMA3-RM-v0.1"):
        (tmp_path / name).mkdir()
        assert released.find(str(tmp_path / name)).id == "sfairXC/FsfairX-LLaMA3-RM-v0.1"
    (tmp_path / "mine").mkdir()
    assert released.find(tmp_path / "mine") is None and released.find("nobody/nothing") is None
