"""Constraints keep every algorithm within them, in every space, and mistakes in them are told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers_toy import toy_spec

from evaluators.base import Evaluation
from evaluators.cost import cost_measure
from evaluators.metrics import metric_named
from search.algorithms import NSGA2
from search.constraints import Constraint, constrained, limits_text
from search.protocol import Algorithm, Task
from search.rivals.additive import AdditiveDesigns
from search.rivals.baselines import Ladders, RandomSearch
from search.rivals.evolution import Evolution
from search.rivals.greedy import GreedyRemoval
from search.run.commands import quoted
from search.surrogate.surrogate import SurrogateNSGA2
from space.candidate import Candidate
from space.errors import UserError
from space.space import SearchSpace

SPEC = toy_spec(layers=6)
OBJECTIVES = (metric_named("kl"), metric_named("latency_ms"))
COSTS = cost_measure(SPEC, context=64).values
ALGORITHMS: dict[str, Any] = {
    "nsga2": NSGA2,
    "surrogate": lambda task: SurrogateNSGA2(task, predictor="ridge", population=20, generations=3),
    "random": RandomSearch,
    "ladders": Ladders,
    "greedy": GreedyRemoval,
    "evolution": lambda task: Evolution(task, tries=10),
    "dp": AdditiveDesigns,
}
SPACES: dict[str, dict[str, Any]] = {
    "full": {"mlp_step": 2, "min_decoder_params": 0.3},
    "depth": {"attention_widths": False, "mlp_widths": False, "whole_layers": True},
    "heads": {"mlp_widths": False, "remove_mlp": False},
    "uniform": {"mlp_step": 4, "remove_attention": False, "remove_mlp": False, "same_for_all_layers": True},
}


def latency(candidate: Candidate) -> float:
    return 1.0 + sum(0.3 * s.query_heads + 0.1 * s.mlp_channels for s in candidate.layers)


def free(candidate: Candidate) -> dict[str, float]:
    lost = sum(2 - s.query_heads / 4 - s.mlp_channels / 16 for s in candidate.layers)
    return {**COSTS(candidate), "latency_ms": latency(candidate), "refit_error": lost}


DENSE = free(Candidate.dense(SPEC))


def asked(algorithm: Algorithm, most: int) -> list[Candidate]:
    found: list[Candidate] = []
    while len(found) < most and (questions := algorithm.ask(10)):
        values = [{"kl": 0.1 + free(q.candidate)["refit_error"] ** 2, **free(q.candidate)} for q in questions]
        algorithm.tell([Evaluation(q.candidate, "", values=v) for q, v in zip(questions, values, strict=True)])
        found += [q.candidate for q in questions if q.fidelity == -1]
    return found


@pytest.mark.parametrize("space_name", SPACES)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_full_questions_are_within_the_constraints(name: str, space_name: str) -> None:
    limits = {"latency_ms": 0.85, "kv_bytes": 0.9, "params": None}
    space = constrained(SearchSpace(SPEC, **SPACES[space_name]), limits, free)
    starts = [Candidate.dense(SPEC), *space.uniform_ladder(), *space.depth_ladder(range(6))]
    found = asked(ALGORITHMS[name](Task(space, OBJECTIVES, 0, free, starts, 2)), 150)
    if name != "ladders" and (name, space_name) != ("greedy", "uniform"):  # which have designs of their own or none
        assert found
    for candidate in found:
        assert space.contains(candidate)
        assert latency(candidate) <= 0.85 * DENSE["latency_ms"] + 1e-9
        assert COSTS(candidate)["kv_bytes"] <= 0.9 * DENSE["kv_bytes"] + 1e-9


def test_absolute_and_lower_limits() -> None:
    space = SearchSpace(SPEC, mlp_step=2)
    small = constrained(space, {"latency_ms": 9.5}, free)
    kept = constrained(space, {"params": {"min": 0.9, "max": 0.98}}, free)
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert latency(small.sample(rng)) <= 9.5 + 1e-9
        assert 0.9 * DENSE["params"] <= COSTS(kept.sample(rng))["params"] <= 0.98 * DENSE["params"]
    assert constrained(space, {}, free) is space
    assert constrained(space, {"latency_ms": None}, free) is space
    assert space.contains(Candidate.dense(SPEC))  # the space that was given is as it was


def test_within_the_limits_nothing_is_changed_and_repair_is_not_far_off() -> None:
    space = constrained(SearchSpace(SPEC, mlp_step=2), {"latency_ms": 0.7}, free)
    rng = np.random.default_rng(1)
    genes = np.stack([space.encode(space.sample(rng)) for _ in range(100)])
    for row in genes:
        assert (space.repair(row, rng) == row).all()
    repaired = [latency(space.decode(space.repair(space.levels - 1, rng))) for _ in range(100)]
    assert min(repaired) > 0.6 * DENSE["latency_ms"]  # steps end as soon as the limit holds
    assert len({space.repair(space.levels - 1, rng).tobytes() for _ in range(50)}) == 50


@pytest.mark.parametrize(
    ("constraints", "said"),
    [
        ({"kl": 1}, "expected bounds on .*latency_ms.*, got one on kl"),
        ({"latency_ms": "low"}, "constraints.latency_ms: expected a number.*got low"),
        ({"latency_ms": {"most": 1}}, "constraints.latency_ms: expected a number.*got .*most"),
        ({"latency_ms": {}}, "constraints.latency_ms: expected a number"),
        ({"latency_ms": 0.01}, r"got latency_ms<=0.01 .*the dense model has .*, the smallest designs "),
        ({"params": {"min": 1e9}}, "expected a limit that a design"),
    ],
)
def test_mistakes_are_told(constraints: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        constrained(SearchSpace(SPEC, mlp_step=2), constraints, free)


def test_limits_are_said_as_people_write_them() -> None:
    given = {"latency_ms": 0.7, "kv_bytes": None, "params": {"min": 0.5, "max": 0.8}}
    assert limits_text(given) == "latency_ms<=0.7, params<=0.8, params>=0.5"
    assert limits_text({"kv_bytes": None}) == "none"


@pytest.mark.parametrize(
    ("text", "limit", "said"),
    [
        ("params <= 0.6", 60.0, "params<=0.6"),  # a part of the dense model's
        ("params<=1.5x", 150.0, "params<=1.5x"),
        ("params<=70", 70.0, "params<=70"),
        ("heldout_ppl<= 1.1 x", 110.0, "heldout_ppl<=1.1x"),
        ("heldout_ppl<=0.5", 0.5, "heldout_ppl<=0.5"),  # of which a model may have as little
    ],
)
def test_limits_in_text_are_numbers_or_times_the_dense_model(text: str, limit: float, said: str) -> None:
    constraint = Constraint.parsed(text)
    assert constraint is not None
    assert constraint.limit(100.0) == pytest.approx(limit)
    assert str(constraint) == said
    assert Constraint.parsed(text.replace("<=", "<")) is None


def test_hydra_sees_them_quoted() -> None:
    assert quoted(["pick=a<=1", "seed=1", "pick='b<=1'"], "pick") == ["pick='a<=1'", "seed=1", "pick='b<=1'"]
