"""Which weights are trained: all where their training fits into memory, else fewer."""

from __future__ import annotations

from collections.abc import Callable

import torch

from evaluators.base import AUTO
from evaluators.training.recipes import HOST_BYTES, SHARED_TRAINABLE

GPU_PART = 0.7  # of its memory


def fitting_row(
    row: str, limit: int | None, device: torch.device, taken: Callable[[Callable[[str], bool]], int]
) -> str:
    """The row of `SHARED_TRAINABLE` that a setting means.

    Args:
        row: It, or `auto` for the first one that takes at most the limit, else the last.
        limit: Bytes; None for `HOST_BYTES` on a CPU, and `GPU_PART` of the memory of a GPU.
        device: Where the memory is.
        taken: Bytes of all weights, and of what training takes besides, where a name tells whether a weight is trained.
    """
    if row != AUTO:
        return row
    if limit is None:
        gpu = device.type == "cuda"
        limit = int(GPU_PART * torch.cuda.get_device_properties(device).total_memory) if gpu else HOST_BYTES
    *rows, last = SHARED_TRAINABLE
    return next((row for row in rows if taken(SHARED_TRAINABLE[row]) <= limit), last)
