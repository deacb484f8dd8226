"""The budgeted loop: ask the algorithm, look in the archive or evaluate, store, tell. Resuming is running it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from evaluators.base import Evaluation, Evaluator, Metric
from search.algorithms import Algorithm
from search.archive import Archive
from search.pareto import Floats, hypervolume, knee, minimised, non_dominated, reference_point
from space.candidate import Candidate
from space.errors import UserError

EVALUATIONS_BEFORE_GIVING_UP = 20


@dataclass(frozen=True)
class Budget:
    """When the search ends; whichever comes first.

    Attributes:
        evaluations: Evaluations, failed ones and replayed ones included.
        tokens: Tokens sent through candidates, or None for no limit. The evaluation that reaches it is the last.
    """

    evaluations: int
    tokens: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("evaluations", self.evaluations), ("tokens", self.tokens)):
            if value is not None and value < 1:
                raise UserError(
                    f"Budget: expected {name} of at least 1, got {value}. Give the search something to spend."
                )

    def spent(self, evaluations: int, tokens: int) -> bool:
        """Whether nothing is left."""
        return evaluations >= self.evaluations or (self.tokens is not None and tokens >= self.tokens)


@dataclass(frozen=True)
class SearchProgress:
    """How far a search is, after an evaluation.

    Attributes:
        budget: What may be spent.
        generation: Batches asked so far, from 1.
        generation_done: Whether this was the batch's last evaluation.
        done: Evaluations so far.
        replayed: Those of them that the archive held already.
        failed: Those of them that failed.
        tokens: Tokens sent through candidates so far.
        seconds_per_evaluation: Mean, as it was measured when each was made.
        hypervolume: Of the front, below a reference that the first batch fixes; None before that.
        front: Points on the front.
        best: For each objective, by name, the evaluation with its best value; empty before the first success.
        knee: The knee of the front; None before the first success.
    """

    budget: Budget
    generation: int
    generation_done: bool
    done: int
    replayed: int
    failed: int
    tokens: int
    seconds_per_evaluation: float
    hypervolume: float | None
    front: int
    best: Mapping[str, Evaluation]
    knee: Evaluation | None

    @property
    def fraction(self) -> float:
        """The part of the budget that is spent, 0..1."""
        spent = self.done / self.budget.evaluations
        if self.budget.tokens is not None:
            spent = max(spent, self.tokens / self.budget.tokens)
        return min(1.0, spent)

    @property
    def seconds_left(self) -> float:
        """Expected time to the end of the budget, in seconds."""
        return self.done * self.seconds_per_evaluation * (1.0 - self.fraction) / self.fraction


def run_loop(
    algorithm: Algorithm,
    evaluator: Evaluator,
    archive: Archive,
    objectives: Sequence[Metric],
    budget: Budget,
    *,
    batch: int,
    on_progress: Callable[[SearchProgress], None] = lambda progress: None,
) -> None:
    """Search until the budget is spent or the algorithm has no new candidate; the archive holds the result.

    An evaluation that the archive holds is taken from there and counts like one that is made now, so that a run that
    was killed, run again, asks the same candidates, stops at the same one and leaves the same archive. Every new
    evaluation is on disk before the next one starts.

    Args:
        algorithm: Freshly made, with the seed of the run.
        evaluator: Asked about one candidate at a time.
        archive: Where evaluations are looked up and stored.
        objectives: Metrics of the evaluator that make the front.
        budget: When to stop.
        batch: Candidates asked at once. The last batch is asked whole too, so that a run with a larger budget begins
            with the same candidates.
        on_progress: Called after every evaluation.

    Raises:
        UserError: The evaluator lacks an objective, the archive cannot be written, or most evaluations fail.
    """
    if batch < 1:
        raise UserError(f"Search: expected a batch of at least 1 candidate, got {batch}.")
    known = [metric.name for metric in evaluator.metrics]
    missing = [metric.name for metric in objectives if metric.name not in known]
    if missing:
        raise UserError(
            f"Search: expected objectives among {known}, got {missing}. Change the objectives or evaluators."
        )
    state = _State(tuple(objectives), budget)
    while not state.spent:
        candidates = algorithm.ask(batch)
        if not candidates:
            return
        state.generation += 1
        told: list[Evaluation] = []
        for candidate in candidates:
            evaluation = archive.get(candidate.key, evaluator.fidelity)
            replayed = evaluation is not None
            if evaluation is None:
                evaluation = _evaluate(evaluator, candidate)
                archive.add(evaluation)
            told.append(evaluation)
            state.count(evaluation, replayed=replayed)
            batch_done = state.spent or len(told) == len(candidates)
            if batch_done:
                state.fix_reference()
            on_progress(state.progress(generation_done=batch_done))
            if batch_done:
                break
        algorithm.tell(told)


def _evaluate(evaluator: Evaluator, candidate: Candidate) -> Evaluation:
    (evaluation,) = evaluator([candidate])
    assert evaluation.candidate == candidate
    assert evaluation.fidelity == evaluator.fidelity
    return evaluation


@dataclass
class _State:
    """The counts and the front of a running search; a function of the evaluations so far and nothing else."""

    objectives: tuple[Metric, ...]
    budget: Budget
    generation: int = 0
    done: int = 0
    replayed: int = 0
    failed: int = 0
    tokens: int = 0
    seconds: float = 0.0
    front: list[Evaluation] = field(default_factory=list)
    reference: Floats | None = None

    @property
    def spent(self) -> bool:
        return self.budget.spent(self.done, self.tokens)

    def count(self, evaluation: Evaluation, *, replayed: bool) -> None:
        """Take one more evaluation in.

        Raises:
            UserError: More than half of them failed, and there are enough of them to give up.
        """
        self.done += 1
        self.replayed += replayed
        self.tokens += evaluation.tokens
        self.seconds += evaluation.seconds
        if evaluation.status == "ok":
            front = [*self.front, evaluation]
            mask = non_dominated(self._values(front))
            self.front = [e for e, kept in zip(front, mask, strict=True) if kept]
            return
        self.failed += 1
        if self.done >= EVALUATIONS_BEFORE_GIVING_UP and self.failed > self.done / 2:
            raise UserError(
                f"Search: expected most evaluations to succeed, but {self.failed} of {self.done} failed. The last one "
                f"said: {evaluation.error} Mend the cause and start with a new run_dir: this one keeps the failures."
            )

    def fix_reference(self) -> None:
        """Fix the hypervolume's reference point, once, as soon as a batch has ended and there is a front."""
        if self.reference is None and self.front:
            self.reference = reference_point(self._values(self.front))

    def progress(self, *, generation_done: bool) -> SearchProgress:
        values = self._values(self.front)
        best = (
            {m.name: self.front[row] for m, row in zip(self.objectives, values.argmin(axis=0), strict=True)}
            if self.front
            else {}
        )
        return SearchProgress(
            budget=self.budget,
            generation=self.generation,
            generation_done=generation_done,
            done=self.done,
            replayed=self.replayed,
            failed=self.failed,
            tokens=self.tokens,
            seconds_per_evaluation=self.seconds / self.done,
            hypervolume=None if self.reference is None else hypervolume(values, self.reference),
            front=len(self.front),
            best=best,
            knee=self.front[knee(values)] if self.front else None,
        )

    def _values(self, evaluations: Sequence[Evaluation]) -> Floats:
        return minimised([e.values for e in evaluations], self.objectives)
