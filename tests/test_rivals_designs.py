"""Rival algorithms: each is as good as its own definition says."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from helpers_rivals import (
    DENSE,
    ERROR,
    FIXED,
    KV,
    LAYERS,
    OBJECTIVES,
    SIZE,
    SPEC,
    SPEED,
    answering,
    entangled,
    free,
    full,
    make,
    run,
    separable,
    space_of,
)

from evaluators.base import Evaluation
from search.pareto import minimised, non_dominated
from search.protocol import Question, Task
from search.rivals.axis import budget_axis
from search.rivals.window import exchange, settle, window
from search.surrogate.sensitivity import interpolated
from space.candidate import Candidate, LayerShape
from space.space import SearchSpace

# random samples and ladders


def test_random_asks_dense_first_and_then_all_of_a_small_space() -> None:
    small = SearchSpace(SPEC, **FIXED, whole_layers=True, freeze_layers=[0, 1, 2])
    told = run(make("random", small, fidelities=3))
    assert told[0][0].candidate == DENSE
    assert len(told) == len(full(told)) == 2**3


def test_ladders_are_the_starts_of_the_space_and_nothing_else() -> None:
    space = space_of("without dense")
    starts = [*space.uniform_ladder(), *space.depth_ladder(range(LAYERS))]
    told = run(make("ladders", space, starts=[DENSE, *starts, starts[0]], fidelities=2))
    assert [question.candidate for question, _ in told] == starts
    assert len(full(told)) == len(starts)


# greedy block removal


def without(candidate: Candidate, layer: int, block: str) -> Candidate:
    shapes = list(candidate.layers)
    shape = shapes[layer]
    attention = (shape.query_heads, shape.kv_heads) if block == "mlp" else (0, 0)
    shapes[layer] = LayerShape(*attention, shape.mlp_channels if block == "attention" else 0)
    return Candidate(tuple(shapes))


def greedy_path(space: SearchSpace, blocks: Sequence[str], cheap: Callable[[Candidate], float]) -> list[Candidate]:
    """The definition: of all designs with one block less, the best one, as long as the space holds one."""
    path = [DENSE]
    while True:
        fewer = [without(path[-1], layer, block) for layer in range(LAYERS) for block in blocks]
        fewer = [candidate for candidate in fewer if candidate != path[-1] and space.contains(candidate)]
        if not fewer:
            return path
        path.append(min(fewer, key=cheap))


@pytest.mark.parametrize("fidelities", [1, 2])
@pytest.mark.parametrize(
    ("space_name", "blocks"),
    [("full", ["attention", "mlp"]), ("blocks", ["attention", "mlp"]), ("depth", ["layer"]), ("heads", ["attention"])],
)
def test_greedy_walks_the_path_of_its_definition(space_name: str, blocks: list[str], fidelities: int) -> None:
    space = space_of(space_name)
    answer = answering(noise=0.3)

    def cheap(candidate: Candidate) -> float:
        return answer(Question(candidate, 0 if fidelities == 2 else -1)).values["error"]

    told = run(make("greedy", space, fidelities=fidelities), answer=answer)
    path = greedy_path(space, blocks, cheap)
    assert len(path) > 2
    if fidelities == 2:
        assert [evaluation.candidate for evaluation in full(told)] == path
    assert {candidate.key for candidate in path} <= {evaluation.candidate.key for evaluation in full(told)}
    # each step asks about every block that is left, once, and about nothing else
    trials = {without(design, layer, block) for design in path for layer in range(LAYERS) for block in blocks}
    trials = {candidate for candidate in trials if space.contains(candidate)} - {DENSE}
    assert {e.candidate for q, e in told if q.fidelity == (0 if fidelities == 2 else -1)} - {DENSE} == trials


def test_greedy_passes_what_is_above_the_upper_bound_on_its_way() -> None:
    space = space_of("without dense")
    told = run(make("greedy", space, fidelities=2))
    unbounded = SearchSpace(SPEC, mlp_step=4, min_decoder_params=0.35)
    path = greedy_path(unbounded, ["attention", "mlp"], entangled)
    inside = [candidate for candidate in path if space.contains(candidate)]
    assert len(inside) < len(path) - 1
    assert [evaluation.candidate for evaluation in full(told)] == inside


@pytest.mark.parametrize("space_name", ["width", "uniform"])
def test_greedy_without_a_block_to_remove_asks_about_the_dense_model_alone(space_name: str) -> None:
    assert [question.candidate for question, _ in run(make("greedy", space_of(space_name), fidelities=2))] == [DENSE]


# evolution


def costs_of(told: Sequence[tuple[Question, Evaluation]]) -> list[float]:
    dense = free(DENSE)["decoder_params"]
    return [free(q.candidate)["decoder_params"] / dense for q, _ in told if q.candidate != DENSE]


@pytest.mark.parametrize("fidelities", [1, 3])
def test_evolution_stays_at_its_targets_and_shares_what_is_asked(fidelities: int) -> None:
    targets = (0.75, 0.625, 0.5)
    told = run(make("evolution", space_of("full"), fidelities=fidelities, tolerance=0.02), most=600)
    cost = np.array(costs_of(told))
    inside = [((target - 0.02 < cost) & (cost <= target + 1e-6)).sum() for target in targets]
    assert sum(inside) == len(cost)
    generation = 16 if fidelities == 1 else 16 + 4 + 1
    assert max(inside) - min(inside) <= generation


@pytest.mark.parametrize(("fidelities", "noise"), [(1, 0.0), (2, 0.1), (3, 0.3)])
def test_the_parent_of_a_target_is_its_best_design_and_never_gets_worse(fidelities: int, noise: float) -> None:
    algorithm = make("evolution", space_of("full"), fidelities=fidelities, targets=[0.6], offspring=8)
    best: list[float] = []
    found: list[float] = []
    for _ in range(120):
        asked = algorithm.ask(100)
        answers = [answering(noise=noise)(question) for question in asked]
        algorithm.tell(answers)
        found += [
            e.values["error"] for q, e in zip(asked, answers, strict=True) if q.fidelity == -1 and e.candidate != DENSE
        ]
        best.append(min(found, default=np.inf))
    algorithm.ask(100)  # the script sees the last answers when it is asked to go on
    target, _, quality = algorithm.remark.partition(": ")
    assert target == "0.6"
    assert float(quality) == pytest.approx(best[-1], rel=1e-3)
    assert best[-1] < 0.9 * next(value for value in best if value < np.inf)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("error", [separable, entangled])
def test_evolution_beats_random_samples(error: Callable[[Candidate], float], seed: int) -> None:
    space = space_of("full")
    dense = free(DENSE)["decoder_params"]

    def best(name: str, target: float) -> float:
        told = run(make(name, space, seed=seed), most=600, answer=answering(error))
        return min(e.values["error"] for e in full(told) if e.values["decoder_params"] <= target * dense * (1 + 1e-9))

    for target in (0.75, 0.625, 0.5):
        assert best("evolution", target) < 0.95 * best("random", target)


def test_evolution_finds_the_best_of_a_small_space_and_then_ends() -> None:
    space = SearchSpace(SPEC, **FIXED, whole_layers=True)
    told = run(make("evolution", space, fidelities=2, targets=[0.7, 0.5], keep=0.5))
    for left in (4, 3):
        gone = [set(c) for c in itertools.combinations(range(LAYERS), LAYERS - left)]
        designs = {
            Candidate(tuple(LayerShape(0, 0, 0) if i in c else s for i, s in enumerate(DENSE.layers))) for c in gone
        }
        asked = {question.candidate for question, _ in told if question.fidelity == 0} & designs
        assert asked == designs
        best = min(designs, key=entangled)
        assert best in {evaluation.candidate for evaluation in full(told)}
    assert len(told) < 400


def test_targets_beyond_the_space_move_to_its_ends() -> None:
    space = SearchSpace(SPEC, mlp_step=2, min_decoder_params=0.5, max_decoder_params=0.7)
    cost = np.array(costs_of(run(make("evolution", space, targets=[0.9, 0.6, 0.2], tolerance=0.02))))
    assert ((cost >= 0.5) & (cost <= 0.7 + 1e-9)).all()
    assert {round(value * 10) for value in cost} == {5, 6, 7}
    algorithm = make("evolution", space, targets=[0.95, 0.9], tolerance=0.02)
    assert min(costs_of(run(algorithm, most=32))) > 0.67
    fraction, _, _ = algorithm.remark.partition(": ")  # one target where there were two, named after what it became
    assert 0.68 < float(fraction) <= 0.7
    assert "," not in algorithm.remark


def test_settled_designs_are_within_the_window_and_exchanges_stay_near() -> None:
    space = space_of("full")
    rng = np.random.default_rng(0)
    axis = budget_axis(Task(space, OBJECTIVES, free=free), ERROR, rng)
    target = window(axis, 0.6, 0.02)
    parents = []
    for _ in range(200):
        genes = settle(space, axis.table, target, space.encode(space.sample(rng)), rng)
        if genes is not None:
            assert target.holds(free(space.decode(genes))["decoder_params"])
            assert space.contains(space.decode(genes))
            parents.append(genes)
    assert len(parents) > 150
    steps = np.array([exchange(axis.table, 1e9, genes, rng) - genes for genes in parents])
    assert (steps.sum(axis=1) == 0).all()
    assert (np.abs(steps).sum(axis=1) == 2).all()
    equal = [exchange(axis.table, 1e-6, genes, rng) for genes in parents]
    change = axis.table.total(np.array(equal)) - axis.table.total(np.array(parents))
    assert np.mean(np.abs(change) < 1e-6) > 0.9  # blocks of one kind have steps of one size


@pytest.mark.parametrize("name", [None, "macs_per_token", "speed"])
def test_the_axis_is_what_it_says(name: str | None) -> None:
    space = space_of("full")
    axis = budget_axis(Task(space, (ERROR, SPEED, SIZE), free=free), ERROR, np.random.default_rng(0), name=name)
    assert axis.metric.name == (name or "speed")
    sign = -1 if axis.metric.goal == "max" else 1
    assert axis.at(1.0) == pytest.approx(axis.table.base) == pytest.approx(sign * free(DENSE)[axis.metric.name])
    rng = np.random.default_rng(1)
    samples = [sign * free(space.sample(rng))[axis.metric.name] for _ in range(300)]
    assert axis.least <= min(samples) * (1 + 1e-9) if sign > 0 else True
    assert axis.most >= max(samples)


# additive scores and dynamic programming


def all_designs(space: SearchSpace) -> Iterator[Candidate]:
    yield from (space.decode(np.array(genes)) for genes in itertools.product(*map(range, space.levels.tolist())))


@pytest.mark.parametrize("settings", [{"levels": 99}, {"levels": 1}])
@pytest.mark.parametrize("fidelities", [1, 2])
def test_dp_finds_the_whole_front_of_an_additive_problem(settings: Mapping[str, Any], fidelities: int) -> None:
    """With every level asked about and, as errors are linear in the refit error, with the smallest one alone."""

    def error(candidate: Candidate) -> float:
        return 5.0 + separable(candidate)

    space = SearchSpace(SPEC, mlp_step=8, freeze_layers=[0, 1, 2])
    everything = list(all_designs(space))
    values = minimised([{"error": error(c), **free(c)} for c in everything], OBJECTIVES)
    front = values[non_dominated(values)]
    told = run(make("dp", space, fidelities=fidelities, **settings), most=5000, answer=answering(error))
    found = minimised([e.values for e in full(told)], OBJECTIVES)
    found = found[non_dominated(found)]
    assert len(front) > 20
    np.testing.assert_allclose(np.sort(found, axis=0), np.sort(front, axis=0), rtol=1e-9)


def test_dp_sweeps_at_the_lowest_fidelity_and_designs_at_the_full_one_from_coarse_to_fine() -> None:
    space = space_of("full")
    told = run(make("dp", space, fidelities=2, levels=2), most=5000, answer=answering(separable))
    sweep = [question.candidate for question, _ in told if question.fidelity == 0]
    assert len(sweep) == 1 + 2 * len(space.levels)
    assert all(sum(a != b for a, b in zip(c.layers, DENSE.layers, strict=True)) <= 1 for c in sweep)
    assert [question.fidelity for question, _ in told] == [0] * len(sweep) + [-1] * (len(told) - len(sweep))
    cost = np.array([free(e.candidate)["decoder_params"] for e in full(told)])
    assert full(told)[0].candidate == DENSE
    first, second = cost[1:10], cost[10:18]
    assert (np.diff(first) < 0).all()
    assert ((first[:-1] > second) & (second > first[1:])).all()


def test_dp_repairs_each_design_outside_of_the_bounds_once() -> None:
    """MLP channels cost no KV bytes, so that most designs keep them all and are too large."""
    space = SearchSpace(SPEC, attention_widths=False, mlp_step=1, max_decoder_params=0.6)
    told = run(make("dp", space, (ERROR, KV), fidelities=2), most=5000)
    assert 1 < len(full(told)) <= 1 + LAYERS  # one for each number of attention blocks
    assert all(space.contains(evaluation.candidate) for evaluation in full(told))


def test_levels_in_between_are_interpolated_and_those_below_never_taken() -> None:
    position = np.array([1.0, 0.7, 0.2, 0.1, 0.0])
    np.testing.assert_allclose(interpolated({0: 2.0, 2: 1.0, 4: 0.0}, position), [2.0, 1.625, 1.0, 0.5, 0.0])
    np.testing.assert_allclose(interpolated({1: 3.0, 4: 0.0}, np.arange(5.0)), [np.inf, 3.0, 2.0, 1.0, 0.0])
    np.testing.assert_allclose(interpolated({0: 2.0, 2: 0.0}, np.zeros(3)), [2.0, 1.0, 0.0])
    np.testing.assert_allclose(interpolated({2: 0.0}, np.zeros(3)), [np.inf, np.inf, 0.0])


def test_dp_takes_no_level_whose_single_change_failed() -> None:
    space = SearchSpace(SPEC, attention_widths=False, mlp_widths=False)

    def answer(question: Question) -> Evaluation:
        shapes = question.candidate.layers
        if question.fidelity == 0 and shapes[2].mlp_channels == 0:
            return Evaluation(question.candidate, "", status="failed", error="RuntimeError: no")
        return answering(separable)(question)

    told = run(make("dp", space, fidelities=2), answer=answer)
    inside = [e for e in full(told) if sum(s.mlp_channels for s in e.candidate.layers) > 0]
    assert len(inside) > 10
    assert all(e.candidate.layers[2].mlp_channels for e in inside)
