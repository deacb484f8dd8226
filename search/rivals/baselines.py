"""Searches that learn nothing: random samples, and the ladders of uniform and depth-only designs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evaluators.base import Metric
from search.protocol import FULL
from search.rivals.script import Rival
from search.script import Free, Script, at
from space.candidate import Candidate
from space.errors import UserError
from space.space import SearchSpace

SAMPLES = 100  # drawn at once


class RandomSearch(Rival):
    """The dense model where the space holds it, then random samples of the space, all at the full fidelity."""

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Metric],
        *,
        seed: int,
        starts: Sequence[Candidate] = (),
        free: Free,
        rungs: int = 1,
        tries: int = 200,
    ) -> None:
        """Set up, see `Rival`; starts are not used.

        Args:
            space: Where to search.
            objectives: What the front is made of.
            seed: Seed of all randomness.
            starts: Not used.
            free: Not used.
            rungs: How many fidelities the loop has.
            tries: Samples in a row that bring nothing new before the search ends.

        Raises:
            UserError: An argument is out of its range.
        """
        super().__init__(space, objectives, seed=seed, starts=starts, free=free, rungs=rungs)
        if tries < 1:
            raise UserError(f"RandomSearch: expected tries of at least 1, got {tries}.")
        self._tries = tries

    def script(self) -> Script:
        """See `Rival`."""
        rng = np.random.default_rng(self.seed)
        dense = self.space.decode(self.space.levels - 1)
        found = [dense] if self.space.contains(dense) else []
        seen = {candidate.key for candidate in found}
        failures = 0
        while failures < self._tries:
            while failures < self._tries and len(found) < SAMPLES:
                candidate = self.space.sample(rng)
                failures = failures + 1 if candidate.key in seen else 0
                if not failures:
                    seen.add(candidate.key)
                    found.append(candidate)
            yield at(FULL, found)
            found = []


class Ladders(Rival):
    """The starts and nothing else: uniform and depth-only designs, which people build by hand; at the full fidelity."""

    def script(self) -> Script:
        """See `Rival`; starts outside of the space are left out."""
        yield at(FULL, [candidate for candidate in self.starts if self.space.contains(candidate)])
