"""Final hidden states of candidates on fixed text, where first layers that candidates share are computed once.

The layers of a candidate are a path in a trie: two candidates that agree in their first k layers have the same residual
stream after layer k. The streams after every layer are kept, least recently used first out, and a forward pass starts
behind the longest prefix that is known. Offspring of a parent, and designs that differ from the dense model in one
block, thus pay for their own layers alone. The operations of the others are those of a whole forward pass, in the same
order, so that results are equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cachetools import LRUCache
from torch import Tensor, nn

from space.candidate import Candidate, LayerShape
from space.models.stack import layers_of, midway, stack_of, stream_of, whole
from space.supernet.supernet import Supernet

_Place = tuple[int, float, int]  # number of the batch, which of the supernet's weights, and the embedding's type
_Key = tuple[_Place, tuple[LayerShape, ...]]  # also the layers before the residual stream


class PrefixForward:
    """Runs candidates on fixed windows of text, and remembers their residual streams.

    Attributes:
        layers_run: Layers that were run so far, summed over batches of windows; those that are gone count too.
        layers_total: Layers that there would have been to run without a memory.
    """

    def __init__(self, supernet: Supernet, tokens: Tensor, *, batch_size: int, cache_bytes: int = 1 << 30) -> None:
        """Runs nothing yet.

        Args:
            supernet: The model.
            tokens: Token ids, shape (windows, length).
            batch_size: Windows of a forward pass.
            cache_bytes: Memory for residual streams; 0 remembers none.
        """
        self._supernet = supernet
        self.batches: tuple[Tensor, ...] = tokens.to(supernet.place.device).split(batch_size)
        self._streams: LRUCache[_Key, Tensor] = LRUCache(cache_bytes, getsizeof=lambda stream: stream.nbytes)
        self.layers_run = self.layers_total = 0

    def __call__(self, candidate: Candidate) -> Iterator[Tensor]:
        """Normed hidden states before the LM head, of one batch of windows after the other: (batch, time, hidden).

        Raises:
            ValueError: The candidate does not fit the model.
        """
        layers = candidate.layers
        strength = self._supernet.strength(candidate)
        for number, tokens in enumerate(self.batches):
            place = number, strength, candidate.embedding_type
            start, stream = self._start(place, layers)
            view = self._supernet.view(candidate, start=start)
            inputs = whole(view, tokens) if stream is None else midway(view, stream)
            self._remember(view, place, layers, start)
            hidden = stack_of(view)(**inputs, use_cache=False).last_hidden_state
            self.layers_run += len(layers) - start
            self.layers_total += len(layers)
            yield hidden

    def ahead(self, candidates: Sequence[Candidate]) -> None:
        """Takes note of nothing: each candidate goes on from what those before it have left."""

    def forget(self) -> None:
        """Gives the memory of residual streams back."""
        self._streams.clear()

    def _start(self, place: _Place, layers: tuple[LayerShape, ...]) -> tuple[int, Tensor | None]:
        """The layer to start from, and the residual stream before it: None for the embeddings."""
        last = max((index for index, shape in enumerate(layers) if shape.kv_heads), default=0)
        for start in range(last, 0, -1):  # what is run must have some attention
            stream = self._streams.get((place, layers[:start]))
            if stream is not None:
                return start, stream
        return 0, None

    def _remember(self, view: Any, place: _Place, layers: tuple[LayerShape, ...], start: int) -> None:
        """Has the residual stream kept after each layer from `start` on but the last, after which nothing is shared."""
        kept = (index for index in range(start, len(layers)) if not layers[index].gone)
        for index, layer in zip(kept, layers_of(view), strict=True):
            if index < len(layers) - 1:
                layer.register_forward_hook(self._keep((place, layers[: index + 1])))

    def _keep(self, key: _Key) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            stream = stream_of(output)
            if stream.nbytes <= self._streams.maxsize:
                self._streams[key] = stream

        return hook
