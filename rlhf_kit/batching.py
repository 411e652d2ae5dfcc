"""Padding token sequences into batches, shared by sampling and scoring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def pad(sequences: Sequence[Sequence[int]], pad_id: int, side: str, device="cpu"):
    """(ids, mask), both int64 (N, longest), padded on "left" or "right"; mask is 1 on real tokens."""
    import torch

    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), pad_id, dtype=torch.long)
    mask = torch.zeros(len(sequences), width, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        where = slice(width - len(sequence), width) if side == "left" else slice(0, len(sequence))
        ids[row, where] = torch.tensor(sequence, dtype=torch.long)
        mask[row, where] = 1
    return ids.to(device), mask.to(device)


def by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Row indices in batches of like length, the longest first (lack of memory shows at once)."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for start in range(0, len(order), batch_size):
        yield order[start:start + batch_size]
