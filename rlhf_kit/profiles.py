"""The dial: profiles are YAML files, checked on load, and resolved to a machine with reasons."""

from __future__ import annotations

import difflib
import os
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_serializer

from rlhf_kit import profile_checks
from rlhf_kit.errors import KitError
from rlhf_kit.machine import Machine, resolve
from rlhf_kit.runs import PROJECT, project_path

__all__ = ["DEFAULT", "Machine", "Profile", "known", "load_profile", "needs_hub", "resolve"]

FOLDER = PROJECT / "data" / "profiles"
DEFAULT = "laptop"


_LATER = {"later": True}


def _later(default: Any, **limits: Any) -> Any:
    """A field that came after results had been recorded; see `_Section`."""
    return Field(default, json_schema_extra=_LATER, **limits)


class _Section(BaseModel):
    """Keys of stages and of recorded results are hashes of dumped sections. A later field at its default changes
    nothing, so it stays out of dumps, and what was made before it came is still found."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _dump(self, handler):
        values = handler(self)
        for name, field in type(self).model_fields.items():
            if field.json_schema_extra == _LATER and getattr(self, name) == field.default:
                values.pop(name, None)
        return values


class Init(_Section):
    """Sizes of a new model when there is no checkpoint to start from."""

    hidden_size: int = Field(64, gt=0)
    layers: int = Field(2, gt=0)
    heads: int = Field(4, gt=0)


class Lora(_Section):
    r: int = Field(16, gt=0)
    alpha: int = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    target: str = "all-linear"
    quantization: Literal["none", "nf4"] = _later("none")  # nf4: the frozen weights in 4 bits (QLoRA)


class Model(_Section):
    """The base policy; `max_length` in tokens, prompt and response together; tokenizer null = the model's."""

    path: str | None = "data/pocket_base"
    init: Init | None = None
    tokenizer: str | None = None
    max_length: int = Field(192, gt=8)
    lora: Lora | None = None


class Annotator(_Section):
    """Dials of the pocket world's annotator; carelessness and position are probabilities."""

    temperature: float = Field(1.0, gt=0)
    verbosity: float = 0.0
    carelessness: float = Field(0.05, ge=0, le=1)
    position: float = Field(0.0, ge=-1, le=1)


class Data(_Section):
    """Where rows come from and how many: the pocket `world`, or a preference `file` (or hub data set)."""

    kind: Literal["world", "file"] = "world"
    preferences: str | None = None
    adapter: str = "auto"
    bad_rows: Literal["stop", "drop_unfit", "drop"] = "drop_unfit"  # see rlhf_kit.preferences.BAD_ROWS
    sft: str | None = None
    prompts: str | None = None
    sft_rows: int = Field(8000, gt=0)
    preference_pairs: int = Field(12000, gt=0)
    heldout_pairs: int = Field(600, gt=0)
    iterations: int = Field(3, gt=0, le=9)
    prompts_per_iteration: int = Field(800, gt=0)
    choose_prompts: int = Field(200, gt=0)
    eval_prompts: int = Field(400, gt=0)
    annotator: Annotator = Annotator()


class Training(_Section):
    """One trainer's settings; `batch_size` is global, in rows, `micro_batch_size` per device at once."""

    epochs: float = Field(1, gt=0)
    learning_rate: float = Field(1e-3, gt=0)
    batch_size: int = Field(32, gt=0)
    micro_batch_size: int | None = Field(None, gt=0)
    gradient_checkpointing: bool = False
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    max_grad_norm: float = Field(1.0, gt=0)
    max_length: int | None = Field(None, gt=8)  # tokens; null = model.max_length
    # what becomes of a row over max_length: left out and counted, or cut, keeping its end or its start
    truncation: Literal["drop", "keep_end", "keep_start"] = _later("drop")
    packing: bool = _later(False)  # several rows in one sequence of max_length tokens
    start: str | None = None  # the checkpoint that training starts from; null = the course's choice
    released: str | None = None  # a released model to use instead of training one


class Reward(Training):
    center_coefficient: float = Field(0.0, ge=0)


class Vllm(_Section):
    """Engines of the vllm backend: how much of each GPU one takes, over how many GPUs one model is split, how many."""

    gpu_memory: float = Field(0.9, gt=0, le=1)
    tensor_parallel: int = Field(1, gt=0)
    engines: int | None = Field(None, gt=0)  # null: as many as the GPUs hold, one on a CPU
    eager: bool = False  # no CUDA graphs: a faster start, slower sampling


class Sampling(_Section):
    n: int = Field(8, ge=2)  # one answer alone makes no pair
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: int = Field(80, gt=0)
    batch_size: int = Field(256, gt=0)
    backend: Literal["auto", "transformers", "vllm", "server"] = "auto"
    server: str | tuple[str, ...] | None = _later(None)  # one URL or several; with backend: server, RLHF_KIT_SERVER does too
    vllm: Vllm = _later(Vllm())


class Labeling(_Section):
    rule: Literal["max_min", "max_random", "max_max", "random"] = "max_min"
    length_penalty: float = Field(0.0, ge=0)  # reward per unit of length, paper eq. 9
    length_unit: Literal["chars", "words", "tokens"] = "chars"
    min_margin: float = Field(0.0, ge=0)
    max_pairs: int | None = Field(None, gt=0)  # keep the first so many pairs; null keeps all


class Dpo(Training):
    beta: float = Field(0.1, gt=0)
    loss: Literal[
        "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
        "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
    ] = "sigmoid"  # TRL's names
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    reference: Literal["sft", "previous"] = "sft"
    warm_start: bool = True


class Evaluation(_Section):
    samples: int = Field(1, ge=1)
    bootstrap: int = Field(1000, ge=10)
    best_of: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 2, 4, 8, 16, 32), min_length=1)
    best_of_prompts: int = Field(150, gt=0)


class Launch(_Section):
    """How training is started: processes (one a GPU), what they share of the model (see `accelerate launch`), and
    the card that the planner reckons with (`rlhf_kit.planning.memory.CARDS`)."""

    processes: int = Field(1, gt=0)
    strategy: Literal["none", "ddp", "fsdp2", "zero2", "zero3"] = "none"
    card: Literal["t4", "l4", "a100-40", "a100-80", "h100-80", "h200"] | None = None


class Profile(_Section):
    name: str
    requires_gpu: bool = False
    gpu_memory_gb: float | None = None  # what one device needs, for the doctor
    model: Model = Model()
    data: Data = Data()
    sft: Training = Training()
    reward: Reward = Reward()
    pairwise: Training = Training()
    sampling: Sampling = Sampling()
    labeling: Labeling = Labeling()
    dpo: Dpo = Dpo()
    evaluation: Evaluation = Evaluation()
    launch: Launch = _later(Launch())


# ---------------------------------------------------------------- loading


def known() -> list[str]:
    """Names of the shipped profiles, the default first."""
    return sorted((p.stem for p in FOLDER.glob("*.yaml")), key=lambda n: (n != DEFAULT, n))


def _read(path: Path) -> dict:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise KitError(f"profile {path} is not UTF-8 text") from None
    except yaml.YAMLError as error:
        raise KitError(f"profile {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise KitError(
            f"profile {path} must be a mapping of sections, such as `dpo:` with `beta: 0.1` under it"
        )
    return values


def _merge(base: dict, top: dict) -> dict:
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _set(values: dict, dotted: str, value: Any) -> None:
    *sections, leaf = dotted.split(".")
    for section in sections:
        if not isinstance(values.get(section), dict):
            values[section] = {}
        values = values[section]
    values[leaf] = value


def _fields_at(location: tuple) -> list[str]:
    """The keys that are allowed in the section at `location`."""
    model: Any = Profile
    for step in location:
        if not isinstance(step, str) or step not in model.model_fields:
            continue
        options = (model.model_fields[step].annotation, *typing.get_args(model.model_fields[step].annotation))
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), model)
    return list(model.model_fields)


def _sentence(error: dict, where: str) -> str:
    location = tuple(x for x in error["loc"] if x != "function-after")
    dotted = ".".join(str(x) for x in location)
    if error["type"] == "extra_forbidden":
        allowed = _fields_at(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), allowed, n=1, cutoff=0.5)
        hint = (
            f"did you mean {'.'.join([*map(str, location[:-1]), near[0]])!r}?"
            if near
            else f"known here: {', '.join(allowed)}"
        )
        return f"{where}: unknown key {dotted!r}; {hint}"
    return f"{where}: {dotted} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def load_profile(name_or_path: str | Path = DEFAULT, overrides: dict[str, Any] | None = None) -> Profile:
    """The checked profile of a shipped name or a YAML file (which may say `extends: laptop`).

    `overrides` are dotted keys, {"dpo.beta": 0.2}. KitError: unknown profile, unknown key (with the nearest
    one), a value of the wrong type or range, or a profile that needs values which only you can give (byo).
    """
    text = str(name_or_path)
    is_file = text.endswith((".yaml", ".yml")) or os.sep in text
    path = project_path(text) if is_file else FOLDER / f"{text}.yaml"
    if not path.is_file():
        if is_file:
            raise KitError(f"profile file {text} does not exist")
        near = difflib.get_close_matches(text, known(), n=1)
        raise KitError(
            f"unknown profile {text!r}; known: {', '.join(known())}"
            + (f"; did you mean {near[0]!r}?" if near else "")
        )
    where = text if is_file else f"data/profiles/{path.name}"
    values = _read(path)
    if "extends" in values:
        base = values.pop("extends")
        if base not in known():
            raise KitError(f"{where}: extends unknown profile {base!r}; known: {', '.join(known())}")
        inherited = _read(FOLDER / f"{base}.yaml")
        inherited.pop("name", None)  # another name: the base's bands were not recorded for these values
        values = _merge(inherited, values)
    profile_checks.adapter_given(values, overrides or {}, where)
    for dotted, value in (overrides or {}).items():
        _set(values, dotted, value)
    if overrides:
        where += f" with {', '.join(f'{k}={v}' for k, v in overrides.items())}"
    values.setdefault("name", path.stem)
    try:
        profile = Profile.model_validate(values)
    except ValidationError as error:
        raise KitError(_sentence(error.errors()[0], where)) from None
    profile_checks.together(profile, where)
    return profile


def sources(profile: Profile) -> list[str]:
    """Every file, folder or hub id that the profile names."""
    names = [
        profile.model.path,
        profile.model.tokenizer,
        profile.data.preferences,
        profile.data.sft,
        profile.data.prompts,
    ]
    for section in (profile.sft, profile.reward, profile.pairwise, profile.dpo):
        names += [section.start, section.released]
    return [name for name in names if name]


def needs_hub(profile: Profile) -> bool:
    """True if a model or data set of the profile is not found on this machine and so is a hub id."""
    return any(not project_path(name).exists() for name in sources(profile))
