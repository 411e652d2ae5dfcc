"""Sampling and scoring in several processes: prompts are dealt out, rows are gathered, and no row is lost or doubled.

Each sample has a seed of its own (`sampling`) and each conversation its own score, so the processes need no word of
each other: the tokens are those of one process, scores are equal up to rounding (a batch pads differently).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_kit.errors import KitError
from rlhf_kit.processes import launch
from rlhf_kit.runs import read_json, read_rows, write_json, write_rows


def deal(groups: Sequence[Any], processes: int) -> list[list[int]]:
    """Row numbers for each process, whole groups at a time (equal entries of `groups` stay together), in order."""
    places: dict[Any, int] = {}
    shares: list[list[int]] = [[] for _ in range(processes)]
    for number, group in enumerate(groups):
        shares[places.setdefault(group, len(places) % processes)].append(number)
    return shares


def sample(
    policy_path: str | Path,
    prompts: Any,
    *,
    processes: int,
    machine: Any,
    folder: str | Path,
    tell: Callable[[str], None] | None = None,
    **settings: Any,
) -> list[dict[str, Any]]:
    """`sampling.sample` in several processes: the same rows in the same order.

    folder: where the job and the processes' finished shards are kept, so that a killed call goes on; the caller removes
    it. settings: the other arguments of `sampling.sample`. KitError when a process fails or a row is missing.
    """
    rows = prompts.to_list() if hasattr(prompts, "to_list") else [dict(row) for row in prompts]
    given = {"policy_path": policy_path, "machine": machine, **settings}
    answers = _run("sample", given, rows, [str(row["prompt_id"]) for row in rows], processes, machine, folder, tell)
    made: dict[tuple, dict] = {}
    for row in (row for answer in answers for row in answer):
        if made.setdefault((row["prompt_id"], row["sample"]), row) is not row:
            raise KitError(f"two processes answered prompt {row['prompt_id']!r}, sample {row['sample']}")
    wanted = [(row["prompt_id"], s) for row in rows for s in range(int(settings["n"]))]
    missing = [key for key in wanted if key not in made]
    if missing or len(made) != len(wanted):
        raise KitError(f"{len(made)} samples came back for {len(wanted)}; the first missing one is {missing[:1]}")
    return [made[key] for key in wanted]


def score(
    scorer: str,
    folders: Sequence[str],
    prompts: Sequence,
    responses: Sequence[str],
    *,
    processes: int,
    machine: Any,
    folder: str | Path,
    tell: Callable[[str], None] | None = None,
) -> np.ndarray:
    """`rewards` of a trained scorer in several processes: (N,) float32, in the order given.

    scorer, folders: as for `open_scorer`. The answers to one prompt go to one process: the pairwise model compares them.
    """
    if len(prompts) != len(responses):
        raise KitError(f"{len(prompts)} prompts but {len(responses)} responses; give one prompt per response")
    rows = [{"prompt": p, "response": r} for p, r in zip(prompts, responses, strict=True)]
    given = {"scorer": scorer, "folders": list(map(str, folders)), "machine": machine}
    shares = [repr(prompt) for prompt in prompts]
    rewards = np.full(len(rows), np.nan, dtype=np.float32)
    for answer in _run("score", given, rows, shares, processes, machine, folder, tell):
        for row in answer:
            if not np.isnan(rewards[row["number"]]):
                raise KitError(f"two processes scored response {row['number']}")
            rewards[row["number"]] = row["reward"]
    if np.isnan(rewards).any():
        raise KitError(f"response {int(np.flatnonzero(np.isnan(rewards))[0])} came back without a score")
    return rewards


def open_scorer(scorer: str, folders: Sequence[str], machine: Any) -> Any:
    """"bt", "pairwise" or "ensemble" (of Bradley-Terry models), opened from model folders."""
    from rlhf_kit import rewards

    if scorer == "bt":
        return rewards.open_reward(folders[0], machine)
    if scorer == "pairwise":
        return rewards.Pairwise(folders[0], machine)
    if scorer == "ensemble":
        return rewards.Ensemble([rewards.BradleyTerry(one, machine) for one in folders])
    raise KitError(f"scorer {scorer!r} cannot be opened from a folder; one of bt, pairwise, ensemble")


def _run(call, given, rows, groups, processes, machine, folder, tell) -> list[Any]:
    """Starts the job; the rows that each process answered with, process by process."""
    folder = Path(folder)
    shares = deal(groups, processes)
    job = launch.write_job(folder, call, given, rows, processes, follow=True)
    write_json(folder / "shares.json", shares)
    launch.run(job, processes, "none", machine, tell, sharing=True)
    return [
        read_rows(folder / f"answer-{rank}.parquet").to_list() for rank, share in enumerate(shares) if share
    ]


def do_share(call: str, given: Mapping, rows: Any, folder: Path, rank: int, world: int) -> None:
    """What one process does (`rlhf_kit.processes.worker`): its share of the rows -> answer-<rank>.parquet."""
    share = read_json(folder / "shares.json")[rank]
    if not share:
        return
    _stand_alone(given["machine"].device)
    part, given = [rows[i] for i in share], dict(given)
    if call == "sample":
        from rlhf_kit import sampling

        # Whoever answers, and however often it is started again, the seeds are those of the samples.
        answers = sampling.sample(given.pop("policy_path"), part, folder=folder / f"share-{rank}-of-{world}", **given)
    elif call == "score":
        judge = open_scorer(given["scorer"], given["folders"], given["machine"])
        values = judge.score([row["prompt"] for row in part], [row["response"] for row in part])
        answers = [{"number": i, "reward": float(value)} for i, value in zip(share, values, strict=True)]
    else:
        raise KitError(f"unknown job {call!r}; one of sample, score and the trainings")
    write_rows(folder, answers, f"answer-{rank}.parquet")


def _stand_alone(device: str) -> None:
    """Each process works by itself on one GPU: libraries that look for companions (vLLM) must not find them."""
    if device == "cuda":
        seen = [x for x in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if x]
        local = os.environ.get("LOCAL_RANK", "0")
        os.environ["CUDA_VISIBLE_DEVICES"] = seen[int(local)] if seen else local
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
