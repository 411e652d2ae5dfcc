"""One notebook in a process of its own: started, watched, and judged by what it left."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat

from rlhf_kit.exercises import solutions
from rlhf_kit.progress import Display, Events, clock
from rlhf_kit.running import outputs
from rlhf_kit.running.notebooks import Notebook
from rlhf_kit.runs import Run, read_json, record, records, write_json, write_text


def log(run: Run, book: Notebook) -> Path:
    return run.path / "logs" / f"{book.name}.log"


def _forget(run: Run, name: str) -> None:
    """Removes what an earlier execution of a notebook recorded, so that nothing stale is collected."""
    for kind in ("finished", "executed"):
        (run.path / "records" / kind / f"{name}.json").unlink(missing_ok=True)
    for path in (run.path / "records").glob("*/*.json"):
        if read_json(path).get("notebook") == name:
            path.unlink()


def _kill(process: subprocess.Popen) -> None:
    """Ends the executing process and its kernel."""
    import psutil

    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()


def _memory_mb(pid: int) -> float:
    """Resident memory of a process's descendants now, in megabytes."""
    import psutil

    total = 0
    try:
        for child in psutil.Process(pid).children(recursive=True):
            try:
                total += child.memory_info().rss
            except psutil.Error:
                continue
    except psutil.Error:
        return 0.0
    return total / 2**20


def execute(
    run: Run, book: Notebook, parameters: dict, key: str, env: dict[str, str], display: Display
) -> str | None:
    """Executes one notebook into the run; None if it is done, else the sentence that says why not."""
    folder = run.path / "notebooks"
    folder.mkdir(exist_ok=True)
    log(run, book).parent.mkdir(exist_ok=True)
    output, partial = folder / book.path.name, folder / f".partial-{book.path.name}"
    result, spec = folder / f".partial-{book.name}.result", folder / f".partial-{book.name}.spec"
    source = folder / f".partial-{book.name}.source.ipynb"
    for path in (output, partial, result, folder / f"{book.name}.failed.ipynb"):
        path.unlink(missing_ok=True)
    _forget(run, book.name)
    write_text(source, nbformat.writes(solutions.to_execute(book.path, parameters)))
    write_json(
        spec,
        {
            "source": str(source),
            "output": str(partial),
            "result": str(result),
            "cwd": str(book.path.parent),
            "parameters": parameters,
        },
    )
    events = Events(run.path / "events.jsonl")
    display.start(book.name)
    started, peak, stages = time.monotonic(), 0.0, {}
    with open(log(run, book), "wb") as handle:
        process = subprocess.Popen(
            [sys.executable, "-m", "rlhf_kit.running.execute", str(spec)],
            stdout=handle,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=book.path.parent,
            env={**env, "RLHF_KIT_NOTEBOOK": book.name},
            start_new_session=True,  # Ctrl-C reaches the runner alone, which then ends things in order
        )
        try:
            while process.poll() is None:
                time.sleep(0.3)
                peak = max(peak, _memory_mb(process.pid))
                new = events.new()
                stages.update({f"{e['stage']}-{e['key']}": e["seconds"] for e in new if e["event"] == "made"})
                display.events(new)
                display.tick()
        except BaseException:
            _kill(process)
            raise
    new = events.new()
    stages.update({f"{e['stage']}-{e['key']}": e["seconds"] for e in new if e["event"] == "made"})
    display.events(new)
    seconds = round(time.monotonic() - started, 1)
    outcome = (
        read_json(result)
        if result.is_file()
        else {"status": "failed", "message": "the executing process died"}
    )
    problem = _problem(run, book, partial, outcome)
    if problem:
        if partial.is_file():
            os.replace(partial, folder / f"{book.name}.failed.ipynb")
        return problem
    peak = max(peak, records(run, "finished")[book.name]["value"].get("peak_memory_mb") or 0.0)
    os.replace(partial, output)
    for path in (source, spec, result):
        path.unlink()
    record(
        run,
        "executed",
        book.name,
        {
            "key": key,
            "seconds": seconds,
            "peak_memory_mb": round(peak),
            "stages": stages,
            "parameters": parameters,
        },
    )
    display.done(f"done in {clock(seconds)}, peak {peak / 1024:.1f} GB")
    return None


def _problem(run: Run, book: Notebook, executed: Path, outcome: dict) -> str | None:
    """Why an execution does not count, judged by what it produced."""
    if outcome["status"] == "dead":
        place = outputs.died_in(executed) or "an unknown cell"
        return f"the kernel died in {place}; a kernel that is killed has often run out of memory"
    wrong = outputs.what_went_wrong(executed)
    if wrong:
        return wrong if executed.is_file() else f"{wrong}: {outcome['message']}"
    if outcome["status"] != "ok":
        return outcome["message"]
    if book.name not in records(run, "finished"):
        return "it ran, but its last cell left no closing record (`stages.finish(course, ...)`)"
    return None
