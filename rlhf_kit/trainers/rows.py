"""Rows of messages -> rows of token ids for the trainers, with a ledger of what was dropped and why.

TRL is given finished ids, so `chat` stays the only place that applies a template, and nothing is cut or dropped
inside a trainer without being counted.

What becomes of a row of more than max_length tokens (`truncation` in a profile's section):
- "drop": it is left out and counted in the ledger. A pair goes as one: a cut on one side alone would be learnt.
- "keep_end": the beginning of the prompt goes, BOS stays at the front, and the prompt's end and the answers stay whole,
  their end tokens included; both sides of a pair keep the same prompt. The reference code cuts so: truncation_side="left"
  at 4096 tokens in its reward model, and `max_prompt_length` (1000 or 1024 of 2048, keep_end) in its DPO. TRL 1.16 has
  neither: its DPO knows keep_start alone in earnest, its RewardTrainer drops. An answer that does not fit beside BOS and
  KEPT_PROMPT tokens of the prompt is left out and counted (the reference code would cut its end).
- "keep_start": the answers' ends go, and with them their end tokens; each side is cut by itself. That is TRL's
  own DPO truncation. Refused where the end is what is read: reward model (EOS) and pairwise model (the letter).
How many rows were cut, and how many answers lost their end token, is counted in `cut`; such rows stay in the ledger's
rows_out.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rlhf_kit import chat
from rlhf_kit.errors import KitError
from rlhf_kit.runs import Ledger

TOO_LONG = "longer than max_length"
SAME = "chosen and rejected are the same"
EMPTY = "empty response"
TRUNCATIONS = ("drop", "keep_end", "keep_start")
KEPT_PROMPT = 8  # tokens: an answer without any of its prompt says nothing about the prompt


class Drop(Exception):
    """Raised by an encoder for a row that cannot be trained on; the message is the reason in the ledger."""


def as_list(rows: Any) -> list[dict]:
    """A `datasets.Dataset` or any iterable of mappings as a list of dicts."""
    return rows.to_list() if hasattr(rows, "to_list") else [dict(row) for row in rows]


def encode_rows(
    rows: Any, encode: Callable[[dict, int], dict | list[dict]], stage: str
) -> tuple[dict[str, list], Ledger]:
    """Apply `encode(row, number)`; columns of the results, and the ledger. KitError when no row is left."""
    rows = as_list(rows)
    made: list[dict] = []
    dropped: Counter[str] = Counter()
    kept = 0
    for number, row in enumerate(rows):
        try:
            result = encode(row, number)
        except Drop as reason:
            dropped[str(reason)] += 1
            continue
        except KeyError as missing:
            raise KitError(
                f"{stage}: row {number} has no field {missing}; it has {', '.join(map(str, row))}"
            ) from None
        except KitError as error:
            raise KitError(f"{stage}: row {number}: {error}") from None
        kept += 1
        made += result if isinstance(result, list) else [result]
    ledger = Ledger(stage, len(rows), kept, dict(dropped)).check()
    if not made:
        raise KitError(f"{stage}: no row is left to train on ({ledger})")
    for number, row in enumerate(made):
        if row.keys() != made[0].keys():
            raise KitError(f"{stage}: encoded row {number} has other columns than the first: {', '.join(row)}")
    return {name: [row[name] for row in made] for name in made[0]}, ledger


# ---------------------------------------------------------------- one row of each kind


def _turns(messages: Iterable[Mapping]) -> list[dict]:
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def pair_of(row: Mapping) -> tuple[list[dict], str, str]:
    """(prompt messages, chosen text, rejected text) of a pair row.

    `chosen` and `rejected` are texts, the answer alone as messages, or whole conversations that begin with the prompt.
    Without a `prompt`, whole conversations must share all turns but the last.
    """
    sides = row["chosen"], row["rejected"]
    if all(isinstance(side, str) for side in sides):
        return _turns(row["prompt"]), *sides
    chosen, rejected = map(_turns, sides)
    if not chosen or not rejected or chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        raise KitError("chosen and rejected must each end with an assistant turn")
    prompt = _turns(row["prompt"]) if row.get("prompt") else chosen[:-1]
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if len(side) > 1 and side[:-1] != prompt:
            raise KitError(f"{name} does not begin with the turns of the prompt")
    return prompt, chosen[-1]["content"], rejected[-1]["content"]


def _answer(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def _known(truncation: str, end_is_read: str | None = None) -> str:
    if truncation not in TRUNCATIONS:
        raise KitError(f"truncation is {truncation!r}; it must be one of {', '.join(TRUNCATIONS)}")
    if truncation == "keep_start" and end_is_read:
        raise KitError(f"truncation keep_start would cut off {end_is_read}; use keep_end or drop")
    return truncation


def _front(tokenizer, ids: Sequence[int]) -> int:
    """How many tokens must stay at the front: 1 where the row begins with BOS."""
    return int(bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id)


def _without_beginning(ids: list, excess: int, front: int) -> list:
    """ids without `excess` tokens after the first `front` ones."""
    return ids[:front] + ids[front + excess :]


def _count(cut: Counter | None, **counts: int) -> None:
    if cut is not None:
        cut.update({name.replace("_", " "): n for name, n in counts.items() if n})


def sft_encoder(
    tokenizer, max_length: int, truncation: str = "drop", cut: Counter | None = None
) -> Callable[[dict, int], dict]:
    """messages -> input_ids and labels; the loss is on assistant turns, each with its end token, and nowhere else."""
    _known(truncation)

    def encode(row, number):
        messages = _turns(row["messages"])
        if messages and messages[-1]["role"] != "assistant":
            messages = messages[:-1]  # a last question without an answer has nothing to learn from
        if not any(message["role"] == "assistant" for message in messages):
            raise Drop("no assistant turn")
        ids, own = chat.encode_turns(tokenizer, messages)
        chat.check_ids(tokenizer, ids, "the conversation")
        labels = [i if mine else -100 for i, mine in zip(ids, own, strict=True)]
        answers = sum(message["role"] == "assistant" for message in messages)
        if labels.count(tokenizer.eos_token_id) != answers:
            raise KitError(
                f"{labels.count(tokenizer.eos_token_id)} end tokens are trained for {answers} assistant turns"
            )
        excess = len(ids) - max_length
        if excess <= 0:
            return {"input_ids": ids, "labels": labels}
        if truncation == "drop":
            raise Drop(TOO_LONG)
        front = _front(tokenizer, ids)
        if truncation == "keep_end":
            if own[front + excess]:  # the cut falls into an answer: the rest of that answer has lost its question
                end = next((i for i in range(front + excess, len(own)) if not own[i]), len(own))
                labels[front + excess : end] = [-100] * (end - front - excess)
            ids, labels = (_without_beginning(x, excess, front) for x in (ids, labels))
        else:
            ids, labels = ids[:max_length], labels[:max_length]
        if all(label == -100 for label in labels):
            raise Drop(TOO_LONG)
        unfinished = truncation == "keep_start" and labels[-1] not in (-100, tokenizer.eos_token_id)
        _count(cut, rows_cut=1, answers_without_their_end=int(unfinished))
        return {"input_ids": ids, "labels": labels}

    return encode


def _sides(
    tokenizer, row, max_length: int, truncation: str, cut: Counter | None, empty_rejected: bool = False
) -> tuple[list[int], list[int], list[int]]:
    """(prompt, prompt and chosen, prompt and rejected) as ids, cut to max_length where `truncation` says so.

    empty_rejected: keep a pair whose rejected answer is empty.
    """
    prompt, chosen, rejected = pair_of(row)
    if not chosen.strip() or not (rejected.strip() or empty_rejected):
        raise Drop(EMPTY)
    if chosen == rejected:
        raise Drop(SAME)
    start = chat.encode_prompt(tokenizer, prompt)
    ids = [chat.encode_conversation(tokenizer, [*prompt, *_answer(text)]) for text in (chosen, rejected)]
    for side in ids:
        if side[: len(start)] != start or len(side) <= len(start):
            raise KitError("the prompt's tokens are not the first tokens of prompt and answer")
    if ids[0] == ids[1]:
        raise Drop(SAME)
    excess = max(map(len, ids)) - max_length
    if excess <= 0:
        return start, *ids
    if truncation == "drop":
        raise Drop(TOO_LONG)
    front = _front(tokenizer, start)
    if truncation == "keep_end":
        if len(start) - excess < front + KEPT_PROMPT:
            raise Drop(TOO_LONG)
        _count(cut, rows_cut=1)
        return tuple(_without_beginning(x, excess, front) for x in (start, *ids))
    if len(start) >= max_length:
        raise Drop(TOO_LONG)
    short = [side[:max_length] for side in ids]
    if short[0] == short[1]:
        raise Drop(SAME)
    _count(cut, rows_cut=1, answers_without_their_end=sum(len(side) > max_length for side in ids))
    return start, *short


def reward_encoder(
    tokenizer, max_length: int, truncation: str = "drop", cut: Counter | None = None
) -> Callable[[dict, int], dict]:
    """pair -> chosen_ids and rejected_ids, whole conversations that end with EOS (where the reward is read)."""
    _known(truncation, "the end token, at which the reward is read")

    def encode(row, number):
        _, chosen, rejected = _sides(tokenizer, row, max_length, truncation, cut)
        # A row's `margin` stays out: TRL would subtract it from the difference of the rewards, which equation 4 does not.
        return {"chosen_ids": chosen, "rejected_ids": rejected}

    return encode


def dpo_encoder(
    tokenizer, max_length: int, truncation: str = "drop", cut: Counter | None = None
) -> Callable[[dict, int], dict]:
    """pair -> prompt_ids, chosen_ids and rejected_ids, the latter two the answers alone, EOS included.

    An answer that was cut off at the token limit (`chosen_finish` or `rejected_finish` is "length") keeps no EOS: the
    policy never wrote one there, and must not learn to stop in mid-sentence. An empty rejected answer, its EOS alone, is
    kept: a policy that has come to say nothing must be able to learn against it.
    """
    _known(truncation)

    def encode(row, number):
        start, *sides = _sides(tokenizer, row, max_length, truncation, cut, empty_rejected=True)
        made = {"prompt_ids": start}
        for name, ids in zip(("chosen", "rejected"), sides, strict=True):
            stopped_short = row.get(f"{name}_finish") == "length" and ids[-1] == tokenizer.eos_token_id
            made[f"{name}_ids"] = ids[len(start) : len(ids) - stopped_short]
        if not made["chosen_ids"] or not made["rejected_ids"]:
            raise Drop(EMPTY)
        if made["chosen_ids"] == made["rejected_ids"]:
            raise Drop(SAME)
        return made

    return encode


def pairwise_encoder(
    tokenizer, max_length: int, seed: int, orders: str, truncation: str = "drop", cut: Counter | None = None
) -> Callable[[dict, int], list[dict]]:
    """pair -> the question with both answers, labelled on the letter of the better one alone.

    orders "random": each pair once, shown in an order drawn from seed and row number (paper, section 2.1); "both":
    each pair twice, once in each order.
    """
    letters = dict(zip("AB", chat.letter_ids(tokenizer), strict=True))
    _known(truncation, "the letter, which alone is trained")
    if orders not in ("random", "both"):
        raise KitError(f"orders is {orders!r}; it must be random or both")

    def one(prompt: Sequence[dict], chosen: str, rejected: str, chosen_first: bool) -> dict:
        a, b = (chosen, rejected) if chosen_first else (rejected, chosen)
        letter = letters["A" if chosen_first else "B"]
        ids = [*chat.encode_prompt(tokenizer, chat.pair_messages(prompt, a, b)), letter]
        excess = len(ids) + 1 - max_length  # the end token, which is not trained, still has its place
        if excess > 0:
            # What goes is the beginning of the context; where the two answers do not fit either, the row goes.
            context = len(chat.encode_prompt(tokenizer, prompt))
            if truncation == "drop" or context - excess < _front(tokenizer, ids) + KEPT_PROMPT:
                raise Drop(TOO_LONG)
            ids = _without_beginning(ids, excess, _front(tokenizer, ids))
            _count(cut, rows_cut=1)
        return {"input_ids": ids, "labels": [-100] * (len(ids) - 1) + [letter]}

    def encode(row, number):
        prompt, chosen, rejected = pair_of(row)
        if not chosen.strip() or not rejected.strip():
            raise Drop(EMPTY)
        if chosen == rejected:
            raise Drop(SAME)
        first = random.Random(f"{seed}-{number}").random() < 0.5
        return [
            one(prompt, chosen, rejected, order)
            for order in ([first] if orders == "random" else [True, False])
        ]

    return encode
