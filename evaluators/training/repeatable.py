"""The same training, the same weights: on CUDA that has to be asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before cuBLAS is first used, which reads it then


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Has CUDA take algorithms that give the same sums each time; elsewhere they do anyway.

    Backward passes of attention and of products would else add up in the order in which the GPU gets to it, and a run
    that was killed would go on to other weights. It has to be asked for strictly: where torch would only warn, fused
    attention keeps its faster algorithms.

    Args:
        device: Where training runs.

    Raises:
        RuntimeError: Inside, of torch: an operation has no such algorithm.
    """
    if device.type != "cuda":
        yield
        return
    mode, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic  # whose module has properties that no type knows
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # which nothing here reads, and which takes launches
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode, warn_only=warns)
        memory.fill_uninitialized_memory = filled
