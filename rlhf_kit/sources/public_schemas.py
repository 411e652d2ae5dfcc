"""Which of the paper's public data sets a row is of, by its columns."""

from __future__ import annotations

from collections.abc import Mapping

from rlhf_kit.sources.fields import Row

_SCHEMAS = (  # columns that no other layout has all of
    ("shp", {"history", "human_ref_A", "human_ref_B", "labels"}),
    ("helpsteer", {"prompt", "response", "helpfulness", "correctness"}),
    ("pku", {"prompt", "response_0", "response_1", "better_response_id"}),
    ("ultrainteract", {"trajectory", "chosen", "rejected"}),
    ("code_ultrafeedback", {"instruction", "responses", "annotations"}),
    ("argilla_math", {"instruction", "chosen_response", "rejected_response"}),
    ("distilabel_orca", {"input", "chosen", "rejected", "status", "rating"}),
    ("summarize", {"info", "summaries", "choice"}),
)


def sniff(row: Row) -> str | None:
    """The public set whose columns this row has, or None."""
    for name, columns in _SCHEMAS:
        if columns <= row.keys():
            return name
    completions = row.get("completions")
    if row.get("instruction") is not None and isinstance(completions, list | tuple) and completions:
        if isinstance(completions[0], Mapping) and "fine-grained_score" in completions[0]:
            return "ultrafeedback"
    turns = row.get("messages")
    if isinstance(turns, list | tuple) and len(turns) == 2 and isinstance(turns[0], Mapping):
        said = turns[0].get("content")
        if isinstance(said, str) and said.startswith("[CONTEXT] ") and "[RESPONSE B]" in said:
            return "pair_prompt"
    rated = any({f"{a}_{b}" for a, b in names} <= row.keys() for names in (
        (("chosen", "rating"), ("rejected", "rating")), (("rating", "chosen"), ("rating", "rejected"))))  # fmt: skip
    if rated and all(isinstance(row.get(side), list | tuple) for side in ("chosen", "rejected")):
        return "distilabel_capybara"
    return None
