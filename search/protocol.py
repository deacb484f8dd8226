"""What the loop and a search algorithm say to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from evaluators.base import Evaluation
from space.candidate import Candidate

FULL = -1


@dataclass(frozen=True)
class Question:
    """A candidate to be evaluated.

    Attributes:
        candidate: What to evaluate.
        rung: At which of the loop's fidelities, as an index into them, cheapest first; the last one makes the front.
        predicted: What a surrogate expects, by metric; stored with the answer, so that the archive shows how good the
            surrogate was at candidates that it had not seen.
    """

    candidate: Candidate
    rung: int = FULL
    predicted: Mapping[str, float] = field(default_factory=dict)


class Algorithm(Protocol):
    """Proposes candidates and learns from their evaluations."""

    @property
    def remark(self) -> str:
        """What a person should see of the algorithm's state beside the progress; empty when nothing."""
        ...

    def ask(self, n: int) -> list[Question]:
        """About `n` questions, none of which was asked before; none at all when no new one can be found."""
        ...

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Take the answers to the first questions of the last `ask`, in their order; failed ones teach nothing."""
        ...
