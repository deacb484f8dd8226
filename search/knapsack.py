"""Designs that lose least by an additive model at every budget of an additive cost: dynamic programming.

The idea is that of Puzzletron's mixed-integer programme and of AMC-like knapsacks: every gene takes exactly one level,
losses and costs add up. Costs are rounded up to a grid, so that a budget is never overrun, and one pass over the genes
gives the best design of every budget on the grid at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search.pareto import Floats
from search.tables import Genes, Table
from space.space import SearchSpace, evenly

GRID = 10_000


def knapsack(losses: Floats, costs: Floats, budgets: Floats, *, grid: int = GRID) -> list[Genes | None]:
    """For each budget, the levels of least total loss whose total cost is within it.

    Args:
        losses: `(genes, levels)`; NaN where a gene has no such level, inf for a level that must not be taken.
        costs: `(genes, levels)`, in any unit, NaN alike; only differences within a gene matter for the result.
        budgets: `(budgets,)`, limits of the summed costs.
        grid: Steps that the range of total cost is divided into.

    Returns:
        Genes `(genes,)` for each budget, None where nothing is within it.
    """
    cheapest = np.nanmin(costs, axis=1)
    span = float((np.nanmax(costs, axis=1) - cheapest).sum())
    unit = span / grid if span > 0 else 1.0
    # rounded up, but for rounding errors of the division itself
    sizes = np.ceil((costs - cheapest[:, None]) / unit - 1e-9)
    best = np.zeros(grid + len(costs) + 1)  # least loss with at most so many units
    choices = []
    for gene_losses, gene_sizes in zip(losses, sizes, strict=True):
        with_level = np.full((len(gene_losses), len(best)), np.inf)
        for level, (loss, size) in enumerate(zip(gene_losses, gene_sizes, strict=True)):
            if np.isfinite(loss):
                with_level[level, int(size) :] = best[: len(best) - int(size)] + loss
        choices.append(with_level.argmin(axis=0))
        best = with_level.min(axis=0)
    designs: list[Genes | None] = []
    for budget in budgets:
        units = int(np.clip(np.floor((budget - cheapest.sum()) / unit + 1e-9), -1, len(best) - 1))
        if units < 0 or not np.isfinite(best[units]):
            designs.append(None)
            continue
        genes = np.zeros(len(costs), dtype=np.int64)
        for gene in reversed(range(len(costs))):
            genes[gene] = choices[gene][units]
            units -= int(sizes[gene, genes[gene]])
        designs.append(genes)
    return designs


def spread_designs(space: SearchSpace, losses: Sequence[Table], costs: Sequence[Table], count: int) -> list[Genes]:
    """Designs of least additive loss along the whole range of the costs.

    Args:
        space: The genes and their bounds; designs outside are left out.
        losses: One table, or several that count alike.
        costs: One table, less being cheaper, or several: some designs are for each alone, some for their mean.
        count: How many designs, about.
    """
    loss = np.sum([table.steps / _scale(table) for table in losses], axis=0)
    scaled = np.stack([table.steps / _scale(table) for table in costs])
    mixes = [*np.eye(len(costs)), np.full(len(costs), 1 / len(costs))] if len(costs) > 1 else [np.ones(1)]
    designs: list[Genes] = []
    for mix in mixes:
        cost = np.tensordot(mix, scaled, 1)
        budgets = np.linspace(np.nanmin(cost, 1).sum(), np.nanmax(cost, 1).sum(), 20 * count)
        found = [genes for genes in knapsack(loss, cost, budgets) if genes is not None]
        valid = {genes.tobytes(): genes for genes in found if space.contains(space.decode(genes))}
        designs += evenly(list(valid.values()), -(-count // len(mixes)))
    return designs


def _scale(table: Table) -> float:
    """The largest sum of steps, to compare tables of unlike units."""
    finite = np.where(np.isfinite(table.steps), table.steps, 0.0)
    return float(np.abs(finite).max(axis=1).sum()) or 1.0
