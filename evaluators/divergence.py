"""KL divergence from the dense model and negative log-likelihood of a candidate, on a fixed set of token windows.

With the teacher's probabilities p and a subnet's logits z = W h (the output matrix W is not pruned),

    KL(p ‖ softmax z) = [lse(z) − h · (Wᵀp)] − [lse(z_T) − h_T · (Wᵀp)],

since Σ p log p = h_T · Wᵀp − lse(z_T). The dense model's expected output embedding Wᵀp, a hidden-sized vector a token,
is thus all that has to be kept of the teacher: its log-probabilities enter exactly, computed once, and neither they nor
a subnet's are ever held for the whole text. A subnet costs one log-sum-exp over the vocabulary, in slices of its rows.
Where designs choose the type of the output matrix, W is the subnet's own in the first bracket, and the expected
embedding is kept for each type that is asked about.
What is kept where logits are soft-capped is said in `evaluators.output_head`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evaluators.base import Measure, Metric, ModelOf
from evaluators.comparison import Comparison
from evaluators.output_head import OutputHead
from space.candidate import Candidate
from space.errors import UserError
from space.supernet.supernet import Supernet


@dataclass(frozen=True)
class _Reference:
    """What is kept of the teacher.

    Attributes:
        known: By type of a subnet's output matrix, of every token (tokens, hidden).
        cross: Of every token lse(z_T) − h_T · Wᵀp, with the teacher's own matrix (tokens,).
        nll: Summed over the tokens, in nats.
    """

    known: dict[int, Tensor]
    cross: Tensor
    nll: float


class Divergence(Comparison):
    """Compares the words that candidates expect with those of the dense model."""

    def __init__(
        self,
        supernet: Supernet,
        tokens: Tensor,
        *,
        batch_size: int = 4,
        slice_bytes: int | None = None,
        cache_bytes: int = 0,
        subnets: Callable[[], Supernet] | None = None,
    ) -> None:
        """Runs nothing yet; the dense model's side is computed at the first evaluation.

        Args:
            supernet: See `Comparison`, as the other arguments.
            tokens: Token ids, shape (windows, length).
            batch_size: Windows of a forward pass.
            slice_bytes: See `evaluators.output_head`.
            cache_bytes: Memory for residual streams.
            subnets: Gives the supernet whose subnets are meant.

        Raises:
            UserError: Windows shorter than two tokens, or an LM head that the closed form does not cover.
        """
        if tokens.ndim != 2 or tokens.shape[1] < 2 or not len(tokens):
            raise UserError(f"Divergence: expected windows of at least 2 tokens, got shape {tuple(tokens.shape)}.")
        super().__init__(supernet, tokens, batch_size=batch_size, cache_bytes=cache_bytes, subnets=subnets)
        together = min(batch_size, len(tokens)) * tokens.shape[1]
        self._head = OutputHead.of(supernet.model, together, slice_bytes=slice_bytes)
        self._heads = {0: self._head}
        self._dense = Candidate.dense(supernet.spec)
        self._sizes: dict[str, Any] = {"tokens": together, "slice_bytes": slice_bytes}

    def values(self, candidate: Candidate, model: Any | None = None) -> Mapping[str, float]:
        """`kl` and `nll`, in nats a token."""
        kl, nll = self._answer(candidate, model)
        return {"kl": kl, "nll": nll}

    def heldout_values(self, candidate: Candidate, model: Any | None = None) -> Mapping[str, float]:
        """`heldout_kl` and the perplexity `heldout_ppl`."""
        kl, nll = self._answer(candidate, model)
        return {"heldout_kl": kl, "heldout_ppl": perplexity(nll)}

    def divergence(self, candidate: Candidate, model: Any | None = None) -> float:
        """See `Comparison`; the dense model is run like any other."""
        return self(candidate, model)[0]

    def perplexity_measure(self, metric: Metric, model_of: ModelOf) -> Measure:
        """The perplexity alone, as another metric.

        Args:
            metric: What it is called.
            model_of: A candidate's own model, or None for the supernet's.
        """

        def values(candidate: Candidate) -> Mapping[str, float]:
            return {metric.name: perplexity(self.nll(candidate, model_of(candidate)))}

        return Measure((metric,), values, self.tokens)

    def __call__(self, candidate: Candidate, model: Any | None = None) -> tuple[float, float]:
        """Mean KL from the dense model over all tokens, and mean NLL of all but each window's first, in nats.

        Args:
            candidate: A prefix of the supernet.
            model: A model of its own to ask in its place, with the supernet's output matrix; None for the supernet.

        Raises:
            torch.OutOfMemoryError: See `ahead`.
        """
        return self._in_memory(lambda: self._compared(candidate, model))

    def nll(self, candidate: Candidate, model: Any | None = None) -> float:
        """Mean NLL as of a call, for which the dense model is not run.

        Args:
            candidate: As of a call.
            model: As of a call.

        Raises:
            torch.OutOfMemoryError: See `ahead`.
        """
        return self._in_memory(lambda: self._mean_nll(candidate, model))

    def _answer(self, candidate: Candidate, model: Any | None) -> tuple[float, float]:
        """As of a call; of the dense model from its own side, which has it run already."""
        if candidate == self._dense and model is None:
            return self._in_memory(self._dense_answer)
        return self(candidate, model)

    @torch.inference_mode()
    def _dense_answer(self) -> tuple[float, float]:
        windows, length = self._tokens.shape
        return 0.0, sum(reference.nll for reference in self._dense_references()) / (windows * (length - 1))

    @torch.inference_mode()
    def _compared(self, candidate: Candidate, model: Any | None) -> tuple[float, float]:
        references = self._dense_references()
        kind, head = self._own_head(candidate)
        if kind not in references[0].known:
            for reference, hidden in zip(references, self._states(self._dense), strict=True):
                _, reference.known[kind] = self._head.expected(hidden, meant=head)
        kl = nll = 0.0
        batches = zip(self._forward.batches, self._states(candidate, model), references, strict=True)
        for tokens, hidden, dense in batches:
            lse = head.log_sum_exp(hidden)
            cross = lse - head.mean_logit(hidden, dense.known[kind])
            kl += (cross - dense.cross).sum(dtype=torch.float64).item()
            nll += self._nll(head, tokens, hidden, lse)
        windows, length = self._tokens.shape
        return kl / (windows * length), nll / (windows * (length - 1))

    @torch.inference_mode()
    def _mean_nll(self, candidate: Candidate, model: Any | None) -> float:
        nll, (_, head) = 0.0, self._own_head(candidate)
        for tokens, hidden in zip(self._forward.batches, self._states(candidate, model), strict=True):
            nll += self._nll(head, tokens, hidden, head.log_sum_exp(hidden))
        windows, length = self._tokens.shape
        return nll / (windows * (length - 1))

    def _own_head(self, candidate: Candidate) -> tuple[int, OutputHead]:
        """The type of a candidate's output matrix, and the head with it."""
        kind = candidate.logits_type(tied=self._supernet.spec.tied_embeddings)
        if kind not in self._heads:
            weight = self._supernet.outer.logits(kind)
            self._heads[kind] = OutputHead.of(self._supernet.model, **self._sizes, weight=weight)
        return kind, self._heads[kind]

    def _nll(self, head: OutputHead, tokens: Tensor, hidden: Tensor, lse: Tensor) -> float:
        """Summed over the tokens of a batch, in nats."""
        windows, length = tokens.shape
        before = hidden.view(windows, length, -1)[:, :-1]
        target = head.mean_logit(before, tokens[:, 1:])  # (windows, length - 1)
        return (lse.view(windows, length)[:, :-1] - target).sum(dtype=torch.float64).item()

    def _dense_references(self) -> list[_Reference]:
        if self._references is None:
            self._references = list(self._dense_side())
        return self._references

    def _dense_side(self) -> Iterator[_Reference]:
        """What is kept of the dense model, of one batch after another."""
        for tokens, hidden in zip(self._forward.batches, self._states(self._dense), strict=True):
            lse = self._head.log_sum_exp(hidden)
            _, known = self._head.expected(hidden)
            nll = self._nll(self._head, tokens, hidden, lse)
            yield _Reference({0: known}, lse - self._head.mean_logit(hidden, known), nll)

    def _states(self, candidate: Candidate, model: Any | None = None) -> Iterator[Tensor]:
        """Normed hidden states before the LM head, float32, each (batch · time, hidden), of one batch after another."""
        return (state.flatten(0, 1) for state in self._hidden(candidate, model))


def perplexity(nll: float) -> float:
    """Of a mean loss in nats."""
    return math.exp(nll) if nll < 700 else math.inf
