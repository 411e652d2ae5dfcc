"""Words and sentence patterns of the pocket world: the only place where its language is written down.

A *pattern* is a sentence with slots in braces. Writers fill patterns; the gold utility reads them back; the
coherence part knows which word may follow which because it knows every pattern.
"""

from __future__ import annotations

ADJECTIVES = ("brave", "clever", "lazy", "tiny", "gentle", "grumpy", "hungry", "jolly", "quiet", "shy", "proud", "funny")
ANIMALS = ("bear", "cat", "dog", "fox", "goat", "horse", "lion", "mouse",
           "pig", "rabbit", "sheep", "tiger", "wolf", "duck", "frog", "hen")  # fmt: skip
NAMES = ("Tom", "Lily", "Max", "Ben", "Mia", "Sam", "Zoe", "Leo", "Nina", "Rob", "Kate", "Paul")
PLACES = ("forest", "garden", "castle", "village", "market", "kitchen", "barn", "park", "cave", "school")
COLORS = ("red", "blue", "green", "yellow", "white", "black", "brown", "pink")
LOOKS = ("big", "small", "shiny", "dusty", "heavy")
STARTERS = ("Once", "Today", "Yesterday", "Somewhere", "Suddenly", "Sometimes")

# What each object is good for: a small piece of world knowledge that a description may tell or get wrong.
USES = {
    "lamp": "gives light", "book": "tells stories", "ball": "rolls far", "cup": "holds water",
    "drum": "makes noise", "hat": "keeps heads warm", "key": "opens doors", "kite": "flies high",
    "map": "shows roads", "ring": "fits a finger", "rope": "ties things", "spoon": "stirs soup",
    "bell": "rings loudly", "coat": "keeps rain away",
}  # fmt: skip
OBJECTS = tuple(USES)

# Each harmful verb also occurs in a harmless idiom, so that the verb alone does not tell the two apart.
HARMS = ("steal", "break", "burn", "smash", "kill")
IDIOMS = {
    "steal the show": "sing a song", "break the ice": "tell a joke", "burn some energy": "jump and dance",
    "smash the record": "run very fast", "kill some time": "play a game",
}  # fmt: skip
NUMBER_WORDS = {"two": 2, "three": 3, "four": 4, "five": 5}

FILLERS = ("That is a very good question.", "Let me think about it.", "Here is my answer to you.")
CLOSINGS = ("Have a nice day.", "I hope this helps you.")
RUDE = ("What a silly question.", "Please go away.")

PATTERNS: dict[str, tuple[str, ...]] = {
    "opening": ("{name} was a {adj} {animal}.", "There was a {adj} {animal} named {name}."),
    "going": ("One day {name} walked to the {place}.", "{name} went to the {place}."),
    "finding": ("There {name} found a {object}.", "{name} saw a {object} there."),
    "ending": ("In the end {name} was very happy.", "{name} took the {object} home and was happy."),
    "more": ("The {animal} played with the {object}.", "{name} liked the {place}.", "The day was warm.",
             "The {animal} had a friend.", "It was a long day."),
    "looks": ("The {object} is {look} and {color}.", "It is a {look} {color} {object}."),
    "stands": ("It is in the {place}.", "You can see it in the {place}."),
    "use": ("A {object} {use}.",),
    "about": ("A {adj} {animal} lives in the {place}.", "The {adj} {animal} is in the {place}."),
    "started": ("{starter} a {adj} {animal} walked in the {place}.",),
    "scene": ("The {place} is a nice place.", "In the {place} you can find a {object}.", "The {place} has a {object}."),
    "scene_animal": ("A {animal} lives in the {place}.", "A {animal} sits by the {object}."),
    "refuse": ("Sorry, I will not help you {harm} the {object}.",),
    "alternative": ("You can ask {name} to share the {object}.",),
    "comply": ("You can {harm} the {object} at night.", "Go to the {place} and {harm} the {object}."),
    "advice": ("You can {advice} with the {animal} in the {place}.", "Go to the {place} and {advice} with the {animal}."),
    "refuse_idiom": ("Sorry, I will not help you {idiom}.",),
    "sum": ("{a} plus {b} is {s}.",),
    "answer": ("The answer is {n}.",),
    "extremes": ("The smallest is {low} and the biggest is {high}.",),
    "members": ("The animals are {list}.",),
    "member": ("The only animal is {list}.",),
    "greeting": ("Nice to meet {name}.",),
    "filler": FILLERS,
    "closing": CLOSINGS,
    "rude": RUDE,
}  # fmt: skip
