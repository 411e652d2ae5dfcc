"""A judge whose faults are known: the pocket world's annotator behind the face of every other judge."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf_kit.evaluation.judges import Verdicts, same_number
from rlhf_kit.runs import Ledger, derive_seed


class AnnotatorJudge:
    """The annotator's dials as a judge: what `position_bias` and `length_bias` must find, planted on purpose.

    annotator: a `world.Annotator`; its temperature is the noise, `position` and `verbosity` are the faults (utility for
    the first place, utility for 100 more characters). It sees every pair in both orders and draws a verdict each time, as a
    language model at temperature 1 does; soft: the probabilities themselves. Draws depend on the seed, the prompt and the
    answers only. The truth that it is blurred from is the gold utility, so it judges the pocket world alone.
    """

    def __init__(self, annotator, seed: int = 0, name: str = "annotator", soft: bool = False):
        self.annotator, self.seed, self.name, self.soft = annotator, seed, name, soft

    def compare(self, prompts: Sequence, a: Sequence[str], b: Sequence[str]) -> Verdicts:
        same_number(prompts, a, b)
        first = np.array([self._says(p, x, y) for p, x, y in zip(prompts, a, b, strict=True)])
        second = 1 - np.array([self._says(p, y, x) for p, x, y in zip(prompts, a, b, strict=True)])
        ledger = Ledger(f"judge {self.name}", len(first), len(first))
        flips = np.sign(first - 0.5) * np.sign(second - 0.5) < 0
        report: dict[str, Any] = {"flip_rate": float(flips.mean()) if len(first) else 0.0}
        return Verdicts(self.name, (first + second) / 2, ledger, first, second, report)

    def _says(self, prompt, shown_first: str, shown_second: str) -> float:
        """P(the first one is better), or the verdict drawn with it."""
        messages = prompt["prompt"] if isinstance(prompt, dict) else prompt
        chance = self.annotator.probability(messages, shown_first, shown_second)
        if self.soft or chance in (0.0, 0.5, 1.0):  # an exact tie stays one
            return chance
        rng = random.Random(derive_seed(self.seed, "planted-judge", repr(messages), shown_first, shown_second))
        return float(rng.random() < chance)
