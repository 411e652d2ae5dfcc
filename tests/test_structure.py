"""The package's imports, those inside functions among them, make no circle: a reader can start at the bottom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from rlhf_kit.runs import PROJECT


def imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, name in it or nothing) that code imports, at the top or in a function, but for what only type checkers read."""
    for part in ast.iter_child_nodes(node):
        if isinstance(part, ast.If) and ast.unparse(part.test) == "TYPE_CHECKING":
            continue
        if isinstance(part, ast.Import):
            yield from ((alias.name, "") for alias in part.names)
        elif isinstance(part, ast.ImportFrom):
            yield from ((str(part.module), alias.name) for alias in part.names)
        yield from imported(part)


def graph(folder: Path) -> dict[str, set[str]]:
    """Module -> the modules of the package in `folder` that it imports, each as `from package import module` means it."""
    files = {".".join(path.relative_to(folder.parent).with_suffix("").parts).removesuffix(".__init__"): path for path in folder.rglob("*.py")}
    found: dict[str, set[str]] = {}
    for module, path in files.items():
        wanted = imported(ast.parse(path.read_text(encoding="utf-8")))
        named = {f"{where}.{name}" if f"{where}.{name}" in files else where for where, name in wanted}
        found[module] = (named & files.keys()) - {module}
    return found


def test_imports_make_no_circle():
    modules = graph(PROJECT / "rlhf_kit")
    assert len(modules) > 100 and "rlhf_kit.runs" in modules["rlhf_kit.course"]
    assert "rlhf_kit.recipe.evaluation" in modules["rlhf_kit.checkpoints.model_card"]  # inside a function
    TopologicalSorter(modules).prepare()


def test_a_circle_is_found_also_where_a_function_hides_it(tmp_path):
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "a.py").write_text("from kit import b\n")
    (tmp_path / "kit" / "b.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from kit.a import x\n")
    TopologicalSorter(graph(tmp_path / "kit")).prepare()
    (tmp_path / "kit" / "b.py").write_text("def f():\n    from kit.a import x\n")
    with pytest.raises(CycleError):
        TopologicalSorter(graph(tmp_path / "kit")).prepare()
