"""Open and save policies, reward models and pairwise models: folders in the transformers layout, safetensors only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from rlhf_kit import chat
from rlhf_kit.checkpoints import gguf, model_files
from rlhf_kit.checkpoints.model_files import resolve_model
from rlhf_kit.checkpoints.opening import check_loaded, named, quiet_transformers
from rlhf_kit.checkpoints.weights import weights_hash
from rlhf_kit.errors import KitError

__all__ = [
    "load_policy",
    "load_reward_model",
    "load_tokenizer",
    "new_model",
    "new_reward_model",
    "quiet_transformers",
    "resolve_model",
    "save_model",
    "weights_hash",
]


def _config(path: str, custom_code: bool = False, **options):
    from transformers import AutoConfig

    with named(path):
        return AutoConfig.from_pretrained(path, trust_remote_code=custom_code, **options)


def _dtype(machine):
    import torch

    return getattr(torch, machine.dtype)


# ---------------------------------------------------------------- opening


def load_tokenizer(path: str | Path, *, template_required: bool = False, custom_code: bool = False):
    """The tokenizer of a model folder or hub id, made fit for training (`chat.prepare_tokenizer`)."""
    from transformers import AutoTokenizer

    where = resolve_model(path, needs="tokenizer_config.json")
    options = model_files.check(where, weights=None)
    with named(path):
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=custom_code, **options)
        return chat.prepare_tokenizer(tokenizer, template_required=template_required)


def _open(auto_class, path, where: str, machine, *, may_lack: tuple[str, ...] = (), custom_code: bool = False, **more):
    """A model of transformers with every weight from its files: safetensors only, nothing left as it was drawn.

    may_lack: names of weights that the files need not have. KitError naming what is missing or of another shape.
    """
    with named(path):
        model, told = auto_class.from_pretrained(
            where,
            dtype=_dtype(machine),
            use_safetensors=True,
            trust_remote_code=custom_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused just below, by name
            **more,
        )
    check_loaded(path, told, may_lack)
    return model


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


def _is_gated(config) -> bool:
    """A multi-objective model with a gate (ArmoRM), which `checkpoints.multi_objective` opens."""
    return any(name.endswith("RewardModelWithGating") for name in config.architectures or [])


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
    stop = chat.stop_ids(tokenizer)
    if len(stop) > 1 and getattr(model, "generation_config", None) is not None:
        model.generation_config.eos_token_id = stop
    return model


def load_policy(
    path: str | Path, machine, *, tokenizer=None, gguf_file: str | None = None, custom_code: bool = False
):
    """(causal language model in eval mode on the machine's device, its prepared tokenizer).

    path: a folder, a hub id, or a .gguf file; gguf_file: the name of one in that folder or hub repository (for chat
    and sampling: see `gguf.load`). Embeddings grow when the tokenizer had to be given a pad token. custom_code: run
    Python code that comes with the model, which you have read. KitError for a path that does not exist, a reward model
    given as a policy, weights that are not safetensors or do not fit, and a hub id that is missing, gated or out of
    reach.
    """
    from transformers import AutoModelForCausalLM

    if gguf_file or gguf.is_gguf(path):
        model, own = gguf.load(path, gguf_file, _dtype(machine))
        tokenizer = tokenizer or own
        return _fit(model, tokenizer).to(machine.device).eval(), tokenizer
    where = resolve_model(path)
    options = model_files.check(where)
    config = _config(where, custom_code, **options)
    if _is_classifier(config):
        raise KitError(
            f"the model {path} is a reward model (a scalar head); a policy must be a causal language model"
        )
    if _is_gated(config):
        raise KitError(f"the model {path} is a multi-objective reward model; a policy must be a causal language model")
    tokenizer = tokenizer or load_tokenizer(path, custom_code=custom_code)
    model = _open(AutoModelForCausalLM, path, where, machine, custom_code=custom_code, **options)
    return _fit(model, tokenizer).to(machine.device).eval(), tokenizer


def load_reward_model(path: str | Path, machine):
    """(scalar reward model in eval mode, its tokenizer). The head is float32 whatever the backbone's format.

    KitError when the path does not exist, holds a causal language model or a head that its files lack, has more than one
    output, or a tokenizer without chat template (the text that it was trained on would be a guess).
    """
    from transformers import AutoModelForSequenceClassification

    where = resolve_model(path)
    options = model_files.check(where)
    config = _config(where, **options)
    if _is_gated(config):
        raise KitError(f"the model {path} is a multi-objective reward model; open it with `rewards.open_reward`")
    if not _is_classifier(config):
        raise KitError(
            f"the model {path} is a {(config.architectures or ['model'])[0]} without a scalar head; a reward model "
            "must be a sequence classifier, such as `train_reward` makes"
        )
    tokenizer = load_tokenizer(path, template_required=True)
    model = _open(AutoModelForSequenceClassification, path, where, machine, num_labels=1, **options)
    if model.config.num_labels != 1 or _head(model).weight.shape[0] != 1:
        raise KitError(
            f"the reward model {path} has {_head(model).weight.shape[0]} outputs; it must have one"
        )
    _fit(model, tokenizer)
    float_head(model)
    return model.to(machine.device).eval(), tokenizer


def is_multi_objective(path: str | Path) -> bool:
    """Whether a model folder or hub id holds a multi-objective reward model with a gate (ArmoRM)."""
    where = resolve_model(path)
    return _is_gated(_config(where, **model_files.check(where)))


def load_gated(path: str | Path, machine, architecture):
    """(multi-objective reward model of the class `architecture`, its tokenizer); see `checkpoints.multi_objective`."""
    where = resolve_model(path)
    options = model_files.check(where)
    if not _is_gated(_config(where, **options)):
        raise KitError(f"the model {path} is not a multi-objective reward model with a gate")
    tokenizer = load_tokenizer(path, template_required=True)
    model = _fit(_open(architecture, path, where, machine, **options), tokenizer)
    return model.to(machine.device).eval(), tokenizer


def load_judge(path: str | Path, machine):
    """`load_policy` for a pairwise model: its tokenizer must bring the chat template that it was trained with."""
    if gguf.is_gguf(path):
        model, tokenizer = gguf.load(path, None, _dtype(machine), template_required=True)
        return _fit(model, tokenizer).to(machine.device).eval(), tokenizer
    resolve_model(path)  # the model's own faults are told before the tokenizer's
    return load_policy(path, machine, tokenizer=load_tokenizer(path, template_required=True))


def new_reward_model(path: str | Path, machine, seed: int):
    """(reward model whose backbone is the causal model at `path` and whose head is new, its tokenizer).

    The new head is small (normal, sd 1 / (hidden size + 1)): rewards start near zero and training at loss ln 2.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    where = resolve_model(path)
    options = model_files.check(where)
    if _is_classifier(_config(where, **options)):
        return load_reward_model(path, machine)
    tokenizer = load_tokenizer(path)
    heads = ("score.weight", "classifier.weight", "classifier.bias")
    model = _open(
        AutoModelForSequenceClassification, path, where, machine, may_lack=heads, num_labels=1, **options
    )
    head = _head(model).weight
    draw = torch.randn(head.shape, generator=torch.Generator().manual_seed(seed)) / (head.shape[1] + 1)
    with torch.no_grad():
        head.copy_(draw)
    float_head(model)
    return _fit(model, tokenizer).to(machine.device).eval(), tokenizer


def _head(model):
    for name in ("score", "classifier"):
        if hasattr(model, name):
            return getattr(model, name)
    raise KitError(f"a {type(model).__name__} has no scalar head that the kit knows (score or classifier)")


def float_head(model):
    """The model with its head in float32, fed float32: scores in half precision tie (at n = 8 in every tenth prompt)."""
    import torch

    head = _head(model).float()
    if next(model.parameters()).dtype != torch.float32:
        head.register_forward_pre_hook(lambda module, inputs: (inputs[0].float(), *inputs[1:]))
    return model


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


# ---------------------------------------------------------------- saving


def save_model(model, tokenizer, folder: str | Path, state_dict: Mapping | None = None) -> Path:
    """Model and tokenizer as safetensors in `folder`; config.json comes last, so a half-written folder does not open.

    state_dict: the weights to write where the model itself holds only a part of them (FSDP, ZeRO-3).
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with quiet_transformers():
            model.save_pretrained(partial, state_dict=state_dict)
            tokenizer.save_pretrained(partial)
        if not folder.exists():
            os.replace(partial, folder)
        else:
            (folder / "config.json").unlink(missing_ok=True)
            # Weights of an earlier model in files of other names would be opened in place of these, its adapter trained on.
            for stale in folder.glob("*.safetensors*"):
                stale.unlink()
            shutil.rmtree(folder / "adapter", ignore_errors=True)
            for file in sorted(partial.iterdir(), key=lambda f: f.name == "config.json"):
                os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder
