"""A user's own preference file as the course's rows: cleaned, split by prompt, and counted."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rlhf_kit.course import Course, base_key, prompt_splits, source_key
from rlhf_kit.errors import KitError
from rlhf_kit.runs import Ledger, Stage, project_path, stable_hash, write_rows

if TYPE_CHECKING:
    from datasets import Dataset

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
        from rlhf_kit.preferences import BAD_ROWS, load_with_ledger

        options = BAD_ROWS[data.bad_rows]
        pairs, cleaning = load_with_ledger(local(data.preferences), adapter=data.adapter, **options)
        read = _marks(pairs)
        wanted = {"heldout": data.heldout_pairs, **prompts_wanted}
        # A dialogue that serves for one prompt may hold several pairs, hence twice as many as are needed.
        enough = 2 * (sum(wanted.values()) + data.preference_pairs)
        fits, prompt_fits = pair_fits(profile), prompt_fits_of(course)
        rows, long = _that_fit(read, lambda one: fits(pairs[one.index]), enough)
        # Your file may be small: never take more than half of it away from training.
        share = min(1.0, 0.5 * len(rows) / sum(wanted.values()))
        wanted = {split: max(1, int(size * share)) for split, size in wanted.items()}
        dealt, train, left_out = _deal(rows, wanted, lambda one: prompt_fits(pairs[one.index]["prompt"]))
        if not train or not all(dealt.values()):
            raise KitError(
                f"{data.preferences} has {len(rows)} usable pairs that fit into model.max_length, too few "
                f"for training, held-out pairs and {len(prompts_wanted)} sets of prompts; lower "
                "data.iterations or give data.prompts"
            )
        heldout, spare = dealt.pop("heldout"), max(0, len(train) - data.preference_pairs)
        spare += len(read) - long - len(rows)
        train = train[: data.preference_pairs]
        _write_pairs(folder, pairs, train, "train.parquet")
        _write_pairs(folder, pairs, heldout, "heldout.parquet")
        prompts = [
            {"prompt_id": one.prompt_id, "prompt": pairs[one.index]["prompt"], "category": "all",
             "kind": pairs[one.index]["source"], "split": split}
            for split, taken in dealt.items() for one in taken
        ]  # fmt: skip
        write_rows(folder, prompts, "prompts.parquet")
        dropped = {"longer than model.max_length": long, PROMPTS: len(prompts), **left_out}
        dropped["more than the profile asks for"] = spare
        ledgers = [cleaning, Ledger("preferences-split", len(read), len(train) + len(heldout), dropped)]
        facts = {"train": len(train), "heldout": len(heldout), "prompts": len(prompts)}
        return {"ledger": ledgers, "split_scale": round(share, 3), **facts}

    params = {
        "file": data_key(data.preferences), "adapter": data.adapter, "bad_rows": data.bad_rows,
        "splits": prompts_wanted,
        "pairs": data.preference_pairs, "heldout": data.heldout_pairs, "base": base_key(course),
        "lengths": [profile.model.max_length, profile.sampling.max_new_tokens],
    }  # fmt: skip
    code = ["recipe/own", "preferences", "sources", "chat", "tokens"]
    return course.stage("preferences", build, params=params, code=code)


def left_out(course: Course, n: int) -> list:
    """The first n rows of your file that cleaning leaves out: place, reason and detail of each."""
    from rlhf_kit.preferences import BAD_ROWS, examine

    data = course.profile.data
    outcomes = examine(local(data.preferences), data.adapter, **BAD_ROWS[data.bad_rows])
    return list(itertools.islice((one for one in outcomes if one.pair is None), n))


class _Mark(NamedTuple):
    """What is held of a pair while its place is found: a set of 700,000 is not read into Python whole."""

    index: int
    opening: str
    prompt_id: str


def _marks(pairs: Dataset) -> list[_Mark]:
    from rlhf_kit.preferences import opening_key, prompt_key

    batches = pairs.select_columns(["prompt"]).iter(batch_size=1000)
    prompts = (prompt for batch in batches for prompt in batch["prompt"])
    return [_Mark(index, opening_key(prompt), prompt_key(prompt)) for index, prompt in enumerate(prompts)]


def _write_pairs(folder: Path, pairs: Dataset, marks: list[_Mark], file: str) -> None:
    import pyarrow as pa

    from rlhf_kit.sources.spill import RowTable

    schema = pairs.features.arrow_schema.remove_metadata()
    for name in ("prompt_id", "category"):
        schema = schema.append(pa.field(name, pa.string()))
    table = RowTable(schema)
    for mark, row in zip(marks, pairs.select([mark.index for mark in marks]), strict=True):
        table.add({**row, "prompt_id": mark.prompt_id, "category": "all"})
    write_rows(folder, table.dataset(), file)


def _that_fit(marks: list[_Mark], fits: Callable, enough: int) -> tuple[list[_Mark], int]:
    """(the pairs that the model can read, in the order of their openings' hash, and how many it cannot).

    Stops at `enough` of them: a large file is not tokenised whole.
    """
    kept, long = [], 0
    for mark in sorted(marks, key=lambda mark: mark.opening):
        if len(kept) == enough:
            break
        if fits(mark):
            kept.append(mark)
        else:
            long += 1
    return kept, long


def pair_fits(profile) -> Callable[[Mapping], bool]:
    """A test whether both conversations of a pair fit into the model: others could only be dropped later."""
    from rlhf_kit import chat, models

    tokenizer = models.load_tokenizer(profile.model.tokenizer or profile.model.path)
    longest, sides = profile.model.max_length, ("chosen", "rejected")
    return lambda pair: all(len(chat.encode_conversation(tokenizer, pair[side])) <= longest for side in sides)


def _deal(
    marks: list[_Mark], wanted: Mapping[str, int], fits: Callable
) -> tuple[dict[str, list[_Mark]], list[_Mark], dict[str, int]]:
    """(pairs of each wanted split, the remaining ones, pairs that went to neither, by reason).

    Whole groups of one opening turn are dealt in the order of a hash: the same for every seed, and unrelated
    to the order in the file. "heldout" takes pairs; the other splits take each prompt once, if it fits. A
    group without any prompt that fits is passed over and remains, behind the others.
    """
    groups: dict[str, list[_Mark]] = {}
    for mark in marks:
        groups.setdefault(mark.opening, []).append(mark)
    waiting, passed = deque(groups[key] for key in sorted(groups)), []
    dealt: dict[str, list[_Mark]] = {split: [] for split in wanted}
    left_out = {LONG: 0, BESIDE: 0}
    for split, size in wanted.items():
        while waiting and len(dealt[split]) < size:
            group = taken = waiting.popleft()
            if split != "heldout":
                once = list({mark.prompt_id: mark for mark in group}.values())
                taken = [mark for mark in once if fits(mark)]
                if not taken:
                    passed.append(group)
                    continue
                left_out[LONG] += len(once) - len(taken)
                left_out[BESIDE] += len(group) - len(once)
            room = size - len(dealt[split])
            left_out[BESIDE] += len(taken[room:])
            dealt[split] += taken[:room]
    return dealt, [mark for group in [*waiting, *passed] for mark in group], left_out


def local(path: str) -> str:
    """A path of the profile as found from here or from the project's root; a hub id, or the name of a public set or
    mixture, as it is. Of a path with {iteration} the first one."""
    path = of_iteration(path, 1)
    found = project_path(path)
    return str(found) if found.exists() else path


def has_set_per_iteration(path: str | None) -> bool:
    """Whether data.prompts names a prompt set for each iteration, as the paper has them (see `of_iteration`)."""
    return "{iteration}" in (path or "")


def of_iteration(path: str, iteration: int) -> str:
    """The prompt set of one iteration: `RLHFlow/iterative-prompt-v1-iter{iteration}-20K` or a path like it."""
    return path.replace("{iteration}", str(iteration))


def data_key(path: str | None) -> str:
    """`source_key` of a file, folder or hub id; for copies under RLHF_KIT_DATA also the names and sizes of their files,
    which are too large to be hashed whole."""
    from rlhf_kit.sources.public_sets import copies

    found = copies(path)
    if not found:
        return source_key(path)
    files = [file for one in found for file in ([one] if one.is_file() else sorted(one.rglob("*"))) if file.is_file()]
    return stable_hash(path, [[file.name, file.stat().st_size] for file in files])


def prompt_fits_of(course: Course):
    """A test whether a prompt leaves room for a response of max_new_tokens, with a margin of half of it: text
    that is decoded and encoded again can take more tokens than were sampled."""
    from rlhf_kit import chat, models

    tokenizer = models.load_tokenizer(course.profile.model.tokenizer or course.profile.model.path)
    room = course.profile.model.max_length - int(1.5 * course.profile.sampling.max_new_tokens)
    return lambda prompt: len(chat.encode_prompt(tokenizer, prompt)) <= room
