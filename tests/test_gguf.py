"""GGUF files: written and opened, quantised ones, tokenizers, and what would be read wrongly."""

from __future__ import annotations

import copy
import json
import shutil

import gguf as library
import llama3
import numpy as np
import pytest
import torch

from rlhf_kit import chat, models, rewards, sampling
from rlhf_kit.checkpoints import gguf, gguf_writing, model_files
from rlhf_kit.checkpoints.exporting import greedy
from rlhf_kit.errors import KitError

TEXTS = ["Who sat? It's 12345 <|eot_id|> naïve ✓", "the brave bear told\n\n a story about 7 stars  and", ""]


def talks():
    return [[{"role": "user", "content": text}, {"role": "assistant", "content": text + " x"}] for text in TEXTS]


@pytest.fixture(scope="module")
def policy(tmp_path_factory, machine):
    """A policy like Llama-3 (grouped queries, theta 500000), whose words ' bear' only comes whole, by no merge."""
    folder = tmp_path_factory.mktemp("llama") / "model"
    llama3.save(folder)
    raw = json.loads((folder / "tokenizer.json").read_text())
    pairs = ["".join(pair) for pair in raw["model"]["merges"]]
    assert "Ġbear" in pairs
    del raw["model"]["merges"][pairs.index("Ġbear")]
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    return models.load_policy(folder, machine)


@pytest.fixture(scope="module")
def files(policy, tmp_path_factory):
    """The policy as GGUF in each number format."""
    folder = tmp_path_factory.mktemp("gguf")
    return {d: gguf_writing.write(*policy, folder / f"m-{d}.gguf", d) for d in gguf_writing.DTYPES}


def rewritten(file, out, skip=(), tensors=lambda name, data: (data, None), more=(), **values):
    """A copy of a GGUF file with changed metadata or tensors, made with the gguf package alone."""
    reader = library.GGUFReader(file)
    writer = library.GGUFWriter(str(out), "llama")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", *skip):
            continue
        value = values.pop(key.replace(".", "_"), field.contents())
        kind = field.types[0]
        if kind == library.GGUFValueType.ARRAY:
            writer.add_array(key, value)
        else:
            writer.add_key_value(key, value, kind)
    assert not values, values
    for tensor in reader.tensors:
        if tensor.name in skip:
            continue
        data, kind = tensors(tensor.name, np.array(tensor.data))
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    for name, data in more:
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


@pytest.mark.parametrize("dtype", gguf_writing.DTYPES)
def test_a_written_file_opens_as_the_same_policy(policy, files, machine, dtype):
    model, tokenizer = policy
    again, again_tokenizer = models.load_policy(files[dtype], machine)
    assert again.dtype == torch.float32 and again.config.rope_parameters["rope_theta"] == 500000.0
    rounded = dict(again.named_parameters())
    for name, weight in model.named_parameters():
        expected = weight.to(getattr(torch, dtype)).float() if weight.dim() > 1 else weight
        assert torch.equal(rounded.pop(name), expected), name
    assert not rounded
    # the tokenizer: the same ids, templates and control tokens, and not one token more than the file has
    assert len(again_tokenizer) == len(tokenizer) == again.config.vocab_size
    for one in talks():
        assert chat.encode_conversation(again_tokenizer, one) == chat.encode_conversation(tokenizer, one)
    assert set(chat.control_tokens(again_tokenizer)) == set(chat.control_tokens(tokenizer))
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(again_tokenizer, name) == getattr(tokenizer, name)
    assert chat.stop_ids(again_tokenizer) == chat.stop_ids(tokenizer) and again_tokenizer.kit_notes == []
    if dtype != "bfloat16":
        for one in talks():
            prompt = chat.encode_prompt(tokenizer, one[:1])
            assert greedy(again, again_tokenizer, prompt, 32) == greedy(model, tokenizer, prompt, 32)


def test_the_pocket_layout_round_trips(tiny_folder, machine, tmp_path):
    """Tied embeddings, GPT-2's split: what the kit's own policies look like."""
    model, tokenizer = models.load_policy(tiny_folder, machine)
    again, again_tokenizer = models.load_policy(
        gguf_writing.write(model, tokenizer, tmp_path / "m.gguf", "float32"), machine
    )
    assert again.config.tie_word_embeddings and models.weights_hash(again) == models.weights_hash(model)
    assert len(again_tokenizer) == len(tokenizer)
    for one in talks():
        ids = chat.encode_conversation(tokenizer, one)
        assert chat.encode_conversation(again_tokenizer, one) == ids
        prompt = chat.encode_prompt(tokenizer, one[:1])
        assert greedy(again, again_tokenizer, prompt, 32) == greedy(model, tokenizer, prompt, 32)


def test_query_and_key_rows_stand_in_pairs():
    rows = torch.arange(16)[:, None].expand(16, 2)  # two heads of eight rows
    assert gguf_writing.interleaved(rows, 2)[:, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_quantised_files_chat_and_sample(policy, files, machine, tmp_path, kind):
    quantisation = library.GGMLQuantizationType[kind]

    def quantise(name, data):
        if data.ndim < 2:
            return data, None
        return library.quants.quantize(data, quantisation), quantisation

    file = rewritten(files["float32"], tmp_path / f"m-{kind}.gguf", tensors=quantise)
    assert file.stat().st_size < 0.6 * files["float32"].stat().st_size
    opened = models.load_policy(tmp_path, machine, gguf_file=file.name)
    known, steps = dict(policy[0].named_parameters()), {"Q8_0": 127, "Q4_0": 7}[kind]
    for name, weight in opened[0].named_parameters():
        off = (weight - known[name]).detach().abs().max().item()
        assert off <= known[name].detach().abs().max().item() / steps, name
    rows = sampling.sample(opened, [{"prompt_id": str(k), "prompt": t[:1]} for k, t in enumerate(talks())],
                           n=2, temperature=1.0, max_new_tokens=8, seed=0, machine=machine)  # fmt: skip
    assert len(rows) == 6 and all(np.isfinite(row["logprob"]) for row in rows)
    models.save_model(*opened, tmp_path / "plain")  # nothing of the quantised file sticks to it
    assert models.weights_hash(tmp_path / "plain") == models.weights_hash(opened[0])


def test_a_gguf_pairwise_model_judges_as_its_original(policy, files, machine):
    ask = ([[{"role": "user", "content": "Who?"}]], ["the bear"], ["a cat"])
    found = rewards.Pairwise(files["float32"], machine).preference(*ask)
    assert np.allclose(found, rewards.Pairwise(policy, machine).preference(*ask), atol=1e-6)


def test_bos_and_template_follow_the_file(policy, files, machine, tmp_path):
    """Without a template Llama-3's is added; a template without BOS gets one where the file or its family asks for it."""
    tokenizer = policy[1]
    bare = rewritten(files["float32"], tmp_path / "bare.gguf", skip=["tokenizer.chat_template"])
    found = gguf.load_tokenizer(bare)
    assert any("Llama-3's was added" in note for note in found.kit_notes)
    assert chat.encode_conversation(found, talks()[0]) == chat.encode_conversation(tokenizer, talks()[0])
    plain = llama3.TEMPLATE.replace("bos_token + ", "")
    for asked, skip in ((True, []), (False, []), (True, ["tokenizer.ggml.add_bos_token"])):
        values = {"tokenizer_chat_template": plain} | (
            {} if skip else {"tokenizer_ggml_add_bos_token": asked}
        )
        file = rewritten(files["float32"], tmp_path / f"bos-{asked}-{len(skip)}.gguf", skip=skip, **values)
        ids = chat.encode_conversation(gguf.load_tokenizer(file), talks()[0])
        assert ids.count(tokenizer.bos_token_id) == int(asked)


def test_eos_that_is_not_the_turns_end(files, machine, tmp_path, policy):
    text_end = policy[1].convert_tokens_to_ids("<|end_of_text|>")
    file = rewritten(files["float32"], tmp_path / "eos.gguf", skip=["tokenizer.ggml.padding_token_id"],
                     tokenizer_ggml_eos_token_id=text_end)  # fmt: skip
    model, tokenizer = models.load_policy(file, machine)
    assert tokenizer.eos_token == "<|eot_id|>" and text_end in chat.stop_ids(tokenizer)
    assert tokenizer.pad_token == "<|reserved_special_token_0|>" and model.config.vocab_size == len(tokenizer)


def test_what_would_be_read_wrongly_is_refused(policy, files, machine, tmp_path):
    good = files["float32"]
    scaled = rewritten(good, tmp_path / "scaled.gguf", more=[("rope_freqs.weight", np.ones(8, dtype=np.float32))])
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(good.read_bytes()[:3000])
    foreign = tmp_path / "foreign.gguf"
    foreign.write_bytes(b"not a model")
    lacking = rewritten(good, tmp_path / "lacking.gguf", skip=["blk.1.ffn_up.weight"])
    part = shutil.copy(good, tmp_path / "m-00001-of-00002.gguf")
    for file, words in (
        (scaled, "scales its rotary positions"),
        (cut, "cut.gguf"),
        (foreign, "cannot be read as a GGUF file"),
        (lacking, r"no weights for model.layers.1.mlp.up_proj.weight"),
        (part, "one part of a split GGUF file"),
        (tmp_path / "none.gguf", "does not exist"),
        ("data/none.gguf", "does not exist"),
    ):
        with pytest.raises(KitError, match=words) as caught:
            models.load_policy(file, machine)
        assert "\n" not in str(caught.value)
    (tmp_path / "one").mkdir()
    shutil.copy(good, tmp_path / "one" / "a.gguf")
    assert gguf.is_gguf(tmp_path / "one") and gguf.locate(tmp_path / "one").name == "a.gguf"
    with pytest.raises(KitError, match="has several GGUF files.*name one with gguf_file="):
        gguf.locate(tmp_path)
    with pytest.raises(KitError, match="has no file other.gguf"):
        gguf.locate(tmp_path, "other.gguf")


def test_hub_repositories_are_found_by_id_and_file(monkeypatch, files):
    monkeypatch.setattr(model_files, "files", lambda where, ending: ["a-Q4_K_M.gguf", "a-Q8_0.gguf"])
    monkeypatch.setattr(model_files, "download", lambda where, name: files["float32"].with_name(f"{where.replace('/', '+')}+{name}"))
    owner = "sirovub/SFR-Iterative-DPO-LLaMA-3-8B-R-GGUF"
    for found in (gguf.locate(owner, "a-Q8_0.gguf"), gguf.locate(f"{owner}/a-Q8_0.gguf")):
        assert found.name == f"{owner.replace('/', '+')}+a-Q8_0.gguf"
    with pytest.raises(KitError, match="has several GGUF files"):
        gguf.locate(owner)


def test_writing_refuses_what_it_does_not_know(policy, machine, tmp_path):
    from tokenizers import pre_tokenizers

    model, tokenizer = policy
    with pytest.raises(KitError, match="one of float32, float16, bfloat16"):
        gguf_writing.write(model, tokenizer, tmp_path / "x.gguf", "int8")
    kept = model.config.rope_parameters
    model.config.rope_parameters = {**kept, "rope_type": "llama3"}
    try:
        with pytest.raises(KitError, match="rotary positions of type 'llama3'"):
            gguf_writing.write(model, tokenizer, tmp_path / "x.gguf")
    finally:
        model.config.rope_parameters = kept
    other = copy.deepcopy(tokenizer)
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # another way to split text
    with pytest.raises(KitError, match="byte-level BPE"):
        gguf_writing.write(model, other, tmp_path / "y.gguf")
