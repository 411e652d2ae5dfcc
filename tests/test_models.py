"""Opening, saving and hashing model folders; paths and heads that cannot work."""

from __future__ import annotations

import shutil

import pytest
import torch

from rlhf_kit import chat, models
from rlhf_kit.errors import KitError

TALK = [{"role": "user", "content": "Who sat?"}, {"role": "assistant", "content": "The bear."}]


def logits(model, ids):
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits


def test_save_and_load_give_the_same_model(tiny_folder, machine, tmp_path):
    model, tokenizer = models.load_policy(tiny_folder, machine)
    assert not model.training and model.dtype == torch.float32
    for _ in range(2):  # the second time over an existing folder
        models.save_model(model, tokenizer, tmp_path / "copy")
    again, again_tokenizer = models.load_policy(tmp_path / "copy", machine)
    ids = chat.encode_conversation(tokenizer, TALK)
    assert chat.encode_conversation(again_tokenizer, TALK) == ids
    assert torch.equal(logits(model, ids), logits(again, ids))
    assert {f.name for f in tmp_path.iterdir()} == {"copy"}  # no temporary left
    assert not list((tmp_path / "copy").glob("*.bin"))


def test_weights_hash(tiny_folder, machine):
    model, _ = models.load_policy(tiny_folder, machine)
    assert models.weights_hash(model) == models.weights_hash(tiny_folder)
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1e-6
    assert models.weights_hash(model) != models.weights_hash(tiny_folder)


def test_new_model_follows_its_seed(tiny_folder):
    init = {"hidden_size": 16, "layers": 1, "heads": 2}
    a, b, c = (models.weights_hash(models.new_model(init, tiny_folder, seed)[0]) for seed in (1, 1, 2))
    assert a == b != c
    with pytest.raises(KitError, match="multiple of heads"):
        models.new_model({"hidden_size": 30, "layers": 1, "heads": 4}, tiny_folder, 0)


def test_reward_model_keeps_the_backbone_and_starts_near_zero(tiny_folder, machine, tmp_path):
    policy, tokenizer = models.load_policy(tiny_folder, machine)
    reward, _ = models.new_reward_model(tiny_folder, machine, seed=5)
    known = dict(policy.named_parameters())
    shared = [name for name, _ in reward.named_parameters() if name in known]
    assert len(shared) == len(known) and set(dict(reward.named_parameters())) - set(shared) == {
        "score.weight"
    }
    assert all(
        torch.equal(weight, known[name]) for name, weight in reward.named_parameters() if name in known
    )
    ids = chat.encode_conversation(tokenizer, TALK)
    assert logits(reward, ids).shape == (1, 1) and abs(float(logits(reward, ids))) < 1
    assert reward.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    models.save_model(reward, tokenizer, tmp_path / "rm")
    opened, _ = models.load_reward_model(tmp_path / "rm", machine)
    assert torch.equal(logits(opened, ids), logits(reward, ids))


def test_score_is_read_at_the_end_token_whatever_the_padding(tiny_folder, machine):
    reward, tokenizer = models.new_reward_model(tiny_folder, machine, seed=5)
    ids = chat.encode_conversation(tokenizer, TALK)
    alone = logits(reward, ids)
    with torch.inference_mode():
        at_end = reward.score(reward.model(input_ids=torch.tensor([ids])).last_hidden_state[:, -1])
        pad = [tokenizer.pad_token_id] * 7
        padded = reward(
            input_ids=torch.tensor([ids + pad, (ids + ids)[: len(ids) + 7]]),
            attention_mask=torch.tensor([[1] * len(ids) + [0] * 7, [1] * (len(ids) + 7)]),
        ).logits[:1]
    assert torch.allclose(alone, at_end) and torch.allclose(alone, padded, atol=1e-6)


def test_half_precision_backbone_scores_in_float32(tiny_folder, machine):
    from dataclasses import replace

    half = replace(machine, dtype="bfloat16")
    reward, tokenizer = models.new_reward_model(tiny_folder, half, seed=5)
    assert reward.model.dtype == torch.bfloat16 and reward.score.weight.dtype == torch.float32
    assert logits(reward, chat.encode_conversation(tokenizer, TALK)).dtype == torch.float32


def test_wrong_paths_and_heads(tiny_folder, machine, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    for path, words in (
        (tmp_path / "none", "does not exist"),
        ("data/none", "does not exist"),
        ("nothing", "does not exist"),
        (tmp_path / "empty", "has no config.json"),
        (tmp_path / "file.txt", "is a file"),
    ):
        with pytest.raises(KitError, match=words):
            models.load_policy(path, machine)
    with pytest.raises(KitError, match="without a scalar head"):
        models.load_reward_model(tiny_folder, machine)
    reward, tokenizer = models.new_reward_model(tiny_folder, machine, seed=0)
    models.save_model(reward, tokenizer, tmp_path / "rm")
    with pytest.raises(KitError, match="must be a causal language model"):
        models.load_policy(tmp_path / "rm", machine)


def test_broken_folders(tiny_folder, machine, tmp_path):
    for name, spoil, words in (
        ("cut", lambda f: (f / "model.safetensors").write_bytes(b"\x10broken"), "cannot be opened"),
        ("pickled", lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pickled"),
        ("json", lambda f: (f / "config.json").write_text("{"), "cannot be opened"),
        ("words", lambda f: (f / "tokenizer_config.json").unlink(), "has no tokenizer_config.json"),
    ):
        shutil.copytree(tiny_folder, tmp_path / name)
        spoil(tmp_path / name)
        with pytest.raises(KitError, match=words) as caught:
            models.load_policy(tmp_path / name, machine)
        assert "\n" not in str(caught.value) and name in str(caught.value)


def test_real_checkpoint_gets_a_pad_token_and_longer_embeddings(stories_folder, machine, tmp_path):
    model, tokenizer = models.load_policy(stories_folder, machine)
    assert model.config.vocab_size == len(tokenizer) == 513
    assert model.config.pad_token_id == model.generation_config.pad_token_id == 512
    rows = model.get_input_embeddings().weight
    assert torch.allclose(rows[512], rows[:512].mean(dim=0))
    assert rows.data_ptr() == model.get_output_embeddings().weight.data_ptr()  # still tied
    models.save_model(model, tokenizer, tmp_path / "ready")
    again, again_tokenizer = models.load_policy(tmp_path / "ready", machine)
    assert again.config.vocab_size == 513 and again_tokenizer.kit_notes == []
    # the model still speaks: its best known greedy start, from BOS alone
    out = again.generate(torch.tensor([[1]]), max_new_tokens=12, do_sample=False)
    assert again_tokenizer.decode(out[0, 1:]).startswith("Once upon a time, there was")


def test_nothing_of_an_earlier_model_stays_in_a_folder(tiny_folder, tmp_path, machine):
    """Else transformers opens the earlier weights, or the new ones go by the earlier ones' hash, without a word."""
    model, tokenizer = models.load_policy(tiny_folder, machine)
    out = tmp_path / "out"
    model.save_pretrained(out, max_shard_size="20KB")
    tokenizer.save_pretrained(out)
    assert len(list(out.glob("model-*.safetensors"))) > 1
    (out / "adapter").mkdir()
    other, _ = models.new_model({"hidden_size": 32, "layers": 2, "heads": 4}, tiny_folder, seed=5)
    models.save_model(other, tokenizer, out)
    assert [file.name for file in out.glob("*.safetensors*")] == ["model.safetensors"] and not (out / "adapter").exists()
    assert models.weights_hash(out) == models.weights_hash(other) != models.weights_hash(model)
    assert models.weights_hash(models.load_policy(out, machine)[0]) == models.weights_hash(other)
