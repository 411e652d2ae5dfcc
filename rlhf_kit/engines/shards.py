"""Shards of one sampling call: what an engine or server is asked for, who draws it, and what is kept on disk."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_kit.errors import KitError
from rlhf_kit.runs import write_json, write_rows

# vLLM itself would move a lower temperature up to this, saying so only in its log, and refuses a higher one.
COLDEST, HOTTEST = 0.01, 2.0


@dataclass(frozen=True)
class Batch:
    """What one engine or server is asked for at once: one response a prompt, each with its own seed.

    prompts: token ids. stop: the token ids that end a response. max_new_tokens counts it.
    """

    prompts: Sequence[Sequence[int]]
    seeds: Sequence[int]
    temperature: float
    top_p: float
    max_new_tokens: int
    stop: list[int]


def check_temperature(temperature: float) -> None:
    """KitError for a temperature that vLLM would not sample at."""
    if temperature and not COLDEST <= temperature <= HOTTEST:
        raise KitError(
            f"sampling temperature is {temperature}; vLLM samples between {COLDEST} and {HOTTEST:g}, or greedily at 0"
        )


class Store:
    """Finished shards of one `sample` call on disk; does nothing without a folder."""

    def __init__(self, folder, plan: str):
        self.folder = Path(folder) if folder is not None else None
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        note = self.folder / "plan.json"
        if not note.exists() or json.loads(note.read_text(encoding="utf-8")) != {"plan": plan}:
            for old in self.folder.glob("rows-*.parquet"):
                old.unlink()
            write_json(note, {"plan": plan})

    def load(self, number: int) -> list[dict] | None:
        if self.folder is None or not (path := self.folder / f"rows-{number:03d}.parquet").exists():
            return None
        import pyarrow.parquet

        return pyarrow.parquet.read_table(path).to_pylist()

    def save(self, number: int, rows: list[dict]) -> None:
        if self.folder is not None:
            write_rows(self.folder, rows, file=f"rows-{number:03d}.parquet")


class Lost(Exception):
    """An engine or server that answers no more; what it was to draw goes to the others. str() is the reason."""


def deal(
    shards: Mapping[int, Any],
    lanes: Sequence[tuple[str, Callable[[Any], Any]]],
    done: Callable[[int, Any], None],
) -> None:
    """Every shard is drawn by one lane and handed to `done(number, drawn)`, which is never called twice at a time.

    lanes: (name of the engine or server, its draw function); several lanes may share a name. When a draw raises
    `Lost`, its shard goes back to the others and all lanes of that name end. KitError when shards are left and no
    lane is; any other error ends the dealing as it is. What `done` got before stays done.
    """
    waiting, lost = sorted(shards, reverse=True), {}
    lock, over = threading.Lock(), threading.Event()
    drawing = 0
    changed = threading.Condition(lock)

    def work(name, draw):
        nonlocal drawing
        while not over.is_set():
            with changed:
                # A shard in another's hands may come back when that one is lost.
                while not waiting and drawing and name not in lost and not over.is_set():
                    changed.wait(0.2)
                if not waiting or name in lost or over.is_set():
                    return
                number = waiting.pop()
                drawing += 1
            drawn = None
            try:
                drawn = draw(shards[number])
            except Lost as reason:
                with lock:
                    lost[name] = str(reason)
            except BaseException:
                over.set()
                raise
            finally:
                with changed:
                    drawing -= 1
                    if drawn is None:
                        waiting.append(number)
                        waiting.sort(reverse=True)
                    else:
                        try:
                            done(number, drawn)
                        except BaseException:
                            over.set()
                            raise
                    changed.notify_all()

    pool = ThreadPoolExecutor(max_workers=len(lanes), thread_name_prefix="sampling")
    try:
        running = [pool.submit(work, name, draw) for name, draw in lanes]
        wait(running, return_when=FIRST_EXCEPTION)
        for one in running:
            if one.done():
                one.result()
    finally:
        over.set()
        pool.shutdown(wait=False, cancel_futures=True)
    if waiting:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in lost.items())
        raise KitError(
            f"sampling stopped with {len(waiting)} of {len(shards)} shards left, as nobody is left to draw them "
            f"({reasons}); finished shards are kept, so start it again when that is mended"
        )
