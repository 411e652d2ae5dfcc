"""The plan of `rlhf_kit.planning.planner` as text for a terminal, and as rows for a table or a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_kit.planning.memory import GIB


def _size(count: float) -> str:
    return f"{count / GIB:,.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:,.0f} MiB"


def _number(count: float) -> str:
    for unit, name in ((1e9, "B"), (1e6, "M")):
        if count >= unit:
            return f"{count / unit:,.1f}{name}"
    return f"{count:,.0f}"


def hours_text(hours: tuple[float, float]) -> str:
    """(1.2, 3.4) -> "1.2 to 3.4 h", below an hour in minutes."""
    if hours[1] < 1:
        return f"{60 * hours[0]:.0f} to {60 * hours[1]:.0f} min"
    return f"{hours[0]:.1f} to {hours[1]:.1f} h"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    return ["  " + "  ".join(t.ljust(w) for t, w in zip(r, widths, strict=True)).rstrip() for r in [head, *rows]]


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _values(values: list[dict]) -> list[str]:
    """Sections, one value a line with its source; under it what else is said, and why this one."""
    lines, section = [], None
    width = max(len(v["field"].split(".", 1)[-1]) for v in values)
    for one in values:
        above, _, name = one["field"].rpartition(".") if "." in one["field"] else ("profile", "", one["field"])
        if above != section:
            lines.append(f"  {above}")
            section = above
        lines.append(f"    {name:{width}}  {_shown(one['value']):32}  {one['source']}")
        if one["others"]:
            said = "; ".join(f"{_shown(o['value'])} ({o['where']})" for o in one["others"])
            why = f". Why: {one['why']}" if one["why"] else ""
            lines.append(f"    {'':{width}}  also said: {said}{why}")
    return lines


def _beside(beside: dict) -> list[str]:
    lines = []
    for subject, one in beside.items():
        said = "; ".join(f"{o['value']} ({o['where']})" for o in one["says"])
        lines.append(f"  {subject}: {one['taken']}. Sources: {said}. Why: {one['why']}")
    return lines


def _rounds(steps: list[dict]) -> list[tuple[dict, str]]:
    """(step, name) with the like steps of the iterations as one, "dpo x 3"."""
    count = sum(s["name"].startswith("dpo-") for s in steps)
    return [
        (s, s["name"].replace("-1", f" x {count}"))
        for s in steps
        if not s["name"].rsplit("-", 1)[-1].isdigit() or s["name"].endswith("-1")
    ]


def _steps(steps: list[dict]) -> list[str]:
    rows, parts = [], []
    for step, name in _rounds(steps):
        count = step.get("parameters")
        trained = step.get("trained")
        memory = step.get("memory")
        rows.append(
            [
                name,
                (step["models"] or ["new"])[0],
                f"{count:,}" if count else "unknown",
                f"{trained:,}" if trained else "-",
                f"{step['rows']:,}" if "rows" in step else "-",
                _number(step["tokens"]) if "tokens" in step else "-",
                f"{step['optimizer_steps']:,}" if "optimizer_steps" in step else "-",
                _size(sum(memory.values())) if memory else "-",
                hours_text(step["hours"]) if "hours" in step else "-",
            ]
        )
        if memory:
            text = ", ".join(f"{part.replace('_', ' ')} {_size(size)}" for part, size in memory.items())
            if step["kind"] == "training" and "optimizer" not in memory:
                text += " (while the reference's log-probabilities are computed; the training itself takes less)"
            if step.get("full_logits"):
                text += f"; full float32 logits, which TRL avoids, would be {_size(step['full_logits'])} more"
            if step["kind"] == "sampling":
                text += f"; {step['at_once']} sequences at once with {step['backend']}"
            parts.append(f"  {name}: {text}")
    head = ["step", "model", "parameters", "trained", "rows", "tokens", "updates", "memory a GPU", "time, each"]
    return [*_table(head, rows), "", "memory on each GPU by part", *parts]


def _disk(disk: dict) -> list[str]:
    unknown = disk["data_of_unknown_size"]
    return [
        f"  from the hub: models {_size(disk['models_from_hub'])}, data {_size(disk['data_from_hub'])}"
        + (f" and sets whose size is not known here ({', '.join(unknown)})" if unknown else ""),
        f"  saved models {_size(disk['saved_models'])}, the largest checkpoint while training "
        f"{_size(disk['largest_checkpoint'])}, responses {_size(disk['responses'])}",
    ]


def text(plan: dict[str, Any]) -> str:
    """The whole plan: values with sources, steps, memory by part, hours, disk, licences, problems, commands."""
    card = plan["card"]
    where = f"on {plan['processes']} x {card['name']}" if card else "on this machine's CPU"
    lines = [f"plan of profile {plan['profile']} {where}; nothing is started", ""]
    lines += ["values and their sources (paper: arXiv 2405.07863 v3)", *_values(plan["values"]), ""]
    lines += ["decisions that are no value of a profile", *_beside(plan["beside"]), ""]
    lines += ["steps", *_steps(plan["steps"]), ""]
    if plan["hours"]:
        lines += [
            f"time: {hours_text(plan['hours'])} for the steps above, an estimate and not a measurement: arithmetic and "
            "memory traffic at the shares of",
            "  the card's figures in rlhf_kit/planning/flops.py, lengths as in the paper's tables 4 and 5; the lessons' comparison "
            "arms come on top",
            "",
        ]
    else:
        lines += ["time: not estimated for a CPU; the README has measured minutes", ""]
    lines += ["disk", *_disk(plan["disk"]), ""]
    lines += [f"memory of the machine itself: {_size(plan['host_memory'])} while every process opens its models", ""]
    if plan["licences"]:
        lines += ["licences to accept on the hub first"]
        lines += [f"  {name}: {what}" for name, what in plan["licences"].items()] + [""]
    if plan["unknown"]:
        lines += ["cannot be known here", *(f"  {one}" for one in plan["unknown"]), ""]
    lines += ["problems" if plan["problems"] else "problems: none found", *(f"  {p}" for p in plan["problems"]), ""]
    lines += ["commands"]
    for one in plan["commands"]:
        lines += [f"  # {one['why']}", f"  {one['command']}"]
    return "\n".join(lines)


def _once(plan: Mapping) -> list[Mapping]:
    """The steps of a plan; iterations are alike, so the first stands for all."""
    return [step for step in plan["steps"] if not step["name"][-1:].isdigit() or step["name"].endswith("-1")]


def plan_rows(plan: Mapping) -> list[list]:
    """A row a step of `planner.plan`: step, model, parameters, those trained, rows, hours."""
    return [[step["name"], next(iter(step["models"]), None), step.get("parameters"), step.get("trained"), step.get("rows"), _span(step.get("hours"))]
            for step in _once(plan)]


def plan_hours(plan: Mapping) -> list[tuple[str, float, float]]:
    """(step, least, most) hours of the steps whose time the plan reckons."""
    return [(step["name"], *step["hours"]) for step in _once(plan) if step.get("hours")]


def _span(hours: Sequence[float] | None) -> str:
    return f"{hours[0]:.2g} to {hours[1]:.2g}" if hours else "-"


def disputed_rows(values: Sequence[Mapping]) -> list[list]:
    """A row a setting on which sources differ: setting, value taken, where from, what else is said and where."""
    return [[one["field"], _shown(one["value"]), one["source"], "; ".join(f"{_shown(said['value'])} ({said['where']})" for said in one["others"])]
            for one in values if one["others"]]
