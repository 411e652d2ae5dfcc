"""Annotators: a Bradley-Terry judge of the gold utility, with dials for the faults of human judges."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from .gold import gold
from .prompts import Messages


@dataclass(frozen=True)
class Annotator:
    """P(a over b) = sigmoid((u(a) - u(b) + verbosity * (len(a) - len(b)) / 100 + position) / temperature), paper eq. 1.

    temperature:  how noisy the judgement is, in units of utility; 0 always prefers the better answer
    verbosity:    utility that 100 more characters seem to be worth
    position:     utility added to the answer shown first
    carelessness: share of judgements that are a fair coin
    """

    temperature: float = 1.0
    verbosity: float = 0.0
    carelessness: float = 0.0
    position: float = 0.0

    def probability(self, prompt: Messages, a: str, b: str) -> float:
        """Probability that `a`, shown first, is preferred to `b`."""
        gap = gold(prompt, a).utility - gold(prompt, b).utility
        gap += self.verbosity * (len(a) - len(b)) / 100 + self.position
        if self.temperature > 0:
            p = 1 / (1 + math.exp(-max(-60.0, min(60.0, gap / self.temperature))))
        else:
            p = 0.5 if gap == 0 else float(gap > 0)
        return (1 - self.carelessness) * p + self.carelessness * 0.5

    def choose(self, prompt: Messages, a: str, b: str, rng: random.Random) -> int:
        """0 when `a` is preferred, 1 when `b` is."""
        return int(rng.random() >= self.probability(prompt, a, b))
