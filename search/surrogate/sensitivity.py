"""The sensitivity sweep: what each block is worth on its own, from designs that differ from dense in little."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from search.pareto import Floats
from search.tables import changed, empty_steps
from space.candidate import WHOLE, Candidate
from space.space import SearchSpace

REFIT_ERROR = "refit_error"  # the free metric that the sweep is interpolated over
TOGETHER = 5  # neighbouring blocks that are rounded together


class Sweep:
    """A few levels of every gene; the others are interpolated over the refit error, which is known of all levels.

    The loss of a block that is changed alone grows about as the energy that its output loses (second order), so it is
    nearly linear in the refit error.

    Where blocks have types, the sweep asks about widths in the first type, and about types at the dense width; the
    losses of both add up, as errors do that have nothing to do with each other. Rounding loses so little in each block
    that its losses add up over blocks too, and about alike in blocks of a kind: neighbouring ones are rounded together,
    and what that loses is divided over them as their refit errors are. The first sweep asks about the type of fewest
    bits alone.

    Attributes:
        designs: What to evaluate: the dense design, then one gene changed in each, or the type of a few.
    """

    def __init__(self, space: SearchSpace, errors: Floats, levels: int) -> None:
        """Chooses the levels.

        Args:
            space: The genes.
            errors: Refit error that each level adds, `(genes, levels)`, 0 at the dense level and NaN where there is
                none; see `search.tables.Table`.
            levels: How many of each gene: the smallest, then those with about a third of its refit error, a ninth, ...;
                all of a gene of the whole model.
        """
        self._errors = errors
        self._space = space
        types = 1 + len(space.types)

        def alone(gene: int, top: int) -> set[int]:
            if space.kinds[gene] in WHOLE:  # of which no refit error says anything
                return set(range(top))
            plain = self._plain(gene)[:-1]
            wanted = (errors[gene, plain[0]] / 3.0**step for step in range(levels) if plain)
            return {plain[int(np.abs(errors[gene, plain] - error).argmin())] for error in wanted}

        tops = (space.levels - 1).tolist()
        self._changes = [{gene: level} for gene, top in enumerate(tops) for level in sorted(alone(gene, top))]
        for kind in dict.fromkeys(kind for kind in space.kinds if kind not in WHOLE):
            genes = [gene for gene, each in enumerate(space.kinds) if each == kind]
            for number in range(1 if levels > 1 else types - 1, types) if types > 1 else ():
                together = (genes[start : start + TOGETHER] for start in range(0, len(genes), TOGETHER))
                self._changes += [{gene: tops[gene] - number for gene in group} for group in together]
        self.designs: list[Candidate] = [changed(space, change) for change in ({}, *self._changes)]

    def _plain(self, gene: int) -> list[int]:
        """The levels of a gene in the first type, rising; see `space.options.typed`."""
        top = int(self._space.levels[gene]) - 1
        types = 1 if self._space.kinds[gene] in WHOLE else 1 + len(self._space.types)
        return [*range(top % types, top + 1, types)]

    def losses(self, values: Sequence[float | None]) -> Floats:
        """What every level of every gene loses, `(genes, levels)`.

        Args:
            values: Of `designs`, less being better; None where the evaluation failed. Without the dense design's, its
                value is taken to be the least of all.

        Returns:
            NaN where a gene has no such level, inf for levels below the smallest one that is known.
        """
        dense, *others = values
        if dense is None:
            dense = min((value for value in others if value is not None), default=0.0)
        anchors: list[dict[int, float]] = [{} for _ in self._space.levels]
        for change, value in zip(self._changes, others, strict=True):
            if value is not None:
                errors = np.array([self._errors[gene, level] for gene, level in change.items()])
                parts = errors / errors.sum() if errors.sum() > 0 else np.full(len(errors), 1 / len(errors))
                for (gene, level), part in zip(change.items(), parts.tolist(), strict=True):
                    anchors[gene][level] = part * (value - dense)
        losses = empty_steps(self._space)
        for gene, top in enumerate((self._space.levels - 1).tolist()):
            plain, known = self._plain(gene), {**anchors[gene], top: 0.0}
            typed = [*range(plain[-2] + 1 if len(plain) > 1 else 0, top + 1)]  # of the dense width
            by_width, by_type = (self._along(gene, levels, known) for levels in (plain, typed))
            for level in range(top + 1):
                width = next(each for each in plain if each >= level)
                losses[gene, level] = by_width[width] + by_type[top - (width - level)]
        return losses

    def _along(self, gene: int, levels: Sequence[int], known: Mapping[int, float]) -> dict[int, float]:
        """Losses of some levels of a gene that are along one line, the dense one last, by those known of them."""
        anchors = {place: known[level] for place, level in enumerate(levels) if level in known}
        return dict(zip(levels, interpolated(anchors, self._errors[gene, levels]).tolist(), strict=True))


def affordable(
    space: SearchSpace, errors: Floats, levels: int, questions: float, was_asked: Callable[[Candidate, int], bool]
) -> int:
    """How many levels, of at most `levels`, a sweep can have that asks so many questions at most; 1 at the least.

    Args:
        space: See `Sweep`, as the next ones.
        errors: Refit errors.
        levels: Wanted.
        questions: At most.
        was_asked: Whether a design was asked about before, at fidelity 0.
    """
    for count in range(levels, 1, -1):
        if sum(not was_asked(design, 0) for design in Sweep(space, errors, count).designs) <= questions:
            return count
    return 1


def interpolated(anchors: Mapping[int, float], position: Floats) -> Floats:
    """Losses of all levels, linear in `position` between the nearest anchors; inf below the smallest one.

    Args:
        anchors: Losses by level, ascending; the last level among them.
        position: Where each level lies, `(levels,)`; one that does not lie between its neighbours is moved there.

    Returns:
        Shape `(levels,)`.
    """
    losses = np.full(len(position), np.inf)
    losses[len(position) - 1] = anchors[len(position) - 1]
    for lower, upper in pairwise(anchors):
        between = position[lower : upper + 1]
        span = between[0] - between[-1]
        share = (between - between[-1]) / span if span else np.linspace(1, 0, len(between))
        losses[lower : upper + 1] = anchors[upper] + np.clip(share, 0, 1) * (anchors[lower] - anchors[upper])
    return losses
