"""Sentences that are computed from numbers, so that the text of a lesson cannot contradict the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def change(what: str, value: float, low: float | None = None, high: float | None = None, digits: int = 2) -> str:
    """One sentence on a difference: it rose, it fell, or the interval covers zero and nothing is told.

    value: the difference; low, high: its 95 % interval (None or nan: unknown, then the sentence says so).
    """
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return f"{what}: changed by {value:+.{digits}f}, without an interval"
    digits = digits_apart(low, high, least=digits)
    size = f"{value:+.{digits}f}"
    ends = f"95 % interval {low:+.{digits}f} to {high:+.{digits}f}"
    if low > 0:
        return f"{what}: rose by {size} ({ends})"
    if high < 0:
        return f"{what}: fell by {size} ({ends})"
    return f"{what}: not told apart from no change, {size} ({ends})"


def compare(left: str, right: str, value: float, low: float | None, high: float | None, digits: int = 2) -> str:
    """One sentence on left minus right: which is higher, or that the interval covers zero."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return f"{left} minus {right}: {value:+.{digits}f}, without an interval, so no verdict"
    digits = digits_apart(low, high, least=digits)
    ends = f"{value:+.{digits}f}, 95 % interval {low:+.{digits}f} to {high:+.{digits}f}"
    if low <= 0 <= high:
        return f"{left} and {right} are not told apart ({ends})"
    return f"{left} is {'higher' if low > 0 else 'lower'} than {right} ({ends})"


def digits_apart(low: float, high: float, zero: float = 0.0, least: int = 2) -> int:
    """How many decimals, at least `least`, an interval needs so that the end which keeps it off `zero` does not look like `zero`."""
    nearest = low if low > zero else high if high < zero else math.nan
    return next((n for n in range(least, 9) if f"{nearest:z.{n}f}" != f"{zero:.{n}f}"), 9)


def against_chance(what: str, value: float, low: float, high: float, n: int) -> str:
    """One sentence on an accuracy over n pairs: above chance, below it, or not told apart from it."""
    better, worse = low > 0.5, high < 0.5
    place = "better than chance" if better else "worse than chance" if worse else "not told apart from chance"
    form = f".{digits_apart(low, high, 0.5, least=3)}f"
    return f"{what}: {value:{form}} on {n} pairs (95 % interval {low:{form}} to {high:{form}}), {place}"


def labels_and_truth(found: Mapping[str, Any]) -> str:
    """Two lines on `stages.reward_accuracy_heldout`: agreement with the labels beside that with the true order, and which is more."""
    truth, low, high = (found[f"gold_{key}"] for key in ("accuracy", "low", "high"))
    more = "more" if truth > found["accuracy"] else "not more"
    beside = f"agreement with the labels {found['accuracy']:.3f}, with the true order {truth:.3f} [{low:.3f}, {high:.3f}]"
    return f"{beside}\nthe model agrees {more} often with the truth than with the very labels that it was tested on"


def against_half(what: str, value: float, low: float, high: float) -> str:
    """One sentence on a share that means nothing at one half: a win rate, an accuracy."""
    place = "above one half" if low > 0.5 else "below one half" if high < 0.5 else "not told apart from one half"
    form = f".{digits_apart(low, high, 0.5)}f"
    return f"{what}: {value:{form}} (95 % interval {low:{form}} to {high:{form}}), {place}"


def peak(found: Mapping[str, Any]) -> str:
    """One sentence on `evaluation.best_of_n_peak`: whether more search costs truth, was not shown to, or had no chance to show it."""
    if found["peak_n"] == found["largest_n"]:
        return f"most gold at n = {found['peak_n']}, the largest: more search has not been shown to cost truth"
    verdict = "costs truth" if found["over_optimised"] else "has not been shown to cost truth"
    loss = f"{found['loss']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]"
    return f"most gold at n = {found['peak_n']}; from there to {found['largest_n']}: {loss}, so more search {verdict}"


def learnt(low: float, beyond: Mapping[str, Any]) -> str:
    """What a reward model has been shown to know of its annotators, in one to two sentences.

    low: lower end of its held-out accuracy's interval. beyond: `evaluation.tally.beyond_length`.
    """
    if low <= 0.5:
        return ("So this reward model has not been shown to know what the annotators prefer. Its labels may be coin tosses, "
                "and what DPO learnt from them is no evidence of better answers.")  # fmt: skip
    text = ("So this reward model knows something of what the annotators prefer, and disagrees with the labels on the rest,\n"
            "where some of the labels are the mistake.")  # fmt: skip
    if beyond["low"] <= 0:
        text += (f"\nIt has not been shown to know more than 'the {beyond['rule']} answer wins', "
                 f"which is right on {beyond['accuracy']:.3f} of them.")  # fmt: skip
    return text
