"""What a surrogate sees of a design: sums over its blocks, and what each block loses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from search.pareto import Floats
from search.tables import Genes, Table
from space.candidate import WHOLE

TINY = 1e-6  # added before a logarithm, in the unit of a learned metric


class Described(NamedTuple):
    """Features of designs.

    Attributes:
        sums: `(designs, few)`, that a linear trend is fit on.
        blocks: `(designs, many)`, in units that can be compared with each other.
    """

    sums: Floats
    blocks: Floats


class BlockFeatures:
    """Features of genes, from what the free metrics and the sensitivity sweep say of each block alone.

    The sums, over all blocks and over each kind of block, are of the losses and the refit errors: with some dozens of
    answers they rank designs better than anything that tells blocks apart. What each block loses stands beside them as
    its square root, so that a few dear blocks do not hide the others: from a hundred answers on, it lowers the error
    that the sums leave by a third and more. Without the sums of refit errors designs are ranked worse; counts of blocks
    that are gone, genes and refit errors of single blocks add nothing (`benchmarks/surrogate.py`).

    What is chosen for the whole model is no block: its loss, which adds to all others, is a feature as it is.
    """

    def __init__(self, kinds: Sequence[str], errors: Table, losses: Sequence[Table]) -> None:
        """Takes the tables.

        Args:
            kinds: What each gene chooses.
            errors: Refit errors.
            losses: For each learned metric, what every level of every gene loses on its own; inf where that failed.
        """
        names = np.array(kinds)
        self._whole = np.isin(names, WHOLE)
        self._groups = [~self._whole]
        if len(blocks := dict.fromkeys(names[~self._whole].tolist())) > 1:
            self._groups += [names == kind for kind in blocks]
        self._errors = errors
        self._losses = [_finite(table) for table in losses]

    def __call__(self, genes: Genes) -> Described:
        """Features of designs `(designs, genes)`."""
        errors = self._errors.each(genes)
        lost = [np.maximum(table.each(genes), 0.0) for table in self._losses]
        columns = []
        for group in self._groups:
            columns += [np.log(each[..., group].sum(-1) + TINY) for each in lost]
            columns.append(errors[..., group].sum(-1))
        if self._whole.any():
            columns += [each[..., self._whole].sum(-1) for each in lost]
        return Described(np.stack(columns, axis=-1).astype(np.float64), np.sqrt(np.concatenate(lost, axis=-1)))


def _finite(table: Table) -> Table:
    """The same with levels that must not be taken losing as much as the worst one."""
    finite = np.isfinite(table.steps)
    return Table(table.base, np.where(finite, table.steps, table.steps[finite].max(initial=0.0)))
