"""A reader's labels in a picture, beside the truth, the reward model, the file, and a small model fitted to them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_kit.evaluation.own_labels import FEATURES, compared
from rlhf_kit.runs import derive_seed, stable_hash
from rlhf_kit.views import style
from rlhf_kit.views.interactive.panel import Drawing, Said, legend_under

LEAST = 4  # labels from which a result is shown


# ---------------------------------------------------------------- data


def judged_pairs(course: Any, most: int = 400) -> list[dict]:
    """Held-out pairs to judge: prompt_id, pair (an id), prompt, chosen, rejected (texts); in the pocket world chosen_gold and
    rejected_gold; and chosen_reward, rejected_reward if the run already has its reward model on these pairs (lesson 03).
    Nothing is trained for it."""
    from rlhf_kit import stages
    from rlhf_kit.runs import read_json, read_rows

    source = stages.preferences(course)
    heldout = source.rows("heldout.parquet")
    rows = []
    for row in heldout.select(range(min(most, len(heldout)))):
        answers = {side: row[side][-1]["content"] for side in ("chosen", "rejected")}
        rows.append({"prompt_id": row["prompt_id"], "prompt": row["prompt"], **answers})
    if course.profile.data.kind == "world":
        from rlhf_kit.world import gold_utility

        for side in ("chosen", "rejected"):
            for row, gold in zip(
                rows, gold_utility([r["prompt"] for r in rows], [r[side] for r in rows]), strict=True
            ):
                row[f"{side}_gold"] = float(gold)
    rewards = {}
    for done in course.run.path.glob("reward-test-bt-*/_SUCCESS"):
        inputs = read_json(done.parent / "manifest.json")["inputs"]
        judge = course.run.path / f"reward_model-{inputs.get('model')}" / "manifest.json"
        whole = judge.is_file() and read_json(judge)["params"].get("pairs") is None  # not the weak one of lesson 03
        if whole and inputs.get("preferences") == source.key:
            rewards = {
                (r["prompt_id"], r["chosen"], r["rejected"]): r
                for r in read_rows(done.parent / "rows.parquet")
            }
    for row in rows:
        row["pair"] = stable_hash(row["prompt"], *sorted((row["chosen"], row["rejected"])))
        found = rewards.get((row["prompt_id"], row["chosen"], row["rejected"]))
        if found:
            row |= {f"{side}_reward": found[f"{side}_reward"] for side in ("chosen", "rejected")}
    return [row for row in rows if row["chosen"] != row["rejected"]]


# ---------------------------------------------------------------- the result


def draw_judge(pairs: Sequence[Mapping]) -> Drawing:
    """Agreement with the other judges, and the weights of the small models. Values of `move`: taken (pair id -> side)."""
    names = ["the truth", "the reward model", "the file's label"]
    names = [
        n
        for n in names
        if n == "the file's label"
        or pairs[0].get({"the truth": "chosen_gold", "the reward model": "chosen_reward"}.get(n)) is not None
    ]
    rows = [*names, "a small model fitted to\nthem, on other pairs"]
    fig, (ax, weights) = style.figure(1, 2, width=10.6, height=3.9, width_ratios=[1, 1.25])
    spans = [ax.plot([], [], "-", color=style.BLUE, linewidth=2.2)[0] for _ in rows]
    dots = [
        ax.plot([], [], mark, color=style.BLUE, markersize=9)[0]
        for mark, _ in zip((*style.MARKERS,), rows, strict=False)
    ]
    on_white = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}  # so that the dotted line does not strike them
    numbers = [
        ax.text(0.5, k - 0.34, "", ha="center", va="center", fontsize=9.5, bbox=on_white) for k in range(len(rows))
    ]
    ax.axvline(0.5, color=style.CONTROL, linestyle=":", label="coin toss")
    style.rows_down(ax, rows)
    ax.set_xlim(-0.02, 1.02)
    style.label(
        ax, "How often these labels agree with ...", "share of pairs, 95 % interval (dotted: coin toss)"
    )
    shown = (
        ["these labels", *[n for n in ("the truth", "the reward model") if n in names]]
        if len(names) > 1
        else ["these labels", "the file's label"]
    )
    looks = {
        "these labels": (style.BLUE, ""),
        "the truth": (style.TRUTH, "//"),
        "the reward model": (style.PROXY, ".."),
        "the file's label": (style.PURPLE, "xx"),
    }
    places, width = np.arange(len(FEATURES)), 0.8 / len(shown)
    bars = {}
    for k, name in enumerate(shown):
        color, hatch = looks[name]
        at = places + (k - (len(shown) - 1) / 2) * width
        bars[name] = list(weights.barh(at, np.zeros(len(places)), 0.92 * width, color=color, hatch=hatch, edgecolor="white",
                                       linewidth=0, label=name))  # fmt: skip
    weights.axvline(0, color="black", linewidth=1)
    style.rows_down(weights, FEATURES, above=0.6)
    weights.set_xlim(-2.05, 2.05)
    style.label(weights, "What a small model learns from them", "weight (per st. dev. of the feature)")
    legend_under(fig, weights)

    def move(taken: Mapping[str, str], who: str = "You") -> Said:
        found = compared(pairs, taken)
        told = {**found["agreement"], **({rows[-1]: found["elsewhere"]} if found["elsewhere"] else {})}
        for k, name in enumerate(rows):
            value = told.get(name)
            spans[k].set_data(*(([value[1], value[2]], [k, k]) if value else ([], [])))
            dots[k].set_data(*(([value[0]], [k]) if value else ([], [])))
            numbers[k].set(
                text=f"{100 * value[0]:.0f} % of {value[3]}" if value else "no pair",
                x=float(np.clip(value[0], 0.12, 0.88)) if value else 0.5,
            )
        for name, own in bars.items():
            for bar, value in zip(own, found["weights"].get(name, np.zeros(len(FEATURES))), strict=True):
                bar.set_width(float(np.clip(value, -2, 2)))
        columns, listed = _listed(pairs, found, taken)
        heading = f"Labels that contradict {found['judge']}"
        if found["judge"] == "the truth":
            heading += ", largest difference first"
        if len(listed) < len(found["against"]):
            heading += f" ({len(listed)} of {len(found['against'])})"
        return Said(_told(found, who), columns, listed, heading=heading)

    return Drawing(fig, [*spans, *dots, *numbers, *sum(bars.values(), [])], move)


def _told(found: Mapping, who: str) -> str:
    share = lambda v: f"{100 * v[0]:.0f} % of {v[3]} (95 % interval {100 * v[1]:.0f} to {100 * v[2]:.0f} %)"  # noqa: E731
    agreed = ", ".join(f"with {name} {share(value)}" for name, value in found["agreement"].items())
    text = f"{who} labelled {found['labels']} pairs. Agreement: {agreed}. "
    weights = found["weights"]["these labels"]
    if np.abs(weights).max() >= 0.05:
        most = int(np.argmax(np.abs(weights)))
        text += f"The small model fitted to these labels leans most on '{FEATURES[most]}' ({weights[most]:+.2f}). "
    if found["elsewhere"]:
        value, low, high, n = found["elsewhere"]
        text += f"On {n} other pairs it orders {100 * value:.0f} % as {found['judge']} does ({100 * low:.0f} to {100 * high:.0f} %)."
    return text.strip()


def _listed(
    pairs: Sequence[Mapping], found: Mapping, taken: Mapping[str, str]
) -> tuple[list[str], list[list]]:
    known = found["judge"] == "the truth"
    columns = ["prompt", "taken", "not taken", *(["gold of the two"] if known else [])]
    rows = []
    for i in found["against"][:3]:
        side = taken[pairs[i]["pair"]]
        other = {"chosen": "rejected", "rejected": "chosen"}[side]
        gold = [f"{pairs[i][f'{side}_gold']:.2f} against {pairs[i][f'{other}_gold']:.2f}"] if known else []
        rows.append(
            [
                " / ".join(turn["content"] for turn in pairs[i]["prompt"]),
                pairs[i][side],
                pairs[i][other],
                *gold,
            ]
        )
    return columns, rows


def stand_in(pairs: Sequence[Mapping], annotator: Any, seed: int) -> dict[str, str]:
    """Labels where no reader has judged: of `annotator` (a world.Annotator), or, without one, the file's own."""
    if annotator is None:
        return {pair["pair"]: "chosen" for pair in pairs}
    rng = random.Random(derive_seed(seed, "stand-in"))
    return {
        p["pair"]: ("chosen", "rejected")[annotator.choose(p["prompt"], p["chosen"], p["rejected"], rng)]
        for p in pairs
    }
