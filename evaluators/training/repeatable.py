"""The same training, the same weights: on CUDA that has to be asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Has CUDA take algorithms that give the same sums each time; elsewhere they do anyway.

    Backward passes of attention and of products would else add up in the order in which the GPU gets to it, and a run
    that was killed would go on to other weights. An operation without such an algorithm warns, and runs all the same.
    cuBLAS keeps its order only with `CUBLAS_WORKSPACE_CONFIG`, which commands set before it is first used.

    Args:
        device: Where training runs.
    """
    if device.type != "cuda":
        yield
        return
    mode, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode, warn_only=warns)
