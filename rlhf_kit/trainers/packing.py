"""Packing: several conversations in one sequence, without one seeing another (paper appendix B.3: blocks of 8192).

TRL packs by best fit and sends the positions, which begin at 0 in each conversation, and no attention mask. FlashAttention
keeps conversations apart by them; so do transformers' own masks for "sdpa" and "eager". Whether the model at hand
really does is measured before training, not believed: `check_packing`.
"""

from __future__ import annotations

from typing import Any

import torch

from rlhf_kit.errors import KitError


def packed(data: Any, limit: int) -> tuple[Any, dict]:
    """(rows {input_ids, labels, seq_lengths} of at most `limit` tokens, facts). No row is cut: all fit into `limit`."""
    from trl import pack_dataset

    from rlhf_kit.models import quiet_transformers

    tokens = sum(map(len, data["input_ids"]))
    with quiet_transformers():
        made = pack_dataset(data, limit, "bfd")
    if sum(map(len, made["input_ids"])) != tokens or sum(map(len, made["seq_lengths"])) != len(data):
        raise KitError(f"packing {len(data)} rows to {limit} tokens lost some of them; set packing to false")
    return made, {"rows": len(data), "sequences": len(made), "filled": round(tokens / (len(made) * limit), 4)}


def check_packing(model, tokenizer, data: Any) -> float:
    """Largest difference of a token's log-probability (nats) between packed and alone; KitError if it is a leak.

    Looks at the three shortest rows of the first packed sequences, packed with each other.
    """
    parts = sorted(_parts(data.select(range(min(50, len(data))))), key=len)[:3]
    if len(parts) < 2:
        return 0.0
    device, was_training, worst, start = next(model.parameters()).device, model.training, 0.0, 0
    ids = torch.tensor([[i for part in parts for i in part]], device=device)
    positions = torch.cat([torch.arange(len(part), device=device) for part in parts])[None]
    model.eval()
    with torch.inference_mode():
        together = model(input_ids=ids, position_ids=positions, use_cache=False).logits.float()[0].log_softmax(-1)
        for part in parts:
            own = ids[:, start : start + len(part)]
            alone = model(input_ids=own, use_cache=False).logits.float()[0].log_softmax(-1)
            taken = [x[:-1].gather(1, own[0, 1:, None]) for x in (alone, together[start : start + len(part)])]
            worst = max(worst, float((taken[0] - taken[1]).abs().max()))
            start += len(part)
    model.train(was_training)
    half = next(model.parameters()).dtype != torch.float32
    if not worst <= (0.5 if half else 1e-3):
        raise KitError(
            f"packed conversations see each other in this model (a token's log-probability moves by {worst:.3g} nats; "
            "its attention does not follow the positions); set packing to false"
        )
    return worst


def _parts(data: Any) -> list[list[int]]:
    """The rows in packed sequences, one by one (those of two tokens or more)."""
    made = []
    for row in data:
        start = 0
        for length in row["seq_lengths"]:
            made.append(row["input_ids"][start : start + length])
            start += length
    return [part for part in made if len(part) > 1]
