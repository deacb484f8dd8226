"""The residual streams between a model's layers, kept as they pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from space.models.stack import layers_of, stream_of


@contextmanager
def recorded_streams(model: Any, places: Mapping[int, int]) -> Iterator[dict[int, Tensor]]:
    """Keeps some residual streams of each forward pass, `(windows · length, hidden)`, by the names in `places`.

    Args:
        model: A model, or its stack, whose layers are its own to hook.
        places: Name of a stream to the layer of the model behind which it is; -1 is before the first layer.
    """
    streams: dict[int, Tensor] = {}

    def keep(name: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            streams[name] = stream_of(output).flatten(0, 1)

        return hook

    def keep_input(name: int) -> Any:
        def hook(module: nn.Module, inputs: Any, named: Any) -> None:
            streams[name] = (inputs[0] if inputs else named["hidden_states"]).flatten(0, 1)

        return hook

    layers = layers_of(model)
    handles = [
        layers[place].register_forward_hook(keep(name))
        if place >= 0
        else layers[0].register_forward_pre_hook(keep_input(name), with_kwargs=True)
        for name, place in places.items()
    ]
    try:
        yield streams
    finally:
        for handle in handles:
            handle.remove()
