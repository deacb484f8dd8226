"""Sequences of one model that are written together: one key-value cache, which they join and leave between two steps.

Shorter sequences have empty places on the left, which the attention mask leaves out, and each token keeps the position
that it has in its own sequence. So layers of any number of key-value heads, of sliding windows, and holes where there
is no attention are all cut and filled alike: the end of every sequence is the end of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from serving.switching import Sources


class Prefill:
    """One sequence whose prompt is being read, some tokens at a time; without others, so that none changes it."""

    def __init__(self, model: Any, prompt: Sequence[int]) -> None:
        """Has read nothing yet.

        Args:
            model: A causal language model.
            prompt: Token ids, at least one.
        """
        self._model, self._prompt = model, prompt
        self.cache = DynamicCache(config=model.config)
        self.read = 0

    @property
    def left(self) -> int:
        """Tokens that are not read yet."""
        return len(self._prompt) - self.read

    def step(self, most: int) -> Tensor:
        """Reads so many tokens at most; logits of the last one, shape (vocab,)."""
        tokens = self._prompt[self.read : self.read + most]
        device = self._model.device
        positions = torch.arange(self.read, self.read + len(tokens), device=device)[None]
        logits = _logits(self._model, torch.tensor([tokens], device=device), None, positions, self.cache)[0]
        self.read += len(tokens)
        return logits


class Batch:
    """The sequences of one model that are being written."""

    def __init__(self, model: Any) -> None:
        """Has none yet."""
        self._model = model
        self._cache: Any = None
        self._lengths: list[int] = []  # tokens of each sequence in the cache

    def __len__(self) -> int:
        return len(self._lengths)

    def join(self, prefill: Prefill) -> None:
        """Takes in a sequence whose prompt is read, as the last one."""
        assert not prefill.left
        self._join(prefill.cache, [prefill.read])

    def hand_over(self, which: Sequence[int], to: Batch, sources: Sources) -> None:
        """Has another model go on with sequences, by their places, as the last ones of its batch.

        Args:
            which: In rising order, one or more.
            to: The other batch.
            sources: Where each of its layers finds its keys and values here.
        """
        cache, longest = DynamicCache(config=to._model.config), max(self._lengths)
        index = torch.tensor(which, device=self._model.device)
        for layer, source in zip(cache.layers, sources, strict=True):
            if source is None:  # a hole has places without anything in them
                places = min(longest, layer.sliding_window - 1) if layer.is_sliding else longest
                keys = torch.zeros(len(which), 1, places, 1, dtype=self._model.dtype, device=self._model.device)
                values = keys.clone()
            else:
                place, heads = source
                here = self._cache.layers[place]
                keys, values = here.keys[index, :heads], here.values[index, :heads]  # copies
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
            _resize(layer, longest)
        to._join(cache, [self._lengths[place] for place in which])
        self.keep([place for place in range(len(self)) if place not in {*which}])

    def _join(self, cache: Any, lengths: Sequence[int]) -> None:
        longest = max([*self._lengths, *lengths])
        for layer in cache.layers:
            _resize(layer, longest)
        if self._cache is None:
            self._cache = cache
        else:
            for layer, other in zip(self._cache.layers, cache.layers, strict=True):
                _resize(layer, longest)
                layer.keys = torch.cat([layer.keys, other.keys])
                layer.values = torch.cat([layer.values, other.values])
        self._lengths += lengths

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Reads one more token of each sequence; logits of what follows, shape (sequences, vocab).

        Args:
            tokens: In the order in which the sequences joined.
        """
        device = self._model.device
        lengths = torch.tensor(self._lengths, device=device)
        places = max(self._lengths) + 1
        mask = torch.arange(places, device=device) >= places - 1 - lengths[:, None]  # (sequences, places)
        ids = torch.tensor(tokens, device=device)[:, None]
        logits = _logits(self._model, ids, mask.long(), lengths[:, None], self._cache)
        self._lengths = [length + 1 for length in self._lengths]
        return logits

    def keep(self, which: Sequence[int]) -> None:
        """Leaves out all sequences but these, by their places, in rising order; one that is named twice is doubled."""
        if [*which] == [*range(len(self._lengths))]:
            return
        self._lengths = [self._lengths[index] for index in which]
        if not which:
            self._cache = None
            return
        index = torch.tensor(which, device=self._model.device)
        for layer in self._cache.layers:
            layer.batch_select_indices(index)
            _resize(layer, max(self._lengths))


def _resize(layer: Any, length: int) -> None:
    """Cuts or fills a layer of a cache on the left, in place, as if its longest sequence had so many tokens.

    Args:
        layer: Of the cache: keys and values of shape (sequences, heads, places, width).
        length: Tokens; a sliding window keeps one less than it spans, at most.
    """
    places = length
    if layer.is_sliding:
        places, layer.cumulative_length = min(length, layer.sliding_window - 1), length
    more = places - layer.keys.shape[-2]
    if more:  # less than none cuts
        layer.keys = functional.pad(layer.keys, (0, 0, more, 0))
        layer.values = functional.pad(layer.values, (0, 0, more, 0))


def _logits(model: Any, ids: Tensor, mask: Tensor | None, positions: Tensor, cache: Any) -> Tensor:
    """Logits of the last position, shape (sequences, vocab), in float32, on the CPU."""
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return out.logits[:, -1].float().cpu()
