"""Rival algorithms: never asking twice, repeatable, ending, and each as good as its own definition says."""

from __future__ import annotations

import importlib
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers_toy import toy_spec

from evaluators.base import Evaluation, Metric
from evaluators.cost import cost_measure
from search.pareto import minimised, non_dominated
from search.protocol import Algorithm, Question, Task
from search.rivals.additive import AdditiveDesigns
from search.rivals.axis import budget_axis
from search.rivals.baselines import Ladders, RandomSearch
from search.rivals.evolution import Evolution
from search.rivals.greedy import GreedyRemoval
from search.rivals.script import Rival
from search.rivals.window import exchange, settle, window
from search.sensitivity import interpolated
from space.candidate import Candidate, LayerShape
from space.errors import UserError
from space.space import SearchSpace

LAYERS = 6
SPEC = toy_spec(layers=LAYERS)
DENSE = Candidate.dense(SPEC)
ERROR = Metric("error", "", "min", 2)
SIZE = Metric("decoder_params", "", "min", 0)
KV = Metric("kv_bytes", "bytes", "min", 0)
SPEED = Metric("speed", "", "max", 1)
OBJECTIVES = (ERROR, SIZE)
LOSS = np.random.default_rng(7).uniform(0.05, 1.0, (LAYERS, 2)) ** 2
PAIR = np.random.default_rng(8).uniform(0.0, 1.0, (2 * LAYERS, 2 * LAYERS))  # what two blocks lose together

COSTS = cost_measure(SPEC, context=64).values

RIVALS: dict[str, type[Rival]] = {
    "random": RandomSearch,
    "ladders": Ladders,
    "greedy": GreedyRemoval,
    "evolution": Evolution,
    "dp": AdditiveDesigns,
}
FIXED = {"attention_widths": False, "mlp_widths": False, "remove_attention": False, "remove_mlp": False}
SPACES: dict[str, dict[str, Any]] = {
    "full": {"mlp_step": 2, "min_decoder_params": 0.3},
    "depth": {**FIXED, "whole_layers": True, "min_decoder_params": 0.3},
    "width": {"mlp_step": 4, "remove_attention": False, "remove_mlp": False, "min_decoder_params": 0.4},
    "heads": {"mlp_widths": False, "remove_mlp": False, "min_decoder_params": 0.8},
    "uniform": {"mlp_step": 4, "remove_attention": False, "remove_mlp": False, "same_for_all_layers": True},
    "blocks": {"attention_widths": False, "mlp_widths": False, "min_layers": 4, "freeze_layers": [0]},
    "without dense": {"mlp_step": 4, "min_decoder_params": 0.35, "max_decoder_params": 0.7},
}


def lost(candidate: Candidate) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The part that each block has lost, `(2 * layers,)`."""
    kept = [[s.query_heads / SPEC.query_heads, s.mlp_channels / SPEC.mlp_channels] for s in candidate.layers]
    return 1 - np.array(kept).ravel()


def free(candidate: Candidate) -> dict[str, float]:
    speed = sum(1.0 - 0.04 * s.query_heads - 0.02 * s.mlp_channels for s in candidate.layers)
    return {**COSTS(candidate), "speed": speed, "refit_error": float((lost(candidate) ** 2).sum())}


def separable(candidate: Candidate) -> float:
    """A sum over blocks, each linear in what the blocks' refit errors are."""
    return float((LOSS.ravel() * lost(candidate) ** 2).sum())


def entangled(candidate: Candidate) -> float:
    """Blocks that are lost together hurt more than the sum."""
    part = lost(candidate)
    return separable(candidate) + float(part @ PAIR @ part) / LAYERS


Answer = Callable[[Question], Evaluation]


def answering(error: Callable[[Candidate], float] = entangled, *, noise: float = 0.0, failures: float = 0.0) -> Answer:
    """Answers that are functions of the question: cheap rungs are off by `noise`, and a part fails for good."""

    def answer(question: Question) -> Evaluation:
        candidate = question.candidate
        rng = np.random.default_rng([int(candidate.key[1:], 16), question.rung + 1])
        if rng.random() < failures:
            return Evaluation(candidate, str(question.rung), status="failed", error="RuntimeError: no")
        off = 1.0 if question.rung == -1 else 1.0 + noise * rng.standard_normal()
        return Evaluation(candidate, str(question.rung), values={**free(candidate), "error": error(candidate) * off})

    return answer


def run(
    algorithm: Algorithm, *, most: int = 400, batch: int = 10, answer: Answer | None = None
) -> list[tuple[Question, Evaluation]]:
    answer = answer or answering()
    told: list[tuple[Question, Evaluation]] = []
    while len(told) < most and (asked := algorithm.ask(batch)):
        assert len(asked) <= batch
        answers = [answer(question) for question in asked]
        algorithm.tell(answers)
        told += zip(asked, answers, strict=True)
    return told[:most]


def names(told: Sequence[tuple[Question, Evaluation]]) -> list[tuple[str, int]]:
    return [(question.candidate.key, question.rung) for question, _ in told]


def full(told: Sequence[tuple[Question, Evaluation]]) -> list[Evaluation]:
    return [evaluation for question, evaluation in told if question.rung == -1]


def make(name: str, space: SearchSpace, objectives: Sequence[Metric] = OBJECTIVES, **settings: Any) -> Rival:
    starts = [DENSE, *space.uniform_ladder(), *space.depth_ladder([3, 1, 4, 2, 0, 5])]
    quick = {"tries": 10} if name == "evolution" else {}
    given = {"starts": starts, "free": free, **settings}
    task = Task(
        space,
        objectives,
        **{field: given.pop(field) for field in ("seed", "starts", "free", "rungs") if field in given},
    )
    return RIVALS[name](task, **{**quick, **given})


def space_of(name: str) -> SearchSpace:
    return SearchSpace(SPEC, **SPACES[name])


# what all of them promise


@pytest.mark.parametrize("rungs", [1, 3])
@pytest.mark.parametrize("space_name", SPACES)
@pytest.mark.parametrize("name", RIVALS)
def test_nothing_is_asked_twice_and_full_questions_are_within_the_space(name: str, space_name: str, rungs: int) -> None:
    space = space_of(space_name)
    told = run(make(name, space, rungs=rungs), most=250, answer=answering(noise=0.1))
    assert told
    assert len(set(names(told))) == len(told)
    assert {question.rung for question, _ in told} <= {-1, *range(rungs - 1)}
    # single changes and removals look beyond an upper bound; with one rung alone, they do so at that one
    if rungs > 1 or space.contains(DENSE) or name not in ("greedy", "dp"):
        assert all(space.contains(evaluation.candidate) for evaluation in full(told))


@pytest.mark.parametrize("rungs", [1, 3])
@pytest.mark.parametrize("name", RIVALS)
def test_the_same_seed_asks_the_same_questions_whatever_the_batch(name: str, rungs: int) -> None:
    first, again = (run(make(name, space_of("full"), rungs=rungs), batch=batch) for batch in (10, 7))
    assert names(first) == names(again)


@pytest.mark.parametrize("name", ["random", "evolution"])
def test_another_seed_asks_other_questions(name: str) -> None:
    first, other = (set(names(run(make(name, space_of("full"), seed=seed), most=150))) for seed in (0, 1))
    assert len(first & other) < 75


@pytest.mark.parametrize("rungs", [1, 2])
@pytest.mark.parametrize("name", RIVALS)
def test_failures_teach_nothing_and_stop_nothing(name: str, rungs: int) -> None:
    space = space_of("full")
    algorithm = make(name, space, rungs=rungs)
    told = run(algorithm, answer=answering(failures=0.4))
    assert len(set(names(told))) == len(told)
    assert len(told) >= min(200, len(run(make(name, space, rungs=rungs))) // 3)


@pytest.mark.parametrize("rungs", [1, 2])
@pytest.mark.parametrize("name", RIVALS)
def test_when_all_fails_a_small_space_still_ends(name: str, rungs: int) -> None:
    algorithm = make(name, SearchSpace(SPEC, **FIXED, whole_layers=True), rungs=rungs)
    told = run(algorithm, answer=answering(failures=1.0))
    assert 0 < len(told) < 400
    assert algorithm.ask(10) == []


@pytest.mark.parametrize("name", RIVALS)
def test_a_question_without_an_answer_counts_as_failed(name: str) -> None:
    """The loop may stop in a batch; who asks on regardless gets neither the same question nor an error."""
    algorithm = make(name, space_of("full"), rungs=2)
    told = []
    for turn in range(30):
        asked = algorithm.ask(10)
        told += asked
        if turn % 3:
            algorithm.tell([answering()(question) for question in asked[:4]])
    assert len({(question.candidate.key, question.rung) for question in told}) == len(told)


@pytest.mark.parametrize("objectives", [(ERROR, KV, SIZE), (SPEED, ERROR), (ERROR, Metric("nll", "", "min", 2))])
@pytest.mark.parametrize("space_name", ["full", "heads", "depth"])
@pytest.mark.parametrize("name", RIVALS)
def test_other_objectives_work(name: str, space_name: str, objectives: tuple[Metric, ...]) -> None:
    told = run(make(name, space_of(space_name), objectives, rungs=2), most=150)
    assert full(told)
    assert len(set(names(told))) == len(told)


@pytest.mark.parametrize("name", RIVALS)
def test_a_goal_of_max_is_maximised(name: str) -> None:
    """The same problem with its signs turned leads to the same questions."""
    good, light = Metric("good", "", "max", 2), Metric("light", "", "max", 0)

    def turned_free(candidate: Candidate) -> dict[str, float]:
        values = free(candidate)
        return {"light": -values["decoder_params"], "refit_error": values["refit_error"]}

    def turned(question: Question) -> Evaluation:
        values = {"good": -entangled(question.candidate), **turned_free(question.candidate)}
        return Evaluation(question.candidate, "", values=values)

    plain = run(make(name, space_of("full")))
    other = run(make(name, space_of("full"), (good, light), free=turned_free), answer=turned)
    assert names(plain) == names(other)


@pytest.mark.parametrize("name", RIVALS)
def test_nothing_is_printed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(make(name, space_of("full")), most=60)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_one_objective_and_no_rung_are_refused() -> None:
    with pytest.raises(UserError, match="at least two objectives"):
        make("ladders", space_of("full"), [ERROR])
    with pytest.raises(UserError, match="at least 1 rung"):
        make("ladders", space_of("full"), rungs=0)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("random", {"tries": 0}, "expected tries"),
        ("evolution", {"targets": [0.5, 1.0]}, "expected targets above 0 and below 1"),
        ("evolution", {"targets": []}, "expected targets"),
        ("evolution", {"tolerance": 1.0}, "tolerance"),
        ("evolution", {"keep": 0.0}, "expected keep"),
        ("evolution", {"offspring": 0}, "expected offspring"),
        ("evolution", {"exchanges": 0}, "expected exchanges"),
        ("evolution", {"tries": 0}, "expected tries"),
        ("evolution", {"axis": "weight"}, "expected an axis among .*decoder_params"),
        ("dp", {"levels": 0}, "expected levels"),
        ("dp", {"designs": 1}, "at least 2 designs"),
    ],
)
def test_settings_out_of_range_are_named(name: str, settings: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(name, space_of("full"), **settings)


@pytest.mark.parametrize("name", RIVALS)
def test_the_config_spells_out_every_setting_at_its_default(name: str) -> None:
    config = yaml.safe_load(
        (Path(__file__).parents[1] / "conf" / "search" / f"{name}.yaml").read_text(encoding="utf-8")
    )
    settings = config["algorithm"]
    module, _, cls = settings.pop("_target_").rpartition(".")
    assert getattr(importlib.import_module(module), cls) is RIVALS[name]
    assert settings.pop("_partial_") is True
    common = set(inspect.signature(Rival).parameters)
    defaults = {key: p.default for key, p in inspect.signature(RIVALS[name]).parameters.items() if key not in common}
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in defaults.items()} == settings
    assert config["batch"] == 10


# random samples and ladders


def test_random_asks_dense_first_and_then_all_of_a_small_space() -> None:
    small = SearchSpace(SPEC, **FIXED, whole_layers=True, freeze_layers=[0, 1, 2])
    told = run(make("random", small, rungs=3))
    assert told[0][0].candidate == DENSE
    assert len(told) == len(full(told)) == 2**3


def test_ladders_are_the_starts_of_the_space_and_nothing_else() -> None:
    space = space_of("without dense")
    starts = [*space.uniform_ladder(), *space.depth_ladder(range(LAYERS))]
    told = run(make("ladders", space, starts=[DENSE, *starts, starts[0]], rungs=2))
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


@pytest.mark.parametrize("rungs", [1, 2])
@pytest.mark.parametrize(
    ("space_name", "blocks"),
    [("full", ["attention", "mlp"]), ("blocks", ["attention", "mlp"]), ("depth", ["layer"]), ("heads", ["attention"])],
)
def test_greedy_walks_the_path_of_its_definition(space_name: str, blocks: list[str], rungs: int) -> None:
    space = space_of(space_name)
    answer = answering(noise=0.3)

    def cheap(candidate: Candidate) -> float:
        return answer(Question(candidate, 0 if rungs == 2 else -1)).values["error"]

    told = run(make("greedy", space, rungs=rungs), answer=answer)
    path = greedy_path(space, blocks, cheap)
    assert len(path) > 2
    if rungs == 2:
        assert [evaluation.candidate for evaluation in full(told)] == path
    assert {candidate.key for candidate in path} <= {evaluation.candidate.key for evaluation in full(told)}
    # each step asks about every block that is left, once, and about nothing else
    trials = {without(design, layer, block) for design in path for layer in range(LAYERS) for block in blocks}
    trials = {candidate for candidate in trials if space.contains(candidate)} - {DENSE}
    assert {e.candidate for q, e in told if q.rung == (0 if rungs == 2 else -1)} - {DENSE} == trials


def test_greedy_passes_what_is_above_the_upper_bound_on_its_way() -> None:
    space = space_of("without dense")
    told = run(make("greedy", space, rungs=2))
    unbounded = SearchSpace(SPEC, mlp_step=4, min_decoder_params=0.35)
    path = greedy_path(unbounded, ["attention", "mlp"], entangled)
    inside = [candidate for candidate in path if space.contains(candidate)]
    assert len(inside) < len(path) - 1
    assert [evaluation.candidate for evaluation in full(told)] == inside


@pytest.mark.parametrize("space_name", ["width", "uniform"])
def test_greedy_without_a_block_to_remove_asks_about_the_dense_model_alone(space_name: str) -> None:
    assert [question.candidate for question, _ in run(make("greedy", space_of(space_name), rungs=2))] == [DENSE]


# evolution


def costs_of(told: Sequence[tuple[Question, Evaluation]]) -> list[float]:
    dense = free(DENSE)["decoder_params"]
    return [free(q.candidate)["decoder_params"] / dense for q, _ in told if q.candidate != DENSE]


@pytest.mark.parametrize("rungs", [1, 3])
def test_evolution_stays_at_its_targets_and_shares_what_is_asked(rungs: int) -> None:
    targets = (0.75, 0.625, 0.5)
    told = run(make("evolution", space_of("full"), rungs=rungs, tolerance=0.02), most=600)
    cost = np.array(costs_of(told))
    inside = [((target - 0.02 < cost) & (cost <= target + 1e-6)).sum() for target in targets]
    assert sum(inside) == len(cost)
    generation = 16 if rungs == 1 else 16 + 4 + 1
    assert max(inside) - min(inside) <= generation


@pytest.mark.parametrize(("rungs", "noise"), [(1, 0.0), (2, 0.1), (3, 0.3)])
def test_the_parent_of_a_target_is_its_best_design_and_never_gets_worse(rungs: int, noise: float) -> None:
    algorithm = make("evolution", space_of("full"), rungs=rungs, targets=[0.6], offspring=8)
    best: list[float] = []
    found: list[float] = []
    for _ in range(120):
        asked = algorithm.ask(100)
        answers = [answering(noise=noise)(question) for question in asked]
        algorithm.tell(answers)
        found += [
            e.values["error"] for q, e in zip(asked, answers, strict=True) if q.rung == -1 and e.candidate != DENSE
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
    told = run(make("evolution", space, rungs=2, targets=[0.7, 0.5], keep=0.5))
    for left in (4, 3):
        gone = [set(c) for c in itertools.combinations(range(LAYERS), LAYERS - left)]
        designs = {
            Candidate(tuple(LayerShape(0, 0, 0) if i in c else s for i, s in enumerate(DENSE.layers))) for c in gone
        }
        asked = {question.candidate for question, _ in told if question.rung == 0} & designs
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
    steps = np.array([exchange(space, axis.table, 1e9, genes, rng) - genes for genes in parents])
    assert (steps.sum(axis=1) == 0).all()
    assert (np.abs(steps).sum(axis=1) == 2).all()
    equal = [exchange(space, axis.table, 1e-6, genes, rng) for genes in parents]
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
@pytest.mark.parametrize("rungs", [1, 2])
def test_dp_finds_the_whole_front_of_an_additive_problem(settings: Mapping[str, Any], rungs: int) -> None:
    """With every level asked about and, as errors are linear in the refit error, with the smallest one alone."""

    def error(candidate: Candidate) -> float:
        return 5.0 + separable(candidate)

    space = SearchSpace(SPEC, mlp_step=8, freeze_layers=[0, 1, 2])
    everything = list(all_designs(space))
    values = minimised([{"error": error(c), **free(c)} for c in everything], OBJECTIVES)
    front = values[non_dominated(values)]
    told = run(make("dp", space, rungs=rungs, **settings), most=5000, answer=answering(error))
    found = minimised([e.values for e in full(told)], OBJECTIVES)
    found = found[non_dominated(found)]
    assert len(front) > 20
    np.testing.assert_allclose(np.sort(found, axis=0), np.sort(front, axis=0), rtol=1e-9)


def test_dp_sweeps_at_the_lowest_rung_and_designs_at_the_full_one_from_coarse_to_fine() -> None:
    space = space_of("full")
    told = run(make("dp", space, rungs=2, levels=2), most=5000, answer=answering(separable))
    sweep = [question.candidate for question, _ in told if question.rung == 0]
    assert len(sweep) == 1 + 2 * len(space.levels)
    assert all(sum(a != b for a, b in zip(c.layers, DENSE.layers, strict=True)) <= 1 for c in sweep)
    assert [question.rung for question, _ in told] == [0] * len(sweep) + [-1] * (len(told) - len(sweep))
    cost = np.array([free(e.candidate)["decoder_params"] for e in full(told)])
    assert full(told)[0].candidate == DENSE
    first, second = cost[1:10], cost[10:18]
    assert (np.diff(first) < 0).all()
    assert ((first[:-1] > second) & (second > first[1:])).all()


def test_dp_repairs_each_design_outside_of_the_bounds_once() -> None:
    """MLP channels cost no KV bytes, so that most designs keep them all and are too large."""
    space = SearchSpace(SPEC, attention_widths=False, mlp_step=1, max_decoder_params=0.6)
    told = run(make("dp", space, (ERROR, KV), rungs=2), most=5000)
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
        if question.rung == 0 and shapes[2].mlp_channels == 0:
            return Evaluation(question.candidate, "", status="failed", error="RuntimeError: no")
        return answering(separable)(question)

    told = run(make("dp", space, rungs=2), answer=answer)
    inside = [e for e in full(told) if sum(s.mlp_channels for s in e.candidate.layers) > 0]
    assert len(inside) > 10
    assert all(e.candidate.layers[2].mlp_channels for e in inside)
