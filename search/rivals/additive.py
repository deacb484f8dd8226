"""Additive scores and dynamic programming: what each single change costs, and the best sum of them at every budget.

The idea of Puzzletron's mixed-integer programme (Bercovich et al., 2024, arXiv:2411.19146): blocks are scored one at a
time, scores are taken to add up, and designs are read off without any further search.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from evaluators.base import Metric
from search.knapsack import GRID, knapsack
from search.pareto import Floats
from search.protocol import FULL
from search.rivals.axis import budget_axis
from search.rivals.script import Answers, Free, Rival, Script, at
from search.tables import Genes, empty_steps, tabulate
from space.candidate import Candidate
from space.errors import UserError
from space.space import SearchSpace

REFIT_ERROR = "refit_error"


class AdditiveDesigns(Rival):
    """Single changes of the dense model at the lowest rung, then knapsack designs of their sums at the full one.

    Designs are spread evenly over the budget axis, then put between those, and between those again, until the knapsack
    has no budget left to tell apart. A design outside of the space's bounds is repaired, at random.
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Metric],
        *,
        seed: int,
        starts: Sequence[Candidate] = (),
        free: Free,
        rungs: int = 1,
        axis: str | None = None,
        levels: int = 3,
        designs: int = 9,
    ) -> None:
        """Set up, see `Rival`; starts are not used.

        Args:
            space: Where to search.
            objectives: What the front is made of.
            seed: Seed of all randomness.
            starts: Not used.
            free: The metrics of any candidate that cost nothing; levels that are not asked about are interpolated
                over its `refit_error` or, without that, over the number of the level.
            rungs: How many fidelities the loop has.
            axis: The free metric that is the budget; None for the first objective that is free, or the decoder's size.
            levels: Levels of each gene that are asked about, the smallest one and others evenly spread.
            designs: Budgets of the first round.

        Raises:
            UserError: An argument is out of its range.
        """
        super().__init__(space, objectives, seed=seed, starts=starts, free=free, rungs=rungs)
        if levels < 1:
            raise UserError(f"AdditiveDesigns: expected levels of at least 1, got {levels}.")
        if designs < 2:
            raise UserError(f"AdditiveDesigns: expected at least 2 designs, got {designs}.")
        self._levels = levels
        self._designs = designs
        self._axis = axis

    def script(self) -> Script:
        """See `Rival`."""
        space, rng = self.space, np.random.default_rng(self.seed)
        axis = budget_axis(space, self.objectives, self.quality, self.free, rng, name=self._axis)
        dense = space.levels - 1
        changes = [(gene, level) for gene, top in enumerate(dense.tolist()) for level in self._swept(top)]
        designs = [dense, *(_changed(dense, gene, level) for gene, level in changes)]
        self.remark = "single changes"
        answers = yield at(0, map(space.decode, designs))
        losses = self._losses(changes, answers)

        read: set[bytes] = set()
        extra = [dense] if space.contains(space.decode(dense)) else []
        for budgets in _halvings(axis.most, axis.least, self._designs):
            self.remark = f"{len(budgets)} budgets"
            found = knapsack(losses, axis.table.steps, budgets - axis.table.base)
            new = {genes.tobytes(): genes for genes in [*extra, *found] if genes is not None}
            fresh = [genes for name, genes in new.items() if name not in read]
            read |= new.keys()
            yield at(FULL, [space.decode(space.repair(genes, rng)) for genes in fresh])

    def _swept(self, top: int) -> list[int]:
        """The levels of a gene that the sweep asks about, ascending; the dense one, `top`, is known."""
        return np.unique(np.linspace(0, top, min(self._levels, top) + 1).round().astype(np.int64))[:-1].tolist()

    def _losses(self, changes: Sequence[tuple[int, int]], answers: Answers) -> Floats:
        """What every level of every gene is taken to lose, `(genes, levels)`; NaN where there is no such level."""
        losses = empty_steps(self.space)
        has_refit_error = REFIT_ERROR in self.free(self.space.decode(self.space.levels - 1))
        refit = tabulate(self.space, self.free, [REFIT_ERROR])[REFIT_ERROR].steps if has_refit_error else None
        answered = [answer for answer in answers if answer is not None]
        dense = answers[0] if answers[0] is not None else min(answered, default=0.0)
        known: list[dict[int, float]] = [{} for _ in losses]
        for (gene, level), answer in zip(changes, answers[1:], strict=True):
            if answer is not None:
                known[gene][level] = answer - dense
        for gene, top in enumerate((self.space.levels - 1).tolist()):
            position = np.arange(top, -1, -1.0) if refit is None else refit[gene, : top + 1]
            losses[gene, : top + 1] = interpolated({**known[gene], top: 0.0}, position)
        return losses


def interpolated(known: dict[int, float], position: Floats) -> Floats:
    """Losses of all levels, linear in `position` between the nearest known ones; inf below the smallest known one.

    Args:
        known: Losses by level, ascending; the last level among them.
        position: Where each level lies, `(levels,)`; one that does not lie between its neighbours is moved there.

    Returns:
        Shape `(levels,)`.
    """
    losses = np.full(len(position), np.inf)
    losses[len(position) - 1] = known[len(position) - 1]
    for lower, upper in pairwise(known):
        between = position[lower : upper + 1]
        span = between[0] - between[-1]
        share = (between - between[-1]) / span if span else np.linspace(1, 0, len(between))
        losses[lower : upper + 1] = known[upper] + np.clip(share, 0, 1) * (known[lower] - known[upper])
    return losses


def _changed(genes: Genes, gene: int, level: int) -> Genes:
    changed = genes.copy()
    changed[gene] = level
    return changed


def _halvings(first: float, last: float, count: int) -> Iterator[Floats]:
    """So many numbers evenly from first to last, then those halfway between, then those between again."""
    yield np.linspace(first, last, count)
    while count <= GRID:
        count = 2 * count - 1
        yield np.linspace(first, last, count)[1::2]
