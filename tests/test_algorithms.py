"""Search algorithms: repeatable, never asking twice, ending, and better than chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from helpers_toy import toy_spec

from evaluators.base import Evaluation, Metric
from search.algorithms import NSGA2
from search.pareto import hypervolume, minimised
from search.protocol import Algorithm, Task
from space.candidate import Candidate
from space.errors import UserError
from space.space import SearchSpace

LAYERS = 8
SPEC = toy_spec(layers=LAYERS)
OBJECTIVES = (Metric("error", "", "min", "quality"), Metric("size", "", "min", "cost", free=True))
LOSS = np.random.default_rng(7).uniform(0.05, 1.0, (LAYERS, 2)) ** 3  # what each block is worth: some much, most little


def toy_values(candidate: Candidate) -> dict[str, float]:
    """A separable problem: each block adds to the size what it keeps, and to the error the square of what it lost."""
    kept = np.array([[s.query_heads / SPEC.query_heads, s.mlp_channels / SPEC.mlp_channels] for s in candidate.layers])
    return {"error": float((LOSS * (1 - kept) ** 2).sum() / LOSS.sum()), "size": float(kept.mean())}


def evaluate(candidate: Candidate) -> Evaluation:
    return Evaluation(candidate, "search", values=toy_values(candidate))


def failing(candidate: Candidate) -> Evaluation:
    return Evaluation(candidate, "search", status="failed", error="RuntimeError: no")


def run(
    algorithm: Algorithm, evaluations: int, *, batch: int = 20, answer: Callable[[Candidate], Evaluation] = evaluate
) -> list[Evaluation]:
    told: list[Evaluation] = []
    while len(told) < evaluations and (asked := algorithm.ask(batch)):
        assert len(asked) <= batch
        answers = [answer(question.candidate) for question in asked]
        algorithm.tell(answers)
        told += answers
    return told[:evaluations]


def keys(evaluations: Sequence[Evaluation]) -> list[str]:
    return [e.candidate.key for e in evaluations]


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return SearchSpace(SPEC, mlp_step=2, min_decoder_params=0.2)


@pytest.mark.parametrize("batch", [7, 20])
def test_the_same_seed_asks_the_same_candidates_in_the_same_order(space, batch):
    first, again, other = (
        keys(run(NSGA2(Task(space, OBJECTIVES, seed), population=20), 140, batch=batch)) for seed in (3, 3, 4)
    )
    assert first == again
    assert len(set(first) & set(other)) < len(first) / 2


def test_every_candidate_is_new_and_within_the_space(space):
    told = run(NSGA2(Task(space, OBJECTIVES, 0), population=20), 300)
    assert len(set(keys(told))) == 300
    assert all(space.contains(e.candidate) for e in told)


def test_all_starts_are_asked_first_once_and_outsiders_are_left_out():
    space = SearchSpace(SPEC, mlp_step=2, max_decoder_params=0.9)
    rng = np.random.default_rng(0)
    inside = list({c.key: c for c in (space.sample(rng) for _ in range(12))}.values())
    dense = Candidate.dense(SPEC)
    assert not space.contains(dense)
    algorithm = NSGA2(Task(space, OBJECTIVES, 0, starts=[dense, *inside, inside[0]]), population=8)
    asked = algorithm.ask(5) + algorithm.ask(5) + algorithm.ask(5)
    assert [q.candidate.key for q in asked[: len(inside)]] == [c.key for c in inside]


def test_starts_are_topped_up_to_the_population_with_samples(space):
    start = space.sample(np.random.default_rng(0))
    algorithm = NSGA2(Task(space, OBJECTIVES, 0, starts=[start]), population=10)
    asked = algorithm.ask(100)
    assert len(asked) == 10
    assert asked[0].candidate == start


def test_failed_evaluations_are_no_parents(space):
    """With all but one start failed, offspring stem from that one alone: they are near it, not near the others."""
    starts = [space.decode(np.zeros_like(space.levels)), Candidate.dense(SPEC)]
    starts = [space.decode(space.repair(space.encode(s), np.random.default_rng(0))) for s in starts]
    algorithm = NSGA2(Task(space, OBJECTIVES, 0, starts=starts), population=2)
    small, dense = (question.candidate for question in algorithm.ask(2))
    algorithm.tell([failing(small), evaluate(dense)])
    offspring = [question.candidate for question in algorithm.ask(20)]
    assert offspring
    distance = [np.count_nonzero(space.encode(c) != space.encode(dense)) for c in offspring]
    assert max(distance) <= len(space.levels) / 2


def test_the_search_goes_on_when_everything_fails_and_when_it_then_succeeds(space):
    algorithm = NSGA2(Task(space, OBJECTIVES, 0), population=10)
    failed = run(algorithm, 30, batch=10, answer=failing)
    succeeded = run(algorithm, 60, batch=10)
    again = run(algorithm, 10, batch=10, answer=failing)
    assert len(set(keys(failed + succeeded + again))) == 100


@pytest.mark.parametrize("answer", [evaluate, failing])
def test_a_small_space_is_exhausted_and_ends(answer):
    space = SearchSpace(
        SPEC, attention_widths=False, mlp_widths=False, whole_layers=True, freeze_layers=range(LAYERS - 3)
    )
    told = run(NSGA2(Task(space, OBJECTIVES, 0), population=4), 1000, batch=4, answer=answer)
    assert len(told) == len(set(keys(told))) == 2**3


def test_offspring_respect_ordinal_levels_and_mostly_step_by_one(space):
    """Told one parent alone, offspring differ from it by mutation only."""
    middle = space.decode(space.repair(space.levels // 2, np.random.default_rng(0)))
    algorithm = NSGA2(Task(space, OBJECTIVES, 1, starts=[middle]), population=2)
    parent, other = (question.candidate for question in algorithm.ask(2))
    algorithm.tell([evaluate(parent), failing(other)])
    steps = np.concatenate([space.encode(q.candidate) - space.encode(parent) for q in algorithm.ask(200)])
    moved = steps[steps != 0]
    assert 1.2 < len(moved) / 200 < 2.5
    assert 0.4 < np.mean(np.abs(moved) == 1) < 0.9
    assert 0.4 < np.mean(moved > 0) < 0.6


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_better_than_random_sampling_at_equal_evaluations(space, seed):
    evaluations = 400
    told = run(NSGA2(Task(space, OBJECTIVES, seed)), evaluations, batch=10)
    rng = np.random.default_rng(seed)
    sampled = [evaluate(space.sample(rng)) for _ in range(evaluations)]
    searched, random = (
        hypervolume(minimised([e.values for e in found], OBJECTIVES), [1.0, 1.0]) for found in (told, sampled)
    )
    assert searched > random + 0.02


def test_a_goal_of_max_is_maximised(space):
    """The toy problem with the error's sign turned is the same problem."""
    kept = (Metric("kept", "", "max", "cost", free=True), OBJECTIVES[1])

    def turned(candidate: Candidate) -> Evaluation:
        values = toy_values(candidate)
        return Evaluation(candidate, "search", values={"kept": -values["error"], "size": values["size"]})

    told = run(NSGA2(Task(space, kept, 0), population=20), 100, answer=turned)
    assert keys(told) == keys(run(NSGA2(Task(space, OBJECTIVES, 0), population=20), 100))


def test_three_objectives_work(space):
    objectives = (*OBJECTIVES, Metric("heads", "", "min", "cost", free=True))

    def answer(candidate: Candidate) -> Evaluation:
        heads = float(sum(shape.query_heads for shape in candidate.layers))
        return Evaluation(candidate, "search", values={**toy_values(candidate), "heads": heads})

    assert len(run(NSGA2(Task(space, objectives, 0), population=20), 100, answer=answer)) == 100


def test_nothing_is_printed(space, capsys):
    run(NSGA2(Task(space, OBJECTIVES, 0), population=10), 40)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"population": 1}, "population"),
        ({"crossover_probability": 1.5}, "crossover_probability"),
        ({"mutated_genes": 0}, "mutated_genes"),
        ({"matings": 0}, "matings"),
    ],
)
def test_arguments_out_of_range_are_named(space, arguments, name):
    with pytest.raises(UserError, match=f"expected .*{name}"):
        NSGA2(Task(space, OBJECTIVES, 0), **arguments)


def test_one_objective_is_refused(space):
    with pytest.raises(UserError, match="at least two objectives"):
        NSGA2(Task(space, OBJECTIVES[:1], 0))
