"""Where a model lies (a folder, a hub id) and, in one sentence within seconds, why it cannot be had."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from rlhf_kit import hub
from rlhf_kit.checkpoints import released
from rlhf_kit.errors import KitError
from rlhf_kit.runs import project_path

_LOCAL_FIRST = {".", "..", "~", "data", "runs", "tmp"}
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")  # weights in these can run code when they are opened


def resolve_model(path: str | Path, needs: str = "config.json") -> str:
    """A model folder on this machine as an absolute path, or a hub id as it is.

    KitError for a folder that does not exist or has no file `needs`. `owner/name` counts as a hub id unless its first
    part is a folder here.
    """
    folder = project_path(path)
    if folder.is_dir():
        if not (folder / needs).is_file():
            if needs == "config.json" and (folder / "adapter_config.json").is_file():
                raise KitError(
                    f"the folder {path} holds a LoRA adapter; merge it first: `python -m rlhf_kit export --policy {path} "
                    "--out FOLDER`"
                )
            raise KitError(
                f"the model folder {path} has no {needs}; it must be a folder saved by transformers"
            )
        return str(folder.resolve())
    if folder.exists():
        raise KitError(f"the model path {path} is a file; give the folder that holds config.json")
    parts = Path(path).parts
    an_id = isinstance(path, str) and len(parts) in (1, 2) and not os.path.isabs(path) and "\\" not in path
    if (
        not an_id
        or (len(parts) == 2 and (parts[0] in _LOCAL_FIRST or project_path(parts[0]).exists()))
        or len(parts) == 1
    ):
        raise KitError(
            f"the model path {path} does not exist; give a folder with config.json and safetensors, or a hub id "
            "such as owner/name"
        )
    return str(path)


# ---------------------------------------------------------------- looking before opening


def check(where: str, weights: str | None = ".safetensors") -> dict[str, bool]:
    """Look at a resolved model before it is opened; returns what `from_pretrained` must be told.

    A hub id costs one short request (then remembered), never transformers' own half minute of retries. Without a network,
    what is in the hub's cache is used: {"local_files_only": True}. weights: how the files must end (None: any will do).
    KitError: no network and not in the cache, no such id, gated, pickled weights only, no weights at all.
    """
    folder = Path(where)
    if folder.is_dir():
        check_weights([f.name for f in folder.iterdir()], where, weights)
        return {}
    if not hub.reachable():
        if not hub.cached(where, "model"):
            raise KitError(hub.unreachable(where, "model"))
        return {"local_files_only": True}
    check_weights(_hub_files(where), where, weights)
    return {}


def check_weights(files: Sequence[str], where: str, weights: str | None = ".safetensors") -> None:
    """KitError unless one of the file names ends with `weights`, saying how to convert pickled ones."""
    if weights is None or any(name.endswith(weights) for name in files):
        return
    pickled = sorted(name for name in files if name.endswith(_PICKLED) and "training_args" not in name)
    if pickled:
        raise KitError(
            f"the model {where} holds pickled weights only ({pickled[0]}), which can run code when they are opened; "
            "convert them once where you trust them, with transformers' from_pretrained(...) and "
            "save_pretrained(FOLDER), and give that folder"
        )
    if any(name.endswith(".gguf") for name in files):
        raise KitError(f"the model {where} holds GGUF files only; name one of them with gguf_file=")
    advice = "; save the model with safetensors" if weights == ".safetensors" else ""
    raise KitError(f"the model {where} has no {weights} file{advice}")


def files(model_id: str, ending: str) -> list[str]:
    """The names of a hub repository's files with this ending. KitError without a network, as for `check`."""
    if check(model_id, weights=ending):
        raise KitError(f"without a network the files of {model_id} are not known; name the {ending} file")
    return sorted(name for name in _hub_files(model_id) if name.endswith(ending))


def download(model_id: str, file: str) -> Path:
    """One file of a hub repository, from the cache or the hub; KitError when it is not there."""
    import huggingface_hub

    options = check(model_id, weights=None)
    try:
        return Path(huggingface_hub.hf_hub_download(model_id, file, **options))
    except huggingface_hub.errors.RemoteEntryNotFoundError:
        raise KitError(f"the hub model {model_id} has no file {file}") from None
    except Exception as error:
        raise KitError(explain(model_id, error) or f"{file} of {model_id}: {first_line(error)}") from error


@lru_cache(maxsize=64)
def _hub_files(model_id: str) -> tuple[str, ...]:
    """The files of a hub repository, once it is known that they may be downloaded."""
    import huggingface_hub

    try:
        files = huggingface_hub.HfApi().model_info(model_id, timeout=10).siblings or []
        names = tuple(one.rfilename for one in files)
        # Gated repositories list their files to anyone; only asking for one tells whether it may be had.
        small = next((n for n in ("config.json", "tokenizer_config.json", "README.md") if n in names), None)
        if small:
            huggingface_hub.hf_hub_download(model_id, small, etag_timeout=10)
    except Exception as error:
        told = explain(model_id, error)
        raise KitError(told or f"the model {model_id} cannot be looked up on the hub: {first_line(error)}") from error
    return names


# ---------------------------------------------------------------- errors, as one sentence


def explain(where, error: BaseException) -> str | None:
    """The sentence for an error of the hub's client or of the machine's memory, None for any other."""
    import torch

    one = error
    while one is not None:
        if isinstance(one, torch.OutOfMemoryError | MemoryError):
            return (
                f"the model {where} does not fit into the memory of this machine; take a smaller one, half precision "
                "or LoRA (`python -m rlhf_kit doctor` estimates)"
            )
        one = one.__cause__ or one.__context__
    told, known = hub.sentence(error, str(where), "model"), released.find(str(where))
    if told and "is gated" in told and known and known.licence:
        told += f" (its licence: {known.licence})"
    return told


def first_line(error: BaseException) -> str:
    """The first line of an error's message, its type's name when it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
