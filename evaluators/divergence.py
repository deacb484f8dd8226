"""KL divergence from the dense model and negative log-likelihood of a candidate, on a fixed set of token windows.

With the teacher's probabilities p and a subnet's logits z = W h (the output matrix W is not pruned),

    KL(p ‖ softmax z) = [lse(z) − h · (Wᵀp)] − [lse(z_T) − h_T · (Wᵀp)],

since Σ p log p = h_T · Wᵀp − lse(z_T). The dense model's expected output embedding Wᵀp, a hidden-sized vector a token,
is thus all that has to be kept of the teacher: its log-probabilities enter exactly, computed once, and neither they nor
a subnet's are ever held for the whole text. A subnet costs one log-sum-exp over the vocabulary, in slices of its rows.

Logits are float32 also where the model runs in bfloat16: rounded to bfloat16, a logit of 30 is off by up to 0.06, which
is more than the divergence of a design near the dense one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from evaluators.base import Measure, Metric
from evaluators.prefix import PrefixForward
from space.candidate import Candidate
from space.correction import Correction
from space.errors import UserError
from space.products import fast_products
from space.supernet import Supernet


@dataclass(frozen=True)
class _Teacher:
    """Of every token: the expected output embedding Wᵀp (tokens, hidden), and lse(z_T) − h_T · Wᵀp (tokens,)."""

    embedding: Tensor
    cross: Tensor


class Divergence:
    """Compares candidates with the dense model on fixed text."""

    def __init__(
        self,
        supernet: Supernet,
        tokens: Tensor,
        *,
        batch: int = 4,
        slice_bytes: int | None = None,
        cache_bytes: int = 0,
    ) -> None:
        """Runs nothing yet; the dense model's side is computed at the first question.

        Args:
            supernet: The model.
            tokens: Token ids, shape (windows, length); every window is a context of its own.
            batch: Windows of a forward pass.
            slice_bytes: Memory for the float32 logits of a slice of the vocabulary; None is what was measured to be
                fastest on a CPU, whose caches hold it, and much more elsewhere.
            cache_bytes: Memory for residual streams, see `evaluators.prefix`.

        Raises:
            UserError: Windows shorter than two tokens, or an LM head that the closed form does not cover.
        """
        if tokens.ndim != 2 or tokens.shape[1] < 2 or not len(tokens):
            raise UserError(f"Divergence: expected windows of at least 2 tokens, got shape {tuple(tokens.shape)}.")
        head: Any = supernet.model.lm_head
        if head.bias is not None:
            raise UserError("Divergence: expected an LM head without bias, got one with; this model is not supported.")
        self._supernet = supernet
        self._tokens = tokens.to(head.weight.device)
        self._forward = PrefixForward(supernet, tokens, batch=batch, cache_bytes=cache_bytes)
        if slice_bytes is None:
            slice_bytes = (4 if self._tokens.device.type == "cpu" else 256) << 20
        self._rows = max(1, slice_bytes // (4 * min(batch, len(tokens)) * tokens.shape[1]))
        self._teacher: list[_Teacher] | None = None

    @property
    def tokens(self) -> int:
        """Tokens that one question sends through a candidate."""
        return self._tokens.numel()

    @property
    def shared_layers(self) -> float:
        """Layers that were run so far, as a part of those that would have been without shared residual streams."""
        return self._forward.layers_run / max(1, self._forward.layers_asked)

    def measure(self) -> Measure:
        """The search's quality: `kl` and `nll`, in nats a token."""
        metrics = (Metric("kl", "nats/token", "min", 2), Metric("nll", "nats/token", "min", 2))

        def values(candidate: Candidate) -> Mapping[str, float]:
            kl, nll = self(candidate)
            return {"kl": kl, "nll": nll}

        return Measure(metrics, values, self.tokens)

    def heldout_measure(self, correction: Callable[[Candidate], Correction | None] = lambda candidate: None) -> Measure:
        """What is reported of text that the search did not see: `heldout_kl` and the perplexity `heldout_ppl`.

        Args:
            correction: A candidate's, where it is to have one.
        """
        metrics = (Metric("heldout_kl", "nats/token", "min", 2), Metric("heldout_ppl", "", "min", 2))

        def values(candidate: Candidate) -> Mapping[str, float]:
            kl, nll = self(candidate, correction(candidate))
            return {"heldout_kl": kl, "heldout_ppl": math.exp(nll) if nll < 700 else math.inf}

        return Measure(metrics, values, self.tokens)

    @torch.inference_mode()
    def __call__(self, candidate: Candidate, correction: Correction | None = None) -> tuple[float, float]:
        """Mean KL from the dense model over all tokens, and mean NLL of all but each window's first, in nats."""
        if self._teacher is None:
            self._teacher = list(self._teach())
        weight = self._supernet.model.lm_head.weight
        kl = nll = 0.0
        batches = zip(self._forward.batches, self._hidden(candidate, correction), self._teacher, strict=True)
        for tokens, hidden, teacher in batches:
            lse = self._log_sum_exp(hidden, weight)
            cross = lse - (hidden * teacher.embedding).sum(-1)
            kl += (cross - teacher.cross).sum(dtype=torch.float64).item()
            windows, length = tokens.shape
            before = hidden.view(windows, length, -1)[:, :-1]
            target = (before * F.embedding(tokens[:, 1:], weight).float()).sum(-1)  # (windows, length - 1)
            nll += (lse.view(windows, length)[:, :-1] - target).sum(dtype=torch.float64).item()
        windows, length = self._tokens.shape
        return kl / (windows * length), nll / (windows * (length - 1))

    def _teach(self) -> Iterator[_Teacher]:
        weight = self._supernet.model.lm_head.weight
        for hidden in self._hidden(Candidate.dense(self._supernet.spec)):
            lse = self._log_sum_exp(hidden, weight)
            embedding = torch.zeros_like(hidden)
            for logits, rows in self._logits(hidden, weight):
                embedding.addmm_(logits.sub_(lse[:, None]).exp_(), rows)
            yield _Teacher(embedding, lse - (hidden * embedding).sum(-1))

    def _hidden(self, candidate: Candidate, correction: Correction | None = None) -> Iterator[Tensor]:
        """Normed hidden states before the LM head, float32, each (batch · time, hidden), of one batch after another."""
        return (states.flatten(0, 1).float() for states in self._forward(candidate, correction))

    def _log_sum_exp(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """Of the logits over the whole vocabulary, shape (tokens,)."""
        slices = [torch.logsumexp(logits, -1) for logits, _ in self._logits(hidden, weight)]
        return torch.logsumexp(torch.stack(slices), 0)

    def _logits(self, hidden: Tensor, weight: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Float32 logits (tokens, rows) of slices of the vocabulary, and the rows of the output matrix behind them."""
        for rows in weight.split(self._rows):
            wide = rows.float()
            with fast_products(weight.dtype, weight.device):  # of bfloat16 numbers, so exact
                logits = hidden @ wide.T
            yield logits, wide
