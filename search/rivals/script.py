"""What rivals share: of every answer they look at one number, the quality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from evaluators.base import Evaluation, Metric
from search.pareto import minimised
from search.protocol import Task
from search.script import Answers, Scripted

T = TypeVar("T")


class Rival(Scripted):
    """A published search, as a script."""

    def __init__(self, task: Task) -> None:
        """Set up; nothing is asked yet.

        Raises:
            UserError: There are trained fidelities.
        """
        super().__init__(task.without_training())

    @property
    def quality(self) -> Metric:
        """The objective that it is after: the first one that is not free."""
        return next((m for m in self.objectives if not m.free), self.objectives[0])

    def worth(self, answer: Evaluation | None) -> float | None:
        """The quality of an answer, less being better; None where the evaluation failed."""
        return None if answer is None else float(minimised([answer.values], [self.quality])[0, 0])

    def best_first(self, items: Sequence[T], answers: Answers) -> list[tuple[T, float]]:
        """Items with their quality, least first and equals in the order given; those that failed are left out."""
        pairs = [(item, self.worth(answer)) for item, answer in zip(items, answers, strict=True)]
        return sorted(((item, value) for item, value in pairs if value is not None), key=lambda pair: pair[1])
