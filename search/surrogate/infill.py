"""Which new designs to ask about: those that together promise most for the front, and those that are close to it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from search.pareto import Floats, fill_front, reference_point
from search.surrogate.forecast import Forecast
from search.tables import Genes
from space.candidate import Candidate
from space.space import SearchSpace


class Infill:
    """Chooses among proposals, by what a fidelity is expected to say of them."""

    def __init__(
        self, space: SearchSpace, forecast: Forecast, was_asked: Callable[[Candidate, int], bool], most: float
    ) -> None:
        """Chooses nothing yet.

        Args:
            space: The genes.
            forecast: What is expected of designs.
            was_asked: Whether a candidate has been asked about at a fidelity.
            most: See `Forecast.wanted`.
        """
        self._space = space
        self._forecast = forecast
        self._was_asked = was_asked
        self._most = most

    def best(self, genes: Genes, front: Floats, count: int, *, entry: int, aim: int) -> list[Candidate]:
        """The new designs that together promise the largest gain of hypervolume, objectives evened out.

        Args:
            genes: Proposals, `(designs, genes)`.
            front: Objectives of the front, evened, `(points, objectives)`.
            count: How many at most.
            entry: The fidelity at which they are to be new.
            aim: The fidelity by whose expected answers they are chosen.
        """
        fresh, expected = self._fresh(genes, entry, aim)
        if not len(fresh):
            return []
        order = fill_front(expected, front, reference_point(np.vstack([front, expected])), count)
        return [self._space.decode(fresh[i]) for i in order]

    def near(self, genes: Genes, front: Floats, count: int, *, entry: int, aim: int) -> list[Candidate]:
        """Of new designs, those that are expected to be least far behind the front, spread along it; see `best`."""
        fresh, expected = self._fresh(genes, entry, aim)
        if not len(fresh) or count < 1:
            return []
        span = np.ptp(front, axis=0)
        scale = np.where(span > 0, span, 1.0)
        behind = ((expected[:, None] - front[None]) / scale).min(-1).max(-1)  # below 0: not dominated
        # each part of the front sends its best: parts are cut along the first priced objective
        axis = expected[:, self._forecast.place_of(self._forecast.priced[0])]
        parts = np.array_split(np.argsort(axis, kind="stable"), min(count, len(fresh)))
        return [self._space.decode(fresh[int(part[behind[part].argmin()])]) for part in parts]

    def _fresh(self, genes: Genes, entry: int, aim: int) -> tuple[Genes, Floats]:
        """Of designs those that are wanted and were not asked about yet, each once, and what is expected of them."""
        unseen: dict[str, Genes] = {}
        for row in genes:
            candidate = self._space.decode(row)
            if not self._was_asked(candidate, entry):
                unseen.setdefault(candidate.key, row)
        if not unseen:
            return genes[:0], np.empty((0, 0))
        fresh = np.stack(list(unseen.values()))
        values = self._forecast.values(fresh, aim)
        wanted = self._forecast.wanted(values, self._most)
        return fresh[wanted], self._forecast.evened(values[wanted])
