"""How fast a machine is at a run's own work, as it was measured or estimated, see `throughput`; free of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GAIN = 1.1  # times the speed that twice the windows of an evaluation must bring
STEP_GAIN = 1.6  # the same of a step of healing, of which larger ones are fewer

Asking = Sequence[tuple[int, float]]  # questions, and the seconds that an algorithm took to ask them


@dataclass(frozen=True)
class Speeds:
    """What was measured of a run before its search.

    Attributes:
        elapsed_s: Seconds from the start of the command to the end of the measurement.
        evaluation: Tokens a second of a candidate's evaluation, by windows of a forward pass.
        long: The same in the longer windows of held-out text; 0 where there are none, or no time for them.
        training: Tokens a second of whatever follows the cached refit, by windows of a step; empty where nothing does.
        timing_s: To time one model end to end, in all rounds.
        trying_s: Of these, what fewer rounds would take too.
        writing_s: In which one model writes its samples.
        making_s: In which a subnet of a healed supernet is made, of which nothing is remembered; 0 without one.
        asking: Rising, from (0, 0) on.
    """

    elapsed_s: float
    evaluation: Mapping[int, float]
    long: float
    training: Mapping[int, float]
    timing_s: float
    writing_s: float
    making_s: float = 0.0
    trying_s: float = 0.0
    asking: Asking = ((0, 0.0),)

    @property
    def batch_size(self) -> int:
        """Windows of a forward pass of an evaluation, which are doubled as long as that is worth it."""
        return _worth(self.evaluation, GAIN)

    @property
    def step_windows(self) -> int:
        """Windows of a step of training, likewise; 0 where there is none."""
        return _worth(self.training, STEP_GAIN) if self.training else 0

    def asking_s(self, questions: int) -> float:
        """Seconds that the algorithm takes for so many questions: between points, and beyond them as at the last."""
        points = self.asking
        behind = next((index for index, (count, _) in enumerate(points) if count > questions), len(points) - 1)
        (count, seconds), (more, later) = points[max(0, behind - 1)], points[behind]
        return seconds if more == count else seconds + (questions - count) * (later - seconds) / (more - count)


def _worth(speeds: Mapping[int, float], gain: float) -> int:
    """The windows up to which twice as many are `gain` times as fast."""
    best, *others = sorted(speeds)
    for more in others:
        if speeds[more] < gain * speeds[best]:
            break
        best = more
    return best
