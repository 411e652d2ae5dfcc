"""What the checks share: an answer against the right value and against the values of the likely mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class Mistake(Exception):
    """A wrong answer, with one plain sentence that names the likely mistake."""


class NotAttempted(Exception):
    """The stub is as it was: it returned `...` or raised NotImplementedError."""


def numbers(value: Any, what: str = "the answer") -> np.ndarray:
    """A number, list, array or tensor (with or without gradient) as float64; Mistake when it holds no numbers."""
    if value is None:
        raise Mistake(f"{what} is None: is the `return` missing?")
    if isinstance(value, str):
        raise Mistake(f"{what} should be made of numbers, and is {_kind(value)}")
    try:
        if isinstance(value, tuple | list):  # numpy takes no tensor through which gradients flow
            value = [numbers(one, what) if hasattr(one, "detach") else one for one in value]
        elif hasattr(value, "detach"):
            value = value.detach().cpu().double().numpy()
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise Mistake(f"{what} should be made of numbers, and is {_kind(value)}") from None


def compare(
    value: Any,
    right: Any,
    likely: Sequence[tuple[Any, str]] = (),
    what: str = "the answer",
    tolerance: float = 1e-5,
) -> np.ndarray:
    """`value` as numbers when it equals `right` (absolute or relative `tolerance`), of whatever shape.

    likely: (wrong value, sentence) pairs, the mistakes that people make here. Mistake with the sentence of the
    first that `value` equals; else it says the shape or the numbers that were expected.
    """
    found, right = numbers(value, what), numbers(right)
    for wrong, sentence in likely:
        assert not _equal(numbers(wrong), right, tolerance), f"this input does not tell apart: {sentence}"
    if _equal(found, right, tolerance):
        return found
    for wrong, sentence in likely:
        if _equal(found, numbers(wrong), tolerance):
            raise Mistake(sentence)
    if found.shape != right.shape:
        raise Mistake(f"for {what} the check expects {_shape(right)}, and the answer is {_shape(found)}")
    if np.isnan(found).any() and not np.isnan(right).any():
        raise Mistake(f"{what} holds nan (not a number): somewhere is 0/0, or inf minus inf")
    raise Mistake(f"{what} came out as {_text(found)} and should be {_text(right)} on the inputs of the check")


def parts(value: Any, n: int, sentence: str) -> list:
    """The `n` parts of a tuple, list, array or tensor; Mistake with `sentence` where it has not as many."""
    if hasattr(value, "detach"):
        value = numbers(value)
    if isinstance(value, np.ndarray) and value.shape[:1] == (n,):
        return list(value)
    if not isinstance(value, tuple | list) or len(value) != n:
        raise Mistake(sentence)
    return list(value)


def same(value: Any, right: Any, likely: Sequence[tuple[Any, str]] = (), what: str = "the answer") -> Any:
    """As `compare`, for texts, lists of ids, dicts and other plain values, compared by equality."""
    value, right = _plain(value), _plain(right)
    assert all(_plain(wrong) != right for wrong, _ in likely), "a likely mistake equals the right answer"
    if value == right:
        return value
    for wrong, sentence in likely:
        if value == _plain(wrong):
            raise Mistake(sentence)
    if value is None:
        raise Mistake(f"{what} is None: is the `return` missing?")
    raise Mistake(f"{what} is {_clip(value)} and should be {_clip(right)} on the inputs of the check")


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # tensors, arrays and their scalars
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _equal(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    return a.shape == b.shape and np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


def _kind(value: Any) -> str:
    return f"the text {_clip(value)}" if isinstance(value, str) else f"a {type(value).__name__}"


def _shape(array: np.ndarray) -> str:
    return "one number" if array.shape == () else f"an array of shape {tuple(array.shape)}"


def _text(array: np.ndarray) -> str:
    shown = [f"{x:.6g}" for x in array.ravel()[:6]]
    return shown[0] if array.shape == () else f"[{', '.join(shown)}{', ...' if array.size > 6 else ''}]"


def _clip(value: Any, characters: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= characters else text[:characters] + " ..."
