"""Figures as files of a run."""

from __future__ import annotations

import os
from pathlib import Path

from matplotlib.figure import Figure

from rlhf_kit.runs import Run


def save_figure(fig: Figure, run: Run, name: str) -> Path:
    """Writes runs/<run>/figures/<name>.png (never half-written) and returns its path."""
    folder = run.path / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    partial = folder / f".{name}.partial.png"
    fig.savefig(partial, dpi=120, metadata={"Software": None})
    os.replace(partial, path)
    return path
