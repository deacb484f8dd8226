"""(1+lambda) evolution at fixed cost by exchanges of levels, cheap fidelities first, for one target after the other.

After EvoPress (Sieberling et al., 2024, arXiv:2410.14649): offspring of the one parent switch levels between blocks,
which keeps the cost; all of them see few tokens, the best of each fidelity go on to the next, and what is left competes
with the parent at the full fidelity. DarwinLM (Tang et al., 2025, arXiv:2502.07780) and Týr-the-Pruner (Li et al.,
2025, arXiv:2503.09657) search the same way over structured levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from search.protocol import FULL, Task
from search.rivals.axis import Axis, budget_axis
from search.rivals.script import Rival
from search.rivals.window import Window, exchange, settle, window
from search.script import Script, at
from search.tables import Genes
from space.errors import UserError

TARGETS = (0.75, 0.625, 0.5)


@dataclass
class _Lineage:
    """The search for one target: its parent, that one's quality, and the keys of all designs that it ever made."""

    window: Window
    parent: Genes | None = None
    quality: float = np.inf
    keys: set[str] = field(default_factory=set)


class Evolution(Rival):
    """(1+lambda) evolution, one generation of each target in turn.

    A target's first generation are the starts nearest in cost, brought to the target, and random samples brought there
    where these are too few. Where exchanges find nothing new, random samples take their place; a target for which
    these find nothing new either is done.
    """

    def __init__(
        self,
        task: Task,
        *,
        targets: Sequence[float] = TARGETS,
        axis: str | None = None,
        tolerance: float = 0.005,
        offspring: int = 16,
        keep: float = 0.25,
        exchanges: int = 3,
        tries: int = 50,
    ) -> None:
        """Set up, see `Rival`.

        Args:
            task: What to search; its starts are candidates for the first parents.
            targets: Fractions of the dense model's cost, above 0 and below 1; see `Axis.scale`.
            axis: The free metric that is the cost; None for the first objective that is free, or the decoder's size.
            tolerance: By which fraction of the dense cost a design may stay below its target.
            offspring: Designs of a generation.
            keep: Part of them that goes on to each next fidelity; at least one.
            exchanges: The most exchanges of an offspring; their number is the smaller one of two uniform draws.
            tries: Attempts for each offspring at finding a new one.

        Raises:
            UserError: An argument is out of its range.
        """
        super().__init__(task)
        targets = tuple(targets)
        if not targets or not all(0 < target < 1 for target in targets):
            raise UserError(f"Evolution: expected targets above 0 and below 1, got {list(targets)}.")
        if not 0 <= tolerance < 1:
            raise UserError(f"Evolution: expected a tolerance of at least 0 and below 1, got {tolerance}.")
        if not 0 < keep <= 1:
            raise UserError(f"Evolution: expected keep above 0 and at most 1, got {keep}.")
        for name, count in {"offspring": offspring, "exchanges": exchanges, "tries": tries}.items():
            if count < 1:
                raise UserError(f"Evolution: expected {name} of at least 1, got {count}.")
        self._rng = np.random.default_rng(task.seed)
        self._axis = budget_axis(task, self.quality, self._rng, name=axis)
        windows = {(w := window(self._axis, target, tolerance)).high: w for target in targets}
        self._lineages = [_Lineage(window) for window in windows.values()]
        self._offspring = offspring
        self._keep = keep
        self._exchanges = exchanges
        self._tries = tries

    @property
    def axis(self) -> Axis:
        """What the targets are fractions of."""
        return self._axis

    def script(self) -> Script:
        """See `Rival`."""
        dense = self.space.decode(self.space.levels - 1)
        first = at(FULL, [dense] if self.space.contains(dense) else [])
        live = list(self._lineages)
        while live:
            for lineage in list(live):
                designs = self._generation(lineage)
                if not designs:
                    live.remove(lineage)
                for fidelity in range(self.task.fidelities):
                    candidates = [self.space.decode(genes) for genes in designs]
                    answers = yield [*first, *at(fidelity, candidates)]
                    ranked = self.best_first(designs, answers[len(first) :])
                    first = []
                    designs = [genes for genes, _ in ranked[: max(1, round(self._keep * len(designs)))]]
                if ranked and ranked[0][1] <= lineage.quality:
                    lineage.parent, lineage.quality = ranked[0]
                self.remark = ", ".join(
                    f"{line.window.fraction:.3g}: {line.quality:.4g}"
                    for line in self._lineages
                    if line.parent is not None
                )

    def _generation(self, lineage: _Lineage) -> list[Genes]:
        """Up to so many designs at the target's cost that its search never made before."""
        designs: list[Genes] = []
        for proposal in self._proposals(lineage):
            genes = settle(self.space, self._axis.table, lineage.window, proposal, self._rng)
            if genes is None:
                continue
            key = self.space.decode(genes).key
            if key not in lineage.keys:
                lineage.keys.add(key)
                designs.append(genes)
            if len(designs) == self._offspring:
                break
        return designs

    def _proposals(self, lineage: _Lineage) -> Iterator[Genes]:
        """Genes that are yet to be brought to the target's cost; finitely many."""
        tries = self._tries * self._offspring
        if lineage.parent is None:
            starts = [self.space.encode(start) for start in self.task.starts if self.space.contains(start)]
            yield from sorted(starts, key=lambda genes: abs(float(self._axis.table.total(genes)) - lineage.window.high))
        else:
            for _ in range(tries):
                yield self._mutated(lineage.parent, lineage.window)
        for _ in range(tries):
            yield self.space.encode(self.space.sample(self._rng))

    def _mutated(self, genes: Genes, window: Window) -> Genes:
        for _ in range(int(self._rng.integers(1, self._exchanges + 1, 2).min())):
            genes = exchange(self._axis.table, window.high - window.low, genes, self._rng)
        return genes
