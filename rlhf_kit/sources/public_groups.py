"""Public sets with one response a row: their rows joined by prompt before an adapter makes pairs of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rlhf_kit.sources.fields import BadRow, Row, field_of, required_number, text_of


def by_prompt(rows: Iterable[tuple[str, Row | BadRow]]) -> Iterator[tuple[str, Row | BadRow]]:
    """HelpSteer's rows joined by prompt, wherever they stand: {prompt, responses, scores}, at the first one's place.

    The whole set is held in memory for that (37,120 rows). A row that cannot be used comes out as a `BadRow` in its
    own place; it makes no pair.
    """
    found: dict[str, tuple[str, list[Any], list[float]]] = {}
    for place, row in rows:
        try:
            if isinstance(row, BadRow):
                raise row
            prompt = text_of(field_of(row, "prompt"), "prompt")
            answer = text_of(field_of(row, "response"), "response")
            score = sum(required_number(row, name) for name in ("helpfulness", "correctness")) / 2
        except BadRow as bad:
            yield place, bad
            continue
        _, answers, scores = found.setdefault(prompt, (place, [], []))
        answers.append(answer)
        scores.append(score)
    for prompt, (place, answers, scores) in found.items():
        yield place, {"prompt": prompt, "responses": answers, "scores": scores}


GROUPS = {"helpsteer": by_prompt}
