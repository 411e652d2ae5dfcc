"""Where did the mass go? One prompt's answers, and how likely each is under SFT and after every DPO training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rlhf_kit.errors import KitError
from rlhf_kit.views import style
from rlhf_kit.views.interactive.controls import choice, slider
from rlhf_kit.views.interactive.panel import Drawing, Panel, Said, legend_under, present

ROLES = ("chosen", "rejected", "other of SFT", "new")
LOOKS = {
    "chosen": (style.BLUE, "^", "-"),
    "rejected": (style.OTHER, "v", "-"),
    "other of SFT": (style.GREY, "o", ":"),
    "new": (style.GREEN, "s", "--"),
}
MOST = 12  # lines a prompt


def answers_over_training(course: Any, iterations: Sequence[Any], prompts: int = 3) -> list[dict]:
    """Rows for `where_did_the_mass_go`, made once and kept as a stage: answers under SFT and every iteration's policy.

    iterations: of `stages.online` or `stages.offline`. Takes, of the first 24 pairs of iteration 1, the prompts whose
    chosen answer lost and gained most, and some between. Its answers: those that SFT gave in iteration 1, and as many
    fresh ones of the last policy. Rows: prompt_id, prompt, text, role (of ROLES), reward, gold (None where unknown),
    logps: the log-probability of the whole answer under each policy, in nats.
    """
    from rlhf_kit import stages
    from rlhf_kit.recipe.answers import SAMPLING, SCORING
    from rlhf_kit.runs import Ledger, write_rows

    first, last = iterations[0], iterations[-1]
    stages_of = [stages.sft(course), *(one.policy for one in iterations)]
    inputs = {f"policy-{t}": stage for t, stage in enumerate(stages_of)}
    inputs |= {"responses": first.responses, "pairs": first.pairs, "reward": stages.reward_model(course)}
    settings = course.profile.sampling

    def build(folder):
        from rlhf_kit import models, sampling

        here = replace(course.machine, backend="transformers")  # a few answers of models that are open already

        def opened(t: int) -> Any:  # one at a time: four large policies would not fit into memory together
            return models.load_policy(stages.model_folder(stages_of[t]), course.machine)

        by_prompt: dict[str, list[dict]] = {}
        for row in stages.with_prompts(first.responses):
            by_prompt.setdefault(row["prompt_id"], []).append(row)
        pairs = first.pairs.rows().to_list()[:24]
        chosen = [
            next(row for row in by_prompt[pair["prompt_id"]] if row["text"] == pair["chosen"])
            for pair in pairs
        ]
        ids = [row["token_ids"] for row in chosen]
        before = sampling.response_logprobs(opened(0), chosen, ids, course.machine)
        newest = opened(len(stages_of) - 1)
        moved = sampling.response_logprobs(newest, chosen, ids, course.machine) - before
        order = np.argsort(moved)
        made = []
        for place in dict.fromkeys(
            int(order[i]) for i in np.linspace(0, len(order) - 1, prompts).round().astype(int)
        ):
            pair, old = pairs[place], by_prompt[pairs[place]["prompt_id"]]
            new = sampling.sample(newest, [{"prompt_id": pair["prompt_id"], "prompt": pair["prompt"]}], n=settings.n,
                                  temperature=1.0, max_new_tokens=settings.max_new_tokens, seed=course.sampling_seed(), iteration=1000,
                                  machine=here, batch_size=settings.batch_size, name=last.name)  # fmt: skip
            for text, (row, role) in _distinct(pair, old, new).items():
                same = {"prompt_id": pair["prompt_id"], "prompt": pair["prompt"], "text": text, "role": role}
                made.append({**same, "token_ids": row["token_ids"]})
        del newest
        asked, ids = [row["prompt"] for row in made], [row["token_ids"] for row in made]
        each = [
            sampling.response_logprobs(opened(t), asked, ids, course.machine) for t in range(len(stages_of))
        ]
        logps = np.stack(each, axis=1)
        rewards = stages.scorer_of(course, "bt").score(asked, [row["text"] for row in made])
        golds: Sequence = [None] * len(made)
        if course.profile.data.kind == "world":
            from rlhf_kit import world

            golds = [float(g) for g in world.gold_utility(asked, [row["text"] for row in made])]
        write_rows(folder, [{**row, "logps": list(map(float, lp)), "reward": float(r), "gold": g}
                            for row, lp, r, g in zip(made, logps, rewards, golds, strict=True)])  # fmt: skip
        return Ledger("mass", len(made), len(made))

    params = {
        "prompts": prompts,
        "n": settings.n,
        "max_new_tokens": settings.max_new_tokens,
        "seed": course.sampling_seed(),
    }
    code = ["views/interactive/mass", *SAMPLING, *SCORING]
    return course.stage("mass", build, inputs=inputs, params=params, code=code).rows().to_list()


def _distinct(
    pair: Mapping, old: Sequence[Mapping], new: Sequence[Mapping]
) -> dict[str, tuple[Mapping, str]]:
    """text -> (row, role) of each distinct answer that is not empty; the pair's two first."""
    found: dict[str, tuple[Mapping, str]] = {}
    for role, text in (("chosen", pair["chosen"]), ("rejected", pair["rejected"])):
        found[text] = (next(row for row in old if row["text"] == text), role)
    for role, rows in (("other of SFT", old), ("new", new)):
        for row in rows:
            if row["token_ids"]:
                found.setdefault(row["text"], (row, role))
    return found


def shares(rows: Sequence[Mapping]) -> np.ndarray:
    """Probability of all answers of a role together under each policy: (roles + 1, policies); last, all that is not listed."""
    p = np.exp(np.array([row["logps"] for row in rows]))
    by_role = [p[[row["role"] == role for row in rows]].sum(axis=0) for role in ROLES]
    return np.array([*by_role, np.clip(1 - p.sum(axis=0), 0, 1)])


def draw_mass(groups: Sequence[Sequence[Mapping]], names: Sequence[str]) -> Drawing:
    """groups: the rows of each prompt; names: of the policies. Values of `move`: prompt (place in groups), upto (0 to the last policy)."""
    x = np.arange(len(names))
    low = min(min(row["logps"]) for rows in groups for row in rows)
    fig, (lines, bars) = style.figure(1, 2, width=10.6, height=4.2, width_ratios=[1.4, 1])
    drawn = {}
    for role, (color, mark, dash) in LOOKS.items():
        drawn[role] = [lines.plot([], [], dash, marker=mark, color=color, markersize=8 if role in ROLES[:2] else 5,
                                  linewidth=2.4 if role in ROLES[:2] else 1.1, zorder=4 if role in ROLES[:2] else 2)[0]
                       for _ in range(1 if role in ROLES[:2] else MOST)]  # fmt: skip
        lines.plot(
            [],
            [],
            dash,
            marker=mark,
            color=color,
            label={"other of SFT": "SFT's other answers", "new": "fresh answers of the last policy"}.get(
                role, role
            ),
        )
    lines.set(xlim=(-0.2, len(names) - 0.8), ylim=(low - 1, 0.5))
    lines.set_xticks(x, names)
    legend_under(fig, lines)
    style.label(lines, "How likely each whole answer is", "DPO trainings done", "log-probability, nats")
    hatches = ("//", "\\\\", "..", "xx")
    stacks = [[bars.bar([i], [0.0], 0.62, color=LOOKS[role][0], hatch=hatch, edgecolor="white", linewidth=0.4)[0] for i in x]
              for role, hatch in zip(ROLES, hatches, strict=True)]  # fmt: skip
    for role, hatch in zip(ROLES, hatches, strict=True):
        bars.bar([0], [0], color=LOOKS[role][0], hatch=hatch, edgecolor="white", label=role)
    top = max(0.02, max(float(shares(rows)[:-1].sum(axis=0).max()) for rows in groups))
    bars.set(xlim=(-0.5, len(names) - 0.5), ylim=(0, min(1.0, 1.15 * top)))
    bars.set_xticks(x, names)
    bars.grid(axis="x", visible=False)
    style.label(bars, "Their share of all probability", "DPO trainings done", "probability, added up")

    def move(prompt: int, upto: int) -> Said:
        rows = groups[prompt]
        for role, pool in drawn.items():
            mine = [row for row in rows if row["role"] == role]
            mine = sorted(mine, key=lambda row: -row["logps"][-1])
            for k, line in enumerate(pool):
                line.set_data(*((x[: upto + 1], mine[k]["logps"][: upto + 1]) if k < len(mine) else ([], [])))
        share, bottom = shares(rows), np.zeros(len(names))
        for boxes, values in zip(stacks, share[:-1], strict=True):
            for i, box in enumerate(boxes):
                box.set(y=bottom[i], height=values[i] if i <= upto else 0.0)
            bottom += values
        return Said(_told(rows, names, upto, share), *_listed(rows, names, upto))

    return Drawing(fig, [*sum(drawn.values(), []), *(box for boxes in stacks for box in boxes)], move)


def _told(rows: Sequence[Mapping], names: Sequence[str], upto: int, share: np.ndarray) -> str:
    chosen, rejected = (next(row["logps"] for row in rows if row["role"] == role) for role in ROLES[:2])
    if not upto:
        return (f"Under {names[0]} the chosen answer has log-probability {chosen[0]:.1f} and the rejected one {rejected[0]:.1f} nats. All listed "
                f"answers together hold {100 * (1 - share[-1, 0]):.1f} % of the probability.")  # fmt: skip
    dc, dr = chosen[upto] - chosen[0], rejected[upto] - rejected[0]
    way = lambda d: f"{'rose' if d >= 0 else 'fell'} by {abs(d):.2f}"  # noqa: E731
    gap = f"the gap {'grew' if dc > dr else 'shrank'} by {abs(dc - dr):.2f}"
    text = f"From {names[0]} to {names[upto]}: the chosen answer {way(dc)} nats, the rejected one {way(dr)}, so {gap}. "
    if dc < 0:
        text += "The chosen answer became less likely; its probability went elsewhere. "
    other = [row for row in rows if row["role"] not in ROLES[:2]]
    if other:
        best = max(other, key=lambda row: np.exp(row["logps"][upto]) - np.exp(row["logps"][0]))
        gain = 100 * (np.exp(best["logps"][upto]) - np.exp(best["logps"][0]))
        if gain > 0:
            whose = "a fresh answer of the last policy" if best["role"] == "new" else "another answer of SFT"
            text += f"Outside the pair, {whose} gained most: {gain:.2f} percentage points. "
    return (
        text
        + f"All {len(rows)} answers that were followed went together from {100 * (1 - share[-1, 0]):.1f} % "
        f"to {100 * (1 - share[-1, upto]):.1f} % of the probability."
    )


def _listed(rows: Sequence[Mapping], names: Sequence[str], upto: int) -> tuple[list[str], list[list]]:
    known = rows[0].get("gold") is not None
    columns = [
        "role",
        f"log p, {names[0]}",
        *([f"log p, {names[upto]}", "change"] if upto else []),
        "reward",
        *(["gold"] if known else []),
        "answer",
    ]
    order = sorted(
        rows,
        key=lambda row: (
            ROLES.index(row["role"]) > 1,
            ROLES.index(row["role"]) if row["role"] in ROLES[:2] else 0,
            -row["logps"][upto],
        ),
    )
    asked = " / ".join(turn["content"] for turn in rows[0]["prompt"])
    table = [["prompt", *[None] * (len(columns) - 2), asked]]
    for row in order[:8]:
        first, now = row["logps"][0], row["logps"][upto]
        table.append(
            [
                row["role"],
                first,
                *([now, now - first] if upto else []),
                row["reward"],
                *([row["gold"]] if known else []),
                row["text"],
            ]
        )
    return columns, table


def where_did_the_mass_go(
    rows: Sequence[Mapping], *, names: Sequence[str] | None = None, interactive: bool
) -> Panel:
    """Shows how likely the answers of a prompt are under one policy after the other. rows: see `answers_over_training`.

    Opens with the prompt whose chosen answer lost most. names: of the policies, by default SFT, 1, 2, ...
    """
    groups: dict[str, list[Mapping]] = {}
    for row in rows:
        groups.setdefault(row["prompt_id"], []).append(row)
    if not groups:
        raise KitError("there are no answers to show; answers_over_training gives rows")
    ordered = sorted(
        groups.values(),
        key=lambda own: next(r["logps"][-1] - r["logps"][0] for r in own if r["role"] == "chosen"),
    )
    names = list(names or ["SFT", *map(str, range(1, len(rows[0]["logps"])))])
    last = len(names) - 1

    def controls() -> dict[str, Any]:
        asked = [(f"{i + 1} of {len(ordered)}", i) for i in range(len(ordered))]
        return {
            "prompt": choice("prompt", asked, 0, width="300px"),
            "upto": slider("DPO trainings done", last, 0, last, 1),
        }

    return present(
        draw_mass(ordered, names), {"prompt": 0, "upto": last}, controls, interactive=interactive, name="mass"
    )
