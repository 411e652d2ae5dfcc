"""The reader's own judgements as a preference file: one row a judgement, in the standard format, never lost.

The file is written anew, whole, after every judgement; `preferences.load_preferences` reads it like any other. Who starts
again finds the judgements of before beside it, under a numbered name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlhf_kit.errors import KitError
from rlhf_kit.files import write_text

SOURCE = "you"


def row_of(pair: Mapping, first: str, preferred: str) -> dict:
    """A judgement as a row of the standard format. pair: prompt_id, prompt, chosen, rejected (the file's own order);
    first: which of the two was shown as A; preferred: which of the two the reader took. No score is written: it would
    be read as the reader's."""
    other = {"chosen": "rejected", "rejected": "chosen"}[preferred]
    whole = lambda side: [*pair["prompt"], {"role": "assistant", "content": pair[side]}]  # noqa: E731
    return {"prompt": list(pair["prompt"]), "chosen": whole(preferred), "rejected": whole(other), "source": SOURCE,
            "prompt_id": pair["prompt_id"], "pair": pair["pair"], "shown_first": "chosen" if first == preferred else "rejected"}  # fmt: skip


def save(path: Path, rows: Sequence[Mapping]) -> Path:
    """Writes all judgements; the old file or the whole new one, never half of it."""
    return write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def aside(path: Path) -> dict[int, Path]:
    """The files of judgements that were put aside, by their number, the oldest first."""
    named = re.compile(rf"{re.escape(path.stem)}-(\d+){re.escape(path.suffix)}")
    found = ((named.fullmatch(other.name), other) for other in path.parent.glob("*"))
    return dict(sorted((int(match[1]), other) for match, other in found if match))


def put_aside(path: Path) -> None:
    """Renames the file, if there is one, to <name>-<number> in the same folder, so that the next sitting begins anew."""
    if path.is_file():
        path.rename(path.with_name(f"{path.stem}-{max(aside(path), default=0) + 1}{path.suffix}"))


def load(path: Path) -> list[dict]:
    """The judgements of an earlier sitting, [] without a file; KitError naming the line that is no judgement."""
    if not Path(path).is_file():
        return []
    rows = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            if not {"prompt", "chosen", "rejected", "pair"} <= set(row):
                raise ValueError("it lacks prompt, chosen, rejected or pair")
        except ValueError as problem:
            raise KitError(
                f"{Path(path).name}, line {number}: not a judgement ({problem}); mend the line, or rename the file to begin anew"
            ) from None
        rows.append(row)
    return rows
