"""A run's claims and metrics as Markdown, alone or beside another run's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlhf_kit import claims
from rlhf_kit.errors import KitError
from rlhf_kit.runs import PROJECT, open_run, read_json


def _load(name: str) -> tuple[list[dict], dict[str, Any], dict]:
    import os

    root = Path(os.environ.get("RLHF_KIT_RUNS") or PROJECT / "runs")
    if not (root / name).is_dir():
        there = ", ".join(sorted(p.name for p in root.glob("*") if (p / "claims.json").is_file())) or "none"
        raise KitError(f"there is no run {name!r}; finished runs: {there}")
    folder = open_run(name, root).path
    claims_, metrics, timings = (read_json(folder / f"{x}.json") for x in ("claims", "metrics", "timings"))
    return claims_, metrics, timings


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def report(name: str, against: str | None = None) -> str:
    """Markdown: the claims table, the metrics, the notebooks' seconds; with `against`, differences."""
    found, metrics, timings = _load(name)
    lines = [f"# Run {name}", "", "## Claims", "", claims.table(found), "", "## Metrics", ""]
    if against is None:
        lines += ["| metric | value |", "| --- | --- |"]
        lines += [f"| {k} | {_text(v)} |" for k, v in metrics.items()]
    else:
        other_claims, other, _ = _load(against)
        lines += [f"| metric | {name} | {against} | difference |", "| --- | --- | --- | --- |"]
        values = {**{f"claim {c['id']}": c["value"] for c in found}, **metrics}
        others = {**{f"claim {c['id']}": c["value"] for c in other_claims}, **other}
        for key in [*values, *(k for k in others if k not in values)]:
            a, b = values.get(key), others.get(key)
            both = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (a, b))
            lines.append(f"| {key} | {_text(a)} | {_text(b)} | {_text(a - b) if both else ''} |")
    lines += ["", "## Time", "", "| notebook | seconds | peak MB |", "| --- | --- | --- |"]
    lines += [
        f"| {n} | {s} | {timings['peak_memory_mb'].get(n, '')} |" for n, s in timings["notebooks"].items()
    ]
    return "\n".join([*lines, f"| total | {timings['total_seconds']} | |"])
