"""The recorded comparison over seeds, for views that set one run beside many."""

from __future__ import annotations

from typing import Any


def recorded_seeds(experiment: str = "online_vs_offline") -> dict[str, Any] | None:
    """data/expected/<experiment>.json, or None: without the file, and where it belongs to other settings or another world."""
    from rlhf_kit.profiles import load_profile
    from rlhf_kit.running.sweep import result_key
    from rlhf_kit.runs import PROJECT, read_json

    path = PROJECT / "data" / "expected" / f"{experiment}.json"
    found = read_json(path) if path.is_file() else None
    return found if found and found["key"] == result_key(experiment, load_profile("laptop")) else None
