"""From one row of a public preference data set to pairs: one function for each set of the paper's Table 5 (mix2), for
the comparisons of summaries (mix1), and for the released set of the pairwise model.

Each function names the columns that it reads, what it takes for the better answer, and what it leaves out, with the
reason as the ledger has it. Where it says "card", columns and rule were read in the data set's own card or in that of
the authors' conversion (RLHFlow/...-standard); where it says "not verified", nothing published tells, and the rule is
ours. Table 5's counts (arXiv 2405.07863 v3, appendix B.1) tell which rules can be right. HH-RLHF needs no function of
its own: it is `adapters.hh`, and cleaning leaves out what its card's filter leaves out.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_kit.sources.fields import (
    BadRow,
    Message,
    Pair,
    Row,
    choice_of,
    field_of,
    flag_of,
    kind_of,
    list_of,
    messages_of,
    number_of,
    objects_of,
    rating_in,
    rating_of,
    required_number,
    text_of,
)

_MOST = 64  # responses to one prompt; all pairs of more are too many
PER_PROMPT = {"shp": 5}  # at most so many pairs of one prompt, where a set's rule says so


# ---------------------------------------------------------------- one function a set


def shp(row: Row) -> list[Pair]:
    """stanfordnlp/SHP: `history`, `human_ref_A`, `human_ref_B`, `labels` (1: A is better, 0: B), `score_A`, `score_B`,
    `score_ratio` (card).

    Left out: "small_ratio", a score ratio of 2 or less, and beyond five pairs of a prompt "many_pairs" (card of
    RLHFlow/SHP-standard, train split). Which five is not verified; the kit takes the first.
    """
    first = choice_of(row, "labels") == 1
    scores = [required_number(row, f"score_{side}") for side in "AB"]
    ratio = number_of(row.get("score_ratio"), "score_ratio")
    if ratio is None:
        ratio = max(scores) / min(scores) if min(scores) > 0 else math.inf
    if ratio <= 2:
        raise BadRow("small_ratio", f"has a score ratio of {ratio:g}, not above 2")
    answers = [_answer(field_of(row, f"human_ref_{side}"), f"human_ref_{side}") for side in "AB"]
    return [_pair(_user(row, "history"), answers, scores, 0 if first else 1)]


def helpsteer(row: Row) -> list[Pair]:
    """nvidia/HelpSteer: one response a row, `prompt`, `response`, `helpfulness`, `correctness`, ... from 0 to 4 (card);
    `public_groups.by_prompt` first joins the rows of a prompt to `prompt`, `responses`, `scores`.

    Every pair of a prompt's responses, by the mean of helpfulness and correctness (the authors' README of March 2024),
    ties left out. That this rule gives Table 5's 37,131 pairs is not verified: the conversion's card names none.
    """
    answers = [_answer(text, "responses") for text in list_of(row, "responses")]
    scores = [rating_in(score, "scores") for score in list_of(row, "scores")]
    if len(answers) != len(scores):
        raise BadRow("wrong_type", "does not have one score for each response")
    return _every_pair(_user(row, "prompt"), answers, scores)


def pku(row: Row) -> list[Pair]:
    """PKU-Alignment/PKU-SafeRLHF-30K: `prompt`, `response_0`, `response_1`, `is_response_0_safe`, `is_response_1_safe`,
    `better_response_id` (more helpful), `safer_response_id`.

    The safe answer where exactly one is safe, else the more helpful one. Table 5's 26,874 pairs are the whole train
    split, so nothing is left out for being unsafe; how the authors merged the two signals is not verified (their
    preferred answers are the shorter ones, as refusals are). `pku_safe` wants a safe answer to prefer.
    """
    safe = [flag_of(row, f"is_response_{i}_safe") for i in (0, 1)]
    better = safe.index(True) if safe[0] != safe[1] else choice_of(row, "better_response_id")
    answers = [_answer(field_of(row, f"response_{i}"), f"response_{i}") for i in (0, 1)]
    return [_pair(_user(row, "prompt"), answers, [None, None], better)]


def pku_safe(row: Row) -> list[Pair]:
    """The same, but a row whose two answers are both unsafe is left out ("both_unsafe"): not the paper's rule."""
    found = pku(row)
    if not any(flag_of(row, f"is_response_{i}_safe") for i in (0, 1)):
        raise BadRow("both_unsafe", "has two unsafe answers")
    return found


def ultrafeedback(row: Row) -> list[Pair]:
    """openbmb/UltraFeedback: `instruction`, `completions` as objects with `response` and `fine-grained_score`.

    Every pair of completions by the fine-grained score, which is the mean of four ratings, and not by
    `overall_score`; ties and completions without a score ("unscored") left out (card of
    RLHFlow/UltraFeedback-preference-standard, 340,025 pairs).
    """
    answers, scores = [], []
    for one in objects_of(row, "completions"):
        answers.append(_answer(field_of(one, "response"), "response"))
        scores.append(rating_of(one, "fine-grained_score"))
    return _every_pair(_user(row, "instruction"), answers, scores)


def ultrainteract(row: Row) -> list[Pair]:
    """openbmb/UltraInteract_pair: `trajectory` as {from, value}, the last turn the user's (or the environment's, under
    the same name), then `chosen` and `rejected` as texts (card).

    Only cleaning applies. The authors kept 161,927 of 219,522 rows (RLHFlow/UltraInteract-filtered-standard) and did
    not publish the filter: not verified.
    """
    prompt = messages_of(field_of(row, "trajectory"), "trajectory")
    answers = [_answer(field_of(row, side), side) for side in ("chosen", "rejected")]
    return [_pair(prompt, answers, [None, None], 0)]


def code_ultrafeedback(row: Row) -> list[Pair]:
    """coseal/CodeUltraFeedback: `instruction`, `responses` as {model, response}, `annotations` as {model, rating},
    ratings 1 to 5 as text, or N/A (card).

    Every pair, ties and responses without a rating ("unscored") left out (card of RLHFlow/CodeUltraFeedback-standard,
    50,156 pairs). The authors' script compares the texts and lets N/A through, so that a few of theirs differ.
    """
    ratings = {}
    for one in objects_of(row, "annotations"):
        ratings[_name(one)] = rating_of(one, "rating")
    answers, scores = [], []
    for one in objects_of(row, "responses"):
        answers.append(_answer(field_of(one, "response"), "response"))
        scores.append(ratings.get(_name(one)))
    return _every_pair(_user(row, "instruction"), answers, scores)


def argilla_math(row: Row) -> list[Pair]:
    """argilla/distilabel-math-preference-dpo: `instruction`, `chosen_response`, `rejected_response`, `chosen_rating`,
    `rejected_rating` (card). Only cleaning applies; Table 5's 2,418 pairs are all of its rows."""
    answers = [_answer(field_of(row, f"{side}_response"), f"{side}_response") for side in ("chosen", "rejected")]
    scores = [rating_of(row, f"{side}_rating") for side in ("chosen", "rejected")]
    return [_pair(_user(row, "instruction"), answers, scores, 0)]


def distilabel_orca(row: Row) -> list[Pair]:
    """argilla/distilabel-intel-orca-dpo-pairs: `system`, `input`, `chosen`, `rejected`, `rating` (two numbers or null),
    `status` ("tie", ...), already the better one under `chosen` (card).

    Left out: "tie", by `status` or by equal ratings, and "unscored", without ratings (the authors' README: equal
    ratings are dropped). What else brings 12,859 rows to Table 5's 6,926 is not verified; the card proposes
    `chosen_score` >= 8 and no GSM8K, which gives 5,922.
    """
    answers = [_answer(field_of(row, side), side) for side in ("chosen", "rejected")]
    prompt = _user(row, "input")
    system = row.get("system")
    if system is not None and (said := text_of(system, "system")):
        prompt = [{"role": "system", "content": said}, *prompt]
    for name in ("status", "rating"):
        if name not in row:
            raise BadRow("missing_field", f"has no {name!r}")
    ratings = row["rating"] if row["rating"] is not None else []
    scores = [rating_in(one, "rating") for one in list_of({"rating": ratings}, "rating")]
    if row["status"] is not None and text_of(row["status"], "status") == "tie":
        raise BadRow("tie", "has the status 'tie'")
    if len(scores) != 2 or None in scores:
        raise BadRow("unscored", "has no two ratings")
    return [_pair(prompt, answers, [max(scores), min(scores)], 0)]


def distilabel_capybara(row: Row) -> list[Pair]:
    """argilla/Capybara-Preferences-Filtered: `chosen` and `rejected` as whole conversations, `chosen_rating`,
    `rejected_rating` (card; 14.8k rows, Table 5 has 14,811); argilla/distilabel-capybara-dpo-7k-binarized has the
    same with `rating_chosen`, `rating_rejected`. Ties left out (the authors' README). `prompt` is not looked at: it
    is a text made for the judge."""
    sides = [messages_of(field_of(row, side), side) for side in ("chosen", "rejected")]
    scores = [rating_of(row, f"{side}_rating", f"rating_{side}") for side in ("chosen", "rejected")]
    return [Pair(*sides, *scores)]


def summarize(row: Row) -> list[Pair]:
    """openai/summarize_from_feedback, its comparisons: `info` {title, subreddit, post or article}, `summaries` of
    two {text}, `choice` 0 or 1 (mix1's Stiennon set). The prompt's wording, that of the data's own paper, is not
    verified for mix1, nor are the columns and the branch of converted files that the kit asks the hub for (the main
    branch holds a script, which today's `datasets` does not run)."""
    info = field_of(row, "info")
    if not isinstance(info, Mapping):
        raise BadRow("wrong_type", f"has {kind_of(info)} under 'info' where an object is expected")
    if info.get("post") is not None:
        where, title = text_of(field_of(info, "subreddit"), "subreddit"), text_of(field_of(info, "title"), "title")
        said = f"SUBREDDIT: r/{where}\nTITLE: {title}\nPOST: {text_of(info['post'], 'post')}\nTL;DR:"
    else:
        said = f"ARTICLE: {text_of(field_of(info, 'article'), 'article')}\nTL;DR:"
    answers = [_answer(field_of(one, "text"), "summaries") for one in objects_of(row, "summaries")]
    if len(answers) != 2:
        raise BadRow("wrong_type", f"has {len(answers)} summaries, not two")
    return [_pair([{"role": "user", "content": said}], answers, [None, None], choice_of(row, "choice"))]


_PARTS = re.compile(r"\[CONTEXT\] (.*) \[RESPONSE A\] (.*) \[RESPONSE B\] (.*)", re.DOTALL)
_TURN = re.compile(r"\n<turn> (user|assistant)\n ")


def pair_prompt(row: Row) -> list[Pair]:
    """RLHFlow/pair_preference_model_dataset: `messages` of one user turn "[CONTEXT] ... [RESPONSE A] ... [RESPONSE B]
    ..." and the answer A or B (the authors' process_pair_data.py); taken apart again into context and two answers.

    Left out: "ambiguous", where a text holds one of the marks itself, so that nobody can tell where it ends.
    """
    turns = messages_of(field_of(row, "messages", "conversations"), "messages")
    if [turn["role"] for turn in turns] != ["user", "assistant"]:
        raise BadRow("wrong_type", "has not one user turn with the pair and one answer")
    text, letter = (turn["content"] for turn in turns)
    if letter not in ("A", "B"):
        raise BadRow("wrong_type", f"has the label {letter[:20]!r} where A or B is expected")
    if any(text.count(mark) > 1 for mark in ("[CONTEXT]", "[RESPONSE A]", "[RESPONSE B]")):
        raise BadRow("ambiguous", "has a mark of the pair prompt inside a text")
    found = _PARTS.fullmatch(text + ("" if text.endswith(" ") else " "))
    if not found:
        raise BadRow("wrong_type", "has no '[CONTEXT] ... [RESPONSE A] ... [RESPONSE B] ...' in its user turn")
    context, *answers = found.groups()
    before, *pieces = _TURN.split("\n" + context)
    if before.strip() or not pieces:
        raise BadRow("wrong_type", "has a context that does not begin with '<turn> user'")
    prompt = [{"role": r, "content": said.strip()} for r, said in zip(pieces[::2], pieces[1::2], strict=True)]
    said = [_answer(answer, "messages") for answer in answers]
    return [_pair(prompt, said, [None, None], "AB".index(letter))]


PUBLIC = {
    "shp": shp,
    "helpsteer": helpsteer,
    "pku": pku,
    "pku_safe": pku_safe,
    "ultrafeedback": ultrafeedback,
    "ultrainteract": ultrainteract,
    "code_ultrafeedback": code_ultrafeedback,
    "argilla_math": argilla_math,
    "distilabel_orca": distilabel_orca,
    "distilabel_capybara": distilabel_capybara,
    "summarize": summarize,
    "pair_prompt": pair_prompt,
}


# ---------------------------------------------------------------- pieces


def _answer(value: Any, field: str) -> Message:
    return {"role": "assistant", "content": text_of(value, field)}


def _user(row: Row, field: str) -> list[Message]:
    return [{"role": "user", "content": text_of(field_of(row, field), field)}]


def _pair(prompt: list[Message], answers: Sequence[Message], scores: Sequence[float | None], better: int) -> Pair:
    order = (better, 1 - better)
    return Pair(*(prompt + [answers[i]] for i in order), *(scores[i] for i in order))


def _every_pair(prompt: list[Message], answers: list[Message], scores: list[float | None]) -> list[Pair | BadRow]:
    """All comparisons of a prompt's answers, the better one first; one without a score is a BadRow of its own."""
    if len(answers) < 2:
        raise BadRow("one_response", f"has {len(answers)} response(s); a pair needs two")
    if len(answers) > _MOST:
        raise BadRow("wrong_type", f"has {len(answers)} responses, too many for all pairs of them ({_MOST})")
    found: list[Pair | BadRow] = []
    for a, b in itertools.combinations(range(len(answers)), 2):
        if scores[a] is None or scores[b] is None:
            found.append(BadRow("unscored", "has a response without a score"))
        else:
            two = ([answers[a], answers[b]], [scores[a], scores[b]])
            found.append(_pair(prompt, *two, 0 if scores[a] >= scores[b] else 1))
    return found


def _name(row: Row) -> str:
    return text_of(field_of(row, "model"), "model")
