"""A run's claims, metrics and policies, alone or beside another run's: the numbers; `report_text` says how they are shown.

Two runs' policies of one name are compared answer by answer where both answered the same prompts (paired, prompts
being what varies), and as independent samples where not; the table says which. Names and statements are escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_kit.errors import KitError
from rlhf_kit.running import which
from rlhf_kit.running.report_text import markdown, page
from rlhf_kit.runs import read_json, shown, write_json, write_text

MEASURES = ("gold", "reward", "length")


def report(name: str, against: str | None = None) -> str:
    """The report as Markdown, as `python -m rlhf_kit report` prints it; also written to runs/<name>/report/.

    Files: report.md, report.html and report.json, with `against` report-against-<run>.*. KitError for an unknown or
    unfinished run.
    """
    found = compare(name, against)
    folder, name_of_files = which.existing(name) / "report", stem(against)
    text = markdown(found)
    write_json(folder / f"{name_of_files}.json", found)
    write_text(folder / f"{name_of_files}.html", page(found))
    write_text(folder / f"{name_of_files}.md", text + "\n")
    return text


def stem(against: str | None) -> str:
    """The name of the report's files, without their endings."""
    return "report" if against is None else f"report-against-{against}"


# ---------------------------------------------------------------- what there is to say


def compare(name: str, against: str | None = None) -> dict[str, Any]:
    """The content: {run, against, claims, metrics, policies, time}; JSON-able, numbers that are not finite as None.

    metrics: lines {metric, value} and with `against` other and difference. policies: lines {policy, temperature, category,
    measure, value, n, low, high} or {..., value, other, difference, low, high, p, paired, n}; intervals 95 %, over prompts.
    """
    if against is not None and against == name:
        raise KitError(f"run {name!r} cannot be compared with itself; give another run to --against")
    own = _load(name)
    other = _load(against) if against else None
    values = {**{f"claim {c['id']}": c["value"] for c in own["claims"]}, **own["metrics"]} if other else own["metrics"]
    lines: list[dict] = []
    if other is None:
        lines = [{"metric": key, "value": value} for key, value in values.items()]
        policies = [line for key, answers in own["answers"].items() for line in _alone(key, answers)]
    else:
        others = {**{f"claim {c['id']}": c["value"] for c in other["claims"]}, **other["metrics"]}
        for key in [*values, *(k for k in others if k not in values)]:
            a, b = values.get(key), others.get(key)
            lines.append({"metric": key, "value": a, "other": b, "difference": _less(a, b)})
        shared = [key for key in own["answers"] if key in other["answers"]]
        policies = [line for key in shared for line in _paired(key, own["answers"][key], other["answers"][key])]
    return _finite({"run": name, "against": against, "claims": own["claims"], "metrics": lines, "policies": policies,
                    "time": own["timings"]})


def _less(a: Any, b: Any) -> Any:
    """a - b of two numbers, and of two lists or mappings of the same shape number by number; else None."""
    if all(isinstance(x, int | float) and not isinstance(x, bool) for x in (a, b)):
        return a - b
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        found = [_less(x, y) for x, y in zip(a, b, strict=True)]
        return found if found and None not in found else None
    if isinstance(a, Mapping) and isinstance(b, Mapping) and list(a) == list(b):
        found = {key: _less(a[key], b[key]) for key in a}
        return found if found and None not in found.values() else None
    return None


def _load(name: str) -> dict[str, Any]:
    folder = which.existing(name)
    if not (folder / "claims.json").is_file():
        raise KitError(f"run {name!r} has not finished; `python -m rlhf_kit run --run {name}` goes on with it")
    return {**which.results(folder), "answers": _answers(folder)}


def _answers(folder: Path) -> dict[tuple[str, float], list[dict]]:
    """(policy, temperature) -> rows of the final evaluation; where stages share a policy's name the newest counts."""
    import pyarrow.parquet as pq
    from pyarrow.lib import ArrowException

    stages = []
    for manifest in folder.glob("evaluation-*/manifest.json"):
        facts = read_json(manifest)
        if (manifest.parent / "_SUCCESS").is_file() and facts["params"].get("split") == "eval":
            stages.append((facts["started"], manifest.parent / "rows.parquet"))
    found: dict[tuple[str, float], list[dict]] = {}
    for _, path in sorted(stages):
        wanted = ["policy", "temperature", "prompt_id", "sample", "category", *MEASURES]
        try:
            known = pq.read_schema(path).names
            rows = pq.read_table(path, columns=[c for c in wanted if c in known]).to_pylist()
        except (OSError, ArrowException):
            raise KitError(f"{shown(path)} cannot be read; remove its folder, and the run makes it again") from None
        fresh: dict[tuple[str, float], list[dict]] = {}
        for row in rows:
            fresh.setdefault((row["policy"], row["temperature"]), []).append(row)
        found |= fresh
    return found


def _by_prompt(rows: Sequence[Mapping], measure: str, category: str) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for row in rows:
        if row.get(measure) is not None and category in ("all", row.get("category")):
            values.setdefault(row["prompt_id"], []).append(float(row[measure]))
    return {prompt: sum(v) / len(v) for prompt, v in values.items()}


def _categories(*sides: Sequence[Mapping]) -> list[str]:
    return ["all", *dict.fromkeys(row["category"] for rows in sides for row in rows if row.get("category"))]


def _alone(key, rows) -> list[dict]:
    from rlhf_kit.evaluation import cluster_interval

    lines = []
    for category in _categories(rows):
        for measure in MEASURES:
            means = list(_by_prompt(rows, measure, category).values())
            if len(means) > 1:
                found = cluster_interval(means)
                lines.append({"policy": key[0], "temperature": key[1], "category": category, "measure": measure,
                              "value": found.mean, "low": found.low, "high": found.high, "n": len(means)})
    return lines


def _paired(key, rows, others) -> list[dict]:
    from scipy import stats

    from rlhf_kit.evaluation import paired_difference

    lines = []
    for category in _categories(rows, others):
        for measure in MEASURES:
            a, b = _by_prompt(rows, measure, category), _by_prompt(others, measure, category)
            shared = [prompt for prompt in a if prompt in b]
            if len(shared) > 1 and len(shared) >= min(len(a), len(b)) / 2:
                a, b = {p: a[p] for p in shared}, {p: b[p] for p in shared}
                found = paired_difference(list(a.values()), list(b.values()))
                difference, low, high, p, paired = *found, True
            elif len(a) > 1 and len(b) > 1:
                difference, paired = _mean(a) - _mean(b), False
                low, high, p = difference, difference, float(difference == 0)
                if len({*a.values()}) > 1 or len({*b.values()}) > 1:  # without any spread there is nothing to test
                    test = stats.ttest_ind(list(a.values()), list(b.values()), equal_var=False)
                    (low, high), p = test.confidence_interval(), test.pvalue
            else:
                continue
            lines.append({"policy": key[0], "temperature": key[1], "category": category, "measure": measure, "value": _mean(a),
                          "other": _mean(b), "difference": float(difference), "low": float(low), "high": float(high),
                          "p": float(p), "paired": paired, "n": len(a) if paired else len(a) + len(b)})
    return lines


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)


def _finite(value: Any) -> Any:
    """The same data with nan and infinities as None: JSON has no word for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value
