"""Executes one notebook through papermill; the runner starts this in a process of its own.

`python -m rlhf_kit.running.execute spec.json` with {source, output, result, cwd, parameters}. What happened is
written to `result` as {status: ok|error|dead|failed, message}.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import warnings
from pathlib import Path

from rlhf_kit.runs import write_json


def _die_with(parent: int) -> None:
    """Ends this process and its kernel when the runner is gone: a killed run leaves nothing running."""
    import psutil

    while os.getppid() == parent:
        time.sleep(1)
    for process in psutil.Process().children(recursive=True):
        process.kill()
    os._exit(1)


def main(spec_path: str) -> int:
    spec = json.loads(Path(spec_path).read_text(encoding="utf-8"))
    threading.Thread(target=_die_with, args=(os.getppid(),), daemon=True).start()
    warnings.filterwarnings("ignore")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    status, message = "ok", ""
    try:
        papermill.execute_notebook(
            spec["source"],
            spec["output"],
            parameters=spec["parameters"],
            cwd=spec["cwd"],
            kernel_name="python3",
            language="python",
            progress_bar=False,
            log_output=True,
            start_timeout=300,
            autosave_cell_every=30,
        )
    except PapermillExecutionError as error:
        status, message = "error", f"{error.ename}: {error.evalue}"
    except DeadKernelError as error:
        status, message = "dead", str(error)
    except (
        Exception
    ) as error:  # the kernel did not start, the disk is full, ...: told to the reader by the runner
        status, message = "failed", f"{type(error).__name__}: {error}"
    write_json(spec["result"], {"status": status, "message": message})
    return 0 if status == "ok" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
