"""The recorded comparison over seeds, for views that set one run beside many."""

from __future__ import annotations

from typing import Any


def recorded_seeds(experiment: str = "online_vs_offline") -> dict[str, Any] | None:
    """data/expected/<experiment>.json, or None: without the file, and where it belongs to other settings or another world.

    same_code is added: whether the kit's code that decides such numbers is the one that made them.
    """
    from rlhf_kit.profiles import load_profile
    from rlhf_kit.running.sweep import code_key, result_key
    from rlhf_kit.runs import PROJECT, read_json

    path = PROJECT / "data" / "expected" / f"{experiment}.json"
    found = read_json(path) if path.is_file() else None
    if not found or found["key"] != result_key(experiment, load_profile("laptop")):
        return None
    return {**found, "same_code": found.get("code") == code_key()}
