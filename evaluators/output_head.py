"""What a loss needs of the output matrix, in slices of the vocabulary, so that all logits are never held at once.

With logits z = W h, where W is the output matrix times what a family scales logits by, all here comes down to the
log-sum-exp lse(z) and the expected output embedding Wᵀ softmax(z), a hidden-sized vector a token: it is the gradient of
lse(z) by h, and all that a divergence has to know of a teacher's probabilities (see `evaluators.divergence`).

Logits are float32 also where the model runs in bfloat16: rounded to bfloat16, a logit of 30 is off by up to 0.06, which
is more than the divergence of a design near the dense one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from space.errors import UserError
from space.models.pruned import logit_scale
from space.supernet.products import fast_products


class OutputHead:
    """The LM head of a model whose output matrix is not pruned."""

    def __init__(self, head: Any, tokens: int, *, scale: float = 1.0, slice_bytes: int | None = None) -> None:
        """Copies nothing.

        Args:
            head: The model's.
            tokens: How many are looked at together, about.
            scale: What its products are multiplied by.
            slice_bytes: Memory for the float32 logits of a slice of the vocabulary; None is what was measured to be
                fastest on a CPU, whose caches hold it, and much more elsewhere.

        Raises:
            UserError: The head has a bias.
        """
        if head.bias is not None:
            raise UserError("Expected an LM head without bias, got one with; this model is not supported.")
        self._weight: Tensor = head.weight
        self._scale = scale
        if slice_bytes is None:
            slice_bytes = (4 if self._weight.device.type == "cpu" else 256) << 20
        self._rows = max(1, slice_bytes // (4 * tokens))

    @classmethod
    def of(cls, model: Any, tokens: int, *, slice_bytes: int | None = None) -> OutputHead:
        """The head of a causal LM, see `__init__`."""
        return cls(model.get_output_embeddings(), tokens, scale=logit_scale(model.config), slice_bytes=slice_bytes)

    def log_sum_exp(self, hidden: Tensor) -> Tensor:
        """Of the logits over the whole vocabulary, `(tokens,)`; of float32 hidden states `(tokens, hidden)`."""
        slices = [torch.logsumexp(logits, -1) for logits, _ in self._logits(hidden)]
        return torch.logsumexp(torch.stack(slices), 0)

    def expected(self, hidden: Tensor, *, exact: bool = True) -> tuple[Tensor, Tensor]:
        """The log-sum-exp `(tokens,)` and the expected output embedding `(tokens, hidden)`, in one pass.

        Sums are kept relative to the largest logit so far (Milakov and Gimelshein, "Online normalizer calculation for
        softmax", 2018).

        Args:
            hidden: Float32 hidden states, `(tokens, hidden)`.
            exact: Whether probabilities stay float32 where the model runs in bfloat16; a gradient need not be.
        """
        largest = hidden.new_full((len(hidden),), -torch.inf)
        total, embedding = torch.zeros_like(largest), torch.zeros_like(hidden)
        for logits, rows in self._logits(hidden):
            before, largest = largest, torch.maximum(largest, logits.amax(-1))
            shrink = (before - largest).exp_()
            chances = logits.sub_(largest[:, None]).exp_()
            total = total * shrink + chances.sum(-1)
            with fast_products(torch.float32 if exact else self._weight.dtype, self._weight.device):
                embedding = torch.addmm(embedding.mul_(shrink[:, None]), chances, rows)
        return largest + total.log(), embedding * (self._scale / total)[:, None]

    def words(self, tokens: Tensor) -> Tensor:
        """The output embeddings of token ids of any shape, with a last dimension more, float32."""
        return F.embedding(tokens, self._weight).float() * self._scale

    def _logits(self, hidden: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Float32 logits `(tokens, rows)` of slices of the vocabulary, and their rows of the output matrix."""
        for rows in self._weight.split(self._rows):
            wide = rows.float()
            with fast_products(self._weight.dtype, self._weight.device):  # of bfloat16 numbers, so exact
                logits = hidden @ wide.T
            yield logits.mul_(self._scale) if self._scale != 1 else logits, wide
