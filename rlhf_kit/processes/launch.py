"""Training, sampling and scoring in several processes, called from a notebook like the plain calls.

A job is a folder: job.json (what to call, with plain arguments), rows.parquet, log.txt, and what the processes answer.
`torchrun` (CPU) or `accelerate launch` (GPU, with a file of data/accelerate) starts `rlhf_kit.processes.worker` as often as there
are processes; a free port is chosen. Its log is kept whole and handed on line by line. Where one process fails, the
others are ended and its error becomes one KitError.

What has been run: ddp and (by a test that tells accelerate so) fsdp2 with two processes on CPUs, both with the loss
curves of one process. What has not: any of it on GPUs, and zero2 and zero3 at all.

Several machines: no code of ours. Put the run on a shared disk, write the job with `launch.write_job(folder, "train_dpo",
arguments, rows, processes=TOTAL)`, run on each of N machines, R counting them from 0, and read `launch.answer(folder)`:

    accelerate launch --config_file data/accelerate/fsdp2.yaml --num_machines N --machine_rank R \\
        --num_processes TOTAL --main_process_ip HOST --main_process_port 29500 --mixed_precision bf16 \\
        -m rlhf_kit.processes.worker JOB/job.json

Slurm: one such line a node under `srun`, with R = $SLURM_NODEID. This has not been run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rlhf_kit.errors import KitError
from rlhf_kit.files import plain
from rlhf_kit.machine import child_environment
from rlhf_kit.runs import PROJECT, read_json, write_json, write_rows

STRATEGIES = ("none", "ddp", "fsdp2", "zero2", "zero3")  # none: ddp, as soon as there are several processes
TAIL = 15  # lines of the log in an error


def train(
    call: str,
    *arguments: Any,
    processes: int,
    strategy: str = "ddp",
    tell: Callable[[str], None] | None = None,
    **named: Any,
):
    """`rlhf_kit.training.<call>` in `processes` processes: same arguments, same files, same `Trained`.

    A job that was begun and killed goes on from its last checkpoint.

    call: "train_sft", "train_reward", "train_pairwise" or "train_dpo". The global batch is settings.batch_size for any
    number of processes. Callbacks cannot be given. tell: called with each line of the log. The job's folder is
    `<out>.launch`; log.txt stays in it. KitError for a strategy that this machine cannot run, and for whatever a
    process failed with.
    """
    names = ["model_path", "rows", "out", "settings", "machine", "seed", "max_length"]
    if call == "train_dpo":
        names = ["policy_path", "reference_path", "pairs", *names[2:]]
    given = {**dict(zip(names, arguments, strict=False)), **named}
    if given.pop("callbacks", ()):
        raise KitError("callbacks are objects of this process; training in several processes takes none")
    out, machine = Path(given["out"]), given["machine"]
    rows = given.pop("pairs" if call == "train_dpo" else "rows")
    folder = out.parent / f"{out.name}.launch"
    job = write_job(folder, call, given, rows, processes, follow=True)
    run(job, processes, strategy, machine, tell)
    (folder / "rows.parquet").unlink(missing_ok=True)
    return answer(folder)


def answer(folder: str | Path):
    """The `Trained` of a finished training job, such as one that was started by hand on several machines."""
    from rlhf_kit.trainers.common import Trained

    read = read_json(Path(folder) / "result.json")
    out = Path(read_json(Path(folder) / "job.json")["arguments"]["out"])
    return Trained(path=out, history=read["history"], seconds=read["seconds"], facts=read["facts"])


def write_job(
    folder: str | Path, call: str, arguments: Mapping, rows: Any, processes: int, *, follow: bool = False
) -> Path:
    """The job's file, as `rlhf_kit.processes.worker` reads it: plain JSON, no pickles. Answers of an earlier try are removed.

    follow: its processes end when this one does; a job that is started by hand stands by itself.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob("error-*.json"), *folder.glob("result*.json"), *folder.glob("answer-*.parquet")]:
        old.unlink()
    write_rows(folder, rows if hasattr(rows, "to_list") else [dict(row) for row in rows], "rows.parquet")
    job = {
        "call": call,
        "arguments": {name: _plain(value) for name, value in arguments.items()},
        "rows": "rows.parquet",
        "processes": processes,
        "parent": [os.getpid(), _started(os.getpid())] if follow else None,
    }
    return write_json(folder / "job.json", job)


def _plain(value: Any) -> Any:
    """A section of a profile, a Machine, a path or plain data as JSON takes it; KitError for an object."""
    if isinstance(value, Path):
        return str(value.resolve())
    return plain(vars(value) if isinstance(value, SimpleNamespace) else value)


def _started(pid: int) -> float | None:
    import psutil

    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def command(job: Path, processes: int, strategy: str, machine: Any, sharing: bool = False) -> list[str]:
    """The command line that starts a job. sharing: the processes share out rows and do not train together."""
    if strategy not in STRATEGIES:
        raise KitError(f"launch.strategy is {strategy!r}; it must be one of {', '.join(STRATEGIES)}")
    strategy = "ddp" if strategy == "none" else strategy
    worker = ["-m", "rlhf_kit.processes.worker", str(job)]
    if sharing or machine.device == "cpu":
        if not sharing and strategy != "ddp":
            raise KitError(f"launch.strategy {strategy} divides a model among GPUs; on a CPU only ddp can be run")
        # `accelerate launch --cpu --num_processes 2` starts one process and says nothing; torchrun starts them all.
        start = ["--nnodes", "1", "--nproc-per-node", str(processes), "--max-restarts", "0"]
        start += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
        return [sys.executable, "-m", "torch.distributed.run", *start, *worker]
    if strategy.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        raise KitError(
            f"launch.strategy {strategy} needs deepspeed, which is not installed (pip install deepspeed==0.19.8); "
            "fsdp2 divides the model without it"
        )
    precision = "bf16" if machine.autocast_bf16 else "fp16" if machine.dtype == "float16" else "no"
    start = accelerate_options(PROJECT / "data" / "accelerate" / f"{strategy}.yaml", processes, precision)
    return [sys.executable, "-m", "accelerate.commands.launch", *start, *worker]


def accelerate_options(config: str | Path, processes: int, precision: str) -> list[str]:
    """What `accelerate launch` is told on one machine; port 0 takes a free one."""
    given = {"config_file": config, "num_processes": processes, "main_process_port": 0, "mixed_precision": precision}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def run(
    job: Path,
    processes: int,
    strategy: str,
    machine: Any,
    tell: Callable[[str], None] | None = None,
    sharing: bool = False,
) -> None:
    """Start a job and wait for it; KitError with the first error and the end of the log unless all processes finish.

    When this call is interrupted, all its processes are ended.
    """
    if processes < 1:
        raise KitError(f"launch.processes is {processes}; it must be at least 1")
    if machine.device == "cuda":
        import torch

        if processes > torch.cuda.device_count():
            raise KitError(f"launch.processes is {processes}, but {torch.cuda.device_count()} GPU(s) can be used here")
    line = command(job, processes, strategy, machine, sharing)
    env = {**os.environ, **child_environment(max(1, machine.threads // processes), offline=False)}
    env["PYTHONPATH"] = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env["PYTHONUNBUFFERED"] = "1"
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        env.pop(name, None)
    if machine.device == "cpu":
        env |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    tail: deque[str] = deque(maxlen=TAIL)
    log = job.parent / "log.txt"
    with open(log, "a", encoding="utf-8") as kept:  # what an earlier try said is kept too
        kept.write(f"$ {shlex.join(line)}\n")
        child = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env, text=True,
            encoding="utf-8", errors="replace", start_new_session=True,
        )
        try:
            for text in child.stdout:
                kept.write(text)
                kept.flush()
                tail.append(text.rstrip())
                if tell is not None:
                    tell(text.rstrip())
            code = child.wait()
        finally:
            _end(child)
    if code:
        raise KitError(_failure(job.parent, processes, code, tail, log))


def _end(child: subprocess.Popen) -> None:
    """Ends a job that is still running: the launcher is asked first, which ends its workers; then all are killed."""
    import psutil

    if child.poll() is not None:
        return
    try:
        family = psutil.Process(child.pid).children(recursive=True)
    except psutil.Error:
        family = []
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(15)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for one in family:
        with contextlib.suppress(psutil.Error):
            one.kill()


def _failure(folder: Path, processes: int, code: int, tail: Sequence[str], log: Path) -> str:
    errors = []
    for file in folder.glob("error-*.json"):
        try:
            errors.append(read_json(file))
        except (KitError, json.JSONDecodeError):
            continue
    if errors:
        first = min(errors, key=lambda e: e["time"])
        what = f"process {first['rank']} of {processes}: {first['message']}"
    else:
        killed = " (a process was killed; often by lack of memory)" if any("SIGKILL" in line for line in tail) else ""
        what = f"the launcher ended with code {code}{killed}"
    end = "\n".join(f"  {line}" for line in tail)
    return f"{what}; the whole log is {log}, its end:\n{end}"
