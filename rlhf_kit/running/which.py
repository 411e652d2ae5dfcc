"""Which run is meant: the one that is named, or the newest finished one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_kit.errors import KitError
from rlhf_kit.runs import open_run, read_json, runs_folder, shown


def finished() -> list[str]:
    """Names of the runs that have their results, the newest first."""
    found = [path for path in runs_folder().glob("*/claims.json") if path.is_file()]
    return [path.parent.name for path in sorted(found, key=lambda path: (-path.stat().st_mtime_ns, path))]


def newest(but: str | None = None) -> str:
    """The run whose results are newest, `but` one that is named otherwise; KitError if there is none."""
    names = [name for name in finished() if name != but]
    if not names:
        raise KitError(f"there is no finished run in {shown(runs_folder())}; `python -m rlhf_kit run` makes one")
    return names[0]


def existing(name: str) -> Path:
    """The folder of the run `name`; KitError naming the finished ones if there is none."""
    if not name or not (runs_folder() / name).is_dir():
        names = sorted(finished())
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise KitError(f"there is no run {name!r} in {shown(runs_folder())}; finished runs: {', '.join(names) or 'none'}{hint}")
    return open_run(name, quiet=True).path


def results(folder: Path) -> dict[str, Any]:
    """{claims, metrics, timings} of a run's folder; KitError naming the file that does not hold what a run writes."""
    found = {x: read_json(folder / f"{x}.json") for x in ("claims", "metrics", "timings")}
    told = found["claims"]
    sound = {
        "claims": isinstance(told, list) and all(isinstance(c, Mapping) and {"id", "status", "value", "band", "statement"} <= set(c) for c in told),
        "metrics": isinstance(found["metrics"], Mapping),
        "timings": isinstance(found["timings"], Mapping) and {"notebooks", "total_seconds", "peak_memory_mb"} <= set(found["timings"]),
    }
    for name, fine in sound.items():
        if not fine:
            raise KitError(f"{shown(folder / name)}.json does not hold what a run writes; `python -m rlhf_kit run --run {folder.name}` writes it anew")
    return found
