"""One experiment over many seeds, each seed in a process of its own; finished seeds are kept.

An experiment is a name that `rlhf_kit.running.experiments` knows: `run_seed(name, profile, seed) -> dict` and
`summarise(name, results) -> dict`. Results: runs/sweep-<name>/seed-<k>.json and summary.json.
A result is of its settings, experiment and world (`result_key`) and of the kit's code (`code_key`): a seed made by other
code is made again.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from rlhf_kit import profiles
from rlhf_kit.course import source_files, source_key
from rlhf_kit.errors import KitError
from rlhf_kit.files import code_hash, locked
from rlhf_kit.machine import child_environment, usable_cores
from rlhf_kit.progress import clock
from rlhf_kit.runs import PROJECT, Run, environment, open_run, read_json, shown, stable_hash, write_json

MOST_SEEDS = 1000  # of one range; more is a slip of the keyboard
# Modules of the world that decide a seed's numbers; the corpus does so through the base model alone.
WORLD = ("annotator", "gold", "lexicon", "prompts", "writing")


def parse_seeds(text: str) -> list[int]:
    """ "0-3,7" -> [0, 1, 2, 3, 7]; KitError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match or (match.group(2) and int(match.group(2)) < int(match.group(1))):
            raise KitError(f"--seeds {text!r} must look like 0-7 or 0,2,5")
        first, last = int(match.group(1)), int(match.group(2) or match.group(1))
        if last >= 2**31 or last - first >= MOST_SEEDS:
            raise KitError(f"--seeds {text!r}: seeds are below {2**31}, and a range holds at most {MOST_SEEDS} of them")
        seeds += range(first, last + 1)
    return sorted(set(seeds))


def result_key(experiment: str, profile: profiles.Profile) -> str:
    """What recorded numbers belong to: the experiment, the settings that decide them, base model, rules and rows of the world."""
    from rlhf_kit.running import experiments

    plan = experiments.known(experiment)
    arms = [[arm, inspect.getsource(make).strip()] for arm, make in plan.arms.items()]
    design = [arms, plan.primary, plan.shared_models_every, experiments.FINAL_SAMPLES]
    settings = experiments.profile_of(experiment, profile).model_dump(mode="json", exclude={"pairwise", "evaluation"})
    rules = code_hash([PROJECT / "rlhf_kit" / "world" / f"{name}.py" for name in WORLD])
    rows = source_key("data/world")
    return stable_hash(experiment, design, settings, profile.evaluation.samples, source_key(profile.model.path), rules, rows)


def code_key() -> str:
    """Hash of the kit's code that decides a seed's numbers, from sampling to the measured answers; the world's is in `result_key`."""
    from rlhf_kit.recipe.answers import SAMPLING, SCORING
    from rlhf_kit.recipe.policy import TRAINING

    recipe = ("online", "labeling", "recipe/answers", "recipe/data", "recipe/evaluation")
    return code_hash(source_files(sorted({*TRAINING, *SAMPLING, *SCORING, *recipe})))


def _finished(path: Path, key: str) -> bool:
    found = read_json(path) if path.is_file() else {}
    return found.get("key") == key and found.get("code") == code_key()


def run_one(experiment: str, profile_name: str, seed: int, out: str) -> None:
    """Runs one seed in this process and writes {key, seed, seconds, environment, result} to `out`."""
    from rlhf_kit.running import experiments

    profile = profiles.load_profile(profile_name)
    started, code = time.monotonic(), code_key()
    result = experiments.run_seed(experiment, profile_name, seed)
    write_json(
        out,
        {
            "key": result_key(experiment, profile),
            "code": code,
            "experiment": experiment,
            "profile": profile.name,
            "seed": seed,
            "threads": profiles.resolve(profile).threads,
            "seconds": round(time.monotonic() - started, 1),
            "result": result,
            **environment(),
        },
    )


def sweep(experiment: str, profile_name: str, seeds: list[int], jobs: int = 1) -> tuple[int, Run]:
    """Runs the missing seeds, at most `jobs` at a time, then the summary over all of `seeds`.

    Returns (exit status, run): 1 if a seed failed, its log named. A seed made at another profile or by other code is made
    again; one on another number of threads is kept, and the result says so: it is as good, in other last digits.
    """
    from rlhf_kit.running import experiments

    experiments.known(experiment)
    if jobs < 1:
        raise KitError(f"--jobs {jobs}: at least one seed runs at a time")
    profile = profiles.load_profile(profile_name)
    machine = profiles.resolve(profile)
    key = result_key(experiment, profile)
    run = open_run(f"sweep-{experiment}")
    (run.path / "logs").mkdir(exist_ok=True)
    threads = max(1, min(machine.threads, usable_cores() // max(1, jobs)))
    env = {
        **os.environ,
        **child_environment(threads, offline=not profiles.needs_hub(profile)),
        "RLHF_KIT_QUIET": "1",
        "PYTHONPATH": os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    with locked(run.path / ".locks" / "runner", f"sweep {experiment}", wait=False):
        failed = _run_missing(run, experiment, profile_name, seeds, jobs, key, env)
        done = [read_json(p) for s in seeds if _finished(p := run.path / f"seed-{s}.json", key)]
        if done:
            threads_of = sorted({d["threads"] for d in done})
            if len(threads_of) > 1:
                print(f"note: the seeds were made on different numbers of threads ({', '.join(map(str, threads_of))})", flush=True)
            summary = experiments.summarise(experiment, [d["result"] for d in done])
            write_json(
                run.path / "summary.json",
                {
                    "experiment": experiment,
                    "profile": profile.name,
                    "key": key,
                    "code": code_key(),
                    "threads": threads_of,
                    "seeds": [d["seed"] for d in done],
                    "failed_seeds": failed,
                    **summary,
                    "environment": environment(),
                },
            )
            print("\n".join(f"{k}: {v}" for k, v in summary.items() if not isinstance(v, list | dict)))
            print(f"{len(done)} of {len(seeds)} seeds -> {shown(run.path / 'summary.json')}", flush=True)
    return (1 if failed else 0), run


def _run_missing(
    run: Run, experiment: str, profile_name: str, seeds: list[int], jobs: int, key: str, env: dict[str, str]
) -> list[int]:
    """The seeds that failed, after running every seed that has no result of this key."""
    from rlhf_kit.running import experiments

    every = experiments.known(experiment).shared_models_every
    waiting = [s for s in seeds if not _finished(run.path / f"seed-{s}.json", key)]
    # seeds that share models would wait for each other: first one seed of each group, then the next of each
    waiting.sort(key=lambda seed: (seed % every, seed))
    for seed in [s for s in seeds if s not in waiting]:
        print(f"seed {seed}: found", flush=True)
    running: dict[int, tuple[subprocess.Popen, float]] = {}
    failed = []
    try:
        while waiting or running:
            while waiting and len(running) < max(1, jobs):
                seed = waiting.pop(0)
                out = run.path / f"seed-{seed}.json"
                call = f"run_one({experiment!r}, {profile_name!r}, {seed}, {str(out)!r})"
                code = f"from rlhf_kit.running import sweep; sweep.{call}"
                with open(run.path / "logs" / f"seed-{seed}.log", "wb") as log:
                    running[seed] = (
                        subprocess.Popen(
                            [sys.executable, "-c", code],
                            stdout=log,
                            stdin=subprocess.DEVNULL,
                            stderr=subprocess.STDOUT,
                            env=env,
                        ),
                        time.monotonic(),
                    )
                print(f"seed {seed}: running", flush=True)
            time.sleep(0.2)
            for seed, (process, started) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[seed]
                if process.returncode == 0 and _finished(run.path / f"seed-{seed}.json", key):
                    print(f"seed {seed}: done in {clock(time.monotonic() - started)}", flush=True)
                else:
                    failed.append(seed)
                    print(
                        f"seed {seed}: FAILED, see {shown(run.path / 'logs' / f'seed-{seed}.log')}",
                        flush=True,
                    )
    finally:
        for process, _ in running.values():
            process.terminate()
    return failed
