"""Which weights are trained: all where their training fits into memory, else fewer; free of torch."""

from __future__ import annotations

from collections.abc import Callable

from evaluators.base import AUTO
from evaluators.training.recipes import GPU_PART, HOST_BYTES, SHARED_TRAINABLE, Healing, Recovery


def fitting_row(recipe: Healing | Recovery, gpu_bytes: int | None, taken: Callable[[str], int]) -> str:
    """The row of `SHARED_TRAINABLE` that a recipe means: with `auto`, the first that takes at most the limit.

    Args:
        recipe: With a row, and a limit in bytes: None for `HOST_BYTES` on a CPU, and `GPU_PART` of a GPU.
        gpu_bytes: Memory of the GPU where weights are trained; None where that is a CPU.
        taken: Bytes of all weights, and of what training a row takes besides.
    """
    if recipe.trainable != AUTO:
        return recipe.trainable
    limit = recipe.memory_bytes or (HOST_BYTES if gpu_bytes is None else int(GPU_PART * gpu_bytes))
    *rows, last = SHARED_TRAINABLE
    return next((row for row in rows if taken(row) <= limit), last)
