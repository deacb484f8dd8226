"""Where the weights of a model are that may be larger than the device that runs it.

A model that fits is all on the device. Of a larger one the decoder layers, and embeddings that are not the output
matrix too, stay on the host and pass the device one layer at a time: `Passing` brings the dense weights of the layer at
work there once, and everything narrower is a view of that copy, but for its refit output projection.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from space.supernet.modules import own_modules, put_parameter


@dataclass(frozen=True)
class Placement:
    """Where a model runs, and where its decoder layers wait.

    Attributes:
        device: Where it runs.
        streamed: Whether its layers stay on the host.
    """

    device: torch.device
    streamed: bool = False

    @property
    def home(self) -> torch.device:
        """Where layers are, and residual streams that wait for them."""
        return torch.device("cpu") if self.streamed else self.device


class Passing:
    """The layer at work, on the device; safe between threads.

    Attributes:
        device: Which.
    """

    def __init__(self, device: torch.device) -> None:
        """Copies nothing yet."""
        self.device = device
        self._index: int | None = None
        self._copies: dict[int, Tensor] = {}  # of dense weights, by where these begin on the host
        self._lock = Lock()

    def layer(self, index: int, layer: Any, dense: Any) -> Any:
        """A decoder layer whose modules are its own and whose tensors are on the device.

        The dense weights stay there until another layer is asked for, and as long as a layer made of them is in use.

        Args:
            index: Which it is.
            layer: It, on the host.
            dense: The dense layer, of whose weights it has views.
        """
        own = own_modules(layer)
        with self._lock:
            if index != self._index:
                self._index, self._copies = index, {}
            for module in own.modules():
                for name, tensor in module._parameters.items():
                    if tensor is not None:
                        put_parameter(module, name, self._placed(tensor.detach(), dense))
                moved = {name: tensor.to(self.device) for name, tensor in module._buffers.items() if tensor is not None}
                module._buffers.update(moved)
        return own

    def _placed(self, tensor: Tensor, dense: Any) -> Tensor:
        for whole in dense.parameters():
            start = tensor.data_ptr() - whole.data_ptr()
            if 0 <= start < whole.nbytes:
                copy = self._copies.get(whole.data_ptr())
                if copy is None:
                    copy = self._copies[whole.data_ptr()] = whole.detach().to(self.device, copy=True)
                return copy.as_strided(tensor.shape, tensor.stride(), start // whole.itemsize)
        return tensor.to(self.device, copy=True)


def asked_of(layer: Any) -> dict[str, Any]:
    """What some stacks ask a layer for, which what stands for it has too."""
    return {name: getattr(layer, name) for name in ("attention_type",) if hasattr(layer, name)}


class PassingLayer(nn.Module):
    """Stands in a model for a decoder layer that is brought to the device whenever it runs.

    A deep copy of it is a copy of the layer, on the host.
    """

    def __init__(self, layer: Callable[[], Any], passed: Callable[[Any], Any], dense: Any) -> None:
        """Asks for the layer at each call, and keeps none.

        Args:
            layer: Gives the layer on the host.
            passed: From there to the device.
            dense: The dense layer, see `asked_of`.
        """
        super().__init__()
        vars(self).update(asked_of(dense))
        self._layer, self._passed = layer, passed

    def forward(self, *args: Any, **arguments: Any) -> Any:
        """The layer's own."""
        return self._passed(self._layer())(*args, **arguments)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self._layer(), memo)


class HomeEmbedding(nn.Module):
    """Embeddings that stay on the host; hands what is looked up to the device. A deep copy of it is one of them."""

    def __init__(self, embedding: nn.Module, device: torch.device) -> None:
        """Copies nothing."""
        super().__init__()
        self._held = (embedding,)  # no parameter of the model, whose device is that of its first one
        self._device = device

    def forward(self, tokens: Tensor) -> Tensor:
        """Embeddings of token ids on any device, (windows, time, hidden)."""
        (embedding,) = self._held
        looked_up: Tensor = embedding(tokens.to(next(embedding.parameters()).device))
        return looked_up.to(self._device)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        (embedding,) = self._held
        return copy.deepcopy(embedding, memo)
