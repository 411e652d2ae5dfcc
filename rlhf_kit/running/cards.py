"""The opening cards' row of times, which follows data/expected/timings.yaml and is not typed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from rlhf_kit.errors import KitError
from rlhf_kit.files import PROJECT, write_text
from rlhf_kit.progress import clock

ROW = re.compile(r"^\| \*\*Time\*\* \|.*$", re.M)
TIMINGS = PROJECT / "data" / "expected" / "timings.yaml"


def time_row(lesson: str, timings: Mapping[str, Mapping[str, int]]) -> str:
    """The row of one lesson. timings: profile -> lesson -> seconds; profiles that were not measured are not named."""
    told = ", ".join(f"{profile} {clock(seconds[lesson])}" for profile, seconds in timings.items() if lesson in seconds)
    kept = "what earlier lessons made is found, what is missing is made"
    if lesson.startswith("00"):  # nothing is earlier
        kept = "a second run finds what the first has made"
    return f"| **Time** | {told or 'not measured yet'} (minutes:seconds on two CPU cores, measured; {kept}) |"


def without_times(source: str) -> str:
    """A cell's text without its row of times, so that a new measurement executes nothing again."""
    return ROW.sub("", source)


def stamp(folder: Path, timings: Path = TIMINGS) -> list[Path]:
    """Writes the measured times into the opening cards of the lessons of `folder`; returns the files that changed.

    KitError where a lesson's first cell has no row of times.
    """
    known = yaml.safe_load(timings.read_text(encoding="utf-8")) or {}
    changed = []
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        book = json.loads(path.read_text(encoding="utf-8"))
        source = "".join(book["cells"][0]["source"])
        if not ROW.search(source):
            raise KitError(f"{path.name}: its first cell has no row `| **Time** | ... |`; an opening card has one")
        row = time_row(path.stem, known)
        new = source.replace(ROW.search(source)[0], row)
        if new != source:
            book["cells"][0]["source"] = new.splitlines(keepends=True)
            write_text(path, json.dumps(book, indent=1, ensure_ascii=False) + "\n")
            changed.append(path)
    return changed
