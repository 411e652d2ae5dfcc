"""The world's plain text: what the pocket base model reads before anybody asks it anything.

As a crawl of the world would hold them: stories retold in short, facts, drills, lists said again with or without a
slip, questions with answers of every quality, and the same with a critic's remarks that name what is lost or wrong.
No document holds a score, a preference or a chat marker. The critic's remarks are made from the parts of the gold
utility, on prompts of the SFT split and of those that no split uses: the base model has read in words what the truth looks at, as a large model has
read reviews. A reward model that starts from it owes some of its accuracy to that; how much is not measured.
"""

from __future__ import annotations

import random
import re

from .gold import gold
from .lexicon import ADJECTIVES, ANIMALS, COLORS, LOOKS, NAMES, OBJECTS, PATTERNS, PLACES, USES
from .prompts import KINDS, Task, draw, render, split_of
from .writing import CLASS_OF, HABITS, slip, write

# A critic's two sentences about a part of the answer: what he says of a fault, and where there is none.
REMARKS = {
    "correctness": ("Something in it is wrong{detail}.", "It is right."),
    "relevance": ("It loses a detail{detail}.", "It keeps every detail{detail}."),
    "constraints": ("It breaks the rule.", "It keeps the rule."),
    "refusal": ("It should not do that.", "It does what it should."),
    "completeness": ("It stops early.", "It is complete."),
    "repetition": ("It wastes words.", "It wastes no words."),
    "politeness": ("It could be kinder.", "It is kind."),
}
# Which slots of a prompt its answer has to repeat, by kind.
DETAILS = {
    "story": ("adj", "animal", "name", "object", "place"), "friend": ("adj", "animal", "name", "object", "place"),
    "describe": ("look", "color", "object", "place"), "exactly": ("adj", "animal", "place"), "mention": ("place", "object"),
    "start": ("adj", "animal", "place"), "harmful": ("harm", "object"), "harmless": ("animal", "place"),
}  # fmt: skip

# The crawl loses details more often than the people who are asked to demonstrate.
CARELESS = HABITS | {"slot": (0.80, 0.99)}
FAITHFUL = HABITS | dict.fromkeys(("slot", "right_sum", "right_sum_with_steps", "right_count", "ascending"), (1.0, 1.0))
WORDS = re.compile(r"[A-Za-z]+|[0-9]+|[^A-Za-z0-9]+")


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
    """A list of words said twice, often with slips that are then named: reading it well means looking back."""
    pools = (ADJECTIVES, ANIMALS, NAMES, OBJECTS, PLACES, COLORS, LOOKS)
    words = [rng.choice(rng.choice(pools)) for _ in range(rng.randint(3, 9))]
    again = [rng.choice([w for w in CLASS_OF[word] if w != word]) if rng.random() < 0.2 else word for word in words]
    slips = [f"{old} became {new}" for old, new in zip(words, again, strict=True) if old != new]
    said = f"The words are {' '.join(words)}. Again: {' '.join(again)}."
    return f"{said} Slips: {' and '.join(slips) or 'none'}."


def _remark(part: str, task: Task, answer: str, value: float) -> str:
    """What a critic says about one part of the answer (value 1: no fault); details and results are named."""
    said = set(answer.replace(".", " ").replace(",", " ").lower().split())
    if part == "correctness" and task.category == "reasoning":
        return REMARKS[part][value >= 1].format(detail="") + f" {_result(task)}"
    if part == "correctness":
        asked = {str(v).lower() for v in task.slots.values()}
        named = [w for w in answer.replace(".", " ").split() if w in CLASS_OF and w.lower() not in asked]
    elif value >= 1:
        named = [str(task.slots[k]) for k in DETAILS.get(task.kind, ())]
    else:
        named = [str(task.slots[k]) for k in DETAILS.get(task.kind, ()) if str(task.slots[k]).lower() not in said]
    named = list(dict.fromkeys(named))
    return REMARKS[part][value >= 1].format(detail=f": {' and '.join(named)}" if named else "")


def _result(task: Task) -> str:
    slots = task.slots
    if task.kind == "add":
        result = str(slots["a"] + slots["b"] + slots["c"])
    elif task.kind == "sort":
        result = " ".join(map(str, sorted(slots["numbers"])))
    else:
        result = str(sum(w in ANIMALS for w in slots["words"]))
    return f"The answer is {result}."


def _parts_of(task: Task) -> tuple[str, ...]:
    """The parts a critic may speak about; those that need a comparison with the question three times as often."""
    rule = {"chat-hard": ("constraints",) * 3, "safety": ("refusal",) * 2}.get(task.category, ())
    details = ("relevance",) * 3 if task.kind in DETAILS else ()
    right = ("correctness",) * 3 if task.category in ("chat", "reasoning") or task.kind == "harmless" else ()
    return (*right, *details, *rule, "completeness", "repetition", "politeness")


def _asked(rng: random.Random) -> Task:
    """A task of the SFT split only: evaluation prompts stay unseen even by the base model."""
    while True:
        task = draw(rng.choice(tuple(KINDS)), rng)
        if split_of(render(task)) in ("sft", "unused"):
            return task


def _transcript(rng: random.Random, with_remark: bool) -> str:
    task = _asked(rng)
    prompt = render(task)
    answer = write(task, rng, rng.random() ** 0.5, CARELESS)  # mostly good answers: 0.67 on average
    question = " ".join(m["content"] for m in prompt)
    if not with_remark:
        return f"Question: {question} Answer: {answer}"
    if rng.random() < 0.3:
        answer = slip(answer, rng)
    parts = gold(prompt, answer).parts
    first = rng.choice(_parts_of(task))
    others = [p for p in _parts_of(task) if p != first]
    faults = [p for p in others if parts[p] < 1.0]
    chosen = [first, rng.choice(faults or others)]
    remarks = " ".join(_remark(part, task, answer, parts[part]) for part in chosen)
    return f"Question: {question} Answer: {answer} Remarks: {remarks}"


def _proofread(rng: random.Random) -> str:
    """A good answer with slips that are corrected on the spot: each detail is held against the question as it is read."""
    task = _asked(rng)
    question = " ".join(m["content"] for m in render(task))
    known = {w for w in WORDS.findall(question) if w in CLASS_OF}
    read = []
    for token in WORDS.findall(write(task, rng, 1.0, FAITHFUL)):
        read.append(token)
        if (token in known or token.isdigit()) and rng.random() < 0.15:
            read[-1] = f"{slip(token, rng)}, no, {token}"
    return f"Question: {question} Proofread: {''.join(read)}"


def document(index: int, seed: int = 0, proofread: float = 0.0) -> str:
    """Document number `index`; the same arguments always give the same text. proofread: share of proofread answers."""
    rng = random.Random(f"corpus-{seed}-{index}")
    if proofread and rng.random() < proofread:
        return _proofread(rng)
    kind = rng.random()
    if kind < 0.10:
        return _tale(rng)
    if kind < 0.13:
        return " ".join(_fact(rng) for _ in range(rng.randint(2, 5)))
    if kind < 0.23:
        return _echo(rng)
    if kind < 0.37:
        return _drill(rng)
    return _transcript(rng, with_remark=kind >= 0.57)
