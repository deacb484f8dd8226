"""What a loss needs of the output matrix, in slices of the vocabulary, so that all logits are never held at once.

With logits z = W h, where W is the output matrix times what a family scales logits by, all here comes down to the
log-sum-exp lse(z) and the expected output embedding Wᵀ softmax(z), a hidden-sized vector a token: it is the gradient of
lse(z) by h, and all that a divergence has to know of a teacher's probabilities (see `evaluators.divergence`).

Of soft-capped logits c · tanh(z / c), or of those of a head with a bias, that is not enough: their mean under a
teacher's probabilities is no product with h. What is kept of the teacher is then its own hidden state, as large, from
which its logits are computed again, slice by slice beside the subnet's. That takes some three times the products, and
is as exact.

Logits are float32 also where the model runs in bfloat16: rounded to bfloat16, a logit of 30 is off by up to 0.06, which
is more than the divergence of a design near the dense one.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from space.models.pruned import logit_cap, logit_scale
from space.supernet.products import fast_products


class OutputHead:
    """The LM head of a model whose output matrix is not pruned."""

    def __init__(
        self,
        head: Any,
        tokens: int,
        *,
        scale: float = 1.0,
        temperature: float = 1.0,
        slice_bytes: int | None = None,
    ) -> None:
        """Copies nothing.

        Args:
            head: The model's.
            tokens: How many are looked at together, about.
            scale: What its products are multiplied by.
            temperature: What logits are divided by.
            slice_bytes: Memory for the float32 logits of a slice of the vocabulary; None is what was measured to be
                fastest on a CPU, whose caches hold it, and much more elsewhere.
        """
        self._weight: Tensor = head.weight
        self._scale = scale / temperature
        if slice_bytes is None:
            slice_bytes = (4 if self._weight.device.type == "cpu" else 256) << 20
        self._rows = max(1, slice_bytes // (4 * tokens))

    @classmethod
    def of(
        cls,
        model: Any,
        tokens: int,
        *,
        temperature: float = 1.0,
        slice_bytes: int | None = None,
        weight: Tensor | None = None,
    ) -> OutputHead:
        """The head of a causal LM, see `__init__`; with `weight` for its output matrix where that is given."""
        head, scale, cap = model.get_output_embeddings(), logit_scale(model.config), logit_cap(model.config)
        if weight is not None:
            head = SimpleNamespace(weight=weight, bias=head.bias)
        if cap is None and head.bias is None:
            return cls(head, tokens, scale=scale, temperature=temperature, slice_bytes=slice_bytes)
        return GeneralHead(head, tokens, cap, scale=scale, temperature=temperature, slice_bytes=slice_bytes)

    def log_sum_exp(self, hidden: Tensor) -> Tensor:
        """Of the logits over the whole vocabulary, `(tokens,)`; of float32 hidden states `(tokens, hidden)`."""
        slices = [torch.logsumexp(logits, -1) for logits, _ in self._logits(hidden)]
        return torch.logsumexp(torch.stack(slices), 0)

    def expected(self, hidden: Tensor, *, exact: bool = True, meant: OutputHead | None = None) -> tuple[Tensor, Tensor]:
        """The log-sum-exp `(tokens,)`, and what is kept of a teacher: the expected output embedding `(tokens, hidden)`.

        Sums are kept relative to the largest logit so far (Milakov and Gimelshein, "Online normalizer calculation for
        softmax", 2018).

        Args:
            hidden: Float32 hidden states, `(tokens, hidden)`.
            exact: Whether probabilities stay float32 where the model runs in bfloat16; a gradient need not be.
            meant: Whose output embeddings are meant; None for this head's own.
        """
        largest = hidden.new_full((len(hidden),), -torch.inf)
        total, embedding = torch.zeros_like(largest), torch.zeros_like(hidden)
        embeddings = (self if meant is None else meant)._weight.split(self._rows)
        for (logits, own), rows in zip(self._logits(hidden), embeddings, strict=True):
            before, largest = largest, torch.maximum(largest, logits.amax(-1))
            shrink = (before - largest).exp_()
            chances = logits.sub_(largest[:, None]).exp_()
            total = total * shrink + chances.sum(-1)
            with fast_products(torch.float32 if exact else self._weight.dtype, self._weight.device):
                wide = own if meant is None else rows.float()
                embedding = torch.addmm(embedding.mul_(shrink[:, None]), chances, wide)
        return largest + total.log(), embedding * (self._scale / total)[:, None]

    def mean_logit(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Of each token under labels, `(tokens,)`.

        Args:
            hidden: Float32 hidden states, `(tokens, hidden)`; or of any shape before the last dimension.
            labels: What is kept of a teacher, see `expected`, of that shape; or the ids of words.
        """
        return (hidden * (labels if labels.is_floating_point() else self.words(labels))).sum(-1)

    def cross_entropy(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """lse(z) less the mean logit, `(tokens,)`, and its gradient by the hidden states, `(tokens, hidden)`."""
        target = labels if labels.is_floating_point() else self.words(labels)
        lse, embedding = self.expected(hidden, exact=False)
        return lse - (hidden * target).sum(-1), embedding.sub_(target)

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


class GeneralHead(OutputHead):
    """One whose logits are c · tanh((z + b) / c), or without a cap z + b, then divided by the temperature."""

    def __init__(
        self, head: Any, tokens: int, cap: float | None = None, *, temperature: float = 1.0, **settings: Any
    ) -> None:
        """As of any head, with the cap c, None for none; b is the head's bias."""
        super().__init__(head, tokens, **settings)
        self._cap, self._temperature = cap, temperature
        self._bias: Tensor | None = None if head.bias is None else head.bias.detach().float() * self._scale

    def expected(self, hidden: Tensor, *, exact: bool = True, meant: OutputHead | None = None) -> tuple[Tensor, Tensor]:
        """The log-sum-exp `(tokens,)`, and what is kept of a teacher: its hidden states."""
        assert meant is None  # no engine with types of matrices has such heads
        return self.log_sum_exp(hidden), hidden

    def mean_logit(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """See `OutputHead.mean_logit`."""
        if not labels.is_floating_point():
            products = (hidden * self.words(labels)).sum(-1)
            return self._logits_of(products if self._bias is None else products + self._bias[labels])
        return self._mean_taught(hidden, labels, self.log_sum_exp(labels))

    def _mean_taught(self, hidden: Tensor, labels: Tensor, lse: Tensor) -> Tensor:
        """`mean_logit` under a teacher, with the log-sum-exp of its logits."""
        mean = hidden.new_zeros(len(hidden))
        for (logits, _), (taught, _) in zip(self._logits(hidden), self._logits(labels), strict=True):
            mean += taught.sub_(lse[:, None]).exp_().mul_(logits).sum(-1)
        return mean

    def cross_entropy(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See `OutputHead.cross_entropy`."""
        lse = self.log_sum_exp(hidden)
        teacher = self._logits(labels) if labels.is_floating_point() else None
        norm = None if teacher is None else self.log_sum_exp(labels)
        mean = self.mean_logit(hidden, labels) if norm is None else self._mean_taught(hidden, labels, norm)
        gradient = torch.zeros_like(hidden)
        for logits, rows in self._logits(hidden):
            change = (logits - lse[:, None]).exp_()
            if teacher is not None and norm is not None:
                change -= next(teacher)[0].sub_(norm[:, None]).exp_()
            with fast_products(self._weight.dtype, self._weight.device):
                gradient.addmm_(change.mul_(self._slope(logits)), rows)
        gradient *= self._scale
        if teacher is None:
            gradient -= self._slope(mean)[:, None] * self.words(labels)
        return lse - mean, gradient

    def _logits(self, hidden: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """See `OutputHead._logits`."""
        start = 0
        for products, rows in super()._logits(hidden):
            if self._bias is not None:
                products += self._bias[start : start + len(rows)]
            start += len(rows)
            yield self._logits_of(products), rows

    def _logits_of(self, products: Tensor) -> Tensor:
        """Logits of products with a bias, if any, added."""
        if self._cap is None:
            return products / self._temperature
        return torch.tanh(products / self._cap).mul_(self._cap / self._temperature)

    def _slope(self, logits: Tensor) -> Tensor:
        """The derivative of logits by the products."""
        bent = torch.ones_like(logits)
        if self._cap is not None:
            bent -= (logits * (self._temperature / self._cap)).square()
        return bent / self._temperature
