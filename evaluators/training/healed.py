"""The evaluator of healed subnets: the first candidates that it is asked about are those through which healing goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from evaluators.base import Evaluation, Measure, MeasureEvaluator, Metric
from evaluators.training.healing import Healer
from space.candidate import Candidate
from space.supernet.supernet import Supernet

FIDELITY = "healed"


class HealedEvaluator:
    """An `Evaluator` of candidates as subnets of the healed supernet, see `Healer.heal`."""

    def __init__(
        self,
        healer: Healer,
        metrics: tuple[Metric, ...],
        measures: Callable[[Supernet], Sequence[Measure]],
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Heals nothing yet.

        Args:
            healer: Gives the healed supernet.
            metrics: What the measures tell.
            measures: What is asked about a supernet's candidates.
            before: Called before the supernet is healed, to make room in memory.
        """
        self.fidelity = FIDELITY
        self.metrics = metrics
        self._healer = healer
        self._measures = measures
        self._before = before
        self._evaluator: MeasureEvaluator | None = None

    def prepare(self, candidates: Sequence[Candidate]) -> None:
        """See `Evaluator`: heals through these candidates, where nothing has yet."""
        if self._evaluator is None:
            self._before()
            supernet = self._healer.heal(candidates)
            self._evaluator = MeasureEvaluator(self.fidelity, self._measures(supernet))

    def evaluate(self, candidates: Sequence[Candidate]) -> Iterator[Evaluation]:
        """See `Evaluator`; tokens of the healing are counted with the designs that it went through."""
        if not candidates:
            return
        self.prepare(candidates)
        assert self._evaluator is not None
        shares = self._healer.shares
        for evaluation in self._evaluator.evaluate(candidates):
            yield replace(evaluation, tokens=evaluation.tokens + shares.get(evaluation.candidate, 0))
