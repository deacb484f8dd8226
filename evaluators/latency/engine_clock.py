"""What the clocks of engines that serve share: fresh processes time models in turns with the dense one."""

from __future__ import annotations

import statistics
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from math import inf
from pathlib import Path

from evaluators.base import Metric
from evaluators.latency.clocks import OnTimings
from evaluators.latency.workload import Phase
from space.candidate import Candidate

# Given some designs, a number of rounds and the seconds after which none but the first is begun: of each design, the
# dense model's milliseconds and its own in every round.
Times = Callable[[Sequence[Candidate], int, float], Sequence[Sequence[tuple[float, float]]]]


class EngineClock(ABC):
    """A `evaluators.latency.clocks.Clock` but for what it describes and tries out."""

    metrics: tuple[Metric, ...] = ()
    together = 1  # models that take turns with the dense one at a time

    @abstractmethod
    def times(self, phase: Phase, place: Path) -> AbstractContextManager[Times]:
        """What times designs beside the dense model; `place` is an empty directory that is there as long."""

    def head_ms(self, phase: Phase) -> dict[str, float]:
        """See `Clock`; such engines do not say, and compute the last position's alone."""
        return {}

    def session(
        self, phase: Phase, models: Mapping[str, Candidate], rounds: int, on_timings: OnTimings, seconds: float = inf
    ) -> tuple[dict[str, list[float]], float]:
        """See `Clock`; models that are timed together have their rounds at once, as many as there is time for.

        Raises:
            UserError: The engine does not load or run a model.
        """
        ratios, all_dense, done = dict[str, list[float]](), list[float](), 0
        end, names = time.monotonic() + seconds, [*models]
        with (
            tempfile.TemporaryDirectory(prefix="paretoprune-timed-") as place,
            self.times(phase, Path(place)) as times,
        ):
            for start in range(0, len(names), self.together):
                group = names[start : start + self.together]
                share = (end - time.monotonic()) * len(group) / (len(names) - start)
                for name, pairs in zip(group, times([models[name] for name in group], rounds, share), strict=True):
                    ratios[name] = [subnet_ms / dense_ms for dense_ms, subnet_ms in pairs]
                    all_dense += [dense_ms for dense_ms, _ in pairs]
                done += len(group)
                on_timings(done * rounds, rounds * len(names))
        return ratios, statistics.median(all_dense) if all_dense else 0.0
