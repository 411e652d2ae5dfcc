"""Proxy labels: from n scored responses a prompt to one (chosen, rejected) pair a prompt.

Source: arXiv 2405.07863, Algorithm 2 (best against worst of n) and eq. 9 (length penalty).
A length penalty is applied to the choice of the two responses *and* to which of them is called chosen.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_kit.errors import KitError
from rlhf_kit.runs import Ledger, derive_seed

RULES = ("max_min", "max_random", "max_max", "random")
LENGTH_UNITS = ("chars", "words", "tokens")
_TIE = 1e-9  # differences this small are rounding of reward - penalty * length, not a preference


def select_pairs(
    responses: Sequence,
    rewards: Sequence,
    rule: str = "max_min",
    length_penalty: float = 0.0,
    length_unit: str = "chars",
    min_margin: float = 0.0,
    seed: int = 0,
    *,
    prompts: Sequence | None = None,
    drop_truncated: bool = False,
) -> list[dict[str, Any]]:
    """Choose one preference pair a prompt; see `select_pairs_with_ledger` for what was dropped and why.

    responses: one of
        * a list with, for each prompt, the list of its n texts (`prompts` then optionally gives the prompts);
        * a list of {"prompt_id", "prompt", "texts": [n]} (optional "token_ids", "finish_reasons": [n]);
        * flat response rows {"prompt_id", "sample", "text", ...} as a list or a `datasets.Dataset`; a row may
          carry "prompt", otherwise `prompts` is a list of prompt rows {"prompt_id", "prompt"}.
    rewards: numbers nested as the responses are; for flat rows a flat sequence aligned with them, or score
        rows {"prompt_id", "sample", "reward"} in any order.
    rule: "max_min" best against worst; "max_random" best against another one at random; "max_max" best
        against second best; "random" two at random. All by penalised reward, all ordered by penalised reward.
    length_penalty: lambda of eq. 9, reward lost per unit of `length_unit` ("chars", "words" or "tokens").
    min_margin: pairs whose penalised rewards differ by less are dropped; exact ties always are.
    drop_truncated: drop a pair whose chosen response hit the token limit (training on it would teach the
        policy to stop in mid-sentence).

    Returns rows {prompt_id, prompt, chosen, rejected, chosen_reward, rejected_reward, chosen_length,
    rejected_length, rule, chosen_finish, rejected_finish}: texts are str, rewards are *before* the penalty,
    lengths in `length_unit`, finish reasons "stop", "length" or None where the responses carry none.
    Order inside a prompt's list does not matter: random rules draw by (seed, prompt_id), and among equally good
    answers the one taken is drawn by (seed, prompt_id, text).
    Raises KitError for an unknown rule or unit, counts that do not match, and rewards that are not finite.
    """
    return select_pairs_with_ledger(
        responses, rewards, rule, length_penalty, length_unit, min_margin, seed,
        prompts=prompts, drop_truncated=drop_truncated,
    )[0]


def select_pairs_with_ledger(
    responses: Sequence,
    rewards: Sequence,
    rule: str = "max_min",
    length_penalty: float = 0.0,
    length_unit: str = "chars",
    min_margin: float = 0.0,
    seed: int = 0,
    *,
    prompts: Sequence | None = None,
    drop_truncated: bool = False,
) -> tuple[list[dict[str, Any]], Ledger]:
    """`select_pairs` and its ledger: prompts in = pairs out + prompts dropped, by reason."""
    _check_settings(rule, length_penalty, length_unit, min_margin)
    groups = group_responses(responses, rewards, prompts)
    pairs: list[dict[str, Any]] = []
    dropped: dict[str, int] = {}
    for group in groups:
        pair, reason = _pair(group, rule, length_penalty, length_unit, min_margin, seed, drop_truncated)
        if pair is None:
            dropped[reason] = dropped.get(reason, 0) + 1
        else:
            pairs.append(pair)
    ledger = Ledger(stage="pairs", rows_in=len(groups), rows_out=len(pairs), dropped=dropped)
    ledger.check()
    return pairs, ledger


def penalised_reward(reward: float, length: float, length_penalty: float) -> float:
    """Eq. 9: reward minus lambda times the length of the response."""
    return float(reward) - length_penalty * length


def _pair(group, rule, length_penalty, length_unit, min_margin, seed, drop_truncated):
    candidates = group["candidates"]
    if len(candidates) < 2:
        return None, "fewer than two responses"
    for candidate in candidates:
        candidate["length"] = response_length(candidate["text"], length_unit, candidate.get("token_ids"))
        candidate["penalised"] = penalised_reward(candidate["reward"], candidate["length"], length_penalty)
    # One order for any permutation of the samples: best first, equal rewards by lot, which the text draws. In the order
    # of the alphabet, rewards with few values (right or wrong, 1 to 5) would teach how the first of many begins.
    for candidate in candidates:
        candidate["lot"] = derive_seed(seed, "ties", str(group["prompt_id"]), candidate["text"])
    ranked = sorted(candidates, key=lambda c: (-c["penalised"], c["lot"], c["text"], -c["reward"]))
    rng = random.Random(derive_seed(seed, "select_pairs", str(group["prompt_id"])))
    if rule == "max_min":
        best, other = ranked[0], ranked[-1]
    elif rule == "max_random":
        best, other = ranked[0], rng.choice(ranked[1:])
    elif rule == "max_max":
        best, other = ranked[0], ranked[1]
    else:
        first, second = sorted(rng.sample(range(len(ranked)), 2))
        best, other = ranked[first], ranked[second]
    margin = best["penalised"] - other["penalised"]
    if best["text"] == other["text"]:
        return None, "same text"
    if margin <= _TIE * max(1.0, abs(best["penalised"])):
        return None, "tie"
    if margin < min_margin - _TIE:
        return None, "margin"
    if drop_truncated and best.get("finish_reason") == "length":
        return None, "truncated"
    return {
        "prompt_id": group["prompt_id"],
        "prompt": group["prompt"],
        "chosen": best["text"],
        "rejected": other["text"],
        "chosen_reward": float(best["reward"]),
        "rejected_reward": float(other["reward"]),
        "chosen_length": int(best["length"]),
        "rejected_length": int(other["length"]),
        "rule": rule,
        "chosen_finish": best.get("finish_reason"),
        "rejected_finish": other.get("finish_reason"),
    }, ""


def response_length(text: str, unit: str = "chars", token_ids: Sequence[int] | None = None) -> int:
    """Length of a response in `unit`; "tokens" counts `token_ids` (the end token included)."""
    if unit == "chars":
        return len(text)
    if unit == "words":
        return len(text.split())
    if token_ids is None:
        raise KitError('length_unit "tokens" needs the token_ids of every response; use "chars" or "words"')
    return len(token_ids)


def group_responses(responses, rewards, prompts=None) -> list[dict[str, Any]]:
    """Bring any of the accepted layouts into [{prompt_id, prompt, candidates: [{text, reward, ...}]}].

    Prompts keep the order of their first appearance.
    """
    responses, rewards = list(responses), _as_list(rewards)
    if not responses:
        raise KitError("select_pairs got no responses")
    first = responses[0]
    if isinstance(first, Mapping) and "text" in first:
        groups = _group_flat(responses, rewards, prompts)
    else:
        groups = _group_nested(responses, rewards, prompts)
    for group in groups:
        for number, candidate in enumerate(group["candidates"]):
            if not isinstance(candidate["text"], str):
                raise KitError(f"prompt {group['prompt_id']!r}, response {number}: the text is not a string")
            if not math.isfinite(candidate["reward"]):
                raise KitError(
                    f"prompt {group['prompt_id']!r}, response {number}: the reward is {candidate['reward']}, "
                    "not a finite number; look at the reward model's training"
                )
    return groups


def _group_nested(responses, rewards, prompts):
    if len(rewards) != len(responses):
        raise KitError(f"{len(responses)} prompts with responses but {len(rewards)} lists of rewards")
    if prompts is not None and len(prompts) != len(responses):
        raise KitError(f"{len(responses)} lists of responses but {len(prompts)} prompts")
    groups, seen = [], set()
    for index, (entry, values) in enumerate(zip(responses, rewards, strict=True)):
        given = prompts[index] if prompts is not None else None
        if isinstance(entry, Mapping):
            if "texts" not in entry:
                raise KitError(f'responses[{index}] has neither "text" nor "texts"')
            group = {"prompt_id": entry.get("prompt_id", index), "prompt": entry.get("prompt", given)}
            texts = list(entry["texts"])
            extra = {"token_ids": entry.get("token_ids"), "finish_reason": entry.get("finish_reasons")}
        else:
            if isinstance(entry, str):
                raise KitError(
                    f"responses[{index}] is a single text; give the list of the n texts of each prompt"
                )
            group, texts, extra = {"prompt_id": index, "prompt": given}, list(entry), {}
        if isinstance(group["prompt"], Mapping):  # a prompt row
            row = group["prompt"]
            group = {"prompt_id": row.get("prompt_id", group["prompt_id"]), "prompt": row["prompt"]}
        if group["prompt_id"] in seen:
            raise KitError(f"prompt_id {group['prompt_id']!r} appears twice in the responses")
        seen.add(group["prompt_id"])
        values = _as_list(values)
        if len(values) != len(texts):
            raise KitError(
                f"prompt {group['prompt_id']!r} has {len(texts)} responses but {len(values)} rewards; "
                "score with the same n that was sampled"
            )
        candidates = []
        for number, (text, value) in enumerate(zip(texts, values, strict=True)):
            candidate = {"text": text, "reward": _number(value, group["prompt_id"], number)}
            candidate.update({k: v[number] for k, v in extra.items() if v is not None})
            candidates.append(candidate)
        groups.append({**group, "candidates": candidates})
    return groups


def _group_flat(rows, rewards, prompts):
    rewards = _align_scores(rows, rewards)
    known = {row["prompt_id"]: row["prompt"] for row in prompts} if prompts is not None else {}
    groups: dict[Any, dict] = {}
    for row, reward in zip(rows, rewards, strict=True):
        key = row["prompt_id"]
        if key not in groups:
            prompt = row.get("prompt", known.get(key))
            if prompts is not None and prompt is None:
                raise KitError(f"prompt_id {key!r} of the responses is not among the given prompts")
            groups[key] = {"prompt_id": key, "prompt": prompt, "candidates": []}
        number = len(groups[key]["candidates"])
        groups[key]["candidates"].append({
            "text": row["text"], "reward": _number(reward, key, number),
            "token_ids": row.get("token_ids"), "finish_reason": row.get("finish_reason"),
        })
    return list(groups.values())


def _align_scores(rows, rewards) -> list:
    if len(rewards) != len(rows):
        raise KitError(f"{len(rows)} responses but {len(rewards)} rewards; score every response exactly once")
    if not (rewards and isinstance(rewards[0], Mapping)):
        return rewards
    scores: dict[tuple, float] = {}
    for score in rewards:
        key = (score["prompt_id"], score["sample"])
        if key in scores:
            raise KitError(f"prompt {key[0]!r}, sample {key[1]} is scored twice; give one scorer's rows")
        scores[key] = score["reward"]
    missing = [row for row in rows if (row["prompt_id"], row["sample"]) not in scores]
    if missing:
        raise KitError(f"prompt {missing[0]['prompt_id']!r}, sample {missing[0]['sample']} has no score")
    return [scores[row["prompt_id"], row["sample"]] for row in rows]


def _as_list(values) -> list:
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise KitError(f"rewards hold {values!r} where a list is wanted: one number for every response")
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _number(value, prompt_id, number) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise KitError(f"prompt {prompt_id!r}, response {number}: reward {value!r} is not a number") from None


def _check_settings(rule, length_penalty, length_unit, min_margin) -> None:
    if rule not in RULES:
        raise KitError(f"unknown rule {rule!r}; one of {', '.join(RULES)}")
    if length_unit not in LENGTH_UNITS:
        raise KitError(f"unknown length_unit {length_unit!r}; one of {', '.join(LENGTH_UNITS)}")
    for name, value in (("length_penalty", length_penalty), ("min_margin", min_margin)):
        if not math.isfinite(value) or value < 0:
            raise KitError(f"{name} is {value}; it must be zero or more")
