"""Rows of messages -> rows of token ids for the trainers, with a ledger of what was dropped and why.

TRL is given finished ids, so `chat` stays the only place that applies a template, and nothing is cut or dropped
inside a trainer without being counted.
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


def sft_encoder(tokenizer, max_length: int) -> Callable[[dict, int], dict]:
    """messages -> input_ids and labels; the loss is on assistant turns, each with its end token, and nowhere else."""

    def encode(row, number):
        messages = _turns(row["messages"])
        if messages and messages[-1]["role"] != "assistant":
            messages = messages[:-1]  # a last question without an answer has nothing to learn from
        if not any(message["role"] == "assistant" for message in messages):
            raise Drop("no assistant turn")
        ids, own = chat.encode_turns(tokenizer, messages)
        chat.check_ids(tokenizer, ids, "the conversation")
        if len(ids) > max_length:
            raise Drop(TOO_LONG)
        labels = [i if mine else -100 for i, mine in zip(ids, own, strict=True)]
        answers = sum(message["role"] == "assistant" for message in messages)
        if labels.count(tokenizer.eos_token_id) != answers:
            raise KitError(
                f"{labels.count(tokenizer.eos_token_id)} end tokens are trained for {answers} assistant turns"
            )
        return {"input_ids": ids, "labels": labels}

    return encode


def _sides(tokenizer, row, max_length: int) -> tuple[list[int], list[int], list[int]]:
    prompt, chosen, rejected = pair_of(row)
    if not chosen.strip() or not rejected.strip():
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
    if max(map(len, ids)) > max_length:  # the pair goes as one: a cut on one side alone would be learnt
        raise Drop(TOO_LONG)
    return start, *ids


def reward_encoder(tokenizer, max_length: int) -> Callable[[dict, int], dict]:
    """pair -> chosen_ids and rejected_ids, whole conversations that end with EOS (where the reward is read)."""

    def encode(row, number):
        _, chosen, rejected = _sides(tokenizer, row, max_length)
        made = {"chosen_ids": chosen, "rejected_ids": rejected}
        if "margin" in row and row["margin"] is not None:
            made["margin"] = float(row["margin"])
        return made

    return encode


def dpo_encoder(tokenizer, max_length: int) -> Callable[[dict, int], dict]:
    """pair -> prompt_ids, chosen_ids and rejected_ids, the latter two the answers alone, EOS included.

    An answer that was cut off at the token limit (`chosen_finish` or `rejected_finish` is "length") keeps no EOS: the
    policy never wrote one there, and must not learn to stop in mid-sentence.
    """

    def encode(row, number):
        start, *sides = _sides(tokenizer, row, max_length)
        made = {"prompt_ids": start}
        for name, ids in zip(("chosen", "rejected"), sides, strict=True):
            cut = row.get(f"{name}_finish") == "length" and ids[-1] == tokenizer.eos_token_id
            made[f"{name}_ids"] = ids[len(start) : len(ids) - cut]
        if not made["chosen_ids"] or not made["rejected_ids"] or made["chosen_ids"] == made["rejected_ids"]:
            raise Drop(SAME)
        return made

    return encode


def pairwise_encoder(tokenizer, max_length: int, seed: int, orders: str) -> Callable[[dict, int], list[dict]]:
    """pair -> the question with both answers, labelled on the letter of the better one alone.

    orders "random": each pair once, shown in an order drawn from seed and row number (paper, section 2.1); "both":
    each pair twice, once in each order.
    """
    letters = dict(zip("AB", chat.letter_ids(tokenizer), strict=True))
    if orders not in ("random", "both"):
        raise KitError(f"orders is {orders!r}; it must be random or both")

    def one(prompt: Sequence[dict], chosen: str, rejected: str, chosen_first: bool) -> dict:
        a, b = (chosen, rejected) if chosen_first else (rejected, chosen)
        letter = letters["A" if chosen_first else "B"]
        ids = [*chat.encode_prompt(tokenizer, chat.pair_messages(prompt, a, b)), letter]
        if len(ids) + 1 > max_length:  # the end token, which is not trained, still has its place
            raise Drop(TOO_LONG)
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
