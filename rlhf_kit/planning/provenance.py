"""Where each value of a profile comes from: the comment beside it in its YAML file, and what the paper's sources say.

A comment begins with its kind: `paper` (arXiv 2405.07863 v3, with the place), `code` (its authors' scripts),
`authors` (their answers to readers) or `ours`. data/paper_numbers/recipe.yaml has all that they say on a value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from rlhf_kit import profiles
from rlhf_kit.files import PROJECT, project_path

KINDS = ("paper", "code", "authors", "ours")
RECIPE = PROJECT / "data" / "paper_numbers" / "recipe.yaml"


@dataclass(frozen=True)
class Value:
    """One resolved value. others: [{value, where}] that differ from it; why: the reason for this one, where told."""

    field: str
    value: Any
    source: str
    others: tuple[dict, ...] = ()
    why: str | None = None


@lru_cache(maxsize=1)
def recipe() -> dict:
    """data/paper_numbers/recipe.yaml: {fields: {dotted: {says: [{value, where}], why}}, beside, lengths, ...}."""
    return yaml.safe_load(RECIPE.read_text(encoding="utf-8"))


def leaves(section: BaseModel, prefix: str = "") -> dict[str, Any]:
    """{dotted field: value} of a profile or section, sections resolved down to their fields."""
    found: dict[str, Any] = {}
    for name in type(section).model_fields:
        value, dotted = getattr(section, name), f"{prefix}{name}"
        if isinstance(value, BaseModel):
            found |= leaves(value, f"{dotted}.")
        else:
            found[dotted] = list(value) if isinstance(value, tuple) else value
    return found


def comments(path: Path) -> dict[str, str]:
    """{dotted field: comment} of a profile file: the rest of the line on which a value ends, else "".

    A section written on one line, {a: 1, b: 2}, lends its comment to its fields.
    """
    text = path.read_text(encoding="utf-8")
    lines, found = text.splitlines(), {}

    def remark(line: int) -> str:
        match = re.search(r"(?:^|\s)#\s*(.*)$", lines[line]) if line < len(lines) else None
        return match.group(1).strip() if match else ""

    def walk(node: yaml.Node, prefix: str) -> None:
        for key, value in node.value:
            dotted = f"{prefix}{key.value}"
            found[dotted] = remark(key.start_mark.line)
            if isinstance(value, yaml.MappingNode):
                walk(value, f"{dotted}.")

    root = yaml.compose(text)
    if isinstance(root, yaml.MappingNode):
        walk(root, "")
    return found


def _files(name_or_path: str | Path) -> list[Path]:
    """The profile's file, after the one that it extends."""
    text = str(name_or_path)
    path = profiles.FOLDER / f"{text}.yaml" if text in profiles.known() else project_path(text)
    base = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("extends")
    return [*([profiles.FOLDER / f"{base}.yaml"] if base else []), path]


def values(name_or_path: str | Path, overrides: dict[str, Any] | None = None) -> list[Value]:
    """Every resolved value of a profile with its source, in the order of the sections; see `load_profile`."""
    profile = profiles.load_profile(name_or_path, overrides)
    said: dict[str, str] = {}
    for path in _files(name_or_path):
        shown = f"no source is named in {path.name}"
        said |= {field: text or shown for field, text in comments(path).items()}
    for dotted in overrides or {}:
        said = {f: s for f, s in said.items() if not f.startswith(f"{dotted}.")} | {dotted: "given with --set"}
    shipped, made = leaves(profiles.load_profile("paper")), []
    for field, value in leaves(profile).items():
        source, above = said.get(field), field
        while source is None and "." in above:  # a section that was given as a whole
            above = above.rsplit(".", 1)[0]
            whole = said.get(above)
            source = whole if whole == "given with --set" else None
        entry = recipe()["fields"].get(field, {})
        others = tuple(one for one in entry.get("says", ()) if one["value"] != value)
        why = entry.get("why") if others and value == shipped.get(field) else None  # it speaks of paper.yaml's value
        made.append(Value(field, value, source or "the kit's default", others, why))
    return made
