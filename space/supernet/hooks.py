"""What modules read and give in a forward pass, by hooks that go when it has ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class InputGram:
    """Accumulates XᵀX of a module's input in float32 while its hook is on.

    Attributes:
        total: So far, shape (columns, columns).
    """

    def __init__(self, projection: nn.Module, columns: int, device: torch.device) -> None:
        """Begins with a module that reads so many columns."""
        self.total = torch.zeros(columns, columns, device=device)
        self._handle = projection.register_forward_pre_hook(self._add)

    def _add(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = inputs[0].detach().flatten(0, -2).float()  # (batch · time, columns)
        self.total.addmm_(rows.T, rows)

    def close(self) -> None:
        """Ends."""
        self._handle.remove()


class _Captured(Exception):  # noqa: N818 - control flow of one forward pass, never seen outside
    """Stops the forward pass once what is wanted of a layer is known."""


@contextmanager
def captured(block: nn.Module, last: str, names: Sequence[str] = ()) -> Iterator[dict[str, Tensor]]:
    """What a block's projections give, by name, and what the last one is given, in a forward pass, which ends there.

    Args:
        block: Whose modules are its own to hook.
        last: Path of the projection where it ends.
        names: Paths of those before it.
    """
    tensors: dict[str, Tensor] = {}

    def record(name: str) -> Any:
        return lambda module, inputs, output: tensors.update({name: output})

    def stop(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        tensors[last] = inputs[0]
        raise _Captured

    handles = [block.get_submodule(name).register_forward_hook(record(name)) for name in names]
    handles.append(block.get_submodule(last).register_forward_pre_hook(stop))
    try:
        yield tensors
    except _Captured:
        pass
    finally:
        for handle in handles:
            handle.remove()
