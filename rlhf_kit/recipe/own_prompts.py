"""A user's own prompts and demonstrations as the course's rows: none in two splits, none that tests in a training pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rlhf_kit.course import Course
from rlhf_kit.errors import KitError
from rlhf_kit.profiles import Profile
from rlhf_kit.recipe.own import data_key, has_set_per_iteration, local, of_iteration, prompt_fits_of
from rlhf_kit.runs import Ledger, Stage, project_path, stable_hash

if TYPE_CHECKING:
    from datasets import Dataset

PAIRS = ("train.parquet", "heldout.parquet")


def prompts_key(profile: Profile, iterations: int) -> str:
    """The content key of data.prompts, of all the sets that so many iterations read where it has one for each."""
    path = profile.data.prompts
    if not has_set_per_iteration(path):
        return data_key(path)
    return stable_hash([data_key(of_iteration(path, t)) for t in range(1, iterations + 2)])


def own_prompts(course: Course, sizes: Mapping[str, int], pairs: Stage) -> tuple[list[dict], list[Ledger]]:
    """Prompts of data.prompts dealt to the splits in hash order: first those that test or choose, then the iterations.

    "eval" and "choose" take each dialogue (one opening user turn) once, none that a preference pair opens with, and no
    iteration gets a prompt that opens like theirs: a later turn of a dialogue that was trained on tests nothing.

    With {iteration} in the path each iteration has its own set, as in the paper (3 x 20,000, section 3.3). Those sets
    come from the sources of the paper's preference data: an iteration keeps a prompt that a training pair has too
    (the policy sees no label of it). The splits "eval" and "choose" come out of the set after the last iteration's (the
    released ones go on to the ninth); where there is none, out of all sets.
    """
    path = course.profile.data.prompts
    trained, heldout = (set(pairs.rows(file)["prompt_id"]) for file in PAIRS)
    fits, found, ledgers = prompt_fits_of(course), {}, []
    iterations = {split: int(split.rpartition("-")[2]) for split in sizes if split.startswith("iteration-")}
    tests = {split: size for split, size in sizes.items() if split not in iterations}
    if has_set_per_iteration(path):
        numbers = sorted(iterations.values())
        spare = bool(tests) and _has_set(path, numbers[-1] + 1)
        numbers += [numbers[-1] + 1] if spare else []
        sets = {
            t: _fresh_prompts(local(of_iteration(path, t)), heldout, found, fits, f"prompts-read-{t}", ledgers)
            for t in numbers
        }
        source = sets[numbers[-1]] if spare else found
        dealt, used = _deal_tests(source, tests, tests if spare else sizes, pairs, ledgers)
        for split, t in iterations.items():
            dealt += _deal({key: row for key, row in sets[t].items() if _opening(row) not in used}, {split: sizes[split]})
    else:
        source = _fresh_prompts(local(path), trained | heldout, found, fits, "prompts-read", ledgers)
        dealt, used = _deal_tests(source, tests, sizes, pairs, ledgers)
        rest = {key: row for key, row in source.items() if _opening(row) not in used}
        dealt += _deal(rest, {split: sizes[split] for split in iterations})
    return dealt, ledgers


def _deal_tests(
    found: Mapping[str, dict], tests: Mapping[str, int], of: Mapping[str, int], pairs: Stage, ledgers: list[Ledger]
) -> tuple[list[dict], set[str]]:
    """(rows of the splits that test or choose, the openings of their dialogues)."""
    from rlhf_kit.preferences import opening_key

    away = {opening_key(prompt) for file in PAIRS for prompt in pairs.rows(file)["prompt"]}
    fresh = {key: found[key] for key in sorted(found) if _opening(found[key]) not in away}
    once = {_opening(row): key for key, row in reversed(fresh.items())}  # of a dialogue the first in hash order
    pool = {key: fresh[key] for key in once.values()}
    dropped = {"opens like a preference pair": len(found) - len(fresh), "another turn of the same dialogue": len(fresh) - len(pool)}
    ledgers.append(Ledger("prompts-to-test", len(found), len(pool), dropped))
    dealt = _deal(pool, tests, of)
    return dealt, {_opening(row) for row in dealt}


def _opening(row: Mapping) -> str:
    from rlhf_kit.preferences import opening_key

    return opening_key(row["prompt"])


def _has_set(path: str, iteration: int) -> bool:
    """Whether there is a prompt set of this iteration: here, or one of those that the authors are known to have
    released (iterative-prompt-v1, iterations 1 to 9)."""
    from rlhf_kit.sources.public_sets import locate

    name = of_iteration(path, iteration)
    released = path == "RLHFlow/iterative-prompt-v1-iter{iteration}-20K" and iteration <= 9
    return project_path(name).exists() or locate((name,)) is not None or released


def _fresh_prompts(
    source: str, taken: set[str], found: dict[str, dict], fits: Callable, stage: str, ledgers: list[Ledger]
) -> dict[str, dict]:
    """Prompt rows of one source by key, without those that `taken` or an earlier source (`found`, added to) has."""
    from rlhf_kit.preferences import prompt_key
    from rlhf_kit.sources.conversations import load_prompts

    rows, reading = load_prompts(source)
    fresh: dict[str, dict] = {}
    dropped = {"repeated": 0, "also in the preference pairs": 0, "too long": 0}
    for prompt in rows:
        key = prompt_key(prompt)
        why = "repeated" if key in found else "also in the preference pairs" if key in taken else None
        why = why or (None if fits(prompt) else "too long")
        if why:
            dropped[why] += 1
        else:
            fresh[key] = found[key] = {"prompt_id": key, "prompt": prompt, "category": "all", "kind": "own"}
    ledgers += [reading, Ledger(stage, len(rows), len(fresh), dropped)]
    return fresh


def _deal(
    found: Mapping[str, dict], sizes: Mapping[str, int], of: Mapping[str, int] | None = None
) -> list[dict]:
    """Rows of each split in hash order; where there are too few, each split gets its share (of all splits in `of`)."""
    order, dealt = iter(sorted(found)), []
    share = min(1.0, len(found) / sum((of or sizes).values())) if sizes else 1.0
    for split, size in sizes.items():
        dealt += [
            {**found[key], "split": split}
            for _, key in zip(range(max(1, int(size * share))), order, strict=False)
        ]
    return dealt


def own_demonstrations(course: Course, away: set[str]) -> tuple[Dataset, list[Ledger]]:
    """The first data.sft_rows conversations of data.sft that open like none of `away`: {prompt_id, messages, category}.

    The rows are read one at a time and no further than needed: the released sets have a million and more. They are the
    first ones, so that of a set in the order of its sources a part is no fair sample.
    """
    import pyarrow as pa

    from rlhf_kit.preferences import opening_key, prompt_key
    from rlhf_kit.sources.conversations import conversation, read
    from rlhf_kit.sources.spill import RowTable, turns_type

    data = course.profile.data
    columns = (("prompt_id", pa.string()), ("messages", turns_type()), ("category", pa.string()))
    table = RowTable(pa.schema(columns))
    usable, unusable = 0, {"empty": 0, "turns": 0}
    for one in read(local(data.sft), conversation):
        if one.turns is None:
            unusable[one.reason] = unusable.get(one.reason, 0) + 1
            continue
        usable += 1
        if opening_key(one.turns) not in away:
            table.add({"prompt_id": prompt_key(one.turns[:-1]), "messages": one.turns, "category": "all"})
            if table.rows == data.sft_rows:
                break
    if not usable:
        raise KitError(f"{data.sft}: no usable row in it")
    if not table.rows:
        raise KitError(f"{data.sft}: every conversation in it opens like a prompt that is kept for sampling and testing")
    dropped = {"their prompts are kept for sampling and testing": usable - table.rows}
    ledgers = [
        Ledger("demonstrations-read", usable + sum(unusable.values()), usable, unusable),
        Ledger("demonstrations", usable, table.rows, dropped),
    ]
    return table.dataset(), ledgers
