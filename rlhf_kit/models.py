"""Open and save policies, reward models and pairwise models: folders in the transformers layout, safetensors only."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from rlhf_kit import chat
from rlhf_kit.errors import KitError
from rlhf_kit.runs import project_path

_LOCAL_FIRST = {".", "..", "~", "data", "runs", "tmp"}


# ---------------------------------------------------------------- paths


def resolve_model(path: str | Path, needs: str = "config.json") -> str:
    """A model folder on this machine as an absolute path, or a hub id as it is.

    KitError for a folder that does not exist or has no file `needs`. `owner/name` counts as a hub id unless its first
    part is a folder here.
    """
    folder = project_path(path)
    if folder.is_dir():
        if not (folder / needs).is_file():
            raise KitError(
                f"the model folder {path} has no {needs}; it must be a folder saved by transformers"
            )
        return str(folder.resolve())
    if folder.exists():
        raise KitError(f"the model path {path} is a file; give the folder that holds config.json")
    parts = Path(path).parts
    hub = isinstance(path, str) and len(parts) in (1, 2) and not os.path.isabs(path) and "\\" not in path
    if (
        not hub
        or (len(parts) == 2 and (parts[0] in _LOCAL_FIRST or project_path(parts[0]).exists()))
        or len(parts) == 1
    ):
        raise KitError(
            f"the model path {path} does not exist; give a folder with config.json and safetensors, or a hub id "
            "such as owner/name"
        )
    return str(path)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and load reports of transformers: what loads and what does not is checked here instead."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _named(path) -> Iterator[None]:
    """Errors of transformers while opening `path`, as one sentence."""
    try:
        with quiet_transformers():
            yield
    except KitError:
        raise
    except Exception as error:
        # Whatever goes wrong in here (a missing file, a broken header, an unknown architecture, no network) is
        # something about this path; the first line of the message says what.
        lines = str(error).strip().splitlines()
        first = lines[0] if lines else type(error).__name__
        raise KitError(f"the model {path} cannot be opened: {first}") from error


def _config(path: str):
    from transformers import AutoConfig

    with _named(path):
        return AutoConfig.from_pretrained(path, trust_remote_code=False)


def _dtype(machine):
    import torch

    return getattr(torch, machine.dtype)


# ---------------------------------------------------------------- opening


def load_tokenizer(path: str | Path):
    """The tokenizer of a model folder or hub id, made fit for training (`chat.prepare_tokenizer`)."""
    from transformers import AutoTokenizer

    where = resolve_model(path, needs="tokenizer_config.json")
    with _named(path):
        return chat.prepare_tokenizer(AutoTokenizer.from_pretrained(where, trust_remote_code=False))


def tokenizer_and_positions(path: str | Path):
    """(prepared tokenizer, most positions or None) of a policy, without its weights; KitErrors of `load_policy`."""
    config = _config(resolve_model(path))
    if _is_classifier(config):
        raise KitError(
            f"the model {path} is a reward model (a scalar head); a policy must be a causal language model"
        )
    return load_tokenizer(path), getattr(config, "max_position_embeddings", None)


def head_dimension(path: str | Path) -> int | None:
    """Dimensions of one attention head; None where the configuration does not say."""
    config = _config(resolve_model(path))
    heads, width = getattr(config, "num_attention_heads", None), getattr(config, "hidden_size", None)
    return getattr(config, "head_dim", None) or (width // heads if heads and width else None)


def _is_classifier(config) -> bool:
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or [])


def _fit(model, tokenizer):
    """Embeddings as long as the vocabulary; BOS, EOS and pad ids of model and tokenizer the same."""
    vocabulary = max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1)
    rows = model.get_input_embeddings().weight.shape[0]
    if vocabulary > rows:
        # The mean of the known embeddings is a start without surprises, and it draws no random numbers.
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
        import torch

        with torch.no_grad():
            for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
                if layer is not None:
                    layer.weight[rows:] = layer.weight[:rows].mean(dim=0)
    for config in (
        model.config,
        getattr(model, "generation_config", None),
    ):  # a reward model does not generate
        if config is None:
            continue
        config.pad_token_id = tokenizer.pad_token_id
        config.eos_token_id = tokenizer.eos_token_id
        config.bos_token_id = tokenizer.bos_token_id
    return model


def load_policy(path: str | Path, machine, *, tokenizer=None):
    """(causal language model in eval mode on the machine's device, its prepared tokenizer).

    Embeddings grow when the tokenizer had to be given a pad token. KitError for a path that does not exist, a reward
    model given as a policy, and weights that are not safetensors.
    """
    from transformers import AutoModelForCausalLM

    where = resolve_model(path)
    if _is_classifier(_config(where)):
        raise KitError(
            f"the model {path} is a reward model (a scalar head); a policy must be a causal language model"
        )
    tokenizer = tokenizer or load_tokenizer(path)
    with _named(path):
        model = AutoModelForCausalLM.from_pretrained(
            where, dtype=_dtype(machine), use_safetensors=True, trust_remote_code=False
        )
    return _fit(model, tokenizer).to(machine.device).eval(), tokenizer


def load_reward_model(path: str | Path, machine):
    """(scalar reward model in eval mode, its tokenizer). The head is float32 whatever the backbone's format.

    KitError when the path does not exist, holds a causal language model, or has more than one output.
    """
    from transformers import AutoModelForSequenceClassification

    where = resolve_model(path)
    config = _config(where)
    if not _is_classifier(config):
        raise KitError(
            f"the model {path} is a {(config.architectures or ['model'])[0]} without a scalar head; a reward model "
            "must be a sequence classifier, such as `train_reward` makes"
        )
    tokenizer = load_tokenizer(path)
    with _named(path):
        model = AutoModelForSequenceClassification.from_pretrained(
            where, dtype=_dtype(machine), use_safetensors=True, trust_remote_code=False, num_labels=1
        )
    if model.config.num_labels != 1 or _head(model).weight.shape[0] != 1:
        raise KitError(
            f"the reward model {path} has {_head(model).weight.shape[0]} outputs; it must have one"
        )
    _fit(model, tokenizer)
    _float_head(model)
    return model.to(machine.device).eval(), tokenizer


def new_reward_model(path: str | Path, machine, seed: int):
    """(reward model whose backbone is the causal model at `path` and whose head is new, its tokenizer).

    The new head is small (normal, sd 1 / (hidden size + 1)): rewards start near zero and training at loss ln 2.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    where = resolve_model(path)
    if _is_classifier(_config(where)):
        return load_reward_model(path, machine)
    tokenizer = load_tokenizer(path)
    with _named(path):
        model = AutoModelForSequenceClassification.from_pretrained(
            where, dtype=_dtype(machine), use_safetensors=True, trust_remote_code=False, num_labels=1
        )
    head = _head(model).weight
    draw = torch.randn(head.shape, generator=torch.Generator().manual_seed(seed)) / (head.shape[1] + 1)
    with torch.no_grad():
        head.copy_(draw)
    _float_head(model)
    return _fit(model, tokenizer).to(machine.device).eval(), tokenizer


def _head(model):
    for name in ("score", "classifier"):
        if hasattr(model, name):
            return getattr(model, name)
    raise KitError(f"a {type(model).__name__} has no scalar head that the kit knows (score or classifier)")


def _float_head(model) -> None:
    """The head in float32, fed float32: scores in half precision tie (at n = 8 in every tenth prompt)."""
    import torch

    head = _head(model).float()
    if next(model.parameters()).dtype != torch.float32:
        head.register_forward_pre_hook(lambda module, inputs: (inputs[0].float(), *inputs[1:]))


def new_model(init: Mapping, tokenizer_path: str | Path, seed: int):
    """(new random Llama, tokenizer). init: {hidden_size, layers, heads}, optional `positions` (default 512)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    init = init.model_dump() if hasattr(init, "model_dump") else dict(init)
    hidden, heads = int(init.get("hidden_size", 64)), int(init.get("heads", 4))
    if hidden % heads or (hidden // heads) % 2:
        raise KitError(
            f"model.init: hidden_size {hidden} must be a multiple of heads {heads} with an even quotient"
        )
    tokenizer = load_tokenizer(tokenizer_path)
    config = LlamaConfig(
        vocab_size=max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1),
        hidden_size=hidden,
        intermediate_size=int(init.get("intermediate_size", round(hidden * 8 / 3 / 16) * 16)),
        num_hidden_layers=int(init.get("layers", 2)),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=int(init.get("positions", 512)),
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return _fit(model, tokenizer).eval(), tokenizer


# ---------------------------------------------------------------- saving, hashing


def save_model(model, tokenizer, folder: str | Path) -> Path:
    """Model and tokenizer as safetensors in `folder`; config.json comes last, so a half-written folder does not open."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with quiet_transformers():
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
        if not folder.exists():
            os.replace(partial, folder)
        else:
            (folder / "config.json").unlink(missing_ok=True)
            for file in sorted(partial.iterdir(), key=lambda f: f.name == "config.json"):
                os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def weights_hash(model_or_folder) -> str:
    """16 hex digits over names, shapes, number formats and bytes of all weights: of a model, or of a saved folder.

    A model and the folder it was saved to have the same hash; tied weights count once.
    """
    digest = hashlib.sha256()
    for name, tensor in _tensors(model_or_folder):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        import torch

        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _tensors(model_or_folder):
    if hasattr(model_or_folder, "named_parameters"):
        yield from sorted(model_or_folder.named_parameters())
        return
    from safetensors import safe_open

    folder = Path(resolve_model(model_or_folder))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise KitError(f"the model folder {model_or_folder} has no safetensors file")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        where = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    else:
        where = {}
        for file in files:
            with safe_open(file, framework="pt") as opened:
                where.update(dict.fromkeys(opened.keys(), file.name))
    for name in sorted(where):
        with safe_open(folder / where[name], framework="pt") as opened:
            yield name, opened.get_tensor(name)
