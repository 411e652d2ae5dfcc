"""The README.md beside an exported policy: what the run's manifests say about it, and nothing that they do not.

Where a manifest is missing the card says so. Measured numbers come from evaluation stages of the same run that hold this
policy's answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf_kit.checkpoints import released
from rlhf_kit.runs import Stage, project_path, read_json, write_text

PAPER = "RLHF Workflow: From Reward Modeling to Online RLHF (arXiv 2405.07863)"
# Settings worth a reader's eye; the rest stands in the run's manifest.
_SETTINGS = ("loss", "beta", "label_smoothing", "learning_rate", "epochs", "batch_size", "schedule", "max_length")


def write(path: Path, source: str | Path, model, facts: dict[str, Any]) -> Path:
    """Write the card for the policy opened from `source` (see `text`)."""
    return write_text(path, text(source, model, facts))


def text(source: str | Path, model, facts: dict[str, Any]) -> str:
    """The card as Markdown. facts: format, dtype, weights (hash), merged (base of a merged adapter or None)."""
    folder = project_path(source)
    stage = _stage(folder.parent) if folder.is_dir() else None
    known = released.find(str(source))
    lines = [
        "---", "library_name: transformers", "tags: [rlhf]", "---", "",
        f"# {folder.parent.name if stage else Path(source).name}", "",
        f"A chat policy made with rlhf-kit, after *{PAPER}*.", "",
        "## The file", "",
        f"- architecture {type(model).__name__}, {sum(p.numel() for p in model.parameters()):,} parameters",
        f"- format {facts['format']}, weights in {facts['dtype']}, weights hash `{facts['weights']}`",
    ]  # fmt: skip
    if facts.get("merged"):
        lines.append(f"- a LoRA adapter merged into {facts['merged']}; the sum was made in float32")
    if known:
        lines.append(f"- exported from the released model {known.id}; licence: {known.licence or 'see its card'}")
    lines += ["- greedy answers to three probe prompts are, token for token, those of the policy exported", ""]
    chain = list(_chain(stage)) if stage else []
    lines += _base(chain, facts) + _made(chain) + _measured(stage) + _limits(chain)
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- the run


def _stage(folder: Path) -> Stage | None:
    if not (folder / "manifest.json").is_file() or not (folder / "_SUCCESS").is_file():
        return None
    manifest = read_json(folder / "manifest.json")
    return Stage(manifest["stage"], manifest["key"], folder, manifest, cached=True)


def _siblings(stage: Stage) -> Iterator[Stage]:
    for folder in sorted(stage.path.parent.glob("*-*/")):
        if (found := _stage(folder)) is not None:
            yield found


def _chain(stage: Stage) -> Iterator[tuple[str, Stage]]:
    """(role, stage) of everything that this stage was made from, the oldest first, each once."""
    by_key = {one.key: one for one in _siblings(stage)}
    found: dict[str, tuple[str, Stage]] = {}

    def walk(role: str, one: Stage) -> None:
        for name, key in one.manifest["inputs"].items():
            if key in by_key and key not in found:
                walk(name, by_key[key])
        found.setdefault(one.key, (role, one))

    walk("policy", stage)
    yield from found.values()


def _base(chain: list[tuple[str, Stage]], facts: dict[str, Any]) -> list[str]:
    lines = ["## Base model", ""]
    own = [one for _, one in chain if one.manifest["facts"].get("released")]
    if own:
        return [*lines, f"- {own[0].manifest['facts']['released']}", ""]
    sft = [one for _, one in chain if one.name == "sft"]
    if sft:
        params = sft[0].manifest["params"]
        start = (params.get("settings") or {}).get("start")
        text = str(start) if start else f"the run's base model (content key `{params.get('base')}`)"
        return [*lines, f"- {text}, then the SFT stage `{sft[0].path.name}`", ""]
    if facts.get("merged"):
        return [*lines, f"- {facts['merged']}", ""]
    return [*lines, "- not known: the folder lies in no finished stage of a run", ""]


def _made(chain: list[tuple[str, Stage]]) -> list[str]:
    lines = ["## Data and settings", ""]
    if not chain:
        return [*lines, "Not known: the folder lies in no finished stage of a run.", ""]
    lines += ["| stage | rows out of in | settings |", "|---|---|---|"]
    for _, one in chain:
        ledgers = one.manifest["ledger"]
        rows = "; ".join(f"{x['stage']} {x['rows_out']:,} of {x['rows_in']:,}" for x in ledgers) or "-"
        lines.append(f"| `{one.path.name}` | {rows} | {_settings(one) or '-'} |")
    last = chain[-1][1].manifest
    reference = last["facts"].get("reference") or {}
    if reference.get("before"):
        lines += ["", f"DPO reference: weights hash `{reference['before']}`, the same after training."]
    versions = ", ".join(f"{name} {value}" for name, value in last["versions"].items())
    commit = f", commit `{last['git_commit'][:12]}`" if last.get("git_commit") else ""
    return [*lines, "", f"Made {last['started'][:10]} with {versions}{commit}.", ""]


def _settings(stage: Stage) -> str:
    params = stage.manifest["params"]
    settings = params.get("settings") or {}
    shown = {name: settings[name] for name in _SETTINGS if settings.get(name) is not None}
    more = ("n", "temperature", "top_p", "max_new_tokens", "split", "seed", "lora")
    shown |= {name: params[name] for name in more if params.get(name) is not None}
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def _measured(stage: Stage | None) -> list[str]:
    """The policy's lines of the first evaluation in its run that has its answers."""
    lines = ["## Measured", ""]
    for label, evaluation in _evaluations(stage) if stage else ():
        from rlhf_kit.recipe.evaluation import summarise

        baseline = "sft" if "sft" in evaluation.manifest["inputs"] else label
        table = [row for row in summarise(evaluation, baseline) if row["policy"] == label]
        lines += [
            f"From stage `{evaluation.path.name}`, held-out prompts, 95 % intervals over prompts.", "",
            "| temperature | prompts | gold utility | win rate against SFT | judge | reward | KL to SFT, nats | characters |",
            "|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for row in table:
            lines.append(
                f"| {row['temperature']:g} | {row['n']} | {_interval(row, 'gold', 'gold_low', 'gold_high')} | "
                f"{_interval(row, 'win_rate', 'win_low', 'win_high')} | {row['judge']} | {row['reward']:.3f} | "
                f"{_number(row['kl'])} | {row['length']:.0f} |"
            )
        if any(row["judge"] == "reward" for row in table):
            lines += ["", "The judge is the reward model that labelled the training pairs: circular, no proof of quality."]
        return [*lines, ""]
    return [*lines, "Nothing: no evaluation of this policy was found beside it.", ""]


def _evaluations(stage: Stage) -> Iterator[tuple[str, Stage]]:
    """(label, evaluation stage) for each evaluation that holds answers of this policy."""
    siblings = list(_siblings(stage))
    answers = {
        one.key for one in siblings if one.name == "answers" and one.manifest["inputs"].get("policy") == stage.key
    }
    for one in siblings:
        if one.name == "evaluation":
            for label, key in one.manifest["inputs"].items():
                if key in answers:
                    yield label, one
                    break


def _interval(row: dict, *names: str) -> str:
    value, low, high = (row[name] for name in names)
    return "-" if value is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _limits(chain: list[tuple[str, Stage]]) -> list[str]:
    lines = [
        "## Limits", "",
        "- Trained to please a reward model, which is a stand-in for people: expect answers that please it more than you.",
        "- No safety testing was done on this export.",
    ]  # fmt: skip
    # Only the pocket world's pairs have an annotator whose dials are known.
    if any(one.name == "preferences" and "annotator" in one.manifest["params"] for _, one in chain):
        lines.append("- Made in the kit's pocket world: it knows that small made-up language and no other.")
    return lines
