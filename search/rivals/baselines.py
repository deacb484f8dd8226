"""Searches that learn nothing: random samples, and the ladders of uniform and depth-only designs."""

from __future__ import annotations

import numpy as np

from search.protocol import FULL, Task
from search.rivals.script import Rival
from search.script import Script, at
from space.errors import UserError

SAMPLES = 100  # drawn at once


class RandomSearch(Rival):
    """The dense model where the space holds it, then random samples of the space, all at the full fidelity."""

    def __init__(
        self,
        task: Task,
        *,
        tries: int = 200,
    ) -> None:
        """Set up, see `Rival`.

        Args:
            task: What to search, starts apart.
            tries: Samples in a row that bring nothing new before the search ends.

        Raises:
            UserError: An argument is out of its range.
        """
        super().__init__(task)
        if tries < 1:
            raise UserError(f"RandomSearch: expected tries of at least 1, got {tries}.")
        self._tries = tries

    def script(self) -> Script:
        """See `Rival`."""
        rng = np.random.default_rng(self.task.seed)
        dense = self.space.decode(self.space.levels - 1)
        designs = [dense] if self.space.contains(dense) else []
        keys = {candidate.key for candidate in designs}
        failures = 0
        while failures < self._tries:
            while failures < self._tries and len(designs) < SAMPLES:
                candidate = self.space.sample(rng)
                failures = failures + 1 if candidate.key in keys else 0
                if not failures:
                    keys.add(candidate.key)
                    designs.append(candidate)
            yield at(FULL, designs)
            designs = []


class Ladders(Rival):
    """The starts and nothing else: uniform and depth-only designs, which people build by hand; at the full fidelity."""

    def script(self) -> Script:
        """See `Rival`; starts outside of the space are left out."""
        yield at(FULL, [candidate for candidate in self.task.starts if self.space.contains(candidate)])
