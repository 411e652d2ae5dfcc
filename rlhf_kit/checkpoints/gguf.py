"""Open GGUF files, llama.cpp's one-file format, as policies for chat and sampling.

transformers reads the weights and the tokenizer. Quantised weights are unpacked: a 4-bit 8B file takes 16 GB in half
precision, and numpy unpacks 8 to 15 million weights a second on one slow core (measured), a quarter of an hour in all.
What it passes over in silence is checked here: rotary scaling, a BOS that the file asks for, merges that
Llama-3's tokenizer ignores for whole words, tokens that the file does not have, weights that it does not hold.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from rlhf_kit import chat
from rlhf_kit.checkpoints import model_files
from rlhf_kit.checkpoints.opening import check_loaded, named
from rlhf_kit.errors import KitError
from rlhf_kit.runs import project_path

# Families whose tokenizer takes a word that is in the vocabulary whole, and puts BOS first, unless the file says else.
_LLAMA3 = ("llama-bpe", "llama3", "llama-v3")


def load(path: str | Path, gguf_file: str | None = None, dtype=None, *, template_required: bool = False):
    """(causal language model, prepared tokenizer) of a GGUF file: `owner/name` or a folder with `gguf_file`, or its path.

    dtype: torch's, of the unpacked weights. template_required: as in `load_tokenizer`. KitError when there is no such
    file, it is one part of several, the `gguf` package is missing, or the file holds something that transformers would read wrongly.
    """
    from transformers import AutoModelForCausalLM

    file = locate(path, gguf_file)
    if importlib.util.find_spec("gguf") is None:
        raise KitError(f"{file.name} needs the package gguf: `pip install -r requirements.txt`")
    metadata = _metadata(file)
    with named(file):
        model, told = AutoModelForCausalLM.from_pretrained(
            str(file.parent), gguf_file=file.name, dtype=dtype, output_loading_info=True, local_files_only=True
        )
    check_loaded(file, told)
    _as_plain_model(model)
    return model, load_tokenizer(file, metadata, template_required=template_required)


def load_tokenizer(file: Path, metadata: dict | None = None, *, template_required: bool = False):
    """The tokenizer of a GGUF file, made fit for training (`chat.prepare_tokenizer`); a missing template is made up.

    template_required: KitError instead, for a model that is useless with another template than its own.
    """
    from transformers import AutoTokenizer

    metadata = metadata or _metadata(file)
    with named(file):
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name, local_files_only=True)
    tokenizer = _without_foreign_tokens(tokenizer, metadata)
    pre = metadata.get("tokenizer.ggml.pre")
    if pre in _LLAMA3:
        tokenizer.backend_tokenizer.model.ignore_merges = True
    if metadata.get("tokenizer.ggml.add_bos_token", pre in _LLAMA3) and tokenizer.bos_token is not None:
        tokenizer.add_bos_token = True
        tokenizer.update_post_processor()
    return chat.prepare_tokenizer(tokenizer, template_required=template_required)


def is_gguf(path: str | Path) -> bool:
    """Whether a path names a .gguf file, or a folder here that holds such files and no model of transformers'."""
    folder = project_path(path)
    return str(path).endswith(".gguf") or (
        folder.is_dir() and not (folder / "config.json").is_file() and any(folder.glob("*.gguf"))
    )


def locate(path: str | Path, gguf_file: str | None = None) -> Path:
    """The GGUF file on this machine, downloaded if `path` is a hub id.

    Without gguf_file a folder or repository must hold exactly one. KitError naming what there is.
    """
    here = project_path(path)
    if here.is_file():
        return _whole(here.resolve())
    if here.is_dir():
        name = gguf_file or _only([f.name for f in here.iterdir()], path)
        if not (here / name).is_file():
            raise KitError(f"the folder {path} has no file {name}")
        return _whole((here / name).resolve())
    parts = Path(path).parts
    if str(path).endswith(".gguf") and len(parts) == 3 and not (
        Path(path).is_absolute() or project_path(parts[0]).exists()
    ):  # owner/name/file.gguf
        path, gguf_file = "/".join(parts[:2]), parts[2]
    if str(path).endswith(".gguf"):
        raise KitError(f"the GGUF file {path} does not exist")
    where = model_files.resolve_model(path)
    return _whole(model_files.download(where, gguf_file or _only(model_files.files(where, ".gguf"), path)))


def _only(names, path) -> str:
    found = sorted(name for name in names if name.endswith(".gguf"))
    if len(found) != 1:
        which = f"has several GGUF files ({', '.join(found)})" if found else "has no GGUF file"
        raise KitError(f"{path} {which}; name one with gguf_file=")
    return found[0]


def _whole(file: Path) -> Path:
    if re.search(r"-\d{5}-of-\d{5}\.gguf$", file.name):
        raise KitError(f"{file.name} is one part of a split GGUF file; join the parts with llama.cpp's gguf-split --merge")
    return file


def _metadata(file: Path) -> dict:
    """The file's metadata (long lists as their length). KitError for what transformers would read wrongly."""
    from transformers.integrations.gguf import read_gguf_metadata

    try:
        metadata, tensors = read_gguf_metadata(str(file), ("tokenizer.ggml.tokens",))
    except Exception as error:  # a cut or foreign file fails anywhere in its header
        raise KitError(f"{file} cannot be read as a GGUF file: {error}") from error
    scaling = metadata.get(f"{metadata['general.architecture']}.rope.scaling.type", "none")
    if "rope_freqs.weight" in tensors or scaling != "none":
        raise KitError(
            f"{file.name} scales its rotary positions (Llama 3.1 and later), which transformers leaves out when it reads "
            "GGUF; load the safetensors model instead"
        )
    return metadata


def _without_foreign_tokens(tokenizer, metadata: dict):
    """The tokenizer with the file's tokens only: transformers' GPT-2 builder adds an <|endoftext|> of its own."""
    import json

    from tokenizers import Tokenizer

    tokens = metadata["tokenizer.ggml.tokens"]
    if len(tokenizer) <= len(tokens):
        return tokenizer
    raw = json.loads(tokenizer.backend_tokenizer.to_str())
    raw["added_tokens"] = [one for one in raw["added_tokens"] if one["id"] < len(tokens)]
    names = {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "pad_token")}
    kept = {name: str(token) for name, token in names.items() if token is not None and str(token) in set(tokens)}
    return type(tokenizer)(
        tokenizer_object=Tokenizer.from_str(json.dumps(raw)), chat_template=tokenizer.chat_template, **kept
    )


def _as_plain_model(model) -> None:
    """The weights are plain numbers now: nothing may treat the model as quantised when it is moved or saved."""
    model.hf_quantizer = None
    for name in ("is_quantized", "quantization_method"):
        if hasattr(model, name):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
