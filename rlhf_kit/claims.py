"""A number in the prose is a claim with a band: checked when a notebook runs, collected when the run ends.

`data/expected/claims.yaml` holds for each claim its sentence, where the paper says it, how the value is
computed and a band per profile. Bands were recorded before the run that they judge; they are never moved to
make a run pass.
"""

from __future__ import annotations

import difflib
import math
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlhf_kit.errors import KitError
from rlhf_kit.runs import PROJECT, as_run, record, records

FILE = PROJECT / "data" / "expected" / "claims.yaml"
STATUSES = ("holds", "outside", "inconclusive", "not reproduced here")


class Claim(BaseModel):
    """One entry of claims.yaml. A band is [low, high], ends included; a null end leaves that side open."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    id: str
    statement: str
    source: str
    how: str
    bands: dict[str, tuple[float | None, float | None] | None] = {}
    null_value: float | None = Field(None, alias="null")  # the value that means "no effect"
    seeds: list[int] = []
    expected: Literal["holds", "not reproduced here"] = "holds"
    why: str | None = None


@lru_cache(maxsize=8)
def _load(path: str, mtime: float) -> dict[str, Claim]:
    try:
        # the key `null` would be read as YAML's null, so keys are taken as text
        entries = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        claims = [Claim(**{("null" if k is None else k): v for k, v in entry.items()}) for entry in entries]
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, AttributeError) as error:
        raise KitError(f"{path} is not a list of claims: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise KitError(
            f"{path}: a claim's {where} is wrong: {first['msg']} ({error.errors()[0]['input']!r})"
        ) from None
    by_id = {c.id: c for c in claims}
    if len(by_id) != len(claims):
        raise KitError(f"{path} holds two claims with the same id")
    for c in claims:
        if c.expected == "not reproduced here" and not c.why:
            raise KitError(f"{path}: claim {c.id} is not reproduced here, and must say why")
    return by_id


def load_claims(path: str | Path = FILE) -> dict[str, Claim]:
    """The claims of a YAML file by id; KitError naming the file and field when it is wrong."""
    if not Path(path).is_file():
        raise KitError(f"the claims file {path} does not exist")
    return _load(str(path), Path(path).stat().st_mtime)


def judge(
    claim: Claim, profile: str | None, value: float, interval: tuple[float, float] | None = None
) -> dict:
    """{band, status, note} of a value at a profile.

    In this order: without a band nothing is claimed; outside the band, or no number, is outside; inside it,
    an interval that covers the claim's null value makes it inconclusive; else it holds. A claim declared not
    reproduced here stays so, unless it holds after all, which its note then says. KitError for an interval that is
    none, where there is a band.
    """
    band = claim.bands.get(profile) if profile else None
    if band and interval is not None and not (interval[0] <= interval[1] and all(map(math.isfinite, interval))):
        raise KitError(f"claim {claim.id}: the interval {interval} has no finite ends in order; compute it again or leave it out")
    found = _by_band(claim, band, value, interval)
    if claim.expected == "not reproduced here" and (band is None or math.isfinite(value)):
        if found["status"] == "holds":
            return {**found, "note": "declared as not reproduced here, and it holds: say so in claims.yaml"}
        return {"band": band, "status": "not reproduced here", "note": claim.why}
    return found


def _by_band(claim: Claim, band: Any, value: float, interval: tuple[float, float] | None) -> dict:
    if band is None:
        return {"band": None, "status": "inconclusive", "note": "no band recorded for this profile"}
    if not math.isfinite(value):
        return {"band": band, "status": "outside", "note": "not a number"}
    low = -math.inf if band[0] is None else band[0]
    high = math.inf if band[1] is None else band[1]
    if not low <= value <= high:
        return {"band": band, "status": "outside", "note": None}
    null = claim.null_value
    if interval is not None and null is not None and interval[0] <= null <= interval[1]:
        return {"band": band, "status": "inconclusive", "note": f"the interval covers {null:g}"}
    return {"band": band, "status": "holds", "note": None}


def claim(
    course_or_run: Any,
    id: str,
    value: float,
    interval: tuple[float, float] | None = None,
    *,
    profile: str | None = None,
    file: str | Path = FILE,
) -> dict:
    """Judges `value` by the band of the course's profile, records it, prints one line and returns the record.

    `interval` is a (low, high) confidence interval of the value. KitError for an id that claims.yaml does not
    know.
    """
    known = load_claims(file)
    if id not in known:
        near = difflib.get_close_matches(id, list(known), n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
        raise KitError(f"unknown claim {id!r}{hint}")
    if profile is None and hasattr(course_or_run, "profile"):
        profile = course_or_run.profile.name
    value = float(value)
    interval = None if interval is None else (float(interval[0]), float(interval[1]))
    entry = {
        "id": id,
        "statement": known[id].statement,
        "value": value if math.isfinite(value) else None,
        "interval": interval,
        "profile": profile,
        **judge(known[id], profile, value, interval),
    }
    record(as_run(course_or_run), "claims", id, entry)
    print(_line(entry), flush=True)
    return entry


def collect(run: Any) -> list[dict]:
    """All recorded claims, as `claim` returns them plus `notebook`, in the order of claims.yaml."""
    order = {name: place for place, name in enumerate(load_claims())} if FILE.is_file() else {}
    found = [{**r["value"], "notebook": r["notebook"]} for r in records(run, "claims").values()]
    return sorted(found, key=lambda c: (order.get(c["id"], len(order)), c["id"]))


def missing(run: Any, profile: str) -> list[str]:
    """The ids of the claims with a band at this profile that the run has not recorded at it, in the file's order."""
    made = {c["id"] for c in collect(run) if c["profile"] == profile}
    return [c.id for c in load_claims().values() if c.bands.get(profile) and c.id not in made]


def _number(value: float | None) -> str:
    if value is None:
        return "not a number"
    return f"{value:.1e}" if value and abs(value) < 1e-3 else f"{value:.3f}"


def band_text(band: Any) -> str:
    """A band as people read it: `0.80 ... 1.00`, `at least 0.00`, `no band`."""
    if band is None:
        return "no band"
    low, high = band
    if high is None:
        return "any value" if low is None else f"at least {low:g}"
    return f"at most {high:g}" if low is None else f"{low:g} ... {high:g}"


def value_text(entry: dict) -> str:
    """The value with its interval."""
    interval = entry.get("interval")
    return _number(entry["value"]) + (
        f" [{_number(interval[0])}, {_number(interval[1])}]" if interval else ""
    )


def _line(entry: dict) -> str:
    note = f" ({entry['note']})" if entry.get("note") else ""
    return (
        f"claim {entry['id']}: {value_text(entry)}, band {band_text(entry['band'])}: {entry['status']}{note}"
    )


def table(claims: list[dict]) -> str:
    """The claims as a Markdown table with aligned columns, and a closing count by status."""
    if not claims:
        return "no claims were recorded"
    head = ("status", "claim", "value", "band", "statement")
    rows = [(c["status"], c["id"], value_text(c), band_text(c["band"]), c["statement"]) for c in claims]
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(4)]
    lines = [
        "| " + " | ".join([*(cell.ljust(w) for cell, w in zip(r, widths, strict=False)), r[4]]) + " |"
        for r in [head, tuple("-" * w for w in widths) + ("---",), *rows]
    ]
    counts = ", ".join(f"{n} {s}" for s in STATUSES if (n := sum(c["status"] == s for c in claims)))
    return "\n".join([*lines, f"{len(claims)} claims: {counts}"])
