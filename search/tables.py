"""Numbers that add up over genes: what each level of each gene is worth, as arrays that price whole populations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from search.pareto import Floats
from space.candidate import Candidate
from space.space import SearchSpace

Genes = npt.NDArray[np.int64]


class Table:
    """A quantity that is a constant plus a sum over genes.

    Attributes:
        base: The quantity of the design with every gene at its last level, the dense one.
        steps: What a level adds to that, `(genes, levels)`: 0 at a gene's last level, NaN where it has no such level.
    """

    def __init__(self, base: float, steps: Floats) -> None:
        """Takes the numbers as they are."""
        self.base = base
        self.steps = steps
        self._genes = np.arange(len(steps))

    def __neg__(self) -> Table:
        return Table(-self.base, -self.steps)

    def each(self, genes: Genes) -> Floats:
        """What every gene adds, for genes of shape `(..., genes)`, in the same shape."""
        return np.asarray(self.steps[self._genes, genes])

    def total(self, genes: Genes) -> Floats:
        """The quantity of designs, for genes of shape `(..., genes)`; shape `(...)`."""
        return np.asarray(self.base + self.each(genes).sum(-1))


def empty_steps(space: SearchSpace) -> Floats:
    """Zeros for every level of every gene, NaN where a gene has no such level, `(genes, levels)`."""
    steps = np.zeros((len(space.levels), int(space.levels.max())))
    steps[np.arange(steps.shape[1]) >= space.levels[:, None]] = np.nan
    return steps


def single_changes(space: SearchSpace) -> list[tuple[int, int, Candidate]]:
    """All designs that differ from the dense one in one gene: `(gene, level, candidate)`; bounds are not looked at."""
    return [
        (gene, level, changed(space, {gene: level}))
        for gene, top in enumerate((space.levels - 1).tolist())
        for level in range(top)
    ]


def changed(space: SearchSpace, levels: Mapping[int, int]) -> Candidate:
    """The dense design with some genes at other levels, by gene; bounds are not looked at."""
    genes = space.levels - 1
    genes[[*levels]] = [*levels.values()]
    return space.decode(genes)


def tabulate(
    space: SearchSpace, values: Callable[[Candidate], Mapping[str, float]], names: Sequence[str]
) -> dict[str, Table]:
    """Tables of quantities that are sums over blocks, read off single changes of the dense design.

    Args:
        space: The genes.
        values: The quantities of any candidate, free of charge.
        names: Which of them.
    """
    dense = values(space.decode(space.levels - 1))
    steps = {name: empty_steps(space) for name in names}
    for gene, level, candidate in single_changes(space):
        changed = values(candidate)
        for name in names:
            steps[name][gene, level] = changed[name] - dense[name]
    return {name: Table(dense[name], steps[name]) for name in names}
