"""The dial: profiles are YAML files, checked on load, and resolved to a machine with reasons; `profile_schema` has their keys."""

from __future__ import annotations

import difflib
import os
import typing
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from rlhf_kit import profile_checks
from rlhf_kit.errors import KitError
from rlhf_kit.machine import Machine, resolve
from rlhf_kit.profile_schema import Profile
from rlhf_kit.runs import PROJECT, project_path

__all__ = ["DEFAULT", "Machine", "Profile", "known", "load_profile", "needs_hub", "resolve"]

FOLDER = PROJECT / "data" / "profiles"
DEFAULT = "laptop"


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
    given = "..." if location[:2] == ("sampling", "server") else repr(error["input"])  # it may hold a password
    return f"{where}: {dotted} is {given}: {error['msg'][0].lower()}{error['msg'][1:]}"


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
        # A server's address that is about to be refused may hold a password.
        where += f" with {', '.join(f'{k}={v}' if k != 'sampling.server' else k for k, v in overrides.items())}"
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
