"""Exercises that answer back: `check("03-1", my_loss, mode=EXERCISES)` examines the cell above it.

Each lesson's three examiners lie in `lesson_NN.py` as `exercise_1` ... `exercise_3`: they take the answers,
raise `Mistake("one sentence")`, or return the words of the confirmation. The solutions are those of
`notebooks/solutions` and of nothing else (`rlhf_kit.exercises.solutions`).
"""

from __future__ import annotations

import html
import importlib
import importlib.util
import inspect
import linecache
import re
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from types import FunctionType
from typing import Any

from rlhf_kit.errors import KitError
from rlhf_kit.exercises.compare import Mistake, NotAttempted

__all__ = ["MODES", "Mistake", "Outcome", "check", "check_mode", "examine"]

MODES = ("skip", "solution")
ENDLESS = 100_000  # no answer has as many parts
RIGHT, WRONG, UNTOUCHED = "right", "not yet", "not attempted"
_LOOK = {
    RIGHT: ("#0072B2", "rgba(0,114,178,.12)"),
    WRONG: ("#D55E00", "rgba(213,94,0,.12)"),
    UNTOUCHED: ("#777777", "rgba(119,119,119,.12)"),
}


@dataclass(frozen=True)
class Outcome:
    """What a check found. status: "right", "not yet" or "not attempted"; sentence: what the reader is told."""

    name: str
    status: str
    sentence: str

    def __repr__(self) -> str:
        return f"exercise {self.name}, {self.status}: {self.sentence}"

    def _repr_html_(self) -> str:
        line, ground = _LOOK[self.status]
        said = html.escape(self.sentence[:1].upper() + self.sentence[1:])
        said = re.sub(r"\*([^*]+)\*", r"<em>\1</em>", re.sub(r"`([^`]+)`", r"<code>\1</code>", said))
        return (
            f'<div style="border-left:6px solid {line};background:{ground};padding:.5em .9em;margin:.3em 0">'
            f"<b>Exercise {html.escape(self.name)}, {self.status}.</b> {said}</div>"
        )


def check(name: str, *answers: Any, mode: str = "skip") -> None:
    """Examines the answers of an exercise and tells the outcome: one line, or a coloured box in a notebook.

    name: lesson and number, "03-1". mode: the notebook's parameter EXERCISES. "skip" never fails, whatever the
    cell above holds; "solution" is for runs in which the solutions stand in the cells: there KitError ends the
    run when the check does not pass. KitError for an unknown name or mode, or the wrong number of answers.
    """
    check_mode(mode)
    outcome = examine(name, *answers)
    if mode == "solution":
        if outcome.status == UNTOUCHED:
            raise KitError(
                f"exercise {name}: EXERCISES is 'solution', but the stub stands here; "
                "`python -m rlhf_kit run --param EXERCISES=solution` puts the solutions in"
            )
        if outcome.status != RIGHT:
            raise KitError(f"exercise {name}: the solution does not pass its check: {outcome.sentence}")
    if mode == "solution" or outcome.status == UNTOUCHED:
        print(repr(outcome) if outcome.status != UNTOUCHED else f"exercise {name}: {outcome.sentence}")
    else:
        from IPython.display import display

        display(outcome)


def examine(name: str, *answers: Any) -> Outcome:
    """The outcome of a check, without showing it; KitError for an unknown name or the wrong number of answers."""
    examiner = _examiner(name)
    try:
        inspect.signature(examiner).bind(*answers)
    except TypeError:
        wanted = ", ".join(inspect.signature(examiner).parameters)
        raise KitError(f"exercise {name} examines ({wanted}); check was given {len(answers)} answer(s)") from None
    try:
        if any(map(_is_stub, answers)):
            raise NotAttempted
        said = examiner(*[_watched(a) if isinstance(a, FunctionType) else a for a in answers])
    except NotAttempted:
        return Outcome(name, UNTOUCHED, "not attempted yet: fill in the cell above")
    except Mistake as mistake:
        return Outcome(name, WRONG, str(mistake))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:  # an answer of another kind
        return Outcome(
            name,
            WRONG,
            f"the check cannot read this answer ({type(error).__name__}: {str(error)[:120]}); "
            "return what the docstring names",
        )
    return Outcome(name, RIGHT, said)


def check_mode(mode: Any, where: str = "EXERCISES") -> str:
    """The mode; KitError unless it is one of `MODES`."""
    if mode not in MODES:
        raise KitError(f"{where} is {mode!r}; it must be one of {', '.join(MODES)}")
    return mode


def _examiner(name: str) -> FunctionType:
    found = re.fullmatch(r"(\d\d)-(\d)", str(name))
    module = f"rlhf_kit.exercises.lesson_{found[1]}" if found else None
    if module and importlib.util.find_spec(module):
        examiner = getattr(importlib.import_module(module), f"exercise_{found[2]}", None)
        if examiner:
            return examiner
    raise KitError(f"there is no exercise {name!r}; the name is lesson and number, as '03-1'")


def _is_stub(value: Any) -> bool:
    """Whether a value, or a part of it, is still `...`."""
    if isinstance(value, dict):
        return any(map(_is_stub, value.values()))
    return value is ... or (isinstance(value, list | tuple) and any(map(_is_stub, value)))


def _watched(function: FunctionType) -> FunctionType:
    """The reader's function, whose faults become sentences: an untouched stub, an error in a line of the cell."""

    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            with warnings.catch_warnings():  # what NumPy warns of becomes nan or inf, of which the sentence speaks
                warnings.simplefilter("ignore", RuntimeWarning)
                value = function(*arguments, **named)
                if isinstance(value, Iterator):  # a generator counts as the list that it yields
                    value = list(islice(value, ENDLESS))
                    if len(value) == ENDLESS:
                        raise Mistake(f"your {function.__name__} yields without end, or more than {ENDLESS:,} values")
        except (Mistake, NotAttempted):
            raise
        except NotImplementedError:
            raise NotAttempted from None
        except Exception as error:  # whatever the reader's code raises is the reader's to read, in one line
            message = (str(error).strip().splitlines() or ["no message"])[0][:200]
            message = re.sub(r"\w+\.<locals>\.", "", message)  # `train()`, not the examiner that holds it
            place = _place(error, function.__code__.co_filename)
            raise Mistake(f"your {function.__name__} stopped with {type(error).__name__} ({message}){place}") from None
        if _is_stub(value):
            raise NotAttempted
        return value

    return call


def _place(error: Exception, file: str) -> str:
    """Where in the reader's cell an error arose."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    source = linecache.getline(file, lines[-1]).strip()[:80] if lines else ""
    return f" in line {lines[-1]} of its cell" + (f": {source}" if source else "") if lines else ""
