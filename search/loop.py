"""The budgeted loop: ask the algorithm, look in the archive or evaluate, store, tell. Resuming is running it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from threadpoolctl import threadpool_limits

from evaluators.base import Evaluation, Evaluator, Metric
from search.archive import Archive
from search.pareto import Floats, hypervolume, minimised, non_dominated, reference_point
from search.protocol import Algorithm, Question
from space.errors import UserError

EVALUATIONS_BEFORE_GIVING_UP = 20


@dataclass(frozen=True)
class Budget:
    """When the search ends; whichever comes first. Failed and replayed evaluations count.

    Attributes:
        evaluations: Evaluations at the full fidelity, or None for no limit.
        tokens: Tokens sent through candidates at any fidelity, or None for no limit. The evaluation that reaches it is
            the last.
        patience: Batches with full evaluations after which the search ends, when they all together did not raise the
            hypervolume by more than `progress`; None to go on.
        progress: A fraction of the hypervolume.
    """

    evaluations: int | None = None
    tokens: int | None = None
    patience: int | None = None
    progress: float = 0.001

    def __post_init__(self) -> None:
        limits = {"evaluations": self.evaluations, "tokens": self.tokens, "patience": self.patience}
        for name, value in limits.items():
            if value is not None and value < 1:
                raise UserError(
                    f"Budget: expected {name} of at least 1, got {value}. Give the search something to spend."
                )
        if self.evaluations is None and self.tokens is None:
            raise UserError("Budget: expected a limit of evaluations or of tokens, got neither. Set one of them.")
        if self.progress < 0:
            raise UserError(f"Budget: expected a progress of at least 0, got {self.progress}.")

    def fraction(self, evaluations: int, tokens: int) -> float:
        """The part of the limits that is spent, from 0 up; 1 and above is the end."""
        parts = [evaluations / self.evaluations] if self.evaluations is not None else []
        parts += [tokens / self.tokens] if self.tokens is not None else []
        return max(parts)

    def stagnant(self, volumes: Sequence[float]) -> bool:
        """Whether these hypervolumes, one a batch, have stopped to grow."""
        if self.patience is None or len(volumes) <= self.patience:
            return False
        return volumes[-1] <= volumes[-1 - self.patience] * (1 + self.progress)


@dataclass(frozen=True)
class SearchProgress:
    """How far a search is, after an evaluation.

    Attributes:
        budget: What may be spent.
        objectives: What the front is about.
        generation: Batches asked so far, from 1.
        generation_done: Whether this was the batch's last evaluation.
        latest: The evaluation.
        counts: Evaluations so far by fidelity, cheapest first.
        replayed: Those of all that the archive held already.
        failed: Those of all that failed.
        tokens: Tokens sent through candidates so far.
        seconds: Time that the evaluations took, as it was measured when each was made.
        fidelity: Whose the front is: the dearest one that has answered so far.
        hypervolume: Of the front, below a reference that its first batch fixes; None before that.
        front: Its points.
        remark: What the algorithm says of itself.
    """

    budget: Budget
    objectives: tuple[Metric, ...]
    generation: int
    generation_done: bool
    latest: Evaluation
    counts: Mapping[str, int]
    replayed: int
    failed: int
    tokens: int
    seconds: float
    fidelity: str
    hypervolume: float | None
    front: tuple[Evaluation, ...]
    remark: str

    @property
    def done(self) -> int:
        """Evaluations at the full fidelity so far."""
        return [*self.counts.values()][-1]

    @property
    def fraction(self) -> float:
        """The part of the budget that is spent, 0..1."""
        return min(1.0, self.budget.fraction(self.done, self.tokens))


def run_loop(
    algorithm: Algorithm,
    evaluators: Sequence[Evaluator],
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
        evaluators: The fidelities, cheapest first; asked about one candidate at a time. The front and the hypervolume
            are of the last one's values alone.
        archive: Where evaluations are looked up and stored.
        objectives: Metrics of all evaluators; they make the front.
        budget: When to stop.
        batch: Candidates asked at once. The last batch is asked whole too, so that a run with a larger budget begins
            with the same candidates.
        on_progress: Called after every evaluation.

    Raises:
        UserError: An evaluator lacks an objective, the archive cannot be written, or most evaluations fail.
    """
    if batch < 1:
        raise UserError(f"Search: expected a batch of at least 1 candidate, got {batch}.")
    for evaluator in evaluators:
        known = [metric.name for metric in evaluator.metrics]
        missing = [metric.name for metric in objectives if metric.name not in known]
        if missing:
            raise UserError(
                f"Search: expected objectives among {known}, got {missing}. Change the objectives or evaluators."
            )
    state = _State(tuple(objectives), budget, [evaluator.fidelity for evaluator in evaluators])
    while not state.spent:
        with threadpool_limits(1, "blas"):  # the same bits, and so the same way, however many threads a resumed run has
            questions = algorithm.ask(batch)
        if not questions:
            return
        state.generation += 1
        told: list[Evaluation] = []
        for number, question in enumerate(questions):
            evaluator = evaluators[question.rung]
            evaluation = archive.get(question.candidate.key, evaluator.fidelity)
            replayed = evaluation is not None
            if evaluation is None:
                evaluator.expect([q.candidate for q in questions[number:] if q.rung == question.rung])
                evaluation = _evaluate(evaluator, question)
                archive.add(evaluation)
            told.append(evaluation)
            state.count(evaluation, evaluators.index(evaluator), replayed=replayed)
            batch_done = state.exhausted or len(told) == len(questions)
            if batch_done:
                state.end_batch()
                with threadpool_limits(1, "blas"):
                    algorithm.tell(told)
            on_progress(state.progress(evaluation, generation_done=batch_done, remark=algorithm.remark))
            if batch_done:
                break


def _evaluate(evaluator: Evaluator, question: Question) -> Evaluation:
    (evaluation,) = evaluator([question.candidate])
    assert evaluation.candidate == question.candidate
    assert evaluation.fidelity == evaluator.fidelity
    return replace(evaluation, predicted=question.predicted)


@dataclass
class _State:
    """The counts and the front of a running search; a function of the evaluations so far and nothing else."""

    objectives: tuple[Metric, ...]
    budget: Budget
    fidelities: Sequence[str]
    counts: dict[str, int] = field(init=False)  # by fidelity
    rung: int = 0  # the front's
    generation: int = 0
    replayed: int = 0
    failed: int = 0
    tokens: int = 0
    seconds: float = 0.0
    front: list[Evaluation] = field(default_factory=list)
    reference: Floats | None = None
    volumes: list[float] = field(default_factory=list)  # one a batch with full evaluations
    done_before: int = 0  # full evaluations at the end of the last batch

    def __post_init__(self) -> None:
        self.counts = dict.fromkeys(self.fidelities, 0)

    @property
    def done(self) -> int:
        """Full evaluations."""
        return self.counts[self.fidelities[-1]]

    @property
    def exhausted(self) -> bool:
        """Whether a limit is reached."""
        return self.budget.fraction(self.done, self.tokens) >= 1

    @property
    def spent(self) -> bool:
        """Whether no other batch is to be asked."""
        return self.exhausted or self.budget.stagnant(self.volumes)

    def count(self, evaluation: Evaluation, rung: int, *, replayed: bool) -> None:
        """Take one more evaluation in; values of different rungs are never in one front.

        Raises:
            UserError: More than half of them failed, and there are enough of them to give up.
        """
        self.counts[evaluation.fidelity] += 1
        self.replayed += replayed
        self.tokens += evaluation.tokens
        self.seconds += evaluation.seconds
        if evaluation.status == "ok":
            if rung > self.rung:
                self.rung, self.front, self.reference = rung, [], None
            if rung == self.rung:
                front = [*self.front, evaluation]
                mask = non_dominated(self._values(front))
                self.front = [e for e, kept in zip(front, mask, strict=True) if kept]
            return
        self.failed += 1
        made = sum(self.counts.values())
        if made >= EVALUATIONS_BEFORE_GIVING_UP and self.failed > made / 2:
            raise UserError(
                f"Search: expected most evaluations to succeed, but {self.failed} of {made} failed. The last one "
                f"said: {evaluation.error} Mend the cause and start with a new run_dir: this one keeps the failures."
            )

    def end_batch(self) -> None:
        """Note the hypervolume; its reference point is fixed once, at the end of the first batch with a front."""
        if not self.front:
            return
        values = self._values(self.front)
        if self.reference is None:
            self.reference = reference_point(values)
        if self.done > self.done_before:
            self.volumes.append(hypervolume(values, self.reference))
        self.done_before = self.done

    def progress(self, latest: Evaluation, *, generation_done: bool, remark: str) -> SearchProgress:
        return SearchProgress(
            budget=self.budget,
            objectives=self.objectives,
            generation=self.generation,
            generation_done=generation_done,
            latest=latest,
            counts=dict(self.counts),
            replayed=self.replayed,
            failed=self.failed,
            tokens=self.tokens,
            seconds=self.seconds,
            fidelity=self.fidelities[self.rung],
            hypervolume=None if self.reference is None else hypervolume(self._values(self.front), self.reference),
            front=tuple(self.front),
            remark=remark,
        )

    def _values(self, evaluations: Sequence[Evaluation]) -> Floats:
        return minimised([e.values for e in evaluations], self.objectives)
