"""Changes to designs that make sense for transformers, as functions on genes; every one of them may break a bound.

A design near a good one is one that costs about the same: so most moves trade, swap or exchange. What leaves the bounds
is mended by `SearchSpace.repair`, which is unbiased.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from search.pareto import Floats
from search.tables import Genes
from space.space import SearchSpace

Move = Callable[[Genes, np.random.Generator], None]

FAR = 0.5  # chance that a step is not longer still: geometric lengths, mostly 1, at times far


class Operators:
    """Mutation and crossover for the genes of one space."""

    def __init__(self, space: SearchSpace, sizes: Floats, *, moves: float = 1.5, crossover: float = 0.7) -> None:
        """Sets up the moves that this space allows.

        Args:
            space: The genes.
            sizes: Parameters that a level adds, `(genes, levels)`, to find exchanges of equal size.
            moves: Moves that make a mutation, on average; at least one is made.
            crossover: Chance that a child has two parents.
        """
        self._levels = space.levels
        self._sizes = sizes
        self._more_moves = max(0.0, moves - 1)
        self._crossover = crossover
        kinds = np.array(space.kinds)
        self._kinds = [np.flatnonzero(kinds == kind) for kind in dict.fromkeys(space.kinds)]
        self._pairs = [members for members in self._kinds if len(members) > 1]
        self._moves: list[Move] = [self._step]
        if self._pairs:
            self._moves += [self._trade, self._swap]
        if len(self._kinds) > 1:
            self._moves.append(self._exchange)

    def child(self, one: Genes, other: Genes, rng: np.random.Generator) -> Genes:
        """A mutated mixture of two parents, each `(genes,)`."""
        genes = one.copy()
        if rng.random() < self._crossover:
            genes = self._uniform(one, other, rng) if rng.random() < 0.5 else self._segment(one, other, rng)
        for _ in range(1 + rng.poisson(self._more_moves)):
            self._moves[rng.integers(len(self._moves))](genes, rng)
        return genes

    @staticmethod
    def _uniform(one: Genes, other: Genes, rng: np.random.Generator) -> Genes:
        return np.where(rng.random(len(one)) < 0.5, one, other)

    @staticmethod
    def _segment(one: Genes, other: Genes, rng: np.random.Generator) -> Genes:
        """Neighbouring layers from the other parent; genes stand in the order of their layers."""
        first, last = np.sort(rng.integers(0, len(one) + 1, 2))
        genes = one.copy()
        genes[first:last] = other[first:last]
        return genes

    def _step(self, genes: Genes, rng: np.random.Generator) -> None:
        """One gene, some levels up or down; where there is no room, the other way."""
        gene = rng.integers(len(genes))
        step = int(rng.geometric(FAR)) * int(rng.choice([-1, 1]))
        if not 0 <= genes[gene] + step < self._levels[gene]:
            step = -step
        genes[gene] = np.clip(genes[gene] + step, 0, self._levels[gene] - 1)

    def _trade(self, genes: Genes, rng: np.random.Generator) -> None:
        """Levels from one gene to another of its kind."""
        up, down = self._two(rng)
        step = min(int(rng.geometric(FAR)), self._levels[up] - 1 - genes[up], genes[down])
        genes[up] += step
        genes[down] -= step

    def _swap(self, genes: Genes, rng: np.random.Generator) -> None:
        """The levels of two genes of a kind change places; so holes move."""
        one, other = self._two(rng)
        levels = genes[other], genes[one]
        genes[one], genes[other] = np.minimum(levels, self._levels[[one, other]] - 1)

    def _exchange(self, genes: Genes, rng: np.random.Generator) -> None:
        """A gene takes another level, and one of another kind the level that makes up for it best."""
        first, second = rng.permutation(len(self._kinds))[:2]
        gene, partner = rng.choice(self._kinds[first]), rng.choice(self._kinds[second])
        level = rng.integers(self._levels[gene])
        gained = self._sizes[gene, level] - self._sizes[gene, genes[gene]]
        size = self._sizes[partner, genes[partner]] - gained
        genes[gene] = level
        genes[partner] = np.nanargmin(np.abs(self._sizes[partner] - size))

    def _two(self, rng: np.random.Generator) -> tuple[int, int]:
        members = self._pairs[rng.integers(len(self._pairs))]
        one, other = rng.choice(members, 2, replace=False)
        return int(one), int(other)
