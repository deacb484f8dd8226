"""What a search algorithm is given, and what the loop and it say to each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from evaluators.base import Evaluation, Metric
from space.candidate import Candidate
from space.errors import UserError
from space.space import SearchSpace, evenly

Free = Callable[[Candidate], Mapping[str, float]]

FULL = -1


@dataclass(frozen=True)
class Task:
    """What to search; the same for every algorithm.

    Attributes:
        space: Where to search.
        objectives: What the front is made of, two metrics or more; those with goal `max` are maximised.
        seed: Seed of all randomness.
        free: The metrics of any candidate that cost nothing and add up over blocks, by name.
        starts: Designs to begin with, where an algorithm has a use for them.
        fidelities: How many fidelities the loop has.
        trained: How many of them, the last ones, look at trained subnets.
        healed: Whether there is one such, where all subnets are trained together, through the designs that it is asked
            about first; from then on its answers cost no more than those without training.
        tokens: The budget in tokens, or None when there is none.

    Raises:
        UserError: There are fewer than two objectives, or no fidelity without training.
    """

    space: SearchSpace
    objectives: Sequence[Metric]
    seed: int = 0
    free: Free = lambda candidate: {}
    starts: Sequence[Candidate] = ()
    fidelities: int = 1
    trained: int = 0
    healed: bool = False
    tokens: int | None = None

    def __post_init__(self) -> None:
        if len(self.objectives) < 2:
            names = [metric.name for metric in self.objectives]
            raise UserError(f"Search: expected at least two objectives, got {names}. Name two or three metrics.")
        if self.untrained < 1:
            raise UserError(f"Search: expected at least 1 fidelity, got {self.untrained}. Give the loop an evaluator.")

    def without_training(self) -> Task:
        """The same, for a search that has no use for trained fidelities.

        Raises:
            UserError: There are some.
        """
        if self.trained:
            raise UserError(
                "search.distillation=loop: expected search=surrogate, which knows when training pays, got another "
                "search. Set search.distillation=final to train the front's members at the end, or off."
            )
        return self

    @property
    def untrained(self) -> int:
        """How many fidelities, the first ones, look at subnets as they are."""
        return self.fidelities - self.trained


def starting_designs(space: SearchSpace, removal_order: Sequence[int]) -> list[Candidate]:
    """The dense model, in each type too, and plain designs of a space: uniform ones, and depth-only ones.

    Args:
        space: Where to search.
        removal_order: The layers, in the order in which depth-only designs lose them.
    """
    dense = [Candidate.dense(space.spec), *space.rounded_ladder()]
    return [*dense, *space.uniform_ladder(), *space.depth_ladder(removal_order)]


def some_of(designs: Sequence[Candidate], count: int) -> list[Candidate]:
    """So many of regular designs, evenly chosen, and all that have types of their own: what anyone would try first."""
    rounded = [candidate for candidate in designs if candidate.is_rounded]
    return [*rounded, *evenly([candidate for candidate in designs if not candidate.is_rounded], count)]


@dataclass(frozen=True)
class Question:
    """A candidate to be evaluated.

    Attributes:
        candidate: What to evaluate.
        fidelity: Index into the loop's fidelities, which are ordered cheapest first; the last one makes the front.
        predicted: What a surrogate expects, by metric; stored with the answer, so that the archive shows how good the
            surrogate was at candidates that it had not seen.
    """

    candidate: Candidate
    fidelity: int = FULL
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
