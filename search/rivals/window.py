"""Designs of one cost: the range of costs that counts as a target, and random single-level steps that end in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from search.pareto import Floats
from search.rivals.axis import Axis
from search.tables import Genes, Table
from space.space import SearchSpace


@dataclass(frozen=True)
class Window:
    """What may be spent.

    Attributes:
        fraction: Its upper end as a fraction of the axis.
        low: Least cost that counts; not included.
        high: Most.
    """

    fraction: float
    low: float
    high: float

    def holds(self, cost: float) -> bool:
        """Whether a design of this cost counts."""
        return self.low < cost <= self.high


def window(axis: Axis, fraction: float, tolerance: float) -> Window:
    """The window below a fraction of the axis.

    Args:
        axis: The budget.
        fraction: The upper end. Beyond what the space reaches, it is moved to the nearest end of that.
        tolerance: Width as a fraction of the axis. Where single levels are wider than that, the widest of the
            genes' finest steps takes its place: one layer, where layers are dense or gone.
    """
    slack = tolerance * axis.scale
    high = min(max(axis.at(fraction), axis.least + slack), axis.most)
    steps = np.abs(np.diff(axis.table.steps, axis=1))
    steps = np.where(steps > 1e-9 * axis.scale, steps, np.inf)  # NaN, which is no level, goes too
    finest = steps.min(axis=1)
    width = max(slack, finest[np.isfinite(finest)].max(initial=0.0))
    # a design exactly at the end counts, whatever its rounding error; two that are a step apart never both do
    rounding = 1e-9 * axis.scale
    return Window(1 - (axis.table.base - high) / axis.scale, high + rounding - width, high + rounding)


def settle(space: SearchSpace, table: Table, window: Window, genes: Genes, rng: np.random.Generator) -> Genes | None:
    """Valid genes near the given ones whose cost is in the window.

    Genes that are in it come back unchanged. Else single-level steps are taken at random: down, each of them saving
    something, until the cost is not above the window; then up, none of them leading above it, until it is not below.

    Args:
        space: The genes and their bounds.
        table: The cost of genes.
        window: Where it has to end.
        genes: `(genes,)`, each within its levels.
        rng: Source of every choice.

    Returns:
        Genes `(genes,)`, or None when the steps or the repair to the bounds ended outside.
    """
    genes = genes.copy()
    cost = float(table.total(genes))
    while cost > window.high:
        change = _change(table, genes, -1)
        useful = np.flatnonzero(change < 0)
        if not useful.size:
            return None
        gene = rng.choice(useful)
        genes[gene] -= 1
        cost += change[gene]
    while cost <= window.low:
        change = _change(table, genes, +1)
        useful = np.flatnonzero((change >= 0) & (cost + change <= window.high))
        if not useful.size:
            return None
        gene = rng.choice(useful)
        genes[gene] += 1
        cost += change[gene]
    genes = space.repair(genes, rng)
    return genes if window.holds(float(table.total(genes))) else None


def exchange(table: Table, width: float, genes: Genes, rng: np.random.Generator) -> Genes:
    """One gene a level down and another one a level up, at nearly the same cost: EvoPress's level switch.

    Args:
        table: The cost of genes.
        width: By how much two steps may differ in cost; where no step up is as near, any is taken.
        genes: `(genes,)`, each within its levels; returned as they are when no gene can go down.
        rng: Source of every choice.
    """
    lowered = np.flatnonzero(genes > 0)
    if not lowered.size:
        return genes
    changed = genes.copy()
    down = rng.choice(lowered)
    saved = -_change(table, genes, -1)[down]
    changed[down] -= 1
    spent = _change(table, genes, +1)
    spent[down] = np.nan  # would undo it
    near = np.flatnonzero(np.abs(spent - saved) <= width)
    raised = near if near.size else np.flatnonzero(np.isfinite(spent))
    if raised.size:
        changed[rng.choice(raised)] += 1
    return changed


def _change(table: Table, genes: Genes, step: int) -> Floats:
    """What one level down (-1) or up (+1) adds to the cost, for each gene; NaN where it cannot go there."""
    levels = np.isfinite(table.steps).sum(axis=1)
    target = genes + step
    possible = (target >= 0) & (target < levels)
    return np.where(possible, table.each(np.clip(target, 0, levels - 1)) - table.each(genes), np.nan)
