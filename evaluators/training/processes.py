"""Which of several processes this one is, where torchrun or `accelerate launch` started one for each GPU."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Processes:
    """The processes of one job.

    Attributes:
        rank: Number of this process; the first one, 0, is the one that tells and writes.
        local_rank: The same among those of this machine: the number of its GPU.
        count: How many there are.
    """

    rank: int
    local_rank: int
    count: int

    @classmethod
    def here(cls) -> Processes:
        """As the launcher has put it into the environment; without one, the only process."""
        rank, local_rank, count = (int(os.environ.get(name, 0)) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
        return cls(rank, local_rank, max(count, 1))

    @property
    def first(self) -> bool:
        """Whether this process is the one that tells and writes."""
        return self.rank == 0

    def take_gpu(self) -> None:
        """Makes this process's own GPU what `cuda` means to it."""
        if self.count > 1 and torch.cuda.is_available():
            torch.cuda.set_device(self.local_rank)
