"""How much of its blocks' output a candidate loses after the refit, each block for itself: free of any forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from evaluators.base import Measure
from evaluators.metrics import metric_named
from space.candidate import Candidate
from space.supernet.supernet import Supernet

REFIT_ERROR = metric_named("refit_error")


def refit_error_measure(supernet: Supernet) -> Measure:
    """The sum over all blocks of the fraction of output energy lost; 1 for a block that is gone, 0 for a dense one."""

    @cache
    def lost(index: int) -> tuple[dict[tuple[int, int], float], list[float]]:
        return supernet.lost_energy(index)

    def values(candidate: Candidate) -> Mapping[str, float]:
        total = 0.0
        for index, shape in zip(range(supernet.spec.layers), candidate.layers, strict=True):
            attention, mlp = lost(index)
            total += attention[shape.query_heads, shape.kv_heads] + mlp[shape.mlp_channels]
        return {REFIT_ERROR.name: total}

    return Measure((REFIT_ERROR,), values)
