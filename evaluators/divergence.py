"""KL divergence from the dense model and negative log-likelihood of a candidate, on a fixed set of token windows.

With the teacher's probabilities p and a subnet's logits z = W h (the output matrix W is not pruned),

    KL(p ‖ softmax z) = [lse(z) − h · (Wᵀp)] − [lse(z_T) − h_T · (Wᵀp)],

since Σ p log p = h_T · Wᵀp − lse(z_T). The dense model's expected output embedding Wᵀp, a hidden-sized vector a token,
is thus all that has to be kept of the teacher: its log-probabilities enter exactly, computed once, and neither they nor
a subnet's are ever held for the whole text. A subnet costs one log-sum-exp over the vocabulary, in slices of its rows.
What is kept where logits are soft-capped is said in `evaluators.output_head`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from evaluators.base import Measure, Metric, ModelOf
from evaluators.layer_major import LayerMajorForward, forward_of
from evaluators.metrics import HELDOUT_QUALITY, SEARCH_QUALITY, metrics_named
from evaluators.output_head import OutputHead
from evaluators.prefix import PrefixForward
from space.candidate import Candidate
from space.errors import UserError
from space.models.stack import stack_of
from space.supernet.supernet import Supernet

_Answer = TypeVar("_Answer")
_log = logging.getLogger(__name__)
SEARCH_METRICS = metrics_named(*SEARCH_QUALITY)
HELDOUT_METRICS = metrics_named(*HELDOUT_QUALITY)


@dataclass(frozen=True)
class _Reference:
    """Of every token: what is kept of the teacher (tokens, hidden), and lse(z_T) − h_T · Wᵀp (tokens,)."""

    known: Tensor
    cross: Tensor


class Divergence:
    """Compares candidates with the dense model on fixed text.

    Where the device has too little memory for the windows of a forward pass, it takes half as many from then on.
    """

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
            supernet: The model.
            tokens: Token ids, shape (windows, length); every window is a context of its own.
            batch_size: Windows of a forward pass.
            slice_bytes: See `evaluators.output_head`.
            cache_bytes: Memory for residual streams, see `evaluators.prefix`.
            subnets: Gives the supernet whose subnets are meant, made of the same dense model, when the first one is
                asked about; None for the very same.

        Raises:
            UserError: Windows shorter than two tokens, or an LM head that the closed form does not cover.
        """
        if tokens.ndim != 2 or tokens.shape[1] < 2 or not len(tokens):
            raise UserError(f"Divergence: expected windows of at least 2 tokens, got shape {tuple(tokens.shape)}.")
        together = min(batch_size, len(tokens)) * tokens.shape[1]
        self._supernet = supernet
        self._subnets = subnets or (lambda: supernet)
        self._head = OutputHead.of(supernet.model, together, slice_bytes=slice_bytes)
        self._tokens = tokens
        self._batch_size, self._cache_bytes = batch_size, cache_bytes
        self._references: list[_Reference] | None = None

    @cached_property
    def _forward(self) -> PrefixForward | LayerMajorForward:
        with torch.inference_mode(False):  # the supernet's weights are for whatever use
            subnets = self._subnets()
        size = self._batch_size
        return forward_of(subnets, self._tokens, batch_size=size, cache_bytes=self._cache_bytes)

    @property
    def tokens(self) -> int:
        """Tokens that one evaluation sends through a candidate."""
        return self._tokens.numel()

    @property
    def shared_layers(self) -> float:
        """Layers that were run so far, as a part of those that would have been without shared residual streams."""
        return self._forward.layers_run / max(1, self._forward.layers_total)

    def forget(self) -> None:
        """Gives the memory of residual streams that candidates shared back."""
        self._forward.forget()

    def measure(self, model_of: ModelOf | None = None) -> Measure:
        """The search's quality: `kl` and `nll`, in nats a token.

        Args:
            model_of: Gives a candidate's own model; None for the supernet's.
        """

        def values(candidate: Candidate) -> Mapping[str, float]:
            kl, nll = self(candidate, model_of(candidate) if model_of else None)
            return {"kl": kl, "nll": nll}

        return Measure(SEARCH_METRICS, values, self.tokens, None if model_of else self.ahead)

    def heldout_measure(self, model_of: ModelOf | None = None) -> Measure:
        """What is reported of text that the search did not see: `heldout_kl` and the perplexity `heldout_ppl`.

        Args:
            model_of: Gives a candidate's own model; None for the supernet's.
        """

        def values(candidate: Candidate) -> Mapping[str, float]:
            kl, nll = self(candidate, model_of(candidate) if model_of else None)
            return {"heldout_kl": kl, "heldout_ppl": perplexity(nll)}

        return Measure(HELDOUT_METRICS, values, self.tokens, None if model_of else self.ahead)

    def perplexity_measure(self, metric: Metric, model_of: ModelOf) -> Measure:
        """The perplexity alone, as another metric.

        Args:
            metric: What it is called.
            model_of: A candidate's own model, or None for the supernet's.
        """

        def values(candidate: Candidate) -> Mapping[str, float]:
            return {metric.name: perplexity(self.nll(candidate, model_of(candidate)))}

        return Measure((metric,), values, self.tokens)

    def ahead(self, candidates: Sequence[Candidate]) -> None:
        """Runs candidates of the supernet together, where that is less work than one after the other.

        Raises:
            ValueError: One does not fit the model.
            torch.OutOfMemoryError: The device has too little memory for a single window.
        """
        self._in_memory(lambda: self._run_ahead(candidates))

    def __call__(self, candidate: Candidate, model: Any | None = None) -> tuple[float, float]:
        """Mean KL from the dense model over all tokens, and mean NLL of all but each window's first, in nats.

        Args:
            candidate: A prefix of the supernet.
            model: A model of its own to ask in its place, with the dense model's output matrix; None for the supernet.

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

    def _in_memory(self, work: Callable[[], _Answer]) -> _Answer:
        """What some work gives, with half as many windows a forward pass as often as memory runs out."""
        _ = self._forward  # which may train the supernet, and windows are nothing to that
        while True:
            try:
                return work()
            except torch.OutOfMemoryError:
                if (windows := min(self._batch_size, len(self._tokens))) == 1:
                    raise
            self._batch_size = windows // 2  # outside the clause above, whose error holds on to what was computed
            self._references = None
            del self._forward
            torch.cuda.empty_cache()  # of nothing, where no GPU is in use
            _log.warning("memory is short for %d windows of a forward pass: now %d", windows, windows // 2)

    @torch.inference_mode()
    def _run_ahead(self, candidates: Sequence[Candidate]) -> None:
        dense = [] if self._references else [Candidate.dense(self._supernet.spec)]
        self._forward.ahead([*dense, *candidates])

    @torch.inference_mode()
    def _compared(self, candidate: Candidate, model: Any | None) -> tuple[float, float]:
        if self._references is None:
            self._references = list(self._dense_side())
        kl = nll = 0.0
        batches = zip(self._forward.batches, self._hidden(candidate, model), self._references, strict=True)
        for tokens, hidden, dense in batches:
            lse = self._head.log_sum_exp(hidden)
            cross = lse - self._head.mean_logit(hidden, dense.known)
            kl += (cross - dense.cross).sum(dtype=torch.float64).item()
            nll += self._nll(tokens, hidden, lse)
        windows, length = self._tokens.shape
        return kl / (windows * length), nll / (windows * (length - 1))

    @torch.inference_mode()
    def _mean_nll(self, candidate: Candidate, model: Any | None) -> float:
        nll = 0.0
        for tokens, hidden in zip(self._forward.batches, self._hidden(candidate, model), strict=True):
            nll += self._nll(tokens, hidden, self._head.log_sum_exp(hidden))
        windows, length = self._tokens.shape
        return nll / (windows * (length - 1))

    def _nll(self, tokens: Tensor, hidden: Tensor, lse: Tensor) -> float:
        """Summed over the tokens of a batch, in nats."""
        windows, length = tokens.shape
        before = hidden.view(windows, length, -1)[:, :-1]
        target = self._head.mean_logit(before, tokens[:, 1:])  # (windows, length - 1)
        return (lse.view(windows, length)[:, :-1] - target).sum(dtype=torch.float64).item()

    def _dense_side(self) -> Iterator[_Reference]:
        """What is kept of the dense model, of one batch after another."""
        for hidden in self._hidden(Candidate.dense(self._supernet.spec)):
            lse = self._head.log_sum_exp(hidden)
            _, known = self._head.expected(hidden)
            yield _Reference(known, lse - self._head.mean_logit(hidden, known))

    def _hidden(self, candidate: Candidate, model: Any | None = None) -> Iterator[Tensor]:
        """Normed hidden states before the LM head, float32, each (batch · time, hidden), of one batch after another."""
        if model is None:
            states = self._forward(candidate)
        else:
            states = (stack_of(model)(part, use_cache=False).last_hidden_state for part in self._forward.batches)
        return (state.flatten(0, 1).float() for state in states)


def perplexity(nll: float) -> float:
    """Of a mean loss in nats."""
    return math.exp(nll) if nll < 700 else math.inf
