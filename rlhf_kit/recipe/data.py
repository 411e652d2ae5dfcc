"""The course's rows: preferences, demonstrations and prompts, split so that no prompt serves two purposes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from rlhf_kit.course import Course, prompt_splits, source_key
from rlhf_kit.errors import KitError
from rlhf_kit.recipe.own import data_key, has_set_per_iteration, own_preferences
from rlhf_kit.recipe.own_prompts import own_demonstrations, own_prompts, prompts_key
from rlhf_kit.runs import Ledger, Stage, stable_hash, write_rows

# ---------------------------------------------------------------- preferences


def preferences(course: Course) -> Stage:
    """Preference pairs in train.parquet and heldout.parquet.

    Rows: prompt_id, prompt, chosen, rejected, source, category. `prompt` is a list of messages, `chosen` and
    `rejected` are whole conversations. From the pocket world's annotators or, for data.kind "file", from your
    own file: read, cleaned (the ledger in the manifest says what was dropped and why), and split by prompt.
    The held-out pairs are never trained on.
    """
    return _world_preferences(course) if course.profile.data.kind == "world" else own_preferences(course)


def _world_preferences(course: Course) -> Stage:
    data = course.profile.data

    def build(folder):
        ledgers = []
        for file, name, n in (
            ("train", "preferences", data.preference_pairs),
            ("heldout", "preferences-heldout", data.heldout_pairs),
        ):
            rows, size = _annotated(name, n, data.annotator)
            write_rows(folder, rows, f"{file}.parquet")
            dropped = {"not asked for by the profile": size - n} if size > n else {}
            ledgers.append(Ledger(f"preferences-{file}", size, n, dropped))
        return ledgers

    params = {
        "annotator": data.annotator,
        "pairs": data.preference_pairs,
        "heldout": data.heldout_pairs,
        "files": [_frozen_key(name) for name in ("preferences", "preferences-heldout")],
    }
    return course.stage("preferences", build, params=params, code=["world"])


def _frozen_key(name: str) -> str:
    """The content key of a frozen set of the world."""
    from rlhf_kit.world import frozen

    return source_key(str(frozen.FOLDER / f"{name}.parquet"))


def _annotated(name: str, n: int, dials: Any) -> tuple[Any, int]:
    """The first n rows of a frozen set and the number of rows there were. An annotator other than the one who
    judged the frozen set judges the same pairs afresh."""
    from rlhf_kit import world
    from rlhf_kit.world import frozen

    size = frozen.SIZES[name]
    if n > size:
        raise KitError(
            f"the profile asks for {n} pairs but data/world/{name}.parquet has {size}; lower "
            "data.preference_pairs or data.heldout_pairs"
        )
    annotator = world.Annotator(**dials.model_dump())
    if annotator == frozen.ANNOTATOR:
        return world.load(name).select(range(n)), size
    return frozen.rows(name, n, annotator), n


# ---------------------------------------------------------------- demonstrations


def demonstrations(course: Course) -> Stage:
    """What SFT learns from: rows {prompt_id, messages, category}, at most data.sft_rows of them.

    The pocket world's writers; for your own data the file data.sft or, without one, the chosen conversations
    of the preference training pairs (there is then nothing better to imitate, and the policy sees no rejected
    answer).
    """
    data = course.profile.data

    def world_rows(folder):
        from rlhf_kit import world

        rows = world.load("sft")
        if data.sft_rows > len(rows):
            raise KitError(
                f"data.sft_rows is {data.sft_rows} but data/world/sft.parquet has {len(rows)} rows"
            )
        write_rows(folder, rows.select(range(data.sft_rows)))
        return Ledger(
            "demonstrations",
            len(rows),
            data.sft_rows,
            {"not asked for by the profile": len(rows) - data.sft_rows},
        )

    def file_rows(folder):
        from rlhf_kit.preferences import opening_key

        own_sets = has_set_per_iteration(data.prompts)  # they share questions with the released SFT data
        tests = [row["prompt"] for row in table.rows() if not (own_sets and row["split"].startswith("iteration-"))]
        away = {opening_key(p) for p in [*tests, *pairs.rows("heldout.parquet")["prompt"]]}
        rows, ledgers = own_demonstrations(course, away)
        write_rows(folder, rows)
        return ledgers

    def chosen_rows(folder):
        rows = pairs.rows("train.parquet")
        kept = rows.select(range(min(len(rows), data.sft_rows)))
        write_rows(
            folder,
            [{"prompt_id": r["prompt_id"], "messages": r["chosen"], "category": r["category"]} for r in kept],
        )
        return Ledger(
            "demonstrations", len(rows), len(kept), {"not asked for by the profile": len(rows) - len(kept)}
        )

    params = {"rows": data.sft_rows}
    if data.kind == "world":
        params["file"] = _frozen_key("sft")
        return course.stage("demonstrations", world_rows, params=params, code=["world"])
    pairs = preferences(course)
    if data.sft:
        table = prompt_table(course)
        return course.stage(
            "demonstrations",
            file_rows,
            inputs={"preferences": pairs, "prompts": table},
            params={**params, "file": data_key(data.sft)},
            code=["recipe/own", "recipe/own_prompts", "sources", "chat", "tokens"],
        )
    return course.stage("demonstrations", chosen_rows, inputs={"preferences": pairs}, params=params)


# ---------------------------------------------------------------- prompts


def prompt_table(course: Course, iterations: int | None = None, per_iteration: int | None = None) -> Stage:
    """All prompts that policies answer: rows {prompt_id, prompt, category, kind, split}.

    Splits: "iteration-1" ... for training, "choose" to choose among checkpoints and settings, "eval" for the
    final test only. Made once, and checked to be disjoint from each other and from the preference pairs.
    """
    profile = course.profile
    sizes = prompt_splits(profile, iterations, per_iteration)
    pairs = preferences(course)

    def world_rows(folder):
        from rlhf_kit import world

        rows = [row for split, n in sizes.items() for row in world.prompts(split, n, seed=course.seed)]
        _check_disjoint(course, rows, pairs)
        write_rows(folder, rows)
        return Ledger("prompts", sum(sizes.values()), len(rows))

    def file_rows(folder):
        rows, ledgers = list(pairs.rows("prompts.parquet")), []
        if profile.data.prompts:
            rows, ledgers = own_prompts(course, sizes, pairs)
        have = {split: [r for r in rows if r["split"] == split][:n] for split, n in sizes.items()}
        empty = [split for split, found in have.items() if not found]
        if empty:
            raise KitError(
                f"no prompts are left for {', '.join(empty)}; set data.iterations and "
                "data.prompts_per_iteration in the profile, since they decide how your file is split"
            )
        kept = [row for found in have.values() for row in found]
        _check_disjoint(course, kept, pairs)
        write_rows(folder, kept)
        return [*ledgers, Ledger("prompts", len(rows), len(kept), {"not asked for": len(rows) - len(kept)})]

    params = {"sizes": sizes}
    if profile.data.kind == "world":
        return course.stage(
            "prompts",
            world_rows,
            inputs={"preferences": pairs},
            params={**params, "seed": course.seed},
            code=["world"],
        )
    params["file"] = prompts_key(profile, sum(split.startswith("iteration-") for split in sizes))
    return course.stage(
        "prompts",
        file_rows,
        inputs={"preferences": pairs},
        params=params,
        code=["recipe/own", "recipe/own_prompts", "sources", "chat", "tokens"],
    )


def prompts(course: Course, split: str, n: int | None = None) -> list[dict]:
    """The prompt rows of a split: "iteration-1" ..., "choose", "eval" (all of them, or the first n)."""
    return pick(prompt_table(course), split, n)


def pick(table: Stage, split: str, n: int | None = None) -> list[dict]:
    rows = [row for row in table.rows().to_list() if row["split"] == split]
    if not rows:
        known = sorted(set(table.rows()["split"]))
        raise KitError(f"no prompts of split {split!r}; this course has {', '.join(known)}")
    if n is not None and n > len(rows):
        raise KitError(f"{n} prompts of split {split!r} were asked for, but the profile has {len(rows)}")
    return rows[:n]


def assert_disjoint(course: Course) -> dict[str, int]:
    """Prompts of demonstrations and preference training, held-out pairs, each iteration, choose and eval: no
    prompt is in two of them, and of your own data no dialogue of choose and eval in any other.

    Returns the number of prompts of each; KitError naming the first leak.
    """
    return _check_disjoint(course, prompt_table(course).rows(), preferences(course))


def _check_disjoint(course: Course, rows: Iterable[dict], pairs: Stage) -> dict[str, int]:
    groups: dict[str, list] = {
        "training": list(pairs.rows("train.parquet")["prompt"]),
        "heldout": list(pairs.rows("heldout.parquet")["prompt"]),
    }
    if course.profile.data.kind == "world":
        groups["training"] += [messages[:-1] for messages in demonstrations(course).rows()["messages"]]
    rows = list(rows)
    if has_set_per_iteration(course.profile.data.prompts):  # iterations may ask what a training pair asks (own_prompts)
        asked = {_as_key(row["prompt"]) for row in rows if row["split"].startswith("iteration-")}
        groups["training"] = [prompt for prompt in groups["training"] if _as_key(prompt) not in asked]
    for row in rows:
        groups.setdefault(row["split"], []).append(row["prompt"])
    counts = disjoint(groups)
    if course.profile.data.kind == "file":
        _check_dialogues(groups)
    return counts


def _check_dialogues(groups: Mapping[str, Iterable[Any]]) -> None:
    """KitError where a dialogue that serves to choose or to test has another turn elsewhere."""
    from rlhf_kit.preferences import opening_key

    tests = {opening_key(prompt): split for split in ("choose", "eval") for prompt in groups.get(split, [])}
    for name, prompts in groups.items():
        for prompt in prompts:
            split = tests.get(opening_key(prompt), name)
            if split != name:
                opening = next((turn["content"] for turn in prompt if turn["role"] == "user"), "")[:60]
                raise KitError(f"leak: a dialogue of {split!r} has another turn in {name!r}; it opens with {opening!r}; "
                               "training, choosing and testing must not share dialogues")  # fmt: skip


def _as_key(messages: Iterable[dict]) -> str:
    return stable_hash([[turn["role"], turn["content"]] for turn in messages])


def disjoint(groups: Mapping[str, Iterable[Any]]) -> dict[str, int]:
    """The number of different prompts in each group; KitError naming the first one that is in two groups.

    groups: name -> prompts as message lists, compared by role and text.
    """
    home: dict[str, str] = {}
    for name, members in groups.items():
        for member in set(map(_as_key, members)):
            other = home.setdefault(member, name)
            if other != name:
                raise KitError(
                    f"leak: prompt {member} is in {other!r} and in {name!r}; training, choosing and testing "
                    "must not share prompts"
                )
    return dict(Counter(home.values()))
