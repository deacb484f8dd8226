"""Which genes are valid, and how invalid ones are mended: pure functions on arrays, free of torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from space.limits import Genes, Limit, descend

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Rules:
    """What a valid vector of genes fulfils, as arrays.

    A gene is the index of an option; options are ordered by parameters. "Vanishes" below says that the gene's option 0
    removes what the gene is about; a gene whose option 0 leaves something never vanishes.

    Attributes:
        levels: Options of every gene, `(genes,)`, at least 2 each.
        params: Parameters of every option, `(genes, most levels)`; entries past a gene's levels repeat its last one.
        fixed_params: Decoder-layer parameters that no gene touches.
        minimum: Least decoder-layer parameters allowed.
        maximum: Most decoder-layer parameters allowed.
        keeps: `(open layers, genes)`, whether the gene keeps that layer alive while it is above 0; an open layer is one
            that vanishes when all its genes are 0.
        min_open: Open layers that must stay alive.
        carriers: `(genes,)`, genes that carry attention while above 0; all false when some layer always has attention.
        limits: Further quantities that must not be exceeded.
        types: Levels of the genes of blocks, so many together from the last one down, that differ in the type of their
            matrices alone.
    """

    levels: Genes
    params: npt.NDArray[np.int64]
    fixed_params: int
    minimum: int
    maximum: int
    keeps: Mask
    min_open: int
    carriers: Mask
    limits: tuple[Limit, ...] = ()
    types: int = 1

    def total(self, genes: Genes) -> int:
        """Decoder-layer parameters of these genes."""
        return self.fixed_params + int(self.params[np.arange(len(genes)), genes].sum())

    def sound(self, genes: Genes) -> bool:
        """Whether enough layers are alive and one of them has attention, whatever the size."""
        present = genes > 0
        alive = int((self.keeps & present).any(axis=1).sum())
        return alive >= self.min_open and (not self.carriers.any() or bool((self.carriers & present).any()))

    def valid(self, genes: Genes) -> bool:
        """Whether every rule holds."""
        within = self.minimum <= self.total(genes) <= self.maximum and self.sound(genes)
        return within and all(limit.holds(genes) for limit in self.limits)


def random_floor(rules: Rules, genes: Genes, rng: np.random.Generator) -> Genes:
    """Least levels, 0 or 1 each, at or above which all genes are sound; random, but from what `genes` keep first."""
    present = genes > 0
    floor = np.zeros_like(genes)
    if rules.carriers.any():
        floor[_choose(rules.carriers, rules.carriers & present, rng)] = 1
    return _cover(rules, floor, present, rng)


def cheapest_floor(rules: Rules, rng: np.random.Generator) -> Genes:
    """The floor with the fewest parameters; ties are broken at random.

    Layers share their options, so that a gene's first step costs the same in every layer: it is enough to let the one
    attention block stand in a layer that has to stay alive anyway, and to keep the cheaper block in the others.
    """
    cost = rules.params[:, 1] - rules.params[:, 0]
    floor = np.zeros_like(rules.levels)
    if rules.carriers.any():
        useful = rules.carriers & rules.keeps.any(axis=0) if rules.min_open else rules.carriers
        pool = useful if useful.any() else rules.carriers
        floor[_choose(pool, pool & (cost == cost[pool].min()), rng)] = 1
    cheap = np.zeros(len(cost), dtype=bool)
    for row in range(len(rules.keeps)):
        cheap |= rules.keeps[row] & (cost == cost[rules.keeps[row]].min())
    return _cover(rules, floor, cheap, rng)


def _cover(rules: Rules, floor: Genes, preferred: Mask, rng: np.random.Generator) -> Genes:
    """Raise genes to 1, preferred ones first, until enough open layers are alive."""
    alive: Mask = np.any(rules.keeps & (floor > 0), axis=1)
    while alive.sum() < rules.min_open:  # each turn raises a gene of a layer that was not alive: at most all of them
        layer = _choose(~alive, ~alive & np.any(rules.keeps & preferred, axis=1), rng)
        gene = _choose(rules.keeps[layer], rules.keeps[layer] & preferred, rng)
        floor[gene] = 1
        alive |= rules.keeps[:, gene]
    return floor


def _choose(pool: Mask, preferred: Mask, rng: np.random.Generator) -> int:
    """A random member of `preferred`, or of `pool` when nothing is preferred."""
    return int(rng.choice(np.flatnonzero(preferred if preferred.any() else pool)))


def repair(rules: Rules, genes: Genes, rng: np.random.Generator, *, tries: int) -> Genes | None:
    """Valid genes near the given ones; valid genes come back unchanged.

    What is missing of the structure is restored at random. Then single-level steps are taken in random order, each
    step that is left being equally likely, until the size fits, and further ones down until every limit holds. Where
    options are so coarse that a step jumps over the whole allowed range, one gene or two are set anew to land in it.

    Args:
        rules: The rules.
        genes: `(genes,)`, each within its levels.
        rng: Source of every choice.
        tries: Independent attempts before giving up; only narrow ranges need more than one.

    Returns:
        Valid genes, or None when no attempt landed in the allowed range.
    """
    if rules.valid(genes):
        return genes
    start = genes
    for _ in range(tries):
        floor = random_floor(rules, start, rng)
        if rules.total(floor) > rules.maximum:
            floor = cheapest_floor(rules, rng)
        moved = descend(rules.limits, _walk(rules, np.maximum(start, floor), floor, rng), floor, rng)
        landed = moved if rules.valid(moved) else _land(rules, moved, floor, rng)
        if landed is not None and rules.valid(landed):
            return landed
        # norms and biases make sizes that only a certain number of removed blocks can meet: remove some other number
        start = np.where(rng.random(len(genes)) < rng.random(), 0, genes)
    return None


def reshuffle(rules: Rules, genes: Genes, rng: np.random.Generator, *, tries: int) -> Genes:
    """Valid genes with the levels exchanged between genes of equal options, which keeps the size: random where sound.

    Args:
        rules: The rules.
        genes: `(genes,)`, valid; returned as they are when no exchange is sound.
        rng: Source of every choice.
        tries: Exchanges that are tried.
    """
    _, kinds = np.unique(rules.params, axis=0, return_inverse=True)
    kinds = kinds.reshape(-1)  # NumPy 2.0 gives it a second axis
    positions = np.argsort(kinds, kind="stable")
    for _ in range(tries):
        drawn = np.lexsort((rng.random(len(genes)), kinds))
        exchanged = genes.copy()
        exchanged[positions] = genes[drawn]
        if rules.valid(exchanged):
            return exchanged
    return genes.copy()


def _walk(rules: Rules, genes: Genes, floor: Genes, rng: np.random.Generator) -> Genes:
    """Take single-level steps in random order, down to `floor` or up to dense, until the size is no longer outside.

    There are finitely many steps between `genes` and either end, each is taken at most once, and all their sizes are
    known beforehand: one shuffle, one cumulative sum, no loop.
    """
    size = rules.total(genes)
    if rules.minimum <= size <= rules.maximum:
        return genes
    sign = -1 if size > rules.maximum else 1
    left = genes - floor if sign < 0 else rules.levels - 1 - genes
    left = np.where(rules.params.any(axis=1), left, 0)  # no step of what has no parameters here changes the size
    steps = rng.permutation(np.repeat(np.arange(len(genes)), left))
    # the n-th step of a gene leads from level `genes ± n` on; a stable sort by gene lines its steps up in order
    order = np.argsort(steps, kind="stable")
    rank = np.empty_like(steps)
    rank[order] = np.arange(len(steps)) - np.repeat(np.cumsum(left) - left, left)
    before = genes[steps] + sign * rank
    sizes = size + np.cumsum(rules.params[steps, before + sign] - rules.params[steps, before])
    arrived = np.flatnonzero(sizes <= rules.maximum if sign < 0 else sizes >= rules.minimum)
    taken = steps[: arrived[0] + 1] if arrived.size else steps
    return genes + sign * np.bincount(taken, minlength=len(genes))


def _land(rules: Rules, genes: Genes, floor: Genes, rng: np.random.Generator) -> Genes | None:
    """Set one gene, else two, to levels at or above `floor` such that the size fits; None where none do."""
    size = rules.total(genes)
    low, high = rules.minimum - size, rules.maximum - size
    level = np.arange(rules.params.shape[1])
    gene, option = np.nonzero((level >= floor[:, None]) & (level < rules.levels[:, None]))
    change = rules.params[gene, option] - rules.params[gene, genes[gene]]

    single = np.flatnonzero((low <= change) & (change <= high))
    if single.size:
        return _with(genes, gene, option, [rng.choice(single)])
    order = np.argsort(change, kind="stable")
    first = np.searchsorted(change[order], low - change, side="left")
    last = np.searchsorted(change[order], high - change, side="right")
    for move in rng.permutation(np.flatnonzero(last > first)):
        partners = order[first[move] : last[move]]
        partners = partners[gene[partners] != gene[move]]
        if partners.size:
            return _with(genes, gene, option, [move, rng.choice(partners)])
    return None


def _with(genes: Genes, gene: Genes, option: Genes, moves: list[np.int64]) -> Genes:
    changed = genes.copy()
    changed[gene[moves]] = option[moves]
    return changed
