"""Tables price designs as the quantities themselves do, and the knapsack is the best of all designs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers_toy import toy_spec

from evaluators.cost import cost_measure
from search.surrogate.features import BlockFeatures
from search.surrogate.knapsack import improved_designs, knapsack, spread_designs
from search.tables import Table, single_changes, tabulate
from space.candidate import Candidate
from space.space import SearchSpace

SPEC = toy_spec(layers=3)
SPACES = {
    "full": {"mlp_step": 4},
    "frozen": {"mlp_step": 8, "freeze_layers": [1]},
    "depth": {"attention_widths": False, "mlp_widths": False, "whole_layers": True},
    "uniform": {"mlp_step": 4, "same_for_all_layers": True, "remove_attention": False},
}


@pytest.mark.parametrize("name", SPACES)
def test_tables_add_up(name: str) -> None:
    space = SearchSpace(SPEC, **SPACES[name])
    costs = cost_measure(SPEC, context=100)
    names = [metric.name for metric in costs.metrics]
    tables = tabulate(space, costs.values, names)
    rng = np.random.default_rng(0)
    genes = rng.integers(0, space.levels, (40, len(space.levels)))
    for quantity in names:
        expected = [costs.values(space.decode(row))[quantity] for row in genes]
        np.testing.assert_allclose(tables[quantity].total(genes), expected, rtol=1e-9)


def test_single_changes_are_all_levels_but_the_dense_ones() -> None:
    space = SearchSpace(SPEC, mlp_step=4)
    changes = single_changes(space)
    assert len(changes) == (space.levels - 1).sum()
    dense = space.encode(Candidate.dense(SPEC))
    for gene, level, candidate in changes:
        changed = space.encode(candidate)
        assert changed[gene] == level
        assert np.count_nonzero(changed != dense) == 1


def test_knapsack_is_the_best_of_all_designs() -> None:
    rng = np.random.default_rng(1)
    losses = rng.uniform(0, 1, (5, 4))
    costs = rng.integers(1, 40, (5, 4)).astype(float)
    losses[1, 3] = costs[1, 3] = np.nan  # one gene has a level less
    losses[2, 0] = np.inf  # this level must not be taken
    allowed = [range(4), range(3), range(1, 4), range(4), range(4)]
    everything = np.array(list(itertools.product(*allowed)))
    genes = np.arange(5)
    total_losses, total_costs = losses[genes, everything].sum(1), costs[genes, everything].sum(1)
    budgets = np.linspace(0, costs[~np.isnan(costs)].sum(), 60)
    span = (np.nanmax(costs, 1) - np.nanmin(costs, 1)).sum()
    for budget, design in zip(budgets, knapsack(losses, costs, budgets, grid=int(span)), strict=True):
        within = total_costs <= budget
        if not within.any():
            assert design is None
            continue
        assert design is not None
        assert costs[genes, design].sum() <= budget
        assert losses[genes, design].sum() == pytest.approx(total_losses[within].min())


def test_knapsack_on_a_coarse_grid_stays_within_its_budget() -> None:
    rng = np.random.default_rng(2)
    losses, costs = rng.uniform(0, 1, (30, 8)), rng.uniform(0, 3, (30, 8))
    budgets = np.linspace(costs.min(1).sum(), costs.max(1).sum(), 9)
    designs = knapsack(losses, costs, budgets, grid=300)
    spent = [costs[np.arange(30), genes].sum() for genes in designs if genes is not None]
    lost = [losses[np.arange(30), genes].sum() for genes in designs if genes is not None]
    assert len(spent) == 9
    assert all(cost <= budget for cost, budget in zip(spent, budgets, strict=True))
    assert lost == sorted(lost, reverse=True)


def test_spread_designs_are_valid_distinct_and_cover_the_costs() -> None:
    space = SearchSpace(toy_spec(layers=6), mlp_step=2, min_decoder_params=0.3)
    costs = cost_measure(space.spec, context=100)
    tables = tabulate(space, costs.values, ["decoder_params", "kv_bytes"])
    losses = Table(
        0.0, np.random.default_rng(0).uniform(0, 1, (len(space.levels), 1)) * np.abs(tables["decoder_params"].steps)
    )
    for axes in (["decoder_params"], ["decoder_params", "kv_bytes"]):
        designs = spread_designs(space, [losses], [tables[name] for name in axes], 12)
        assert 10 <= len(designs) <= 15
        assert all(space.contains(space.decode(genes)) for genes in designs)
        kept = tables["decoder_params"].total(np.stack(designs)) / tables["decoder_params"].base
        assert kept.min() < 0.35
        assert kept.max() > 0.95


def test_knapsacks_around_known_designs_find_better_ones_where_blocks_lose_together() -> None:
    space = SearchSpace(toy_spec(layers=6), mlp_step=2, min_decoder_params=0.3)
    table = tabulate(space, cost_measure(space.spec, context=64).values, ["decoder_params"])["decoder_params"]
    rng = np.random.default_rng(3)
    worth = rng.uniform(0.05, 1.0, len(space.levels)) ** 2
    pair = np.triu(rng.uniform(0.0, 1.0, (len(worth), len(worth))), 1)

    def loss(genes: np.ndarray) -> np.ndarray:
        lost = worth * (1 - genes / (space.levels - 1)) ** 2
        return np.log(0.01 + lost.sum(-1) + np.einsum("ni,ij,nj->n", lost, pair, lost))

    designs = [space.encode(space.sample(rng)) for _ in range(10)]
    better = improved_designs(space, loss, [table], designs)
    assert all(space.contains(space.decode(genes)) for genes in better)
    gains = []
    for design in designs:
        rivals = np.stack([genes for genes in better if table.total(genes) <= table.total(design)])
        gains.append(loss(design[None])[0] - loss(rivals).min())
    assert np.median(gains) > 0.3
    # no change is made that does not pay for itself
    flat = improved_designs(space, lambda genes: np.zeros(len(genes)), [table], designs[:1], reach=0.1)
    assert designs[0].tolist() in [genes.tolist() for genes in flat]


def test_features_tell_kinds_apart_and_survive_levels_that_failed() -> None:
    space = SearchSpace(toy_spec(layers=3), mlp_step=8)
    errors = tabulate(space, lambda c: {"e": sum(1 - s.mlp_channels / 16 for s in c.layers)}, ["e"])["e"]
    losses = Table(0.0, np.where(errors.steps == 1.0, np.inf, errors.steps))
    sums, blocks = BlockFeatures(space.kinds, errors, [losses])(
        np.stack([space.levels - 1, np.zeros_like(space.levels)])
    )
    assert sums.shape == (2, 6)  # loss and error: of all, of attention, of MLPs
    assert np.isfinite(sums).all()
    assert sums[:, [1, 3, 5]].tolist() == [[0, 0, 0], [3, 0, 3]]  # attention has no refit error here
    assert (sums[1, [0, 4]] > sums[0, [0, 4]]).all()
    assert blocks.shape == (2, 6)
    assert blocks[0].tolist() == [0] * 6
    assert np.isfinite(blocks[1]).all()
