"""Notebook files: finding them, their parameters and content keys; `outputs` judges and stores those that ran."""

from __future__ import annotations

import ast
import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml

from rlhf_kit.errors import KitError
from rlhf_kit.running import cards
from rlhf_kit.runs import PROJECT, file_hash, stable_hash

FOLDER = PROJECT / "notebooks"
# Modules that arrange the work and cannot change a notebook's numbers; a change in them re-executes nothing.
ARRANGING = {"__main__", "cli", "doctor", "exercises/__main__", "exercises/solutions", "inputs", "progress", "site", "speed"} | {
    f"running/{name}" for name in "__init__ cards execute notebooks one_notebook outputs report report_text results runner sweep which".split()
}


@dataclass(frozen=True)
class Notebook:
    name: str  # the file name without its ending, "03_reward_model"
    path: Path
    parameters: dict[str, Any]  # name -> default value
    optional: frozenset[str]  # parameters that may be None


def read(path: Path) -> nbformat.NotebookNode:
    """The notebook of a file; KitError when it is not one."""
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises many kinds for a broken file
        raise KitError(f"{path} is not a readable notebook ({str(error).splitlines()[0][:120]})") from None


def _literals(path: Path, source: str) -> tuple[dict[str, Any], set[str]]:
    """Names and values assigned in a parameters cell, and those annotated as possibly None."""
    values, optional = {}, set()
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise KitError(f"{path.name}: its parameters cell is not valid Python ({error.msg})") from None
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            target, value = node.target.id, node.value
            if "None" in ast.unparse(node.annotation) or "Optional" in ast.unparse(node.annotation):
                optional.add(target)
        elif (
            isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)
        ):
            target, value = node.targets[0].id, node.value
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        else:
            raise KitError(
                f"{path.name}: its parameters cell may hold only `NAME = literal` lines, "
                f"not `{ast.unparse(node)}`"
            )
        try:
            values[target] = ast.literal_eval(value)
        except ValueError:
            raise KitError(
                f"{path.name}: parameter {target} must be a literal, as a value derived there would not "
                f"follow an injected parameter"
            ) from None
        if values[target] is None:
            optional.add(target)
    return values, optional


def load(path: Path) -> Notebook:
    """A notebook with its parameters; KitError unless exactly one code cell is tagged `parameters`."""
    cells = [
        c for c in read(path).cells if c.cell_type == "code" and "parameters" in c.metadata.get("tags", [])
    ]
    if len(cells) != 1:
        raise KitError(f"{path.name} has {len(cells)} cells tagged `parameters`, and must have one")
    values, optional = _literals(path, cells[0].source)
    return Notebook(path.stem, path, values, frozenset(optional))


def select(folder: Path = FOLDER, only: str | None = None, start: str | None = None) -> list[Notebook]:
    """The notebooks NN_*.ipynb of a folder in order; `only` is "03" or "03,05", `start` the first to take."""
    paths = sorted(p for p in folder.glob("*.ipynb") if re.match(r"\d\d_", p.name))
    if not paths:
        raise KitError(f"{folder} holds no notebooks named NN_*.ipynb")
    numbers = {p.name[:2]: p for p in paths} | {p.stem: p for p in paths}

    def pick(text: str, option: str) -> Path:
        text = text.strip().removesuffix(".ipynb")
        found = numbers.get(text.zfill(2) if text.isdigit() else text)
        if found is None:
            raise KitError(
                f"{option} {text!r}: no such notebook; there are {', '.join(p.stem for p in paths)}"
            )
        return found

    if only is not None:
        chosen = {pick(t, "--only") for t in only.split(",")}
        paths = [p for p in paths if p in chosen]
    if start is not None:
        first = pick(start, "--from")
        paths = [p for p in paths if p.name >= first.name]
        if not paths:
            raise KitError(f"--from {start} leaves none of the notebooks named by --only {only}")
    return [load(p) for p in paths]


# ---------------------------------------------------------------- parameters


def _fits(value: Any, default: Any, optional: bool) -> bool:
    if value is None:
        return optional
    if default is None:
        return isinstance(value, str | int | float | bool)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    return isinstance(value, type(default))


def check_parameters(books: list[Notebook], given: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The parameters to inject, notebook by notebook, from `given` texts (`--param name=value`).

    A parameter goes to every notebook that has it. KitError when no chosen notebook has it, or the type is
    wrong.
    """
    result: dict[str, dict[str, Any]] = {book.name: {} for book in books}
    for name, text in given.items():
        owners = [b for b in books if name in b.parameters]
        if not owners:
            names = sorted({p for b in books for p in b.parameters})
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names) or 'none'}"
            raise KitError(f"--param {name}: no chosen notebook has this parameter; {hint}")
        for book in owners:
            default = book.parameters[name]
            value = text if isinstance(default, str) else _parse(text)
            if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
                value = float(value)
            if not _fits(value, default, name in book.optional):
                wanted = "text, a number or true/false" if default is None else type(default).__name__
                raise KitError(
                    f"--param {name}={text}: {book.name} wants {wanted} (its default is {default!r})"
                )
            result[book.name][name] = value
    return result


def _parse(text: str) -> Any:
    """A command-line text as a value: numbers, true/false, null, lists; else the text itself."""
    try:
        return float(text) if re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", text) else yaml.safe_load(text)
    except yaml.YAMLError:
        return text


# ---------------------------------------------------------------- content keys


def code_key() -> str:
    """Hash of what all notebooks share: the package (but for what only arranges the work) and data/."""
    package = PROJECT / "rlhf_kit"
    parts = [
        [str(p.relative_to(package)), file_hash(p)]
        for p in sorted(package.rglob("*.py"))
        if not {str(p.relative_to(package).with_suffix("")), p.relative_to(package).parts[0]} & ARRANGING
    ]
    data = PROJECT / "data"
    skipped = {data / "expected" / "timings.yaml", data / "expected" / "summary.png"}
    parts += [
        [str(p.relative_to(data)), file_hash(p)]
        for p in sorted(data.rglob("*"))
        if p.is_file() and p not in skipped and p.parent.name != "profiles"
    ]
    return stable_hash(parts)


def local_key(path: str | None) -> Any:
    """What stands for a user's own file or model folder in a key: sizes and times, as they may be large."""
    from rlhf_kit.runs import project_path

    if not path:
        return None
    found = project_path(path)
    files = (
        sorted(p for p in found.rglob("*") if p.is_file()) if found.is_dir() else [found] * found.is_file()
    )
    return [path, [[p.name, p.stat().st_size, int(p.stat().st_mtime)] for p in files]]


def content_key(book: Notebook, parameters: dict[str, Any], *shared: Any) -> str:
    """Key of an executed notebook: its cells' sources (not their outputs), parameters, and what is shared."""
    cells = [[c.cell_type, cards.without_times(c.source)] for c in read(book.path).cells]
    return stable_hash(cells, parameters, *shared)
