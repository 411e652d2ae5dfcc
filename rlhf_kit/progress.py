"""One progress display: a rewritten line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import TextIO


def clock(seconds: float | None) -> str:
    """75 -> "1:15", 3700 -> "1:01:40", None -> "?"."""
    if seconds is None:
        return "?"
    whole = int(round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


class Events:
    """Reads what stages append to events.jsonl after this object was made."""

    def __init__(self, path: Path):
        self.path, self.place = path, path.stat().st_size if path.exists() else 0

    def new(self) -> list[dict]:
        if not self.path.exists():
            return []
        with open(self.path, "rb") as handle:
            handle.seek(self.place)
            text = handle.read()
        whole = text[: text.rfind(b"\n") + 1]
        self.place += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


class Display:
    """Which notebook and stage, elapsed and expected seconds; `expected` maps notebook names to seconds."""

    def __init__(self, names: list[str], expected: dict[str, float], stream: TextIO | None = None):
        self.names, self.expected = names, expected
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self.began = self.started = time.monotonic()
        self.name = self.stage = ""
        self.drawn = 0

    def _erase(self) -> None:
        if self.live and self.drawn:
            self.stream.write("\r" + " " * self.drawn + "\r")
            self.drawn = 0

    def line(self, text: str) -> None:
        """A line that stays."""
        self._erase()
        self.stream.write(text + "\n")
        self.stream.flush()

    def _head(self) -> str:
        return f"[{self.names.index(self.name) + 1}/{len(self.names)}] {self.name}"

    def start(self, name: str) -> None:
        self.name, self.stage, self.started = name, "", time.monotonic()
        if not self.live:
            about = self.expected.get(name)
            self.line(f"{self._head()}: running" + (f", about {clock(about)}" if about else ""))

    def events(self, events: list[dict]) -> None:
        """Shows stage events; `found` ones only while they last."""
        for event in events:
            if event["event"] == "started":
                self.stage = event["stage"]
            elif event["event"] == "made":
                self.line(f"        {event['stage']}: made in {clock(event['seconds'])}")
                for ledger in event.get("lost", ()):  # what was dropped is told, not only stored
                    self.line(f"            {ledger}")
                self.stage = ""

    def tick(self) -> None:
        if not self.live:
            return
        text = f"{self._head()}  {self.stage or '...'}  {clock(time.monotonic() - self.started)}"
        if self.name in self.expected:
            text += f" of about {clock(self.expected[self.name])}"
        text += f"   total {clock(time.monotonic() - self.began)}"
        if all(n in self.expected for n in self.names):
            text += f" of about {clock(sum(self.expected[n] for n in self.names))}"
        text = text[: shutil.get_terminal_size().columns - 1]
        self._erase()
        self.stream.write(text)
        self.stream.flush()
        self.drawn = len(text)

    def done(self, what: str) -> None:
        self.line(f"{self._head()}: {what}")
