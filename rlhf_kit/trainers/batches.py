"""Which rows make which batch: batches of like length, the same ones for one process and for many."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import torch

from rlhf_kit.errors import KitError


def world_size() -> int:
    """Processes that train together (1 outside `rlhf_kit.processes.launch`).

    KitError where a scheduler has left WORLD_SIZE in the environment of a process that `rlhf_kit.processes.launch` did not start: the
    libraries would wait for others that never come.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and "MASTER_ADDR" not in os.environ:
        raise KitError(
            f"WORLD_SIZE is {world} in the environment, but no other process was started; unset it, or train with "
            "launch.processes"
        )
    return world


class LengthBatches(torch.utils.data.Sampler):
    """A new order of the rows each epoch, in which a batch holds rows of like length, and batches come in random order.

    Rows are shuffled, cut into pools of a few batches, and sorted inside a pool only: little padding, yet each batch
    is still a random draw. The order depends on seed and epoch alone, so a resumed run sees the same batches.
    """

    POOL = 8  # batches sorted together

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int):
        self.lengths, self.batch_size, self.seed, self.epoch = list(lengths), batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        size = self.batch_size
        full = len(order) // size * size
        made = []
        for start in range(0, full, size * self.POOL):
            pool = sorted(order[start : min(start + size * self.POOL, full)], key=lambda i: self.lengths[i])
            made += [pool[i : i + size] for i in range(0, len(pool), size)]
        for place in torch.randperm(len(made), generator=generator).tolist():
            yield from made[place]
        yield from order[full:]  # the one batch that is not full comes last


class SharedBatches(torch.utils.data.Sampler):
    """The global batches of `LengthBatches` as micro batches in the order in which accelerate deals them out.

    Micro batch k goes to process k modulo `world`, so that each optimizer step sees the very rows that one process would
    see. accelerate would fill the last, short batch up with rows of the first one, which are then trained twice without
    a word. Here its rows are shared out evenly instead; the fewer than `world` rows that are over sit out this epoch
    (other ones each epoch, `left_over` says how many). It must not have an attribute `batch_size`: without one,
    accelerate takes batches as they come.
    """

    def __init__(self, rows: LengthBatches, micro: int, world: int):
        if rows.batch_size % (micro * world):
            raise KitError(
                f"batch_size {rows.batch_size} is not a multiple of micro_batch_size {micro} x {world} processes"
            )
        self.rows, self.micro, self.world = rows, micro, world
        self.full = len(rows) // rows.batch_size * rows.batch_size
        self.each, self.left_over = divmod(len(rows) - self.full, world)
        if not self.full and not self.each:
            raise KitError(f"{len(rows)} rows cannot be shared by {world} processes; lower launch.processes")

    def set_epoch(self, epoch: int) -> None:
        self.rows.set_epoch(epoch)

    def __len__(self) -> int:
        return self.full // self.micro + -(-self.each // self.micro) * self.world

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self.rows)
        for start in range(0, self.full, self.micro):
            yield order[start : start + self.micro]
        rest = order[self.full :]
        for start in range(0, self.each, self.micro):
            for rank in range(self.world):
                yield rest[rank * self.each + start : rank * self.each + min(start + self.micro, self.each)]
