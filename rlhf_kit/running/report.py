"""A run's claims, metrics and policies, alone or beside another run's: printed, and written as Markdown, HTML and JSON.

Two runs' policies of one name are compared answer by answer where both answered the same prompts (paired, prompts
being what varies), and as independent samples where not; the table says which. Names and statements are escaped.
"""

from __future__ import annotations

import html
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_kit import claims
from rlhf_kit.errors import KitError
from rlhf_kit.runs import PROJECT, open_run, read_json, write_json, write_text

MEASURES = ("gold", "reward", "length")


def report(name: str, against: str | None = None) -> str:
    """The report as Markdown, as `python -m rlhf_kit report` prints it; also written to runs/<name>/report/.

    Files: report.md, report.html and report.json, with `against` report-against-<run>.*. KitError for an unknown or
    unfinished run.
    """
    found = compare(name, against)
    folder, stem = _folder(name) / "report", "report" if against is None else f"report-against-{against}"
    text = markdown(found)
    write_json(folder / f"{stem}.json", found)
    write_text(folder / f"{stem}.html", page(found))
    write_text(folder / f"{stem}.md", text + "\n")
    return text


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
            both = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (a, b))
            lines.append({"metric": key, "value": a, "other": b, "difference": a - b if both else None})
        shared = [key for key in own["answers"] if key in other["answers"]]
        policies = [line for key in shared for line in _paired(key, own["answers"][key], other["answers"][key])]
    return _finite({"run": name, "against": against, "claims": own["claims"], "metrics": lines, "policies": policies,
                    "time": own["timings"]})


def _folder(name: str) -> Path:
    root = Path(os.environ.get("RLHF_KIT_RUNS") or PROJECT / "runs")
    if not (root / name).is_dir():
        there = ", ".join(sorted(p.name for p in root.glob("*") if (p / "claims.json").is_file())) or "none"
        raise KitError(f"there is no run {name!r}; finished runs: {there}")
    return open_run(name, root).path


def _load(name: str) -> dict[str, Any]:
    folder = _folder(name)
    if not (folder / "claims.json").is_file():
        raise KitError(f"run {name!r} has not finished; `python -m rlhf_kit run --run {name}` goes on with it")
    found = {x: read_json(folder / f"{x}.json") for x in ("claims", "metrics", "timings")}
    return {**found, "answers": _answers(folder)}


def _answers(folder: Path) -> dict[tuple[str, float], list[dict]]:
    """(policy, temperature) -> rows of the final evaluation; where stages share a policy's name the newest counts."""
    import pyarrow.parquet as pq

    stages = []
    for manifest in folder.glob("evaluation-*/manifest.json"):
        facts = read_json(manifest)
        if (manifest.parent / "_SUCCESS").is_file() and facts["params"].get("split") == "eval":
            stages.append((facts["started"], manifest.parent / "rows.parquet"))
    found: dict[tuple[str, float], list[dict]] = {}
    for _, path in sorted(stages):
        known = pq.read_schema(path).names
        wanted = ["policy", "temperature", "prompt_id", "sample", "category", *MEASURES]
        fresh: dict[tuple[str, float], list[dict]] = {}
        for row in pq.read_table(path, columns=[c for c in wanted if c in known]).to_pylist():
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


# ---------------------------------------------------------------- how it is shown


def _tables(found: Mapping) -> list[tuple[str, str, list[str], list[list[Any]]]]:
    """(heading, note, columns, rows) of each table behind the claims."""
    against, name = found["against"], found["run"]
    everything = [line for line in found["policies"] if line["category"] == "all"]
    plain = [line for line in found["metrics"] if not any(_is_table(line.get(side)) for side in ("value", "other"))]
    names = [[line["policy"], f"{line['temperature']:g}", line["measure"]] for line in everything]
    if against is None:
        metrics = [[line["metric"], line["value"]] for line in plain]
        rows = [[*who, line["value"], _interval(line), line["n"]] for who, line in zip(names, everything, strict=True)]
        tables = [("Metrics", "", ["metric", "value"], metrics),
                  ("Policies", "Means over prompts with 95 % intervals.",
                   ["policy", "temperature", "measure", "value", "interval", "prompts"], rows)]
    else:
        metrics = [[line["metric"], line["value"], line["other"], line["difference"]] for line in plain]
        rows = [[*who, line["value"], line["other"], line["difference"], _interval(line), _p(line["p"]),
                 "paired" if line["paired"] else "prompts differ", line["n"]] for who, line in zip(names, everything, strict=True)]
        note = (f"{name} less {against}; 95 % intervals over prompts. This says how sure the difference between these two sets of "
                "weights is, not what another seed would give.")
        tables = [("Metrics", "", ["metric", name, against, "difference"], metrics),
                  ("Policies", note, ["policy", "temperature", "measure", name, against, "difference", "interval", "p", "compared",
                                      "prompts"], rows)]
    tables += [_measured(line, name, against) for line in found["metrics"] if line not in plain]
    time = found["time"]
    hours = [[n, s, time["peak_memory_mb"].get(n, "")] for n, s in time["notebooks"].items()]
    tables.append(("Time", "", ["notebook", "seconds", "peak MB"], [*hours, ["total", time["total_seconds"], ""]]))
    return [table for table in tables if table[3] or table[0] == "Metrics"]


def _is_table(value: Any) -> bool:
    """Whether a metric is rows of plain values, as lessons 05 and 09 record benches, win rates, ratings and the like."""
    return (isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)
            and not any(isinstance(cell, Mapping | list | tuple) for row in value for cell in row.values()))


def _measured(line: Mapping, name: str, against: str | None) -> tuple[str, str, list[str], list[list[Any]]]:
    """A metric that is a table, with `against` the rows of both runs one below the other."""
    sides = [(run, line.get(side)) for run, side in ((name, "value"), (against, "other")) if _is_table(line.get(side))]
    columns = list(dict.fromkeys(column for _, rows in sides for row in rows for column in row))
    shown = [[run, *(row.get(column) for column in columns)] for run, rows in sides for row in rows]
    if against is None:
        return line["metric"], "", columns, [row[1:] for row in shown]
    lacking = {name, against} - {run for run, _ in sides}
    return line["metric"], f"Not measured in {lacking.pop()}." if lacking else "", ["run", *columns], shown


def markdown(found: Mapping) -> str:
    """The content of `compare` as Markdown."""
    lines = [f"# Run {_cell(found['run'])}", "", "## Claims", "", _safe(claims.table(found["claims"]))]
    for heading, note, columns, rows in _tables(found):
        lines += ["", f"## {heading}", ""] + ([note, ""] if note else [])
        lines += ["| " + " | ".join(map(_cell, columns)) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
        lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return "\n".join(lines)


def page(found: Mapping) -> str:
    """The content of `compare` as one HTML page that fetches nothing; everything is escaped."""
    from rlhf_kit.site.page import style

    text = lambda value: html.escape(_text(value), quote=True)  # noqa: E731
    title = f"Run {found['run']}" + (f" against {found['against']}" if found["against"] else "")
    known = [[c["status"], c["id"], claims.value_text(c), claims.band_text(c["band"]), c["statement"]] for c in found["claims"]]
    parts = [f"<h1>{text(title)}</h1>"]
    tables = [("Claims", "", ["status", "claim", "value", "band", "statement"], known), *_tables(found)]
    for heading, note, columns, rows in tables:
        head = "".join(f"<th>{text(c)}</th>" for c in columns)
        body = "".join("<tr>" + "".join(f'<td class="{_class(v)}">{text(v)}</td>' for v in row) + "</tr>\n" for row in rows)
        parts.append(f"<h2>{text(heading)}</h2>\n<p>{text(note)}</p>\n<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>")
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{style()}</style></head>\n<body><main>\n'
            + "\n".join(parts) + "\n</main></body></html>\n")


def _interval(line: Mapping) -> str:
    return f"{_text(line['low'])} to {_text(line['high'])}"


def _p(p: float | None) -> str:
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _safe(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cell(value: Any) -> str:
    """One cell of a Markdown table: mark-up, bars and line breaks become harmless."""
    return " ".join(_safe(_text(value)).replace("|", "&#124;").split())


def _class(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return "num" if number else value if value in ("holds", "outside", "inconclusive") else ""
