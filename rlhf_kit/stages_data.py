"""The course's rows: preferences, demonstrations and prompts, split so that no prompt serves two purposes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from rlhf_kit.course import Course, base_key, source_key
from rlhf_kit.errors import KitError
from rlhf_kit.runs import Ledger, Stage, project_path, stable_hash, write_rows

# ---------------------------------------------------------------- preferences


def preferences(course: Course) -> Stage:
    """Preference pairs: train.parquet and heldout.parquet, rows {prompt_id, prompt, chosen, rejected, source, category}.

    `prompt` is a list of messages, `chosen` and `rejected` are whole conversations (design, "preferences"). From the
    pocket world's annotators or, for data.kind "file", from your own file: read, cleaned (the ledger in the manifest
    says what was dropped and why), and split by prompt. The held-out pairs are never trained on.
    """
    return _world_preferences(course) if course.profile.data.kind == "world" else _file_preferences(course)


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

    params = {"annotator": data.annotator, "pairs": data.preference_pairs, "heldout": data.heldout_pairs}
    return course.stage("preferences", build, params=params, code=["world"])


def _annotated(name: str, n: int, dials: Any) -> tuple[Any, int]:
    """The first n rows of a frozen set and the number of rows there were. An annotator other than the one who judged
    the frozen set judges the same pairs afresh."""
    from rlhf_kit import world
    from rlhf_kit.world import frozen

    size = frozen.SIZES[name]
    if n > size:
        raise KitError(
            f"the profile asks for {n} pairs but data/world/{name}.parquet has {size}; lower data.preference_pairs or "
            "data.heldout_pairs, or make a larger set with `python -m rlhf_kit.world.frozen`"
        )
    annotator = world.Annotator(**dials.model_dump())
    if annotator == frozen.ANNOTATOR:
        return world.load(name).select(range(n)), size
    return frozen.rows(name, n, annotator), n


def _file_preferences(course: Course) -> Stage:
    """Your pairs, split by prompt. Prompts that open with the same user turn stay in one split: in a file of dialogues
    one conversation often appears at several of its turns."""
    profile, data = course.profile, course.profile.data

    def build(folder):
        from rlhf_kit.preferences import load_with_ledger, opening_key, prompt_key

        rows, cleaning = load_with_ledger(_local(data.preferences), adapter=data.adapter)
        rows = [{**row, "prompt_id": prompt_key(row["prompt"]), "category": "all"} for row in rows]
        groups: dict[str, list[dict]] = {}
        for row in rows:
            groups.setdefault(opening_key(row["prompt"]), []).append(row)
        order = sorted(
            groups
        )  # by hash: the same split for every seed, and unrelated to the order in the file
        own = {} if data.prompts else _prompt_splits(profile)
        wanted = {"heldout": data.heldout_pairs, **own}
        # Your file may be small. Never take more than half of it away from the reward model's training.
        share = min(1.0, 0.5 * len(rows) / sum(wanted.values()))
        fits = _prompt_fits(course)
        prompts, dropped, used = [], 0, 0
        for split, size in wanted.items():
            size, taken = max(1, int(size * share)), []
            while used < len(order) and len(taken) < size:
                group, used = groups[order[used]], used + 1
                if split == "heldout":
                    taken += group
                    continue
                for row in {row["prompt_id"]: row for row in group}.values():
                    if fits(row["prompt"]):
                        taken.append(
                            {k: row[k] for k in ("prompt_id", "prompt", "category")}
                            | {"kind": row["source"], "split": split}
                        )
                    else:
                        dropped += 1
            if split == "heldout":
                heldout = taken[:size]
            else:
                prompts += taken[:size]
        train = [row for key in order[used:] for row in groups[key]]
        if not train or not heldout or (own and {p["split"] for p in prompts} != set(own)):
            raise KitError(
                f"{data.preferences} has {len(rows)} usable pairs with {len(order)} different opening turns, too few for "
                f"training, held-out pairs and {len(own)} sets of prompts; lower data.iterations or give data.prompts"
            )
        write_rows(folder, train[: data.preference_pairs], "train.parquet")
        write_rows(folder, heldout, "heldout.parquet")
        write_rows(folder, prompts, "prompts.parquet")
        kept = len(train[: data.preference_pairs]) + len(heldout)
        away = {
            "their prompts serve for sampling and evaluation, or they were more than the profile asks for": len(
                rows
            )
            - kept
        }
        return {
            "ledger": [cleaning, Ledger("preferences-split", len(rows), kept, away)],
            "split_scale": round(share, 3),
            "prompts_too_long": dropped,
            "train": len(train[: data.preference_pairs]),
            "heldout": len(heldout),
        }

    params = {
        "file": source_key(data.preferences),
        "adapter": data.adapter,
        "prompts": data.prompts,
        "pairs": data.preference_pairs,
        "heldout": data.heldout_pairs,
        "splits": _prompt_splits(profile),
        "base": base_key(course),
        "lengths": [profile.model.max_length, profile.sampling.max_new_tokens],
    }
    return course.stage(
        "preferences",
        build,
        params=params,
        code=["preferences", "adapters", "cleaning", "splits", "reading", "fields", "chat"],
    )


def _local(path: str) -> str:
    found = project_path(path)
    return str(found) if found.exists() else path


def _prompt_fits(course: Course):
    """A test whether a prompt leaves room for a response of max_new_tokens, with a margin of half of it: text that is
    decoded and encoded again can take more tokens than were sampled."""
    from rlhf_kit import chat, models

    tokenizer = models.load_tokenizer(course.profile.model.tokenizer or course.profile.model.path)
    room = course.profile.model.max_length - int(1.5 * course.profile.sampling.max_new_tokens)
    return lambda prompt: len(chat.encode_prompt(tokenizer, prompt)) <= room


# ---------------------------------------------------------------- demonstrations


def demonstrations(course: Course) -> Stage:
    """What SFT learns from: rows {prompt_id, messages, category}, at most data.sft_rows of them.

    The pocket world's writers; for your own data the file data.sft or, without one, the chosen conversations of the
    preference training pairs (there is then nothing better to imitate, and the policy sees no rejected answer).
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
        from rlhf_kit.conversations import load_conversations
        from rlhf_kit.preferences import opening_key, prompt_key

        rows, ledger = load_conversations(_local(data.sft))
        away = {opening_key(p) for p in [*table.rows()["prompt"], *pairs.rows("heldout.parquet")["prompt"]]}
        free = [messages for messages in rows if opening_key(messages) not in away]
        kept = free[: data.sft_rows]
        write_rows(
            folder, [{"prompt_id": prompt_key(m[:-1]), "messages": m, "category": "all"} for m in kept]
        )
        return [
            ledger,
            Ledger(
                "demonstrations",
                len(rows),
                len(kept),
                {
                    "their prompts are kept for sampling and testing": len(rows) - len(free),
                    "not asked for by the profile": len(free) - len(kept),
                },
            ),
        ]

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
        return course.stage("demonstrations", world_rows, params=params, code=["world"])
    pairs = preferences(course)
    if data.sft:
        table = prompt_table(course)
        return course.stage(
            "demonstrations",
            file_rows,
            inputs={"preferences": pairs, "prompts": table},
            params={**params, "file": source_key(data.sft)},
            code=["conversations", "splits", "reading", "fields"],
        )
    return course.stage("demonstrations", chosen_rows, inputs={"preferences": pairs}, params=params)


# ---------------------------------------------------------------- prompts


def _prompt_splits(
    profile: Any, iterations: int | None = None, per_iteration: int | None = None
) -> dict[str, int]:
    data = profile.data
    sizes = {"eval": data.eval_prompts, "choose": data.choose_prompts}
    for t in range(1, (iterations or data.iterations) + 1):
        sizes[f"iteration-{t}"] = per_iteration or data.prompts_per_iteration
    return sizes


def prompt_table(course: Course, iterations: int | None = None, per_iteration: int | None = None) -> Stage:
    """All prompts that policies answer: rows {prompt_id, prompt, category, kind, split}.

    Splits: "iteration-1" ... for training, "choose" to choose among checkpoints and settings, "eval" for the final
    test only. Made once, and checked to be disjoint from each other and from the preference pairs.
    """
    profile = course.profile
    sizes = _prompt_splits(profile, iterations, per_iteration)
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
            rows, ledgers = _own_prompts(course, sizes, pairs)
        have = {split: [r for r in rows if r["split"] == split][:n] for split, n in sizes.items()}
        empty = [split for split, found in have.items() if not found]
        if empty:
            raise KitError(
                f"no prompts are left for {', '.join(empty)}; set data.iterations and data.prompts_per_iteration in the "
                "profile, since they decide how your file is split"
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
    params["file"] = source_key(profile.data.prompts)
    return course.stage(
        "prompts",
        file_rows,
        inputs={"preferences": pairs},
        params=params,
        code=["conversations", "splits", "reading", "fields"],
    )


def _own_prompts(course: Course, sizes: Mapping[str, int], pairs: Stage) -> tuple[list[dict], list[Ledger]]:
    """Prompts of the file data.prompts, without those of the preference pairs, dealt to the splits in hash order."""
    from rlhf_kit.conversations import load_prompts
    from rlhf_kit.preferences import prompt_key

    rows, reading = load_prompts(_local(course.profile.data.prompts))
    taken = {r for file in ("train.parquet", "heldout.parquet") for r in pairs.rows(file)["prompt_id"]}
    fits, found, dropped = (
        _prompt_fits(course),
        {},
        {"repeated": 0, "also in the preference pairs": 0, "too long": 0},
    )
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
    """Prompts of demonstrations and preference training, held-out pairs, each iteration, choose and eval: no prompt is
    in two of them. Returns the number of prompts of each; KitError naming the first leak."""
    return _check_disjoint(course, prompt_table(course).rows(), preferences(course))


def _check_disjoint(course: Course, rows: Iterable[dict], pairs: Stage) -> dict[str, int]:
    groups: dict[str, list] = {
        "training": list(pairs.rows("train.parquet")["prompt"]),
        "heldout": list(pairs.rows("heldout.parquet")["prompt"]),
    }
    if course.profile.data.kind == "world":
        groups["training"] += [messages[:-1] for messages in demonstrations(course).rows()["messages"]]
    for row in rows:
        groups.setdefault(row["split"], []).append(row["prompt"])
    return disjoint(groups)


def disjoint(groups: Mapping[str, Iterable[Any]]) -> dict[str, int]:
    """The number of different prompts in each group; KitError naming the first prompt that stands in two of them.

    groups: name -> prompts as message lists, compared by role and text.
    """
    home: dict[str, str] = {}
    for name, members in groups.items():
        for member in {
            stable_hash([[turn["role"], turn["content"]] for turn in messages]) for messages in members
        }:
            other = home.setdefault(member, name)
            if other != name:
                raise KitError(
                    f"leak: prompt {member} is in {other!r} and in {name!r}; training, choosing and testing must not share prompts"
                )
    return dict(Counter(home.values()))
