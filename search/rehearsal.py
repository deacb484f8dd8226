"""A search with made-up answers: what it would refuse, on a model of a few layers, and how long it takes to ask."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from threadpoolctl import threadpool_limits

from evaluators.base import Evaluation, Metric
from evaluators.metrics import REMOVED
from search.constraints import limits_on
from search.protocol import Algorithm, Question, Task, starting_designs
from space.candidate import Candidate
from space.space import SearchSpace
from space.spec import ModelSpec

_SPEC = ModelSpec(
    name="rehearsal",
    digest="0",
    family="llama",
    layers=4,
    hidden=8,
    query_heads=4,
    kv_heads=2,
    head_dim=2,
    mlp_channels=256,
    vocab=8,
    tied_embeddings=True,
)


def rehearse(
    algorithm: Callable[[Task], Algorithm],
    objectives: Sequence[Metric],
    free: Sequence[Metric],
    constraints: Mapping[str, Any],
    *,
    seed: int,
    fidelities: int,
    trained: int,
    healed: bool,
    tokens: int | None,
) -> None:
    """Makes the algorithm of a run, and has it ask, with numbers that are not the run's.

    Args:
        algorithm: Makes it.
        objectives: What the front is about.
        free: The metrics that cost nothing to know.
        constraints: See `search.constraints.limits`.
        seed: See `Task`, as the next ones.
        fidelities: How many there are.
        trained: How many of them look at trained subnets.
        healed: Whether these are healed together.
        tokens: The budget.

    Raises:
        UserError: What the algorithm refuses, in its words; or a constraint is none, or on another metric.
    """
    names = [metric.name for metric in free]
    limits_on(constraints, names)
    dense = _size(Candidate.dense(_SPEC))

    def values(candidate: Candidate) -> dict[str, float]:
        size = _size(candidate)
        return dict.fromkeys(names, size) | {REMOVED: 1 - size / dense, "refit_error": dense - size}

    space = SearchSpace(_SPEC)
    starts = starting_designs(space, range(_SPEC.layers))
    algorithm(Task(space, objectives, seed, values, starts, fidelities, trained, healed, tokens)).ask(1)


def asking(
    algorithm: Callable[[Task], Algorithm], task: Task, *, ask: int, tokens: Sequence[int], training: int, most: int
) -> tuple[tuple[int, float], ...]:
    """How long an algorithm takes to ask: it is played with to the end of its budget, or for so many questions.

    Args:
        algorithm: Makes it.
        task: Of the run, with a budget in tokens.
        ask: Candidates of a generation.
        tokens: Of an answer at each fidelity.
        training: Tokens of the first answer about a healed subnet besides, where there are such.
        most: Questions.

    Returns:
        Questions, and the seconds that they took, after each generation; no questions at first.
    """
    begun, spent, questions = time.perf_counter(), 0, 0
    made, waited = algorithm(task), 0.0
    points = [(0, time.perf_counter() - begun)]
    while questions < most and task.tokens is not None and spent < task.tokens:
        with threadpool_limits(1, "blas"):
            asked = made.ask(ask)
        if not asked:
            break
        answered = time.perf_counter()
        answers = []
        for question in asked:
            answer = _made_up(task, question, tokens)
            if task.healed and training and question.fidelity % task.fidelities == task.fidelities - 1:
                answer, training = replace(answer, tokens=answer.tokens + training), 0
            answers.append(answer)
        waited += time.perf_counter() - answered
        with threadpool_limits(1, "blas"):
            made.tell(answers)
        questions, spent = questions + len(asked), spent + sum(answer.tokens for answer in answers)
        points.append((questions, time.perf_counter() - begun - waited))
    return tuple(points)


def _made_up(task: Task, question: Question, tokens: Sequence[int]) -> Evaluation:
    """An answer that is about as good as the refit of the candidate's blocks, each for itself."""
    free = task.free(question.candidate)
    error = free.get("refit_error", 0.0)
    loss = error / (1 + error)
    values = {m.name: loss if m.goal == "min" else 1 - loss for m in task.objectives if not m.free}
    count = tokens[question.fidelity % task.fidelities]
    return Evaluation(question.candidate, "made up", values={**free, **values}, tokens=count)


def _size(candidate: Candidate) -> float:
    """A sum over blocks, as everything is that costs nothing to know."""
    return float(sum(shape.query_heads + shape.kv_heads + shape.mlp_channels for shape in candidate.layers))
