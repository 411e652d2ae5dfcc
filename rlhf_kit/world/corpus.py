"""The world's plain text: what the pocket base model reads before anybody asks it anything.

As a crawl of the world would hold them: stories retold in short, facts, drills, lists said again, questions with
answers of every quality, and the same with a critic's remark that names a fault. No document holds a score, a
preference or a chat marker.
"""

from __future__ import annotations

import random

from .gold import gold
from .lexicon import ADJECTIVES, ANIMALS, COLORS, LOOKS, NAMES, OBJECTS, PATTERNS, PLACES, USES
from .prompts import KINDS, Task, draw, render, split_of
from .writing import HABITS, write

REMARKS = {
    "correctness": ("Something in it is wrong.", "Something in it is right."),
    "constraints": ("It breaks the rule.", "It keeps the rule."),
    "relevance": ("It loses a detail.", "It keeps every detail."),
    "refusal": ("It should not do that.", "It does what it should."),
    "completeness": ("It stops early.", "It is complete."),
    "repetition": ("It wastes words.", "It wastes no words."),
    "politeness": ("It could be kinder.", "It is kind."),
}

# The crawl loses details more often than the people who are asked to demonstrate.
CARELESS = HABITS | {"slot": (0.80, 0.99)}


def _fact(rng: random.Random) -> str:
    animal, thing = rng.choice(ANIMALS), rng.choice(OBJECTS)
    return rng.choice((
        f"A {animal} is an animal.", f"A {thing} is a thing.", f"A {thing} {USES[thing]}.", f"{rng.choice(NAMES)} is a name.",
        f"The {rng.choice(PLACES)} is a place.", f"{rng.choice(COLORS).capitalize()} is a color.",
        f"A {animal} can be {rng.choice(ADJECTIVES)}.", f"A {thing} can be {rng.choice(LOOKS)}.",
    ))  # fmt: skip


def _drill(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.5:
        lines = []
        for _ in range(rng.randint(1, 4)):
            a, b = rng.randint(1, 24), rng.randint(1, 12)
            lines.append(f"{a} plus {b} is {a + b}.")
        return " ".join(lines)
    if kind < 0.8:
        numbers = rng.sample(range(1, 31), rng.randint(3, 5))
        up = sorted(numbers)
        return f"The numbers {' '.join(map(str, numbers))} from small to big are {' '.join(map(str, up))}. The smallest is {up[0]} and the biggest is {up[-1]}."
    words = rng.sample(ANIMALS, rng.randint(1, 3)) + rng.sample(OBJECTS, rng.randint(1, 3))
    rng.shuffle(words)
    animals = [w for w in words if w in ANIMALS]
    return f"In the list {', '.join(words)} the animals are {' and '.join(animals)}. That makes {len(animals)}."


def _tale(rng: random.Random) -> str:
    task = draw("story", rng)
    fill = {"look": rng.choice(LOOKS), "color": rng.choice(COLORS)} | {k: str(v) for k, v in task.slots.items()}
    short = "In short: a {adj} {animal} named {name} finds a {object} in the {place}.".format(**fill)
    names = ["opening", "going", "finding"] + rng.choices(["more", "looks", "stands", "about", "scene"], k=rng.randint(0, 3)) + ["ending"]
    tale = " ".join(rng.choice(PATTERNS[n]).format(**fill) for n in names)
    return rng.choice((f"{tale} {short}", f"A{short.removeprefix('In short: a')} {tale}"))


def _echo(rng: random.Random) -> str:
    """A list of words said twice: reading it well means looking back and copying."""
    pools = (ADJECTIVES, ANIMALS, NAMES, OBJECTS, PLACES, COLORS, LOOKS)
    words = " ".join(rng.choice(rng.choice(pools)) for _ in range(rng.randint(3, 9)))
    return f"The words are {words}. Again: {words}."


def _transcript(rng: random.Random, with_remark: bool) -> str:
    task: Task
    while True:  # only prompts of the SFT split: evaluation prompts stay unseen even by the base model
        task = draw(rng.choice(tuple(KINDS)), rng)
        prompt = render(task)
        if split_of(prompt) in ("sft", "unused"):
            break
    answer = write(task, rng, rng.random() ** 0.5, CARELESS)  # mostly good answers: 0.67 on average
    question = " ".join(m["content"] for m in prompt)
    text = f"Question: {question} Answer: {answer}"
    if with_remark:
        parts = gold(prompt, answer).parts
        part = rng.choice(tuple(REMARKS))
        text += f" Remark: {REMARKS[part][int(parts[part] >= 1.0)]}"
        faults = [p for p in REMARKS if p != part and parts[p] < 1.0]
        if faults:
            text += f" {REMARKS[rng.choice(faults)][0]}"
    return text


def document(index: int, seed: int = 0) -> str:
    """Document number `index`; the same index and seed always give the same text."""
    rng = random.Random(f"corpus-{seed}-{index}")
    kind = rng.random()
    if kind < 0.12:
        return _tale(rng)
    if kind < 0.16:
        return " ".join(_fact(rng) for _ in range(rng.randint(2, 5)))
    if kind < 0.24:
        return _echo(rng)
    if kind < 0.40:
        return _drill(rng)
    return _transcript(rng, with_remark=kind >= 0.67)
