"""Additive scores and dynamic programming: what each single change costs, and the best sum of them at every budget.

The idea of Puzzletron's mixed-integer programme (Bercovich et al., 2024, arXiv:2411.19146): blocks are scored one at a
time, scores are taken to add up, and designs are read off without any further search.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from search.pareto import Floats
from search.protocol import FULL, Task
from search.rivals.axis import budget_axis
from search.rivals.script import Rival
from search.script import Script, at
from search.surrogate.knapsack import GRID, knapsack
from search.surrogate.sensitivity import REFIT_ERROR, Sweep
from search.tables import empty_steps, tabulate
from space.errors import UserError
from space.space import SearchSpace


class AdditiveDesigns(Rival):
    """Single changes of the dense model at the lowest fidelity, then knapsack designs of their sums at the full one.

    Designs are spread evenly over the budget axis, then put between those, and between those again, until the knapsack
    has no budget left to tell apart. A design outside of the space's bounds is repaired, at random.
    """

    def __init__(
        self,
        task: Task,
        *,
        axis: str | None = None,
        levels: int = 4,
        designs: int = 9,
    ) -> None:
        """Set up, see `Rival`.

        Args:
            task: What to search, starts apart; levels that are not asked about are interpolated over the free metric
                `refit_error` or, without that, over the number of the level.
            axis: The free metric that is the budget; None for the first objective that is free, or the decoder's size.
            levels: Levels of each gene that are asked about, see `search.surrogate.sensitivity.Sweep`.
            designs: Budgets of the first round.

        Raises:
            UserError: An argument is out of its range.
        """
        super().__init__(task)
        if levels < 1:
            raise UserError(f"AdditiveDesigns: expected levels of at least 1, got {levels}.")
        if designs < 2:
            raise UserError(f"AdditiveDesigns: expected at least 2 designs, got {designs}.")
        self._levels = levels
        self._designs = designs
        self._axis = axis

    def script(self) -> Script:
        """See `Rival`."""
        space, free, rng = self.space, self.task.free, np.random.default_rng(self.task.seed)
        axis = budget_axis(self.task, self.quality, rng, name=self._axis)
        has_refit_error = REFIT_ERROR in free(space.decode(space.levels - 1))
        errors = tabulate(space, free, [REFIT_ERROR])[REFIT_ERROR].steps if has_refit_error else _places(space)
        sweep = Sweep(space, errors, self._levels)
        self.remark = "single changes"
        answers = yield at(0, sweep.designs)
        losses = sweep.losses([self.worth(answer) for answer in answers])

        dense = space.levels - 1
        read: set[bytes] = set()
        extra = [dense] if space.contains(space.decode(dense)) else []
        for budgets in _halvings(axis.most, axis.least, self._designs):
            self.remark = f"{len(budgets)} budgets"
            designs = knapsack(losses, axis.table.steps, budgets - axis.table.base)
            new = {genes.tobytes(): genes for genes in [*extra, *designs] if genes is not None}
            fresh = [genes for name, genes in new.items() if name not in read]
            read |= new.keys()
            yield at(FULL, [space.decode(space.repair(genes, rng)) for genes in fresh])


def _places(space: SearchSpace) -> Floats:
    """Levels counted down to the dense one, as errors that are not known otherwise, `(genes, levels)`."""
    return empty_steps(space) + space.levels[:, None] - 1.0 - np.arange(int(space.levels.max()))


def _halvings(first: float, last: float, count: int) -> Iterator[Floats]:
    """So many numbers evenly from first to last, then those halfway between, then those between again."""
    yield np.linspace(first, last, count)
    while count <= GRID:
        count = 2 * count - 1
        yield np.linspace(first, last, count)[1::2]
