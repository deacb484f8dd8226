"""The budgeted loop: ask the algorithm, look in the archive or evaluate, store, tell. Resuming is running it again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from threadpoolctl import threadpool_limits

from evaluators.base import Evaluation, Evaluator, Metric
from search.archive import Archive
from search.course import Course
from search.protocol import Algorithm, Question
from space.errors import UserError

EVALUATIONS_BEFORE_GIVING_UP = 20
TOKENS = 440_000  # of a run whose budget is in evaluations alone


@dataclass(frozen=True)
class Budget:
    """When the search ends; whichever comes first. Failed and replayed evaluations count.

    Attributes:
        minutes: Of the whole command. Where neither evaluations nor tokens are given, a run makes tokens of them;
            no search looks at a clock.
        evaluations: Evaluations at the full fidelity, or None for no limit.
        tokens: Tokens sent through candidates at any fidelity, or None for no limit. The evaluation that reaches it is
            the last.
        patience: Generations with full evaluations after which the search ends, when together they did not raise the
            hypervolume by more than `progress`; None to go on.
        progress: A fraction of the hypervolume.
    """

    evaluations: int | None = None
    tokens: int | None = None
    patience: int | None = None
    progress: float = 0.001
    minutes: float | None = None

    def __post_init__(self) -> None:
        limits = {"evaluations": self.evaluations, "tokens": self.tokens, "patience": self.patience}
        for name, value in limits.items():
            if value is not None and value < 1:
                raise UserError(
                    f"Budget: expected {name} of at least 1, got {value}. Give the search something to spend."
                )
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise UserError(f"Budget: expected minutes above 0, got {self.minutes}.")
        if self.minutes is None and self.evaluations is None and self.tokens is None:
            raise UserError("Budget: expected minutes, evaluations or tokens, got none of them. Set one.")
        if self.progress < 0:
            raise UserError(f"Budget: expected a progress of at least 0, got {self.progress}.")

    @property
    def in_minutes(self) -> bool:
        """Whether the minutes decide: evaluations and tokens stand in place of them."""
        return self.evaluations is None and self.tokens is None

    def limited(self, tokens: int | None) -> Budget:
        """The same as a search goes by it.

        Args:
            tokens: What the minutes come to; None where that is not known, or where they do not decide.

        Returns:
            The minutes are left where they decide; a budget in evaluations alone has a limit of `TOKENS` too.
        """
        if self.in_minutes:
            return replace(self, tokens=tokens)
        return replace(self, minutes=None, tokens=self.tokens or TOKENS)

    def fraction(self, evaluations: int, tokens: int) -> float:
        """The part of the limits that is spent, from 0 up; 1 and above is the end."""
        parts = [evaluations / self.evaluations] if self.evaluations is not None else []
        parts += [tokens / self.tokens] if self.tokens is not None else []
        return max(parts, default=0.0)

    def stagnant(self, volumes: Sequence[float]) -> bool:
        """Whether these hypervolumes, one a generation, have stopped to grow."""
        if self.patience is None or len(volumes) <= self.patience:
            return False
        return volumes[-1] <= volumes[-1 - self.patience] * (1 + self.progress)


@dataclass(frozen=True)
class SearchProgress:
    """How far a search is, after an evaluation.

    Attributes:
        budget: What may be spent.
        objectives: What the front is about.
        generation: Of the latest evaluation: how many times the algorithm has been asked so far.
        generation_done: Whether this was the generation's last evaluation.
        latest: The evaluation.
        counts: Evaluations so far by fidelity, cheapest first.
        replayed: Those of all that the archive held already.
        failed: Those of all that failed.
        tokens: Tokens sent through candidates so far.
        seconds: Time that the evaluations took, as it was measured when each was made.
        fidelity: Whose the front is: the dearest one that has answered so far.
        hypervolume: Of the front, below a reference that its first generation fixes; None before that.
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
    ask: int,
    on_progress: Callable[[SearchProgress], None] = lambda progress: None,
) -> None:
    """Search until the budget is spent or the algorithm has no new candidate; the archive holds the result.

    An evaluation that the archive holds is taken from there and counts like one that is made now, so that a run that
    was killed, run again, asks the same candidates, stops at the same one and leaves the same archive. Every new
    evaluation is on disk before the next one starts.

    Args:
        algorithm: Freshly made, with the seed of the run.
        evaluators: The fidelities, cheapest first; consecutive questions at one of them are asked together. The front
            and the hypervolume are of the dearest one's values alone.
        archive: Where evaluations are looked up and stored.
        objectives: Metrics of all evaluators; they make the front.
        budget: When to stop.
        ask: Candidates of a generation. The last one is asked whole too, so that a run with a larger budget begins with
            the same candidates.
        on_progress: Called after every evaluation.

    Raises:
        UserError: An evaluator lacks an objective, the archive cannot be written, or most evaluations fail.
    """
    require_ask(ask)
    for evaluator in evaluators:
        names = [metric.name for metric in evaluator.metrics]
        missing = [metric.name for metric in objectives if metric.name not in names]
        if missing:
            raise UserError(
                f"Search: expected objectives among {names}, got {missing}. Change the objectives or evaluators."
            )
    course, replayed = Course(objectives, [evaluator.fidelity for evaluator in evaluators]), 0
    spent = False
    while not (spent or budget.stagnant(course.volumes)):
        with threadpool_limits(1, "blas"):  # the same bits, and so the same way, however many threads a resumed run has
            questions = algorithm.ask(ask)
        if not questions:
            return
        answers: list[Evaluation] = []
        for evaluation, was_replayed in _answers(questions, evaluators, archive, course.generation + 1):
            answers.append(evaluation)
            course.add(evaluation)
            replayed += was_replayed
            _check_failures(course, evaluation)
            spent = budget.fraction(course.done, course.tokens) >= 1
            generation_done = spent or len(answers) == len(questions)
            if generation_done:
                course.end_generation()
                with threadpool_limits(1, "blas"):
                    algorithm.tell(answers)
            on_progress(_progress(course, budget, evaluation, replayed, generation_done, algorithm.remark))
            if generation_done:
                break


def require_ask(ask: int) -> None:
    """Raises UserError where a generation would have no candidates."""
    if ask < 1:
        raise UserError(f"search.ask: expected at least 1 candidate, got {ask}.")


def _answers(
    questions: Sequence[Question], evaluators: Sequence[Evaluator], archive: Archive, generation: int
) -> Iterator[tuple[Evaluation, bool]]:
    """The answers in order, each with whether the archive held it; a new one is on disk before the next is computed."""
    for fidelity, group in groupby(questions, lambda question: question.fidelity % len(evaluators)):
        evaluator, together = evaluators[fidelity], [*group]
        candidates = dict.fromkeys(question.candidate for question in together)
        new = evaluator.evaluate([c for c in candidates if archive.get(c.key, evaluator.fidelity) is None])
        for question in together:
            evaluation = archive.get(question.candidate.key, evaluator.fidelity)
            replayed = evaluation is not None
            if evaluation is None:
                evaluation = next(new)
                assert evaluation.candidate == question.candidate
                assert evaluation.fidelity == evaluator.fidelity
                evaluation = replace(evaluation, predicted=question.predicted, generation=generation)
                archive.add(evaluation)
            elif evaluation.generation == 0:  # it was asked after a search that goes on now with a larger budget
                evaluation = replace(evaluation, generation=generation)
                archive.add(evaluation)
            yield replace(evaluation, generation=generation), replayed


def _check_failures(course: Course, latest: Evaluation) -> None:
    """Ends a search that finds out nothing.

    Raises:
        UserError: More than half of the evaluations failed, and there are enough of them to give up.
    """
    evaluations = sum(course.counts.values())
    if latest.status == "failed" and evaluations >= EVALUATIONS_BEFORE_GIVING_UP and course.failed > evaluations / 2:
        raise UserError(
            f"Search: expected most evaluations to succeed, but {course.failed} of {evaluations} failed. The last one "
            f"said: {latest.error} Mend the cause and start with a new run_dir: this one keeps the failures."
        )


def _progress(
    course: Course, budget: Budget, latest: Evaluation, replayed: int, generation_done: bool, remark: str
) -> SearchProgress:
    return SearchProgress(
        budget=budget,
        objectives=course.objectives,
        generation=course.generation,
        generation_done=generation_done,
        latest=latest,
        counts=dict(course.counts),
        replayed=replayed,
        failed=course.failed,
        tokens=course.tokens,
        seconds=course.seconds,
        fidelity=course.fidelity,
        hypervolume=course.hypervolume,
        front=tuple(course.front),
        remark=remark,
    )
