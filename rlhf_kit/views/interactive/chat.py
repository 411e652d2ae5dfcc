"""Chat side by side: SFT, offline and online answer your prompt, each with its reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np

from rlhf_kit.errors import KitError
from rlhf_kit.views import style
from rlhf_kit.views.interactive.controls import button, choice, slider
from rlhf_kit.views.interactive.markup import status
from rlhf_kit.views.interactive.panel import Drawing, Panel, Said, present


def recorded_answers(
    rows: Sequence[Mapping], prompts: Mapping[str, Sequence[Mapping]], names: Sequence[str], most: int = 6
) -> list[dict]:
    """Greedy answers of an evaluation as examples: {prompt, answers: {name: {text, reward, gold or None}}}.

    Prompts on which the policies' answers differ come first; one of every category before a second of any. KitError where no
    prompt has greedy answers of all names.
    """
    by_prompt: dict[str, dict[str, Mapping]] = {}
    for row in rows:
        if row["temperature"] == 0 and row["policy"] in names:
            by_prompt.setdefault(row["prompt_id"], {})[row["policy"]] = row
    whole = [(key, own) for key, own in by_prompt.items() if len(own) == len(names)]
    if not whole:
        raise KitError(f"the evaluation has no greedy answers of {', '.join(names)}")
    whole.sort(key=lambda item: -len({row["text"] for row in item[1].values()}))
    seen: dict[Any, int] = {}
    ranked = []
    for key, own in whole:
        category = next(iter(own.values())).get("category")
        seen[category] = seen.get(category, 0) + 1
        ranked.append((seen[category], key, own))
    ranked.sort(key=lambda item: item[0])
    return [
        {
            "prompt": prompts[key],
            "answers": {name: {k: own[name][k] for k in ("text", "reward", "gold")} for name in names},
        }
        for _, key, own in ranked[:most]
    ]


def draw_chat(names: Sequence[str], examples: Sequence[Mapping]) -> Drawing:
    """Bars of the rewards, and of gold where it is known. Values of `move`: prompt (messages), answers (name -> {text, reward, gold})."""
    known = any(answer.get("gold") is not None for one in examples for answer in one["answers"].values())
    fig, axes = style.figure(
        1, 2 if known else 1, width=9.6 if known else 6.4, height=1.5 + 0.42 * len(names)
    )
    values = [answer["reward"] for one in examples for answer in one["answers"].values()]
    reach = [min(0.0, *values) - 1, max(0.0, *values) + 1]
    shown = [("reward", axes[0], style.PROXY, ""), *([("gold", axes[1], style.TRUTH, "//")] if known else [])]
    bars = {
        key: [
            ax.barh([k], [0.0], 0.55, color=color, hatch=hatch, edgecolor="white", linewidth=0)[0]
            for k in range(len(names))
        ]
        for key, ax, color, hatch in shown
    }
    numbers = {
        key: [ax.text(0, k, "", va="center", fontsize=9.5) for k in range(len(names))]
        for key, ax, *_ in shown
    }
    for key, ax, *_ in shown:
        ax.axvline(0, color="black", linewidth=1)
        style.rows_down(ax, names, above=0.6)
        style.label(
            ax,
            "The reward model's verdict" if key == "reward" else "The truth",
            "reward (no unit)" if key == "reward" else "gold utility (0 to 10)",
        )
    axes[0].set_xlim(*reach)
    if known:
        axes[1].set_xlim(0, 11.5)

    def move(prompt: Sequence[Mapping], answers: Mapping[str, Mapping]) -> Said:
        low, high = axes[0].get_xlim()
        given = [answers[name]["reward"] for name in names]
        whole = min(given) < low or max(given) > high
        if whole:
            axes[0].set_xlim(min(low, min(given) - 1), max(high, max(given) + 1))
        for key, *_ in shown:
            for k, name in enumerate(names):
                value = answers[name].get(key)
                bars[key][k].set_width(value or 0.0)
                numbers[key][k].set(
                    text="not known" if value is None else f" {value:.2f} ", x=max(0.0, value or 0.0)
                )
        ordered = sorted(names, key=lambda name: -answers[name]["reward"])
        text = (
            "By the reward model: "
            + ", then ".join(f"{' and '.join(same)} ({reward})" for reward, same in groupby(ordered, lambda name: f"{answers[name]['reward']:.2f}"))
            + ". "
        )
        golds = {name: answers[name].get("gold") for name in names}
        if all(value is not None for value in golds.values()):
            best = [name for name in names if golds[name] == max(golds.values())]
            told = ", ".join(f"{name} {golds[name]:.2f}" for name in names)
            text += f"In truth best: {' and '.join(best)} ({told}). "
        elif known:
            text += ("The prompt is not one of the pocket world's kinds, so its truth is not known, and no policy has met its like; "
                     "take a prompt answered before and change a name or a number to stay inside. ")  # fmt: skip
        table = [["you", None, *([None] if known else []), " / ".join(turn["content"] for turn in prompt)]]
        table += [
            [
                name,
                answers[name]["reward"],
                *([golds[name]] if known else []),
                answers[name]["text"] or "(an empty answer)",
            ]
            for name in names
        ]
        return Said(text.strip(), ["", "reward", *(["gold"] if known else []), "text"], table, whole)

    return Drawing(fig, [*sum(bars.values(), []), *sum(numbers.values(), [])], move)


def chat_side_by_side(
    policies: Mapping[str, str],
    open_scorer: Callable,
    examples: Sequence[Mapping],
    machine: Any,
    *,
    max_new_tokens: int,
    gold: Callable | None = None,
    seed: int = 0,
    interactive: bool,
) -> Panel:
    """Shows the answers of several policies to one prompt, with their rewards; live, to a prompt of yours.

    policies: name -> model folder; loaded once, on the first prompt of yours, all of them into memory, as is
    open_scorer() -> something with score(prompts, texts). examples: see `recorded_answers`; shown until you ask. gold(prompt, text) -> utility, used for
    prompts of the pocket world's kinds only. Writing takes seconds, and the line under the button says so meanwhile.
    """
    names, opened = list(policies), {}

    def ask(text: str, temperature: float, draw: int) -> dict[str, dict]:
        from rlhf_kit import models, sampling

        prompt = [{"role": "user", "content": text}]
        found = {}
        for name, folder in policies.items():
            if name not in opened:
                opened[name] = models.load_policy(folder, machine)
            row = sampling.sample(opened[name], [{"prompt_id": "yours", "prompt": prompt}], n=1, temperature=temperature, max_new_tokens=max_new_tokens,
                                  seed=seed + draw, machine=replace(machine, backend="transformers"), batch_size=1, name=name)[0]  # fmt: skip
            found[name] = {"text": row["text"], "gold": None}
        if "" not in opened:
            opened[""] = open_scorer()  # no policy has an empty name
        rewards = opened[""].score([prompt] * len(found), [one["text"] for one in found.values()])
        for one, reward in zip(found.values(), np.asarray(rewards, dtype=float), strict=True):
            one["reward"] = float(reward)
            if gold is not None and _has_truth(prompt):
                one["gold"] = float(gold(prompt, one["text"]).utility)
        return {"prompt": prompt, "answers": found}

    drawing = draw_chat(names, examples)
    state: dict[str, Any] = {"now": examples[0], "asked": None}
    shown = Drawing(
        drawing.figure,
        drawing.moving,
        lambda **_: drawing.move(state["now"]["prompt"], state["now"]["answers"]),
    )

    def controls() -> dict[str, Any]:
        import ipywidgets as widgets

        asked = [(f"{i + 1} of {len(examples)}", i) for i in range(len(examples))]
        made = {
            "example": choice("answered before (greedy)", asked, 0, width="380px"),
            "text": widgets.Text(value=examples[0]["prompt"][-1]["content"], description="your prompt", style={"description_width": "initial"},
                                 layout={"width": "620px"}),
            "temperature": slider("temperature (0: greedy)", 0.0, 0.0, 1.5, 0.1),
            "draw": slider("which draw", 0, 0, 9, 1, width="280px"),
        }  # fmt: skip
        made["example"].observe(recall, "value")
        for name in ("text", "temperature", "draw"):
            made[name].observe(changed, "value")
        made["text"].on_msg(lambda _, content, __: answer() if content.get("event") == "submit" else None)  # Enter
        return made

    def changed(_: Any) -> None:
        if not panel.parts.get("held"):
            panel.parts["note"].value = status("Changed: the answers shown are from before; press Enter in the prompt, or answer, to ask again.")

    def recall(_: Any) -> None:
        state["now"], state["asked"] = examples[panel.controls["example"].value], None
        panel.parts["held"] = True
        panel.controls["text"].value = state["now"]["prompt"][-1]["content"]
        panel.parts["held"] = False

    def answer() -> None:
        values = {name: control.value for name, control in panel.controls.items()}
        press, note = panel.parts["press"], panel.parts["note"]
        if not values["text"].strip():
            note.value = status("Write a prompt first.")
            return
        if values == state["asked"]:  # a second Enter, sent while the first was answered
            note.value = status("Done.")
            return
        press.disabled = True
        note.value = status("Loading the policies, once, and writing ..." if not opened else "Writing ...")
        try:
            state["now"] = ask(values["text"].strip(), values["temperature"], values["draw"])
            state["asked"] = values
            panel.refresh()
            note.value = status("Done.")  # last: who reads it finds the answers there
        except KitError as problem:
            note.value = status(f"Not answered: {problem}")
        finally:
            press.disabled = False

    def extra() -> list[Any]:
        import ipywidgets as widgets

        press = button("answer", answer, "asks all policies; this takes some seconds", icon="comment")
        note = widgets.HTML(
            value=status("Press it after changing prompt, temperature or draw (or Enter in the prompt); it takes some seconds, the first time more.")
        )
        return [press, note]

    panel = present(shown, {}, controls, interactive=interactive, name="chat", extra=extra)
    if interactive:
        panel.parts["press"], panel.parts["note"] = panel.parts["buttons"]
    return panel


def _has_truth(prompt: Sequence[Mapping]) -> bool:
    from rlhf_kit import world

    return world.parse(prompt).kind != "open"
