"""What a run leaves for others: timings.json, metrics.json, claims.json, the site, the lessons' outputs."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

import yaml

from rlhf_kit import claims, site
from rlhf_kit.errors import KitError
from rlhf_kit.running import notebooks, outputs
from rlhf_kit.runs import PROJECT, Run, environment, read_json, records, shown, write_json, write_text

FIGURE = PROJECT / "data" / "expected" / "summary.png"  # the README shows it
DRAWN_BY = "09_evaluation"  # the lesson that draws it
TIMINGS = PROJECT / "data" / "expected" / "timings.yaml"


def write_results(run: Run) -> list[dict]:
    """Writes timings.json, metrics.json and claims.json from the run's records; returns the claims."""
    executed = {n: r["value"] for n, r in records(run, "executed").items()}
    stages: dict[str, float] = {}
    for manifest in sorted(run.path.glob("*-*/manifest.json")):
        stages[manifest.parent.name] = read_json(manifest)["seconds"]
    write_json(
        run.path / "timings.json",
        {
            "notebooks": {n: e["seconds"] for n, e in executed.items()},
            "total_seconds": round(sum(e["seconds"] for e in executed.values()), 1),
            "stages": stages,
            "peak_memory_mb": {n: e["peak_memory_mb"] for n, e in executed.items()},
            "environment": environment(),
        },
    )
    write_json(run.path / "metrics.json", {n: r["value"] for n, r in records(run, "metrics").items()})
    found = claims.collect(run)
    write_json(run.path / "claims.json", found)
    return found


def conclude(run: Run, profile: str | None = None) -> int:
    """Writes the results and the site, prints the claims; 1 if a claim is outside its band.

    profile: of a run whose lessons are all there; then a claim with a band at it that no lesson recorded is 1, too.
    """
    found = write_results(run)
    index = site.build(run)
    print(f"\n{claims.table(found)}\n\nsite: {shown(index)}", flush=True)
    outside = [c["id"] for c in found if c["status"] == "outside"]
    if outside:
        print(f"outside their bands: {', '.join(outside)}", flush=True)
    silent = claims.missing(run, profile) if profile else []
    if silent:
        print(f"claimed by no lesson of this run: {', '.join(silent)}", flush=True)
    return 1 if outside or silent else 0


def store_outputs(run: Run, folder: Path = notebooks.FOLDER, only: Collection[str] | None = None) -> list[Path]:
    """Copies the run's executed notebooks, cleaned, over the lessons in `folder`, and with its lesson the README's figure.

    only: names of the notebooks to copy; None copies all that the run holds.
    """
    own = run.path / "lesson-01" / "my_labels.jsonl"
    if own.is_file() and (only is None or "01_preferences" in only):
        raise KitError(f"{shown(own)} holds labels of your own; move it away and execute lesson 01 again, or they would stand in it")
    stored = []
    executed = {name: record for name, record in records(run, "executed").items() if only is None or name in only}
    solved = [n for n, r in executed.items() if r["value"].get("parameters", {}).get("EXERCISES") == "solution"]
    if solved:
        raise KitError(f"{solved[0]} was executed with EXERCISES=solution; run it without, or its solutions would be stored")
    for name in executed:
        book = run.path / "notebooks" / f"{name}.ipynb"
        if book.is_file() and (folder / book.name).is_file():
            outputs.clean(book, folder / book.name)
            stored.append(folder / book.name)
    if not stored:
        raise KitError(f"run {run.name} holds no executed notebooks to store")
    figure = run.path / "figures" / FIGURE.name
    if figure.is_file() and folder == notebooks.FOLDER and DRAWN_BY in {path.stem for path in stored}:
        shutil.copyfile(figure, FIGURE)
    return stored


def store_timings(run: Run, profile: str, path: Path = TIMINGS, only: Collection[str] | None = None) -> None:
    """Puts the run's seconds by notebook (of `only`, or of all) into data/expected/timings.yaml, from which `expected` is shown.

    A notebook that spent less than half of its seconds on making stages keeps its old entry: it found them made by an
    earlier execution, and its seconds say nothing.
    """
    known = (yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None) or {}
    old, executed = known.get(profile) or {}, {n: r["value"] for n, r in records(run, "executed").items() if only is None or n in only}
    whole = [n for n, e in executed.items() if n not in old or sum(e["stages"].values()) > e["seconds"] / 2]
    known[profile] = {**old, **{n: round(executed[n]["seconds"]) for n in whole}}
    head = "# Measured seconds by profile and notebook; written by `make notebooks`.\n"
    write_text(path, head + yaml.safe_dump(known, sort_keys=True))
