"""A user's own preference and prompt files as the course's rows: cleaned, split by prompt, and counted."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

from rlhf_kit.course import Course, base_key, prompt_splits, source_key
from rlhf_kit.errors import KitError
from rlhf_kit.runs import Ledger, Stage, project_path, write_rows

# Why a usable pair is neither a training nor a held-out pair.
PROMPTS = "their prompts serve for sampling and evaluation"
LONG = "prompt too long to sample from, its dialogue serves for prompts"
BESIDE = "of the same dialogue as a prompt or pair of another split"


def own_preferences(course: Course) -> Stage:
    """Your pairs, split by prompt. Prompts that open with the same user turn stay in one split: in a file of
    dialogues one conversation often appears at several of its turns."""
    profile, data = course.profile, course.profile.data
    prompts_wanted = {} if data.prompts else prompt_splits(profile)

    def build(folder):
        from rlhf_kit.preferences import BAD_ROWS, load_with_ledger, prompt_key

        options = BAD_ROWS[data.bad_rows]
        rows, cleaning = load_with_ledger(local(data.preferences), adapter=data.adapter, **options)
        read = [{**row, "prompt_id": prompt_key(row["prompt"]), "category": "all"} for row in rows]
        wanted = {"heldout": data.heldout_pairs, **prompts_wanted}
        # A dialogue that serves for one prompt may hold several pairs, hence twice as many as are needed.
        rows, long = _that_fit(read, pair_fits(profile), 2 * (sum(wanted.values()) + data.preference_pairs))
        # Your file may be small: never take more than half of it away from training.
        share = min(1.0, 0.5 * len(rows) / sum(wanted.values()))
        wanted = {split: max(1, int(size * share)) for split, size in wanted.items()}
        dealt, train, left_out = _deal(rows, wanted, _prompt_fits(course))
        if not train or not all(dealt.values()):
            raise KitError(
                f"{data.preferences} has {len(rows)} usable pairs that fit into model.max_length, too few "
                f"for training, held-out pairs and {len(prompts_wanted)} sets of prompts; lower "
                "data.iterations or give data.prompts"
            )
        heldout, spare = dealt.pop("heldout"), max(0, len(train) - data.preference_pairs)
        spare += len(read) - long - len(rows)
        train = train[: data.preference_pairs]
        write_rows(folder, train, "train.parquet")
        write_rows(folder, heldout, "heldout.parquet")
        columns = ("prompt_id", "prompt", "category")
        prompts = [{**{c: row[c] for c in columns}, "kind": row["source"], "split": split}
                   for split, taken in dealt.items() for row in taken]  # fmt: skip
        write_rows(folder, prompts, "prompts.parquet")
        dropped = {"longer than model.max_length": long, PROMPTS: len(prompts), **left_out}
        dropped["more than the profile asks for"] = spare
        ledgers = [cleaning, Ledger("preferences-split", len(read), len(train) + len(heldout), dropped)]
        facts = {"train": len(train), "heldout": len(heldout), "prompts": len(prompts)}
        return {"ledger": ledgers, "split_scale": round(share, 3), **facts}

    params = {
        "file": source_key(data.preferences), "adapter": data.adapter, "bad_rows": data.bad_rows,
        "splits": prompts_wanted,
        "pairs": data.preference_pairs, "heldout": data.heldout_pairs, "base": base_key(course),
        "lengths": [profile.model.max_length, profile.sampling.max_new_tokens],
    }  # fmt: skip
    code = ["preferences", "adapters", "cleaning", "splits", "reading", "fields", "chat", "tokens"]
    return course.stage("preferences", build, params=params, code=code)


def left_out(course: Course, n: int) -> list:
    """The first n rows of your file that cleaning leaves out: place, reason and detail of each."""
    from rlhf_kit.preferences import BAD_ROWS, examine

    data = course.profile.data
    outcomes = examine(local(data.preferences), data.adapter, **BAD_ROWS[data.bad_rows])
    return list(itertools.islice((one for one in outcomes if one.pair is None), n))


def _that_fit(rows: list[dict], fits: Callable, enough: int) -> tuple[list[dict], int]:
    """(the pairs that the model can read, in the order of their openings' hash, and how many it cannot).

    Stops at `enough` of them: a large file is not tokenised whole.
    """
    from rlhf_kit.preferences import opening_key

    kept, long = [], 0
    for row in sorted(rows, key=lambda row: opening_key(row["prompt"])):
        if len(kept) == enough:
            break
        if fits(row):
            kept.append(row)
        else:
            long += 1
    return kept, long


def pair_fits(profile) -> Callable[[Mapping], bool]:
    """A test whether both conversations of a pair fit into the model: others could only be dropped later."""
    from rlhf_kit import chat, models

    tokenizer = models.load_tokenizer(profile.model.tokenizer or profile.model.path)
    longest, sides = profile.model.max_length, ("chosen", "rejected")
    return lambda pair: all(len(chat.encode_conversation(tokenizer, pair[side])) <= longest for side in sides)


def _deal(rows: list[dict], wanted: Mapping[str, int], fits: Callable) -> tuple[dict[str, list], list, dict]:
    """(rows of each wanted split, the remaining rows, rows that went to neither, by reason).

    Whole groups of one opening turn are dealt in the order of a hash: the same for every seed, and unrelated
    to the order in the file. "heldout" takes pairs; the other splits take each prompt once, if it fits. A
    group without any prompt that fits is passed over and remains, behind the others.
    """
    from rlhf_kit.preferences import opening_key

    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(opening_key(row["prompt"]), []).append(row)
    waiting, passed = [groups[key] for key in sorted(groups)], []
    dealt: dict[str, list[dict]] = {split: [] for split in wanted}
    left_out = {LONG: 0, BESIDE: 0}
    for split, size in wanted.items():
        while waiting and len(dealt[split]) < size:
            group = taken = waiting.pop(0)
            if split != "heldout":
                once = list({row["prompt_id"]: row for row in group}.values())
                taken = [row for row in once if fits(row["prompt"])]
                if not taken:
                    passed.append(group)
                    continue
                left_out[LONG] += len(once) - len(taken)
                left_out[BESIDE] += len(group) - len(once)
            room = size - len(dealt[split])
            left_out[BESIDE] += len(taken[room:])
            dealt[split] += taken[:room]
    return dealt, [row for group in waiting + passed for row in group], left_out


def local(path: str) -> str:
    """A path of the profile as found from here or from the project's root; a hub id as it is."""
    found = project_path(path)
    return str(found) if found.exists() else path


def _prompt_fits(course: Course):
    """A test whether a prompt leaves room for a response of max_new_tokens, with a margin of half of it: text
    that is decoded and encoded again can take more tokens than were sampled."""
    from rlhf_kit import chat, models

    tokenizer = models.load_tokenizer(course.profile.model.tokenizer or course.profile.model.path)
    room = course.profile.model.max_length - int(1.5 * course.profile.sampling.max_new_tokens)
    return lambda prompt: len(chat.encode_prompt(tokenizer, prompt)) <= room


def own_prompts(course: Course, sizes: Mapping[str, int], pairs: Stage) -> tuple[list[dict], list[Ledger]]:
    """Prompts of the file data.prompts that no preference pair has, dealt to the splits in hash order."""
    from rlhf_kit.conversations import load_prompts
    from rlhf_kit.preferences import prompt_key

    rows, reading = load_prompts(local(course.profile.data.prompts))
    taken = {r for file in ("train.parquet", "heldout.parquet") for r in pairs.rows(file)["prompt_id"]}
    fits, found = _prompt_fits(course), {}
    dropped = {"repeated": 0, "also in the preference pairs": 0, "too long": 0}
    for prompt in rows:
        key = prompt_key(prompt)
        why = "repeated" if key in found else "also in the preference pairs" if key in taken else None
        why = why or (None if fits(prompt) else "too long")
        if why:
            dropped[why] += 1
        else:
            found[key] = {"prompt_id": key, "prompt": prompt, "category": "all", "kind": "own"}
    order, dealt = iter(sorted(found)), []
    share = min(1.0, len(found) / sum(sizes.values()))
    for split, size in sizes.items():
        dealt += [
            {**found[key], "split": split}
            for _, key in zip(range(max(1, int(size * share))), order, strict=False)
        ]
    return dealt, [reading, Ledger("prompts-read", len(rows), len(found), dropped)]
