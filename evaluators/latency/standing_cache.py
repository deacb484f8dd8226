"""A key-value cache whose tokens stay: each forward pass is the very same step, in memory that does not move."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

from evaluators.latency.workload import Phase
from space.candidate import Candidate
from space.spec import ModelSpec

Place = Callable[[int, tuple[int, ...]], Tensor]  # memory of a shape, by the number of the tensor
_ALIGNED = 256  # elements: what kernels of attention ask of an address, and more


class StandingLayer(CacheLayerMixin):
    """Keys and values of one layer: a pass writes its tokens in place behind the same context every time.

    That is what an engine does at one token: no copy of what is there already, and no attention to places that are
    still empty.
    """

    def __init__(self, keys: Tensor, values: Tensor, context: int, *, sliding: bool) -> None:
        """Takes memory of shape (batch, groups, tokens, width), the tokens of a pass among them.

        Args:
            keys: Of the tokens that a pass attends to.
            values: The same.
            context: How many tokens came before the pass.
            sliding: Whether the layer attends to a window of tokens, of which the memory holds the last.
        """
        super().__init__()
        self.keys, self.values = keys, values
        self.is_initialized = True
        self.is_sliding = sliding
        self._context = context

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Has its memory already."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes the tokens of a pass, and gives all that it attends to."""
        assert self.keys is not None
        assert self.values is not None
        new = key_states.shape[-2]
        self.keys[:, :, -new:].copy_(key_states)
        self.values[:, :, -new:].copy_(value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many tokens a pass attends to, and the position of the first."""
        assert self.keys is not None
        length = self.keys.shape[-2]
        return length, self._context + query_length - length

    def get_seq_length(self) -> int:
        """How many tokens came before."""
        return self._context

    def get_max_length(self) -> int:
        """How many it holds."""
        assert self.keys is not None
        return int(self.keys.shape[-2])


class CacheMemory:
    """Memory for the cache of one design at a time, as large as the dense model's; filled with made-up numbers."""

    def __init__(self, spec: ModelSpec, phase: Phase, dtype: torch.dtype, device: torch.device) -> None:
        """Takes it."""
        tokens = sum(_tokens(phase))
        largest = phase.batch_size * spec.cached_heads(spec.query_heads, spec.kv_heads) * tokens * spec.head_dim
        size = (2 * spec.layers, -(-largest // _ALIGNED) * _ALIGNED)
        self._memory = made_up(size, dtype, device)

    def place(self, index: int, shape: tuple[int, ...]) -> Tensor:
        """A part of it, which the same part of another design's cache lies in too."""
        return self._memory[index, : prod(shape)].view(shape)


def made_up(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Normally distributed numbers, the same ones for the same shape."""
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=dtype, device=device)


def standing_cache(config: Any, spec: ModelSpec, candidate: Candidate, phase: Phase, place: Place) -> Cache:
    """The cache of a candidate's model in a phase.

    Args:
        config: Of the candidate's model.
        spec: The dense model.
        candidate: What the model keeps.
        phase: Which tokens came before, and which come.
        place: Gives memory: by number, the keys of the first layer, its values, the keys of the second, and so on.
    """
    context, new = _tokens(phase)
    windows = [getattr(layer, "sliding_window", None) for layer in DynamicCache(config=config).layers]
    shapes = [shape for shape in candidate.layers if not shape.gone]
    layers = []
    for index, (shape, window) in enumerate(zip(shapes, windows, strict=True)):
        tokens = context + new if window is None or not context else min(context + new, window)
        # where there is no attention, a cache is told of tokens all the same, in one number each
        heads, width = spec.cached_heads(shape.query_heads, shape.kv_heads), spec.head_dim
        size = (phase.batch_size, heads, tokens, width) if heads else (phase.batch_size, 1, tokens, 1)
        keys, values = place(2 * index, size), place(2 * index + 1, size)
        layers.append(StandingLayer(keys, values, context, sliding=window is not None))
    return Cache(layers=layers)


def _tokens(phase: Phase) -> tuple[int, int]:
    """Tokens that came before a pass of a phase, and those that come in it."""
    return (0, phase.tokens) if phase.kind == "prefill" else (phase.tokens, 1)
