"""The beginning of a search on a model of a few small layers, to find out what it would refuse of the real one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evaluators.base import Metric
from evaluators.metrics import REMOVED
from search.constraints import limits_on
from search.protocol import Algorithm, Task, starting_designs
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


def _size(candidate: Candidate) -> float:
    """A sum over blocks, as everything is that costs nothing to know."""
    return float(sum(shape.query_heads + shape.kv_heads + shape.mlp_channels for shape in candidate.layers))
