"""Training in several processes, as `torchrun` starts them. One process is a world of its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """Which process this is, of how many."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether it is the one that writes and speaks."""
        return self.rank == 0

    def shard(self, count: int) -> slice:
        """This process's part of `count` rows for each."""
        return slice(self.rank * count, (self.rank + 1) * count)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def mean(self, value: Tensor) -> float:
        """The mean of a scalar over all processes."""
        if self.size > 1:
            value = value.detach().clone().float()
            dist.all_reduce(value)
            value /= self.size
        return float(value)


@contextlib.contextmanager
def joined() -> Iterator[World]:
    """The world that `torchrun` made (RANK, WORLD_SIZE), over gloo."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
        return
    dist.init_process_group("gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
