"""The pocket world: an English-like world in which the truth about every answer is known."""

from __future__ import annotations

from .annotator import Annotator
from .frozen import load
from .gold import PARTS, Gold, gold, gold_utility
from .prompts import CATEGORIES, KINDS, SPLITS, Task, parse, prompt_id, prompts, split_of
from .writing import best_answer, demonstrate

__all__ = [
    "CATEGORIES", "KINDS", "PARTS", "SPLITS", "Annotator", "Gold", "Task", "best_answer", "demonstrate", "gold",
    "gold_utility", "load", "parse", "prompt_id", "prompts", "split_of",
]  # fmt: skip
