"""What candidates give on a fixed set of token windows, beside what the dense model gives for them, for any task."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from evaluators.base import Measure, ModelOf
from evaluators.layer_major import LayerMajorForward, forward_of
from evaluators.metrics import metrics_named
from evaluators.prefix import PrefixForward
from space.candidate import Candidate
from space.models.stack import stack_of
from space.supernet.supernet import Supernet

_Answer = TypeVar("_Answer")
_log = logging.getLogger(__name__)


class Comparison:
    """Compares candidates with the dense model on fixed text; a task says what of, see `evaluators.comparisons`.

    Where the device has too little memory for the windows of a forward pass, it takes half as many from then on.
    """

    def __init__(
        self,
        supernet: Supernet,
        tokens: Tensor,
        *,
        batch_size: int = 4,
        cache_bytes: int = 0,
        subnets: Callable[[], Supernet] | None = None,
    ) -> None:
        """Runs nothing yet; the dense model's side is computed at the first evaluation.

        Args:
            supernet: The model.
            tokens: Token ids, shape (windows, length); every window is a context of its own.
            batch_size: Windows of a forward pass.
            cache_bytes: Memory for residual streams, see `evaluators.prefix`.
            subnets: Gives the supernet whose subnets are meant, made of the same dense model, when the first one is
                asked about; None for the very same.
        """
        self._supernet = supernet
        self._subnets = subnets or (lambda: supernet)
        self._tokens = tokens
        self._batch_size, self._cache_bytes = batch_size, cache_bytes
        self._references: list[Any] | None = None  # what is kept of the dense model, of one batch after another

    @cached_property
    def _forward(self) -> PrefixForward | LayerMajorForward:
        with torch.inference_mode(False):  # the supernet's weights are for whatever use
            subnets = self._subnets()
        size = self._batch_size
        return forward_of(subnets, self._tokens, batch_size=size, cache_bytes=self._cache_bytes)

    @property
    def tokens(self) -> int:
        """Tokens that one evaluation sends through a candidate."""
        return len(self._tokens) * self._supernet.spec.tokens_of(self._tokens.shape)

    @property
    def shared_layers(self) -> float:
        """Layers that were run so far, as a part of those that would have been without shared residual streams."""
        return self._forward.layers_run / max(1, self._forward.layers_total)

    def forget(self) -> None:
        """Gives the memory of residual streams that candidates shared back."""
        self._forward.forget()

    def measure(self, model_of: ModelOf | None = None) -> Measure:
        """The search's quality, by the names that the task has for it.

        Args:
            model_of: Gives a candidate's own model; None for the supernet's.
        """
        return self._measure(self._supernet.spec.use.search_quality, self.values, model_of)

    def heldout_measure(self, model_of: ModelOf | None = None) -> Measure:
        """What is reported of text that the search did not see, likewise.

        Args:
            model_of: Gives a candidate's own model; None for the supernet's.
        """
        return self._measure(self._supernet.spec.use.heldout_quality, self.heldout_values, model_of)

    def values(self, candidate: Candidate, model: Any | None = None) -> Mapping[str, float]:
        """The search's quality of a candidate, or of a model in its place, by name."""
        raise NotImplementedError

    def heldout_values(self, candidate: Candidate, model: Any | None = None) -> Mapping[str, float]:
        """The same of held-out text."""
        raise NotImplementedError

    def divergence(self, candidate: Candidate, model: Any | None = None) -> float:
        """How far a candidate, or a model in its place, is from the dense model; 0 for the dense one."""
        return self.values(candidate, model)[self._supernet.spec.use.search_quality[0]]

    def _measure(
        self,
        names: Sequence[str],
        values: Callable[[Candidate, Any], Mapping[str, float]],
        model_of: ModelOf | None,
    ) -> Measure:
        def of(candidate: Candidate) -> Mapping[str, float]:
            return values(candidate, model_of(candidate) if model_of else None)

        return Measure(metrics_named(*names), of, self.tokens, None if model_of else self.ahead)

    def ahead(self, candidates: Sequence[Candidate]) -> None:
        """Runs candidates of the supernet together, where that is less work than one after the other.

        Raises:
            ValueError: One does not fit the model.
            torch.OutOfMemoryError: The device has too little memory for a single window.
        """
        self._in_memory(lambda: self._run_ahead(candidates))

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

    def _hidden(self, candidate: Candidate, model: Any | None = None) -> Iterator[Tensor]:
        """Last hidden states, normed, float32, each (windows, time, hidden), of one batch of windows after another."""
        if model is None:
            states = self._forward(candidate)
        else:
            states = (stack_of(model)(part, use_cache=False).last_hidden_state for part in self._forward.batches)
        return (state.float() for state in states)
