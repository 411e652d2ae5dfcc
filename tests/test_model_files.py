"""Models that cannot be had or are not what they say: one sentence each, within seconds, nothing drawn at random."""

from __future__ import annotations

import json
from types import SimpleNamespace

import huggingface_hub
import llama3
import pytest
import torch
import transformers.utils.hub  # noqa: F401  (it keeps the hub's functions as it finds them: before any is replaced here)
from huggingface_hub import errors

from rlhf_kit import hub, models, rewards
from rlhf_kit.checkpoints import model_files, opening
from rlhf_kit.errors import KitError

ID = "meta-llama/Meta-Llama-3-8B"


@pytest.fixture
def online(monkeypatch):
    """The hub answers; what it answers is up to the test: `online(files)` or `online(error)`."""
    model_files._hub_files.cache_clear()
    monkeypatch.setattr(hub, "reachable", lambda: True)

    def answers(files=(), error=None, at_download=None):
        def info(self, model_id, timeout=None):
            if error:
                raise error
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in files])

        def download(model_id, name, **_):
            raise at_download or AssertionError("nothing should be downloaded")

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)

    yield answers
    model_files._hub_files.cache_clear()


def refused(kind):
    return kind("no", response=SimpleNamespace(headers={}, request=None))


OPENERS = [models.load_policy, models.load_reward_model, models.load_judge, models.new_reward_model, rewards.open_reward]


@pytest.mark.parametrize("open_model", OPENERS)
def test_gated_id_says_how_to_get_it(online, machine, open_model):
    # a gated repository lists its files to anyone and refuses only their download
    online(["config.json", "model.safetensors"], at_download=refused(errors.GatedRepoError))
    with pytest.raises(KitError, match=f"https://huggingface.co/{ID}.*`hf auth login`") as caught:
        open_model(ID, machine, *([0] if open_model is models.new_reward_model else []))
    assert "(its licence: llama3" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_id(online, machine):
    online(error=refused(errors.RepositoryNotFoundError))
    for open_model in OPENERS[:2]:
        with pytest.raises(KitError, match="there is no model nobody/nothing on the hub.*spelling"):
            open_model("nobody/nothing", machine)


def test_pickled_weights_are_refused(online, machine, tmp_path):
    online(["pytorch_model-00001-of-00002.bin", "training_args.bin"])
    with pytest.raises(KitError, match=r"me/old holds pickled weights only \(pytorch_model-00001.*save_pretrained"):
        models.load_policy("me/old", machine)
    llama3.save(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(KitError, match="pickled weights only"):
        models.load_policy(tmp_path / "m", machine)
    (tmp_path / "m" / "pytorch_model.bin").unlink()
    with pytest.raises(KitError, match="has no .safetensors file"):
        models.load_policy(tmp_path / "m", machine)


def test_no_network_is_known_before_transformers_is_asked(monkeypatch, machine):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(hub, "reachable", lambda: False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: pytest.fail("the hub was asked"))
    for open_model in OPENERS[:2]:
        with pytest.raises(KitError, match=r"never/cached is not on this machine.*cannot be reached.*local copy"):
            open_model("never/cached", machine)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(KitError, match="HF_HUB_OFFLINE forbids asking"):
        models.load_reward_model("never/cached", machine)


def test_without_a_network_the_cache_is_used(monkeypatch, machine, tmp_path):
    """A hub id whose files lie in the cache opens, told not to ask the hub."""
    snapshot = tmp_path / "models--me--mine" / "snapshots" / ("0" * 40)
    llama3.save(snapshot)
    (tmp_path / "models--me--mine" / "refs").mkdir()
    (tmp_path / "models--me--mine" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "reachable", lambda: False)
    assert model_files.check("me/mine") == {"local_files_only": True}
    model, _ = models.load_policy("me/mine", machine)
    assert models.weights_hash(model) == models.weights_hash(snapshot)
    with pytest.raises(KitError, match="me/other is not on this machine"):
        model_files.check("me/other")


def test_files_of_a_repository_and_one_of_them(online, monkeypatch, tmp_path):
    online(["a-Q4_K_M.gguf", "a-Q8_0.gguf", "README.md"])

    def download(model_id, name, **_):
        if name == "none.gguf":
            raise errors.RemoteEntryNotFoundError("no", response=SimpleNamespace(headers={}, request=None))
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert model_files.files("me/gguf", ".gguf") == ["a-Q4_K_M.gguf", "a-Q8_0.gguf"]
    assert model_files.download("me/gguf", "a-Q8_0.gguf") == tmp_path / "a-Q8_0.gguf"
    with pytest.raises(KitError, match="me/gguf has no file none.gguf"):
        model_files.download("me/gguf", "none.gguf")
    with pytest.raises(KitError, match="me/gguf holds GGUF files only; name one of them with gguf_file="):
        model_files.check("me/gguf")


def test_errors_while_loading_become_one_sentence():
    for error, words in (
        (torch.OutOfMemoryError("CUDA out of memory"), "does not fit into the memory"),
        (refused(errors.GatedRepoError), "is gated"),
        (errors.OfflineModeIsEnabled("off"), "is not on this machine"),
    ):
        with pytest.raises(KitError, match=words) as caught, opening.named("me/mine"):
            try:
                raise error
            except Exception as cause:
                raise OSError("what transformers makes of it\nand more") from cause
        assert "\n" not in str(caught.value)
    with pytest.raises(KitError, match="me/mine cannot be opened: strange$"), opening.named("me/mine"):
        raise ValueError("strange\nand more")


# ---------------------------------------------------------------- not what it says


def rewrite(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_wrong_heads_are_never_drawn_at_random(machine, tmp_path):
    llama3.save(tmp_path / "lm")
    with pytest.raises(KitError, match="LlamaForCausalLM without a scalar head"):
        models.load_reward_model(tmp_path / "lm", machine)
    rewrite(tmp_path / "lm", architectures=["LlamaForSequenceClassification"])  # says so, has no score.weight
    with pytest.raises(KitError, match="no weights for score.weight"):
        models.load_reward_model(tmp_path / "lm", machine)
    llama3.save(tmp_path / "rm", "LlamaForSequenceClassification", num_labels=1)
    with pytest.raises(KitError, match="must be a causal language model"):
        models.load_policy(tmp_path / "rm", machine)
    rewrite(tmp_path / "rm", architectures=["LlamaForCausalLM"])
    with pytest.raises(KitError, match="no weights for lm_head.weight"):
        models.load_policy(tmp_path / "rm", machine)
    llama3.save(tmp_path / "two", "LlamaForSequenceClassification", num_labels=2)
    with pytest.raises(KitError, match="has 2 outputs; it must have one"):
        models.load_reward_model(tmp_path / "two", machine)
    llama3.save(tmp_path / "wide")
    rewrite(tmp_path / "wide", intermediate_size=80)
    with pytest.raises(KitError, match=r"the weight .*mlp.* has the shape \(.*96.*\), config.json asks for \(.*80.*\)"):
        models.load_policy(tmp_path / "wide", machine)


def test_an_adapter_is_no_model(machine, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(KitError, match="holds a LoRA adapter; merge it first: `python -m rlhf_kit export"):
        models.load_policy(tmp_path, machine)


def test_a_shard_that_is_missing(machine, tmp_path):
    llama3.save(tmp_path / "m", shards=True)
    sorted((tmp_path / "m").glob("model-*.safetensors"))[1].unlink()
    with pytest.raises(KitError, match="cannot be opened"):
        models.load_policy(tmp_path / "m", machine)


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM
class MyConfig(LlamaConfig):
    model_type = "mine"
class MyModel(LlamaForCausalLM):
    config_class = MyConfig
"""


def test_custom_code_runs_only_with_consent(machine, tmp_path):
    folder = tmp_path / "mine"
    llama3.save(folder)
    (folder / "code_mine.py").write_text(CODE)
    names = {"AutoConfig": "code_mine.MyConfig", "AutoModelForCausalLM": "code_mine.MyModel"}
    rewrite(folder, model_type="mine", architectures=["MyModel"], auto_map=names)
    with pytest.raises(KitError, match="needs Python code of its own.*custom_code=True") as caught:
        models.load_policy(folder, machine)
    assert "\n" not in str(caught.value)
    model, _ = models.load_policy(folder, machine, custom_code=True)
    assert type(model).__name__ == "MyModel"
