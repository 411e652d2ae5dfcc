"""A course: one profile on one machine in one run, with its seeds; `rlhf_kit.stages` works on it."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rlhf_kit import claims, runs
from rlhf_kit.errors import KitError
from rlhf_kit.profiles import DEFAULT, Machine, Profile, load_profile, resolve
from rlhf_kit.runs import Run, Stage, code_hash, derive_seed, file_hash, open_run, project_path, stable_hash

KIT = Path(__file__).resolve().parent
# Files of weights, tokenizers and rows.
_KINDS = (
    ".safetensors", ".gguf", ".json", ".jinja", ".model", ".jsonl", ".ndjson", ".parquet", ".arrow", ".csv", ".gz", ".xz",
)  # fmt: skip
_TOKENIZER = ("merges.txt", "vocab.txt")
_SHOWN = ("model", "data", "sft", "reward", "sampling", "labeling", "dpo")


@dataclass(frozen=True)
class Course:
    """What every stage needs to know. `seed` decides prompts, samples and DPO; `model_seed` the SFT policy
    and the reward models (equal to `seed` unless an experiment shares those models between seeds)."""

    profile: Profile
    machine: Machine
    run: Run
    seed: int
    model_seed: int
    _known: dict[str, Stage] = field(default_factory=dict, repr=False, compare=False)

    def describe(self) -> None:
        """Prints the resolved profile: what the machine gives and why, then the settings of each stage."""
        print(self.description())

    def description(self) -> str:
        """The text that `describe` prints."""
        lines = [f"profile {self.profile.name}, seed {self.seed}, run {runs.shown(self.run.path)}", ""]
        for choice in ("device", "dtype", "autocast_bf16", "threads", "backend"):
            value, why = str(getattr(self.machine, choice)), self.machine.reasons.get(choice, "")
            lines.append(f"  {choice:14} {value:14} because {why}")
        lines.append("")
        for section in _SHOWN:
            values = getattr(self.profile, section).model_dump(exclude_none=True)
            values = {k: v for k, v in values.items() if not isinstance(v, Mapping)}
            told = f"  {section:14} " + ", ".join(f"{k}={v}" for k, v in values.items())
            lines.append(textwrap.fill(told, 100, subsequent_indent=" " * 17, break_long_words=False, break_on_hyphens=False))
        return "\n".join(lines)

    def claim(self, id: str, value: float, interval: Sequence[float] | None = None) -> dict:
        """Compares a number in the lesson with its recorded band; see `rlhf_kit.claims.claim`."""
        return claims.claim(self, id, value, interval)

    def metric(self, name: str, value: Any) -> Any:
        """Records a number (or plain data) for the run's metrics.json and returns it."""
        runs.record(self.run, "metrics", name, value)
        return value

    def sampling_seed(self) -> int:
        return derive_seed(self.seed, "sampling")

    def stage(
        self,
        name: str,
        build: Callable[[Path], Any],
        *,
        inputs: Mapping[str, Stage | str] | None = None,
        params: Mapping[str, Any] | None = None,
        code: Sequence[str] = (),
    ) -> Stage:
        """`run.stage`, where `code` names modules of the kit; the source of `build` itself counts as well, and where
        a model computes (`code` names "models") device and number format.

        A stage that this course has already made or found is returned without a second look or a second line.
        """
        files = source_files(code)
        inputs = inputs or {}
        params = {**(params or {}), "build": stable_hash(inspect.getsource(build))}
        if "models" in code:
            machine = self.machine
            params["numbers"] = [machine.device, machine.dtype, "bf16 autocast" if machine.autocast_bf16 else "no autocast"]
        keys = {label: one.key if isinstance(one, Stage) else one for label, one in inputs.items()}
        here = stable_hash(name, keys, params, code_hash(files))
        if here in self._known and (self._known[here].path / "_SUCCESS").exists():
            return replace(self._known[here], cached=True)
        self._known[here] = self.run.stage(
            name, build, inputs=inputs, params=params, code=files, about={"threads": self.machine.threads}
        )
        return self._known[here]


def start(
    profile: str | Path | Profile = DEFAULT,
    run: str | None = None,
    seed: int = 0,
    *,
    model_seed: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    root: str | Path | None = None,
    quiet: bool = False,
) -> Course:
    """Opens a course: loads and resolves the profile, sets PyTorch's threads, opens (makes) the run's folder.

    profile: a shipped name, a YAML file, or a Profile. run: the run's name; by default the profile's name,
    with the seed added when it is not 0. overrides: dotted keys, {"dpo.beta": 0.2}. root: folder of the runs.
    Raises KitError for an unknown profile or key, a GPU profile without GPU, a bad run name or seed.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise KitError(f"seed is {seed!r}; it must be a whole number of 0 or more")
    if isinstance(profile, Profile) and overrides:
        raise KitError(
            "overrides go with the name of a profile; load_profile(name, overrides) gives a changed one"
        )
    loaded = profile if isinstance(profile, Profile) else load_profile(profile, dict(overrides or {}))
    machine = resolve(loaded)
    import torch

    torch.set_num_threads(machine.threads)
    opened = open_run(run or (loaded.name if seed == 0 else f"{loaded.name}-seed{seed}"), root, quiet)
    return Course(loaded, machine, opened, seed, seed if model_seed is None else model_seed)


def finish(course: Course, notebook: str) -> Path:
    """A notebook's last call: writes records/finished/<notebook>.json, which the runner demands."""
    return runs.finish(course, notebook)


def source_files(code: Sequence[str]) -> list[Path]:
    """Where the kit's modules lie that `code` names ("chat", "recipe/mass"); a package by its __init__.py."""
    return [KIT / c / "__init__.py" if (KIT / c).is_dir() else KIT / f"{c}.py" for c in code]


def model_folder(stage: Stage | str | Path) -> str:
    """Where a stage's model lies: its `model` folder, or the released model that stands in for it."""
    if not isinstance(stage, Stage):
        return str(stage)
    return str(stage.manifest["facts"].get("released") or stage.path / "model")


def source_key(path: str | None) -> str:
    """A content key for a user's file or model folder: a hash of its bytes; a hub id's own name."""
    if path is None:
        return "none"
    found = project_path(path)
    if found.is_file():
        return file_hash(found)
    if found.is_dir():
        files = [p for p in sorted(found.rglob("*")) if p.is_file() and _decides(p.relative_to(found), found)]
        return stable_hash([[p.relative_to(found).as_posix(), file_hash(p)] for p in files])
    return str(path)


def _decides(file: Path, folder: Path) -> bool:
    """Whether a file of a model's or data set's folder says what it is: weights, tokenizer or rows, also below the top."""
    if any(part.startswith(".") for part in file.parts):
        return False
    # A README names the splits of a data set; a model's says nothing to the programs.
    return file.suffix in _KINDS or file.name in _TOKENIZER or (file.name == "README.md" and not (folder / "config.json").is_file())


def base_key(course: Course) -> str:
    """The key of the base model: weights, tokenizer and template, or the sizes of a new model."""
    model = course.profile.model
    return stable_hash(source_key(model.path), source_key(model.tokenizer), model.init, model.lora)


def changed(section: Any, overrides: Mapping[str, Any], name: str) -> Any:
    """A section of the profile with some fields changed and checked as on load; KitError if that fails."""
    unknown = set(overrides) - set(type(section).model_fields)
    if unknown:
        known = ", ".join(type(section).model_fields)
        raise KitError(f"{name} has no setting {sorted(unknown)[0]!r}; known: {known}")
    try:
        return type(section).model_validate({**section.model_dump(), **overrides})
    except ValueError as error:
        raise KitError(f"{name}: {' '.join(str(error).split())}") from None


def prompt_splits(
    profile: Any, iterations: int | None = None, per_iteration: int | None = None
) -> dict[str, int]:
    """How many prompts the splits "eval", "choose", "iteration-1" ... have, from the profile unless given."""
    data = profile.data
    sizes = {"eval": data.eval_prompts, "choose": data.choose_prompts}
    for t in range(1, (iterations or data.iterations) + 1):
        sizes[f"iteration-{t}"] = per_iteration or data.prompts_per_iteration
    return sizes
