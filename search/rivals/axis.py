"""The budget axis: the one free metric along which fixed-cost searches choose their targets, as a table over genes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evaluators.base import Metric
from evaluators.metrics import METRICS, metric_named
from search.pareto import minimised
from search.protocol import Task
from search.surrogate.knapsack import knapsack
from search.tables import Genes, Table, tabulate
from space.candidate import Candidate
from space.errors import UserError
from space.space import SearchSpace

SIZE = metric_named("decoder_params")  # what the bounds of a search space are about
REPAIRS = 32  # random repairs that look for the ends of the axis


@dataclass(frozen=True)
class Axis:
    """A cost that is known of every design.

    Attributes:
        metric: Which one; a goal of `max` changes the sign of everything below, so that less is always cheaper.
        table: Its value for genes.
        least: About the least that a design within the bounds of the space has.
        most: About the most.
        scale: What the whole of it is, above 0: fractions of the axis are fractions of this. The dense design's value
            where that is a cost above 0, else the difference between the dense design and the smallest genes.
    """

    metric: Metric
    table: Table
    least: float
    most: float
    scale: float

    def at(self, fraction: float) -> float:
        """The cost of a design that keeps this fraction, 0..1."""
        return self.table.base - (1 - fraction) * self.scale


def budget_axis(
    task: Task,
    quality: Metric,
    rng: np.random.Generator,
    *,
    name: str | None = None,
) -> Axis:
    """The axis of this name or, without one, of the first objective that is free; the decoder's size when none is.

    Args:
        task: What to search.
        quality: The objective that is not a cost.
        rng: Source of the repairs that look for the ends.
        name: A free metric.

    Raises:
        UserError: `free` does not give such a metric.
    """
    space, free = task.space, task.free
    cheap = [metric for metric in task.objectives if metric.free and metric is not quality]
    if name is not None:
        metrics = (*task.objectives, *METRICS)
        metric = next((m for m in metrics if m.name == name), Metric(name, "", "min", "cost", free=True))
    else:
        metric = next(iter(cheap), SIZE)
    dense = free(space.decode(space.levels - 1))
    if metric.name not in dense:
        raise UserError(
            f"Search: expected an axis among {', '.join(dense)}, got {metric.name}. Name a metric that costs nothing."
        )

    def cost(candidate: Candidate) -> Mapping[str, float]:
        values = free(candidate)
        row = {metric.name: float(minimised([values], [metric])[0, 0])}
        return {**row, SIZE.name: values[SIZE.name]} if metric.name != SIZE.name and SIZE.name in values else row

    tables = tabulate(space, cost, list(cost(space.decode(space.levels - 1))))
    table = tables[metric.name]
    small = _repaired(space, np.zeros_like(space.levels), rng)
    if metric.name != SIZE.name and SIZE.name in tables:
        small = np.concatenate([small, _cheapest(space, table, tables[SIZE.name], small, rng)])
    large = _repaired(space, space.levels - 1, rng)
    span = table.base - float(table.total(np.zeros_like(space.levels)))
    return Axis(
        metric=metric,
        table=table,
        least=float(table.total(small).min()),
        most=float(table.total(large).max()),
        scale=next((scale for scale in (table.base, span) if scale > 0), 1.0),
    )


def _repaired(space: SearchSpace, genes: Genes, rng: np.random.Generator) -> Genes:
    """Valid genes near the given ones, `(REPAIRS, genes)`."""
    return np.stack([space.repair(genes, rng) for _ in range(REPAIRS)])


def _cheapest(space: SearchSpace, cost: Table, size: Table, small: Genes, rng: np.random.Generator) -> Genes:
    """Of the designs as large as the smallest of `small`, the one of least cost, repaired; `(REPAIRS or 0, genes)`."""
    may_go = size.base - float(size.total(small).min())
    (genes,) = knapsack(cost.steps, -size.steps, np.array([may_go]))
    return small[:0] if genes is None else _repaired(space, genes, rng)
