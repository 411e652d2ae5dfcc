"""A user's own preference and prompt files as the course's rows: cleaned, split by prompt, and counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rlhf_kit.course import Course, base_key, prompt_splits, source_key
from rlhf_kit.errors import KitError
from rlhf_kit.runs import Ledger, Stage, project_path, write_rows


def own_preferences(course: Course) -> Stage:
    """Your pairs, split by prompt. Prompts that open with the same user turn stay in one split: in a file of
    dialogues one conversation often appears at several of its turns."""
    profile, data = course.profile, course.profile.data
    prompts_wanted = {} if data.prompts else prompt_splits(profile)

    def build(folder):
        from rlhf_kit.preferences import load_with_ledger, prompt_key

        rows, cleaning = load_with_ledger(local(data.preferences), adapter=data.adapter)
        rows = [{**row, "prompt_id": prompt_key(row["prompt"]), "category": "all"} for row in rows]
        wanted = {"heldout": data.heldout_pairs, **prompts_wanted}
        # Your file may be small: never take more than half of it away from training.
        share = min(1.0, 0.5 * len(rows) / sum(wanted.values()))
        wanted = {split: max(1, int(size * share)) for split, size in wanted.items()}
        dealt, train, too_long = _deal(rows, wanted, _prompt_fits(course))
        if not train or not all(dealt.values()):
            raise KitError(
                f"{data.preferences} has {len(rows)} usable pairs, too few for training, held-out pairs and "
                f"{len(prompts_wanted)} sets of prompts; lower data.iterations or give data.prompts"
            )
        heldout, train = dealt.pop("heldout"), train[: data.preference_pairs]
        write_rows(folder, train, "train.parquet")
        write_rows(folder, heldout, "heldout.parquet")
        columns = ("prompt_id", "prompt", "category")
        prompts = [{**{c: row[c] for c in columns}, "kind": row["source"], "split": split}
                   for split, taken in dealt.items() for row in taken]  # fmt: skip
        write_rows(folder, prompts, "prompts.parquet")
        kept = len(train) + len(heldout)
        why = "their prompts serve for sampling and evaluation, or they were more than the profile asks for"
        ledgers = [cleaning, Ledger("preferences-split", len(rows), kept, {why: len(rows) - kept})]
        facts = {"train": len(train), "heldout": len(heldout), "prompts": len(prompts)}
        return {"ledger": ledgers, "split_scale": round(share, 3), "prompts_too_long": too_long, **facts}

    params = {
        "file": source_key(data.preferences), "adapter": data.adapter, "splits": prompts_wanted,
        "pairs": data.preference_pairs, "heldout": data.heldout_pairs, "base": base_key(course),
        "lengths": [profile.model.max_length, profile.sampling.max_new_tokens],
    }  # fmt: skip
    code = ["preferences", "adapters", "cleaning", "splits", "reading", "fields", "chat"]
    return course.stage("preferences", build, params=params, code=code)


def _deal(rows: list[dict], wanted: Mapping[str, int], fits: Callable) -> tuple[dict[str, list], list, int]:
    """(rows of each wanted split, the remaining rows, prompts that were too long to sample from).

    Whole groups of one opening turn are dealt in the order of a hash: the same for every seed, and unrelated
    to the order in the file. "heldout" takes pairs; the other splits take each prompt once, if it fits.
    """
    from rlhf_kit.preferences import opening_key

    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(opening_key(row["prompt"]), []).append(row)
    waiting, too_long = [groups[key] for key in sorted(groups)], 0
    dealt: dict[str, list[dict]] = {split: [] for split in wanted}
    for split, size in wanted.items():
        while waiting and len(dealt[split]) < size:
            group = waiting.pop(0)
            if split != "heldout":
                once = list({row["prompt_id"]: row for row in group}.values())
                group = [row for row in once if fits(row["prompt"])]
                too_long += len(once) - len(group)
            dealt[split] += group[: size - len(dealt[split])]
    return dealt, [row for group in waiting for row in group], too_long


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
