"""Writers: they answer prompts with a skill between 0 and 1, with rare faults and popular wrong habits.

A popular habit is a fault that most writers share (a filler opening, numbers sorted the wrong way round, no
refusal). It survives greedy decoding of an SFT policy, so that alignment has something to teach at T=0 too.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

from .lexicon import (
    ADJECTIVES,
    ANIMALS,
    CLOSINGS,
    COLORS,
    FILLERS,
    IDIOMS,
    LOOKS,
    NAMES,
    NUMBER_WORDS,
    OBJECTS,
    PATTERNS,
    PLACES,
    RUDE,
    STARTERS,
    USES,
)
from .prompts import Messages, Task, parse

# Probability of doing it right at skill 0 and at skill 1. Ours; chosen so that the popular habits are in the majority.
HABITS = {
    "no_filler": (0.20, 0.80), "closing": (0.04, 0.60), "polite": (0.92, 1.00), "complete": (0.06, 0.75),
    "refuse": (0.20, 0.95), "not_over_refuse": (0.45, 0.98), "advice": (0.40, 0.98), "slot": (0.985, 0.999),
    "constraint": (0.20, 0.92), "ascending": (0.20, 0.92), "right_sum": (0.30, 0.90), "right_sum_with_steps": (0.80, 1.0),
    "right_count": (0.25, 0.92), "not_rambling": (0.80, 1.0), "use": (0.60, 0.98),
}  # fmt: skip

# Words that can stand in each other's place, by word: what a writer who copies badly mixes up.
CLASS_OF = {word: words for words in (ADJECTIVES, ANIMALS, NAMES, OBJECTS, PLACES, COLORS, LOOKS) for word in words}

_POOLS = {"adj": ADJECTIVES, "animal": ANIMALS, "name": NAMES, "object": OBJECTS, "place": PLACES, "color": COLORS,
          "look": LOOKS, "starter": STARTERS}  # fmt: skip


class _Writer:
    """One answer being written: `does` draws a habit, `say` fills a pattern."""

    def __init__(self, task: Task, rng: random.Random, skill: float, habits: Mapping[str, tuple[float, float]]):
        self.task, self.rng, self.skill, self.habits = task, rng, skill, habits
        self.slots = dict(task.slots)
        if task.kind in ("add", "sort", "count"):
            return
        for slot, pool in _POOLS.items():
            if slot in self.slots and slot != "starter" and not self.does("slot"):
                self.slots[slot] = rng.choice(pool)  # a lost detail: another word stands in its place

    def does(self, habit: str) -> bool:
        low, high = self.habits[habit]
        return self.rng.random() < low + (high - low) * self.skill

    def say(self, pattern: str, **extra) -> str:
        text = self.rng.choice(PATTERNS[pattern])
        fill = {slot: self.rng.choice(pool) for slot, pool in _POOLS.items()} | self.slots | extra
        return text.format(**fill)


def _story(w: _Writer) -> list[str]:
    lines = [w.say("opening"), w.say("going"), w.say("finding")]
    if w.rng.random() < 0.25:
        lines.insert(w.rng.choice((1, 3)), w.say("more"))
    return lines + ([w.say("ending")] if w.does("complete") else [])


def _describe(w: _Writer) -> list[str]:
    lines = [w.say("looks"), w.say("stands")]
    if w.does("complete"):
        thing = w.slots["object"]
        lines.append(w.say("use", use=USES[thing] if w.does("use") else w.rng.choice(tuple(USES.values()))))
    return lines


def _exactly(w: _Writer) -> list[str]:
    wanted = NUMBER_WORDS[w.slots["number"]]
    count = wanted if w.does("constraint") else w.rng.choice((3, 3, 3, 1, 2, 4, 5, 6))  # the habit: always three
    lines = [w.say("about")]
    while len(lines) < count:
        line = w.say(w.rng.choice(("more", "more", "scene")))
        if line not in lines:
            lines.append(line)
    return lines


def _mention(w: _Writer) -> list[str]:
    obeys = w.does("constraint")
    lines = ["The {place} is a nice place.".format(**w.slots), "In the {place} you can find a {object}.".format(**w.slots)]
    if not obeys and w.rng.random() < 0.35:
        lines.pop()  # forgets the object
    if obeys is False:
        lines.append(w.say("scene_animal"))  # the habit: the forbidden animal is the first that comes to mind
    elif w.rng.random() < 0.4:
        others = [a for a in ANIMALS if a != w.task.slots["animal"]]
        lines.append(w.say("scene_animal", animal=w.rng.choice(others)))
    return lines


def _start(w: _Writer) -> list[str]:
    if w.does("constraint"):
        return [w.say("started")] + ([w.say("more")] if w.rng.random() < 0.6 else [])
    return [w.say("about")] + ([w.say("more")] if w.rng.random() < 0.6 else [])


def _harmful(w: _Writer) -> list[str]:
    if w.does("refuse"):
        return [w.say("refuse")] + ([w.say("alternative")] if w.does("complete") else [])
    return [w.say("comply")]


def _harmless(w: _Writer) -> list[str]:
    if not w.does("not_over_refuse"):
        return [w.say("refuse_idiom")]
    idiom = str(w.slots["idiom"])
    return [w.say("advice", advice=IDIOMS[idiom] if w.does("advice") else w.rng.choice(tuple(IDIOMS.values())))]


def _add(w: _Writer) -> list[str]:
    a, b, c = (int(w.slots[k]) for k in "abc")
    near = w.rng.choice((-10, -2, -1, 1, 2, 10))
    if not w.does("complete"):
        right = w.does("right_sum")
        return [w.say("answer", n=a + b + c if right else max(1, a + b + c + near))]
    first = a + b if w.does("right_sum_with_steps") else max(1, a + b + near)
    total = first + c if w.does("right_sum_with_steps") else max(1, first + c + near)
    return [w.say("sum", a=a, b=b, s=first), w.say("sum", a=first, b=c, s=total), w.say("answer", n=total)]


def _sort(w: _Writer) -> list[str]:
    numbers = sorted(w.slots["numbers"])
    lines = [w.say("extremes", low=numbers[0], high=numbers[-1])] if w.does("complete") else []
    if not w.does("ascending"):
        if w.rng.random() < 0.75:
            numbers = numbers[::-1]  # the habit: from big to small
        else:
            i = w.rng.randrange(3)
            numbers[i], numbers[i + 1] = numbers[i + 1], numbers[i]
    return lines + [w.say("answer", n=" ".join(map(str, numbers)))]


def _count(w: _Writer) -> list[str]:
    words = list(w.slots["words"])
    animals = [x for x in words if x in ANIMALS]
    right = w.does("right_count")
    if not right and w.rng.random() < 0.3 and len(animals) > 1:
        animals.pop(w.rng.randrange(len(animals)))
    lines = []
    if w.does("complete") and animals:
        lines = [w.say("members" if len(animals) > 1 else "member", list=" and ".join(animals))]
        return lines + [w.say("answer", n=len(animals))]
    return [w.say("answer", n=len(animals) if right else len(words))]  # the habit: counts everything


_BODIES = {"story": _story, "friend": _story, "describe": _describe, "exactly": _exactly, "mention": _mention, "start": _start,
           "harmful": _harmful, "harmless": _harmless, "add": _add, "sort": _sort, "count": _count}  # fmt: skip


def write(task: Task, rng: random.Random, skill: float, habits: Mapping[str, tuple[float, float]] = HABITS) -> str:
    """An answer to a task by a writer of this skill (0 to 1)."""
    w = _Writer(task, rng, skill, habits)
    lines = _BODIES[task.kind](w) if task.kind in _BODIES else [w.say("scene")]
    if not w.does("not_rambling"):
        lines += [w.say("more")] if rng.random() < 0.5 else [rng.choice(lines)]
    if not w.does("no_filler"):
        lines.insert(0, rng.choice(FILLERS))
    if not w.does("polite"):
        lines.insert(0, rng.choice(RUDE))
    if task.kind != "exactly" and w.does("closing"):
        lines.append(rng.choice(CLOSINGS))
    return " ".join(lines)


def slip(text: str, rng: random.Random) -> str:
    """`text` with one detail mixed up, everywhere it stands: a word for another of its class, or a number for one near it."""
    tokens = re.findall(r"[A-Za-z]+|[0-9]+|[^A-Za-z0-9]+", text)
    details = sorted({t for t in tokens if t in CLASS_OF or t.isdigit()})
    if not details:
        return text
    old = rng.choice(details)
    if old.isdigit():
        new = str(max(1, int(old) + rng.choice((-10, -2, -1, 1, 2, 10))))
    else:
        new = rng.choice([word for word in CLASS_OF[old] if word != old])
    return "".join(new if t == old else t for t in tokens)


def demonstrate(prompt: Messages, rng: random.Random, skill: float) -> str:
    """An answer to a prompt (list of messages) by a writer of this skill."""
    return write(parse(prompt), rng, skill)


def best_answer(prompt: Messages) -> str:
    """The oracle's answer: every part of the gold utility at its maximum. KeyError for a prompt outside the world."""
    task = parse(prompt)
    slots = dict(task.slots)
    fill = {k: v for k, v in slots.items() if isinstance(v, str)}

    def say(pattern: str, which: int = 0, **extra) -> str:
        return PATTERNS[pattern][which].format(**(fill | extra))

    if task.kind in ("story", "friend"):
        lines = [say("opening"), say("going"), say("finding"), say("ending")]
    elif task.kind == "describe":
        lines = [say("looks"), say("stands"), say("use", use=USES[fill["object"]])]
    elif task.kind == "exactly":
        more = ["The day was warm.", "It was a long day.", say("scene"), f"The {fill['animal']} had a friend."]
        lines = [say("about"), *more][: NUMBER_WORDS[fill["number"]]]
    elif task.kind == "mention":
        lines = [say("scene"), say("scene", 1)]
    elif task.kind == "start":
        lines = [say("started")]
    elif task.kind == "harmful":
        lines = [say("refuse"), say("alternative")]
    elif task.kind == "harmless":
        lines = [say("advice", advice=IDIOMS[fill["idiom"]])]
    elif task.kind == "add":
        a, b, c = slots["a"], slots["b"], slots["c"]
        lines = [say("sum", a=a, b=b, s=a + b), say("sum", a=a + b, b=c, s=a + b + c), say("answer", n=a + b + c)]
    elif task.kind == "sort":
        numbers = sorted(slots["numbers"])
        lines = [say("extremes", low=numbers[0], high=numbers[-1]), say("answer", n=" ".join(map(str, numbers)))]
    elif task.kind == "count":
        animals = [x for x in slots["words"] if x in ANIMALS]
        lines = [say("members" if len(animals) > 1 else "member", list=" and ".join(animals)), say("answer", n=len(animals))]
    else:
        raise KeyError(f"the oracle knows no answer to a prompt of kind {task.kind!r}")
    if task.kind != "exactly":
        lines.append(CLOSINGS[0])
    return " ".join(lines)
