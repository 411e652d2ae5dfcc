"""How a run's report is shown: one set of tables, as Markdown and as an HTML page that fetches nothing. All text is escaped."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_kit import claims

BY_ROW, BY_COLUMN = "row", "column"  # along which the numbers of a table are of one kind, and so get the same decimals


class Table(NamedTuple):
    heading: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    alike: str = BY_COLUMN


class Range(NamedTuple):
    """An interval, shown as `low to high`."""

    low: float | None
    high: float | None


def title(found: Mapping) -> str:
    return f"Run {found['run']}" + (f" against {found['against']}" if found["against"] else "")


def markdown(found: Mapping) -> str:
    """The content of `report.compare` as Markdown."""
    of = f" of {found['run']}" if found["against"] else ""
    *lines, count = claims.table(found["claims"]).splitlines()
    lines = [f"# {_cell(title(found))}", "", f"## {_cell('Claims' + of)}", "", *map(_safe, lines), *([""] if lines else []), count]
    for table in tables(found):
        lines += ["", f"## {_cell(table.heading)}", ""] + ([_safe(table.note), ""] if table.note else [])
        rule = ["---:" if right else "---" for right in _right(table)]
        lines += ["| " + " | ".join(map(_cell, table.columns)) + " |", "| " + " | ".join(rule) + " |"]
        lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in _texts(table)]
    return "\n".join(lines)


def page(found: Mapping) -> str:
    """The content of `report.compare` as one HTML page."""
    from rlhf_kit.site.page import style

    name = html.escape(title(found))
    known = [[c["status"], c["id"], claims.value_text(c), claims.band_text(c["band"]), c["statement"]] for c in found["claims"]]
    of = f" of {found['run']}" if found["against"] else ""
    parts = [f"<h1>{name}</h1>"]
    for table in [Table(f"Claims{of}", "", ["status", "claim", "value", "band", "statement"], known), *tables(found)]:
        parts.append(f"<h2>{html.escape(table.heading)}</h2>")
        parts += [f"<p>{html.escape(table.note)}</p>"] if table.note else []
        right = [' class="num"' if one else "" for one in _right(table)]
        head = "".join(f"<th{one}>{html.escape(str(c))}</th>" for c, one in zip(table.columns, right, strict=True))
        rows = [[f"<td{one or _words(text)}>{_html(text)}</td>" for text, one in zip(row, right, strict=True)] for row in _texts(table)]
        body = "".join("<tr>" + "".join(row) + "</tr>\n" for row in rows)
        parts.append(f'<div class="box"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>')
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    own = "td{white-space:nowrap} td.words{white-space:normal;min-width:16rem}"
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{style()}\n{own}</style></head>\n<body><main>\n'
            + "\n".join(parts) + "\n</main></body></html>\n")


# ---------------------------------------------------------------- tables


def tables(found: Mapping) -> list[Table]:
    """Each table behind the claims; those without a row are left out, but for the metrics."""
    against, name = found["against"], found["run"]
    everything = [line for line in found["policies"] if line["category"] == "all"]
    plain = [line for line in found["metrics"] if not any(_is_table(line.get(side)) for side in ("value", "other"))]
    who = [[line["policy"], f"{line['temperature']:g}", line["measure"]] for line in everything]
    whose = ["policy", "temperature", "measure"]
    if against is None:
        metrics = Table("Metrics", "", ["metric", "value"], [[line["metric"], line["value"]] for line in plain], BY_ROW)
        rows = [[*w, line["value"], Range(line["low"], line["high"]), line["n"]] for w, line in zip(who, everything, strict=True)]
        policies = Table("Policies", "Means over prompts with 95 % intervals.", [*whose, "value", "interval", "prompts"], rows, BY_ROW)
    else:
        shown = [[line["metric"], line["value"], line["other"], line["difference"]] for line in plain]
        metrics = Table("Metrics", "", ["metric", name, against, "difference"], shown, BY_ROW)
        rows = [[*w, line["value"], line["other"], line["difference"], Range(line["low"], line["high"]), _p(line["p"]),
                 "paired" if line["paired"] else "prompts differ", line["n"]] for w, line in zip(who, everything, strict=True)]
        note = (f"{name} less {against}; 95 % intervals over prompts. This says how sure the difference between these two sets of "
                "weights is, not what another seed would give.")
        columns = [*whose, name, against, "difference", "interval", "p", "compared", "prompts"]
        policies = Table("Policies", note, columns, rows, BY_ROW)
    measured = [_measured(line, name, against) for line in found["metrics"] if line not in plain]
    time = found["time"]
    hours = [[n, s, time["peak_memory_mb"].get(n)] for n, s in time["notebooks"].items()]
    spent = Table("Time", "", ["notebook", "seconds", "peak MB"], [*hours, ["total", time["total_seconds"], None]])
    return [table for table in (metrics, policies, *measured, spent) if table.rows or table is metrics]


def _is_table(value: Any) -> bool:
    """Whether a metric is rows of plain values, as lessons 05 and 09 record benches, win rates, ratings and the like."""
    return (isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)
            and not any(isinstance(cell, Mapping | list | tuple) for row in value for cell in row.values()))


def _measured(line: Mapping, name: str, against: str | None) -> Table:
    """A metric that is a table, with `against` the rows of both runs one below the other."""
    sides = [(run, line.get(side)) for run, side in ((name, "value"), (against, "other")) if _is_table(line.get(side))]
    columns = list(dict.fromkeys(column for _, rows in sides for row in rows for column in row))
    shown = [[run, *(row.get(column) for column in columns)] for run, rows in sides for row in rows]
    if against is None:
        return Table(line["metric"], "", columns, [row[1:] for row in shown])
    lacking = {name, against} - {run for run, _ in sides}
    return Table(line["metric"], f"Not measured in {lacking.pop()}." if lacking else "", ["run", *columns], shown)


# ---------------------------------------------------------------- cells


def _texts(table: Table) -> list[list[str]]:
    """The cells as text: numbers that stand for the same thing get the same decimals."""
    if table.alike == BY_ROW:
        return [[_text(value, places) for value in row] for row in table.rows for places in [_decimals(row)]]
    places = [_decimals(column) for column in zip(*table.rows, strict=True)]
    return [[_text(value, d) for value, d in zip(row, places, strict=True)] for row in table.rows]


def _right(table: Table) -> list[bool]:
    """The columns that hold numbers alone: they are aligned at the right."""
    columns = list(zip(*table.rows, strict=True)) or [()] * len(table.columns)
    number = lambda v: isinstance(v, int | float) and not isinstance(v, bool)  # noqa: E731
    return [any(map(number, one)) and all(v is None or number(v) for v in one) for one in columns]


def _floats(values: Iterable[Any]) -> Iterator[float]:
    for value in values:
        if isinstance(value, float):
            yield value
        elif isinstance(value, Mapping):
            yield from _floats(value.values())
        elif isinstance(value, list | tuple):
            yield from _floats(value)


def _decimals(values: Iterable[Any]) -> int:
    """Places after the point that show four digits of the middle one of some numbers: at most four, and none that nobody needs."""
    found = sorted(abs(value) for value in _floats(values) if value)
    if not found:
        return 0
    shown = [f"{value:.4g}" for value in found]
    needed = max((len(text.partition(".")[2]) for text in shown if "e" not in text), default=0)
    return max(0, min(needed, 4, 3 - math.floor(math.log10(found[len(found) // 2]))))


def _text(value: Any, places: int) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Range):
        return f"{_text(value.low, places)} to {_text(value.high, places)}"
    if isinstance(value, float):
        few = value and abs(value) < 10.0 ** (1 - places)  # digits would be lost
        return f"{value:.2g}" if few and places else f"{value:.{places}f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(one, places)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        inner = [_text(one, places) for one in value]
        return "; ".join(inner) if any(isinstance(one, Mapping | list | tuple) for one in value) else ", ".join(inner)
    return str(value)


def _p(p: float | None) -> str:
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _words(text: str) -> str:
    return ' class="words"' if len(text) > 45 else ""


def _html(text: str) -> str:
    word = html.escape(text)
    return f'<span class="verdict {word}">{word}</span>' if text in claims.STATUSES else word


def _safe(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cell(value: Any) -> str:
    """One cell of a Markdown table: mark-up, bars and line breaks become harmless."""
    return " ".join(_safe(str(value)).replace("|", "&#124;").split())
