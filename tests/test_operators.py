"""Moves stay within the levels and keep what they promise to keep."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from helpers_toy import toy_spec

from evaluators.cost import cost_measure
from search.surrogate.operators import Operators
from search.tables import tabulate
from space.space import SearchSpace

SPEC = toy_spec(layers=5)
SPACES = {
    "full": {"mlp_step": 2},
    "depth": {"attention_widths": False, "mlp_widths": False, "whole_layers": True},
    "uniform": {"mlp_step": 4, "same_for_all_layers": True, "remove_attention": False},
    "one gene": {"mlp_step": 4, "freeze_attention": range(5), "freeze_mlp": range(4)},
}


def operators(space: SearchSpace, **settings: float) -> Operators:
    sizes = tabulate(space, cost_measure(SPEC, context=8).values, ["decoder_params"])["decoder_params"].steps
    return Operators(space, sizes, **settings)


@pytest.mark.parametrize("name", SPACES)
def test_children_are_within_the_levels_and_not_copies(name: str) -> None:
    space = SearchSpace(SPEC, **SPACES[name])
    made = operators(space)
    rng = np.random.default_rng(0)
    parents = rng.integers(0, space.levels, (200, 2, len(space.levels)))
    before = parents.copy()
    children = np.stack([made.child(one, other, rng) for one, other in parents])
    assert (children >= 0).all()
    assert (children < space.levels).all()
    assert (parents == before).all()
    assert (children != parents[:, 0]).any(1).mean() > 0.6


def test_trades_and_swaps_keep_sums_and_exchanges_keep_sizes() -> None:
    space = SearchSpace(SPEC, **SPACES["full"])
    made = operators(space)
    table = tabulate(space, cost_measure(SPEC, context=8).values, ["decoder_params"])["decoder_params"]
    mlp = np.array(space.kinds) == "mlp"
    rng = np.random.default_rng(1)
    for _ in range(300):
        genes = rng.integers(0, space.levels)
        traded, swapped, exchanged = genes.copy(), genes.copy(), genes.copy()
        made._trade(traded, rng)
        assert (traded[mlp].sum(), traded[~mlp].sum()) == (genes[mlp].sum(), genes[~mlp].sum())
        made._swap(swapped, rng)
        assert Counter(swapped[mlp]) == Counter(genes[mlp])
        assert Counter(swapped[~mlp]) == Counter(genes[~mlp])
        made._exchange(exchanged, rng)
        changed = np.flatnonzero(exchanged != genes)
        assert len(set(mlp[changed])) == len(changed) <= 2
        if len(changed) == 2 and (exchanged[changed] > 0).all() and (exchanged < space.levels - 1).all():
            steps = np.abs(np.diff(table.steps[changed], axis=1))
            assert abs(table.total(exchanged) - table.total(genes)) <= np.nanmax(steps)


def test_crossover_takes_every_gene_from_a_parent() -> None:
    space = SearchSpace(SPEC, **SPACES["full"])
    made = operators(space)
    rng = np.random.default_rng(2)
    one, other = np.zeros_like(space.levels), space.levels - 1
    for _ in range(100):
        uniform, segment = made._uniform(one, other, rng), made._segment(one, other, rng)
        assert ((uniform == one) | (uniform == other)).all()
        assert np.count_nonzero(np.diff((segment == other).astype(int))) <= 2
