"""One process of a job that `rlhf_kit.processes.launch` started: `python -m rlhf_kit.processes.worker JOB/job.json ...`."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

TRAININGS = ("train_sft", "train_reward", "train_pairwise", "train_dpo")


def main(*job_files: str) -> None:
    """Does its part of each job. What goes wrong is written to error-<rank>.json, and the process ends with code 1."""
    rank = int(os.environ.get("RANK", "0"))
    try:
        for job_path in map(Path, job_files):
            _work(job_path, rank)
        _leave()
    except BaseException as error:
        from rlhf_kit.errors import KitError
        from rlhf_kit.runs import write_json

        said = str(error) if isinstance(error, KitError) else f"{type(error).__name__}: {error}"
        write_json(job_path.parent / f"error-{rank}.json", {"rank": rank, "message": said, "time": time.time()})
        if not isinstance(error, KitError):
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # the others wait in a collective for this one; the launcher ends them


def _work(job_path: Path, rank: int) -> None:
    from rlhf_kit.errors import KitError
    from rlhf_kit.machine import Machine
    from rlhf_kit.profile_schema import Vllm
    from rlhf_kit.runs import read_json, read_rows

    job = read_json(job_path)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != job["processes"]:
        raise KitError(f"the job is for {job['processes']} processes and {world} were started")
    _follow(job.get("parent"))
    given = dict(job["arguments"])
    told = dict(given["machine"])
    if isinstance(told.get("vllm"), dict):
        told["vllm"] = Vllm(**told["vllm"])
    given["machine"] = Machine(**told)
    import torch

    torch.set_num_threads(max(1, given["machine"].threads // world))
    rows = read_rows(job_path.parent / job["rows"])
    if job["call"] in TRAININGS:
        _train(job["call"], given, rows, job_path.parent, rank, world)
    else:
        from rlhf_kit.processes import sharding

        sharding.do_share(job["call"], given, rows, job_path.parent, rank, world)


def _train(call: str, given: dict[str, Any], rows: Any, folder: Path, rank: int, world: int) -> None:
    from accelerate import PartialState

    from rlhf_kit import training
    from rlhf_kit.errors import KitError
    from rlhf_kit.runs import write_json

    if given["machine"].device == "cuda":
        import torch

        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # The process group must exist before anything asks how many we are.
    state = PartialState(cpu=given["machine"].device == "cpu")
    if state.num_processes != world:
        raise KitError(f"{world} processes were started, but accelerate sees {state.num_processes}")
    named = {name: value for name, value in given.items() if name not in ("model_path", "policy_path", "reference_path")}
    paths = [given[name] for name in ("model_path", "policy_path", "reference_path") if name in given]
    out = Path(named.pop("out"))
    order = [named.pop(name) for name in ("settings", "machine", "seed", "max_length")]
    callbacks = [_teller()] if rank == 0 else []
    done = getattr(training, call)(*paths, rows, out, *order, callbacks=callbacks, **named)
    if rank == 0:
        write_json(folder / "result.json", {"history": done.history, "facts": done.facts, "seconds": done.seconds})
    state.wait_for_everyone()


def _leave() -> None:
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _teller():
    from transformers import TrainerCallback

    class Tell(TrainerCallback):
        """One line a logged step, for the log that the notebook shows."""

        def on_log(self, args, state, control, logs=None, **kwargs):
            if logs and "loss" in logs:
                print(f"step {state.global_step}/{state.max_steps}: loss {logs['loss']:.4f}", flush=True)

    return Tell()


def _follow(parent: list | None) -> None:
    """Ends this process when the one that started the job is gone (a killed notebook must not leave one training).

    On another machine, or by hand, there is no such process: then the job stands by itself.
    """
    import psutil

    def alive() -> bool:
        try:
            return psutil.Process(parent[0]).create_time() == parent[1]
        except psutil.Error:
            return False

    if not parent or not alive():
        return

    def watch() -> None:
        while alive():
            time.sleep(2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
