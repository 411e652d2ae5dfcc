"""What makes a pair unfit for training though it can be read: the reasons, in their order, and the check.

The rules follow the cleaning of the paper (arXiv 2405.07863, appendix B.1: empty turns, labels that
contradict other features, small margins of absolute scores, ties) and what the losses need: a shared prompt
and two different answers. The filter that the authors published with HH-RLHF (RLHFlow/HH-RLHF-Helpful-standard)
leaves out the same rows, except duplicates, which it keeps.
"""

from __future__ import annotations

import hashlib
import json

from rlhf_kit.sources.fields import BadRow, Pair

# Why a readable row is left out, in the order of checking.
REASONS = {
    "unknown_role": "a message's role is none of user, assistant, system (a tool's, for example)",
    "not_text": "a message holds an image or another part that is not text",
    "one_response": "a ranked list with fewer than two responses",
    "unscored": "one of the two answers has no score",
    "small_ratio": "one score is not more than twice the other (SHP)",
    "both_unsafe": "both answers are unsafe (PKU-SafeRLHF)",
    "ambiguous": "a text holds a mark of the pair prompt, so it cannot be taken apart",
    "prompt_mismatch": "chosen and rejected do not share all turns before the last one",
    "roles_not_alternating": "the turns are not (system), user, assistant, user, ..., assistant",
    "empty_response": "the chosen or the rejected answer is empty",
    "empty_turn": "a turn of the prompt is empty",
    "identical_responses": "chosen and rejected are the same text",
    "score_contradicts": "the scores say that rejected is better than chosen",
    "tie": "both have the same score",
    "small_margin": "the scores differ by less than min_margin",
    "too_long": "a conversation has more than max_characters characters",
    "duplicate": "an equal row came earlier",
    "in_another_set": "an equal row came earlier in another set of the mixture",
    "evaluation_prompt": "its dialogue opens like a prompt of an evaluation set",
    "many_pairs": "the prompt already has as many pairs as its set's rule allows",
}


def fault(
    pair: Pair, min_margin: float, max_characters: int | None, seen: dict[bytes, str], seen_as: str = ""
) -> BadRow | None:
    """The first thing wrong with a pair, or None (then `seen` gets its fingerprint, as of the set `seen_as`)."""
    chosen, rejected = pair.chosen, pair.rejected
    if not chosen or not rejected:
        return BadRow("empty_response", "has a conversation without turns")
    if chosen[:-1] != rejected[:-1]:
        return BadRow(
            "prompt_mismatch", "has chosen and rejected conversations that differ before their last turn"
        )
    roles = [turn["role"] for turn in chosen]
    body = roles[1:] if roles[0] == "system" else roles
    if (
        not body
        or len(body) % 2
        or rejected[-1]["role"] != "assistant"
        or any(role != ("user", "assistant")[index % 2] for index, role in enumerate(body))
    ):
        return BadRow("roles_not_alternating", "has turns that do not run user, assistant, ..., assistant")
    if not chosen[-1]["content"] or not rejected[-1]["content"]:
        side = "rejected" if chosen[-1]["content"] else "chosen"
        return BadRow("empty_response", f"has an empty {side!r} answer")
    if not all(turn["content"] for turn in chosen):
        return BadRow("empty_turn", "has an empty turn in its prompt")
    if chosen[-1] == rejected[-1]:
        return BadRow("identical_responses", "has equal chosen and rejected answers")
    margin = margin_of(pair)
    if margin is not None and margin <= 0:
        return (
            BadRow("tie", "has equal scores")
            if margin == 0
            else BadRow("score_contradicts", "has a higher score for rejected than for chosen")
        )
    if margin is not None and margin < min_margin:
        return BadRow("small_margin", f"has scores that differ by {margin:g}, less than {min_margin:g}")
    if max_characters is not None:
        longest = max(sum(len(turn["content"]) for turn in side) for side in (chosen, rejected))
        if longest > max_characters:
            return BadRow(
                "too_long", f"has a conversation of {longest} characters, more than {max_characters}"
            )
    print_of = hashlib.blake2b(json.dumps([chosen, rejected[-1]]).encode(), digest_size=16).digest()
    if print_of not in seen:
        seen[print_of] = seen_as
        return None
    if seen[print_of] != seen_as:
        return BadRow("in_another_set", f"is equal to a row of {seen[print_of]}")
    return BadRow("duplicate", "is equal to an earlier row")


def margin_of(pair: Pair) -> float | None:
    """The row's own margin, or the difference of its scores; scores that contradict the label come first."""
    if pair.chosen_score is not None and pair.rejected_score is not None:
        difference = pair.chosen_score - pair.rejected_score
        return difference if difference <= 0 or pair.margin is None else pair.margin
    return pair.margin
