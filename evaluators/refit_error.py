"""How much of its blocks' output a candidate loses after the refit, each block for itself: free of any forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from evaluators.base import Measure
from evaluators.metrics import metric_named
from space.candidate import KINDS, Candidate, LayerShape
from space.models.architectures import architecture_of
from space.models.stack import layers_of
from space.supernet.lost import lost_by_rounding
from space.supernet.supernet import Supernet

REFIT_ERROR = metric_named("refit_error")


def refit_error_measure(supernet: Supernet) -> Measure:
    """The sum over all blocks of the fraction of output energy lost; 1 for a block that is gone, 0 for a dense one.

    What rounding loses comes on top of what narrower blocks lose.
    """
    family = architecture_of(supernet.spec.family)

    @cache
    def lost(index: int) -> tuple[dict[tuple[int, int], float], Callable[[LayerShape], float]]:
        return supernet.lost_energy(index)

    @cache
    def rounded(index: int, kind: str, number: int) -> float:
        layout = family.blocks[kind]
        block = layers_of(supernet.model)[index].get_submodule(layout.module)
        return lost_by_rounding([block.get_submodule(name).weight for name in layout.projections], number)

    def values(candidate: Candidate) -> Mapping[str, float]:
        total = 0.0
        for index, shape in zip(range(supernet.spec.layers), candidate.layers, strict=True):
            attention, mlp = lost(index)
            total += attention[shape.query_heads, shape.kv_heads] + mlp(shape)
            total += sum(rounded(index, kind, shape.type_of(kind)) for kind in KINDS if shape.type_of(kind))
        return {REFIT_ERROR.name: total}

    return Measure((REFIT_ERROR,), values)
