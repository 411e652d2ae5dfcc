"""The reader's own judgements as a preference file: one row a judgement, in the standard format, never lost.

The file is written anew, whole, after every judgement; `preferences.load_preferences` reads it like any other.
"""

from __future__ import annotations

import json
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
                f"{Path(path).name}, line {number}: not a judgement ({problem}); mend the line, or move the file away to begin anew"
            ) from None
        rows.append(row)
    return rows
