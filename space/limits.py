"""Upper limits on quantities that are sums over blocks, such as latency from the table; pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Genes = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Limit:
    """One quantity and the most that a design may have of it.

    Attributes:
        name: Of the quantity.
        base: What the dense design has.
        steps: What each level of each gene adds to that, `(genes, levels)`; NaN where a gene has no such level.
        maximum: The limit.
    """

    name: str
    base: float
    steps: npt.NDArray[np.float64]
    maximum: float

    def total(self, genes: Genes) -> float:
        """The quantity of a design, genes `(genes,)`."""
        return self.base + float(self.steps[np.arange(len(genes)), genes].sum())

    def holds(self, genes: Genes) -> bool:
        """Whether a design is within the limit, but for rounding errors."""
        return self.total(genes) <= self.maximum + 1e-9 * max(abs(self.base), abs(self.maximum))


def descend(limits: Sequence[Limit], genes: Genes, floor: Genes, rng: np.random.Generator) -> Genes:
    """Takes steps down to `floor`, each that lowers a broken limit being equally likely, until all hold.

    A step leads to the next level that has less of what the limit is about: mostly one level; where a narrower block in
    more bits has more of it, some more.

    Genes that are within all limits come back unchanged; where no step is left, the result is not within them.
    """
    genes = genes.copy()
    for limit in limits:
        while not limit.holds(genes):
            rows, levels = np.arange(len(genes)), np.arange(limit.steps.shape[1])
            less = (limit.steps < limit.steps[rows, genes][:, None]) & (levels < genes[:, None])
            lower = np.where(less & (levels >= floor[:, None]), levels, -1).max(axis=1)
            useful = np.flatnonzero(lower >= 0)
            if not useful.size:
                break
            chosen = rng.choice(useful)
            genes[chosen] = lower[chosen]
    return genes
