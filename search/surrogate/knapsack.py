"""Designs that lose least by an additive model at every budget of an additive cost: dynamic programming.

The idea is that of Puzzletron's mixed-integer programme and of AMC-like knapsacks: every gene takes exactly one level,
losses and costs add up. Costs are rounded up to a grid, so that a budget is never overrun, and one pass over the genes
gives the best design of every budget on the grid at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from search.pareto import Floats
from search.tables import Genes, Table
from space.space import SearchSpace, evenly

GRID = 10_000


def knapsack(
    losses: Floats, costs: Floats, budgets: Floats, *, grid: int = GRID, nearest: bool = False
) -> list[Genes | None]:
    """For each budget, the levels of least total loss whose total cost is within it.

    Args:
        losses: `(genes, levels)`; NaN where a gene has no such level, inf for a level that must not be taken.
        costs: `(genes, levels)`, in any unit, NaN alike; only differences within a gene matter for the result.
        budgets: `(budgets,)`, limits of the summed costs.
        grid: Steps that the range of total cost is divided into.
        nearest: Costs are rounded to the nearest step and not up, so that a budget may be overrun a little.

    Returns:
        Genes `(genes,)` for each budget, None where nothing is within it.
    """
    cheapest = np.nanmin(costs, axis=1)
    span = float((np.nanmax(costs, axis=1) - cheapest).sum())
    unit = span / grid if span > 0 else 1.0
    # rounded up, but for rounding errors of the division itself
    sizes = (costs - cheapest[:, None]) / unit
    sizes = np.rint(sizes) if nearest else np.ceil(sizes - 1e-9)
    best = np.zeros(grid + len(costs) + 1)  # least loss with at most so many units
    choices = []
    for gene_losses, gene_sizes in zip(losses, sizes, strict=True):
        with_level = np.full((len(gene_losses), len(best)), np.inf)
        for level, (loss, size) in enumerate(zip(gene_losses, gene_sizes, strict=True)):
            if np.isfinite(loss):
                with_level[level, int(size) :] = best[: len(best) - int(size)] + loss
        choices.append(with_level.argmin(axis=0))
        best = with_level.min(axis=0)
    units = np.clip(np.floor((budgets - cheapest.sum()) / unit + 1e-9), -1, len(best) - 1).astype(np.int64)
    within = (units >= 0) & np.isfinite(best[units])
    left = units[within]
    designs = np.zeros((len(left), len(costs)), dtype=np.int64)
    for gene in reversed(range(len(costs))):
        designs[:, gene] = choices[gene][left]
        left -= sizes[gene, designs[:, gene]].astype(np.int64)
    found = iter(designs)
    return [next(found) if is_within else None for is_within in within]


def spread_designs(space: SearchSpace, losses: Sequence[Table], costs: Sequence[Table], count: int) -> list[Genes]:
    """Designs of least additive loss along the whole range of the costs.

    Args:
        space: The genes and their bounds; designs outside are left out.
        losses: One table, or several that count alike.
        costs: One table, less being cheaper, or several: some designs are for each alone, some for their mean.
        count: How many designs, about.
    """
    loss = np.sum([table.steps / _scale(table) for table in losses], axis=0)
    designs: list[Genes] = []
    mixes = _mixes(costs)
    for cost in mixes:
        budgets = np.linspace(np.nanmin(cost, 1).sum(), np.nanmax(cost, 1).sum(), 20 * count)
        proposals = [genes for genes in knapsack(loss, cost, budgets) if genes is not None]
        valid = {genes.tobytes(): genes for genes in proposals if space.contains(space.decode(genes))}
        designs += evenly(list(valid.values()), -(-count // len(mixes)))
    return designs


def improved_designs(
    space: SearchSpace,
    loss: Callable[[Genes], Floats],
    costs: Sequence[Table],
    designs: Sequence[Genes],
    *,
    reach: float = 0.06,
    budgets: int = 13,
    change: float = 0.005,
) -> list[Genes]:
    """Designs of less loss around known ones, by a knapsack of the loss of all single changes of each.

    Changes of a good design add up better than those of the dense model, as the others are in place; a surrogate, which
    knows that, is optimised so in a fraction of the time that an evolution takes (on the default model's surrogate
    after 550 answers, more hypervolume in 0.6 s than NSGA-II with 200 parents finds in 5 s).

    Args:
        space: The genes and their bounds; designs outside are left out.
        loss: Of designs `(designs, genes)`, as `(designs,)`; logarithms, for `change` to be a fraction.
        costs: As in `spread_designs`.
        designs: Those to look around.
        reach: By how much, up and down, the cost of a design may differ from the known one's, as a fraction of all.
        budgets: Designs for each known one, spread over this reach.
        change: What each change has to gain at least.
    """
    genes, levels = np.nonzero(np.arange(space.levels.max()) < space.levels[:, None])
    improved: dict[bytes, Genes] = {}
    mixes = _mixes(costs)
    for design in designs:
        changed = np.repeat(design[None], len(genes), axis=0)
        changed[np.arange(len(genes)), genes] = levels
        gained = loss(changed) - loss(design[None])
        steps = np.full((len(space.levels), int(space.levels.max())), np.nan)
        steps[genes, levels] = gained + np.where(levels == design[genes], 0.0, change)
        for cost in mixes:
            spent = cost[np.arange(len(design)), design].sum()
            limits = spent + np.linspace(-reach, reach, budgets)
            for better in knapsack(steps, cost, limits, grid=GRID // 10, nearest=True):
                if better is not None and space.contains(space.decode(better)):
                    improved[better.tobytes()] = better
    return list(improved.values())


def _mixes(costs: Sequence[Table]) -> list[Floats]:
    """Each of the costs alone and, where there are several, their mean; in parts of their largest sum."""
    scaled = [table.steps / _scale(table) for table in costs]
    return scaled if len(costs) == 1 else [*scaled, np.mean(scaled, axis=0)]


def _scale(table: Table) -> float:
    """The largest sum of steps, to compare tables of unlike units."""
    finite = np.where(np.isfinite(table.steps), table.steps, 0.0)
    return float(np.abs(finite).max(axis=1).sum()) or 1.0
