"""The embedding and the LM head of a model in types of fewer bits; the very same in all of its subnets.

The head is rounded with the Gram matrix of what it reads, where the supernet was prepared for types, as are blocks
(`space.supernet.rounded_blocks`). An embedding reads tokens, one row each: nothing beats the nearest values of each.
One matrix that is both is rounded as an embedding.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import torch
from torch import Tensor

from space.candidate import EMBEDDING, HEAD
from space.rounding.gram_rounding import gram_rounded
from space.rounding.rounded import GGML, Rounded
from space.supernet.grams import read_gram
from space.supernet.rounded_blocks import nearest
from space.supernet.store import StoredLayers
from space.types import GGUF_TYPES


class RoundedOuter:
    """Makes them when they are first asked for, and keeps them; safe between threads."""

    def __init__(self, model: Any, files: StoredLayers, device: torch.device) -> None:
        """Makes nothing yet.

        Args:
            model: The dense model.
            files: What is stored of its supernet.
            device: Where codes are made.
        """
        self._model, self._tied = model, files.spec.tied_embeddings
        self._files, self._device = files, device
        self._codes: dict[tuple[str, int], Rounded] = {}
        self._weights: dict[tuple[str, int], Tensor] = {}
        self._lock = Lock()

    def codes(self, kind: str, number: int) -> Rounded:
        """The codes of a matrix in a type.

        Args:
            kind: `space.candidate.EMBEDDING` or `HEAD`.
            number: A row of `space.types.GGUF_TYPES` but the first.
        """
        with self._lock:
            if (kind, number) not in self._codes:
                with torch.inference_mode(False), torch.no_grad():  # whoever asks first, for whatever use
                    self._codes[kind, number] = self._rounded(kind, GGML[GGUF_TYPES[number]])
            return self._codes[kind, number]

    def weight(self, kind: str, number: int) -> Tensor:
        """What these stand for, in the model's dtype, where the matrix is; for the first type, the matrix itself."""
        if not number:
            return self._own(kind)
        codes = self.codes(kind, number)
        with self._lock:
            if (kind, number) not in self._weights:
                self._weights[kind, number] = codes.values.to(self._own(kind))
            return self._weights[kind, number]

    def logits(self, number: int) -> Tensor:
        """The weight, in a type, of the matrix that gives the logits."""
        return self.weight(EMBEDDING if self._tied else HEAD, number)

    def _rounded(self, kind: str, ggml: Any) -> Rounded:
        gram = read_gram(self._files, HEAD, self._device) if kind == HEAD else None
        if gram is None:
            return nearest(self._own(kind), ggml)
        return gram_rounded(self._own(kind).to(self._device, torch.float32), gram, ggml)

    def _own(self, kind: str) -> Tensor:
        model = self._model
        module = model.get_input_embeddings() if kind == EMBEDDING else model.get_output_embeddings()
        weight: Tensor = module.weight.detach()
        return weight
