"""The most bytes that tensors take at once while something runs: by CUDA's allocator, or counted by operation."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(model: nn.Module, run: Callable[[], object]) -> int:
    """What `run` takes at its most, besides what was there before.

    On CUDA that is what the allocator says, with the operations' own scratch memory; elsewhere it is what the
    operations return, KV cache, activations and logits, while anybody holds on to it.

    Args:
        model: Whose device is meant, and whose parameters and buffers do not count.
        run: What runs.
    """
    device = next(model.parameters()).device
    if device.type == "cuda":
        run()  # libraries take memory of their own in the first call
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with _Counter([*model.parameters(), *model.buffers()]) as counter:
        run()
    return counter.most


class _Counter(TorchDispatchMode):
    """Counts the bytes of all storages that operations return, until they are freed."""

    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()
        self._live: dict[int, int] = {}
        self._owned = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        self._now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        at = storage.data_ptr()
        if at == 0 or at in self._owned or at in self._live:
            return
        self._live[at] = storage.nbytes()
        self._now += storage.nbytes()
        self.most = max(self.most, self._now)
        weakref.finalize(storage, self._freed, at)

    def _freed(self, at: int) -> None:
        self._now -= self._live.pop(at, 0)
