"""The evaluator of tuned subnets: what is asked of a candidate's own model after a stage of its tuning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from evaluators.base import Evaluation, Measure, MeasureEvaluator, ModelOf
from evaluators.training.tuning import Tuning
from space.candidate import Candidate


class TunedEvaluator:
    """An `Evaluator` of candidates after a stage of their tuning, which does the work of several of them together."""

    def __init__(
        self,
        fidelity: str,
        tuning: Tuning,
        stage: int,
        measures: Callable[[ModelOf], Sequence[Measure]],
        *,
        costs: Sequence[Measure] = (),
    ) -> None:
        """Tunes nothing yet.

        Args:
            fidelity: Its name.
            tuning: Where the candidates' models come from.
            stage: See `Tuning.model`.
            measures: What is asked about models; the tokens of the tuning are added to the last one's.
            costs: What is asked about the candidates besides, before that.
        """
        self.fidelity = fidelity
        self._tuning = tuning
        self._stage = stage
        self._measures = measures
        self._costs = costs
        self.metrics = self._of([]).metrics

    def prepare(self, candidates: Sequence[Candidate]) -> None:
        """See `Evaluator`: there is nothing."""

    def evaluate(self, candidates: Sequence[Candidate]) -> Iterator[Evaluation]:
        """See `Evaluator`."""
        return self._of(candidates).evaluate(candidates)

    def _of(self, candidates: Sequence[Candidate]) -> MeasureEvaluator:
        *others, last = self._measures(self._tuning.models(candidates, self._stage))
        last = replace(last, tokens=last.tokens + self._tuning.new_tokens(self._stage))
        return MeasureEvaluator(self.fidelity, [*self._costs, *others, last])
