"""Runs the course headlessly: notebooks in order through papermill, each in a process of its own.

A notebook counts as done when every code cell ran, no cell shows an error, and the closing record that its
last cell writes is there and new. Finished notebooks carry a content key; with nothing changed they are not
executed again.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rlhf_kit import inputs, profiles
from rlhf_kit.errors import KitError
from rlhf_kit.exercises import solutions
from rlhf_kit.files import locked
from rlhf_kit.machine import child_environment
from rlhf_kit.progress import Display
from rlhf_kit.running import notebooks, one_notebook
from rlhf_kit.running.notebooks import Notebook
from rlhf_kit.running.results import TIMINGS, conclude
from rlhf_kit.runs import (
    PROJECT,
    Run,
    environment,
    open_run,
    records,
    shown,
    write_text,
)


@dataclass(frozen=True)
class Options:
    """What the command line says; see `python -m rlhf_kit run --help`."""

    profile: str = profiles.DEFAULT
    run: str | None = None
    seed: int = 0
    only: str | None = None
    start: str | None = None
    params: dict[str, str] = field(default_factory=dict)
    sets: dict[str, Any] = field(default_factory=dict)
    folder: Path = notebooks.FOLDER
    again: bool = False


def default_run(profile: str, seed: int) -> str:
    """`laptop` for seed 0, `laptop-seed3` for another."""
    return profile if seed == 0 else f"{profile}-seed{seed}"


def run_course(options: Options) -> tuple[int, Run]:
    """Runs the chosen notebooks and writes timings.json, metrics.json, claims.json and site/ of the run.

    Returns (exit status, run): 0, or 1 when a notebook failed or a claim is outside its band. KitError,
    before anything starts, for an unknown profile, notebook or parameter, a wrong type, a model or file of
    yours that cannot be used, or a run that is being run.
    """
    if not 0 <= options.seed < 2**31:
        raise KitError(f"--seed {options.seed}: the seed must be between 0 and {2**31 - 1}")
    books = notebooks.select(options.folder, options.only, options.start)
    for name, option in {"PROFILE": "--profile", "SEED": "--seed", "RUN": "--run"}.items():
        if name in options.params:
            raise KitError(f"--param {name}: the run itself sets this parameter; give {option}")
    profile = profiles.load_profile(options.profile, options.sets)
    injected = notebooks.check_parameters(books, options.params)
    machine = profiles.resolve(profile)
    told = inputs.check(profile)
    if any(given.get("ABLATION") is True for given in injected.values()):
        inputs.check_ablation(profile)
    if options.sets and profile.data.kind == "world":
        # bands were recorded for the shipped values, so a changed profile must not be judged by them
        profile = profile.model_copy(update={"name": f"{profile.name}-changed"})
    name = options.run or default_run(profile.name, options.seed)
    run = open_run(name)
    print("\n".join(told), end="\n" if told else "", flush=True)
    with locked(run.path / ".locks" / "runner", f"run {name}", wait=False):
        given = options.profile
        if options.sets:
            given = str(run.path / "profile.yaml")
            write_text(given, yaml.safe_dump(profile.model_dump(mode="json"), sort_keys=False))
        elif profiles.project_path(given).is_file():
            given = str(profiles.project_path(given).resolve())
        for book in books:
            common = {"PROFILE": given, "SEED": options.seed, "RUN": name, "INTERACTIVE": False}
            common = {k: v for k, v in common.items() if k in book.parameters}
            injected[book.name] = {**common, **injected[book.name]}
            solutions.to_execute(book.path, injected[book.name])  # an unknown mode ends it before anything starts
        shared = (
            profile.model_dump(mode="json"),
            notebooks.code_key(),
            environment()["versions"],
            [notebooks.local_key(path) for path in profiles.sources(profile)],
        )
        status = _execute_all(run, books, injected, shared, _child_env(run, profile, machine), options.again)
        whole = status == 0 and options.folder == notebooks.FOLDER and not options.only and options.start is None
        status = max(status, conclude(run, profile.name if whole else None))
    return status, run


def _child_env(run: Run, profile: profiles.Profile, machine: profiles.Machine) -> dict[str, str]:
    return {
        **os.environ,
        **child_environment(machine.threads, offline=not profiles.needs_hub(profile)),
        "RLHF_KIT_RUNS": str(run.path.parent),
        "TQDM_MININTERVAL": "10",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONPATH": os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }


def expected_seconds(run: Run, profile: str) -> dict[str, float]:
    """Seconds by notebook: of this run's earlier executions, else of the shipped timings of the profile."""
    known: dict[str, float] = {}
    if TIMINGS.is_file():
        known.update((yaml.safe_load(TIMINGS.read_text(encoding="utf-8")) or {}).get(profile) or {})
    return known | {n: r["value"]["seconds"] for n, r in records(run, "executed").items()}


def _execute_all(
    run: Run,
    books: list[Notebook],
    injected: dict[str, dict],
    shared: tuple,
    env: dict[str, str],
    again: bool,
) -> int:
    names = [b.name for b in books]
    display = Display(names, expected_seconds(run, shared[0]["name"]))
    display.line(f"run {run.name}: {len(books)} notebook(s) -> {shown(run.path)}")
    for book in books:
        cells = solutions.to_execute(book.path, injected[book.name]).cells
        key = notebooks.content_key(book, injected[book.name], *shared, [cell.source for cell in cells])
        display.name = book.name
        if not again and _is_done(run, book, key):
            display.done("found (nothing changed)")
            continue
        problem = one_notebook.execute(run, book, injected[book.name], key, env, display)
        if problem:
            display.done(f"FAILED: {problem}")
            display.line(f"        log: {shown(one_notebook.log(run, book))}; the same command continues here")
            return 1
    return 0


def _is_done(run: Run, book: Notebook, key: str) -> bool:
    executed = records(run, "executed").get(book.name)
    return bool(
        executed
        and executed["value"]["key"] == key
        and book.name in records(run, "finished")
        and (run.path / "notebooks" / book.path.name).is_file()
    )


def stop_on_terminate() -> None:
    """Lets SIGTERM end a run as Ctrl-C does: the kernel is ended, and everything finished stays."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
