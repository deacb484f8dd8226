"""How fast the server itself is at each point, as every step shows."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any, TypeVar

WEIGHT = 0.2  # of a new measurement, once there are as many as its inverse; before, all weigh alike
_Mean = tuple[float, float, int]  # of measurements: tokens or sequences, milliseconds, and how many there were
_T = TypeVar("_T")
_R = TypeVar("_R")


class Speeds:
    """Milliseconds of each point: of a prompt's piece by its tokens, and of a step by its sequences.

    Each is an average in which the last measurements weigh most.
    """

    def __init__(self) -> None:
        """Has measured nothing."""
        self._read: dict[str, dict[int, _Mean]] = {}  # by the binary digits of the number of tokens
        self._step: dict[str, dict[int, _Mean]] = {}  # by the number of sequences

    def read(self, point: str, tokens: int, ms: float) -> None:
        """Takes in that so many tokens of a prompt were read."""
        _blend(self._read.setdefault(point, {}), tokens.bit_length(), tokens, ms)

    def stepped(self, point: str, sequences: int, ms: float) -> None:
        """Takes in that so many sequences of a point were given a token."""
        _blend(self._step.setdefault(point, {}), sequences, sequences, ms)

    def known(self, point: str) -> bool:
        """Whether both were measured of a point."""
        return point in self._read and point in self._step

    def read_ms(self, point: str, tokens: int) -> float:
        """Of a piece of so many tokens; 0 before any was measured.

        On the straight line that is closest to what was measured, with neither a part below 0: reading takes as good as
        the same time for few tokens, in which the weights come from memory.
        """
        means = [*self._read.get(point, {}).copy().values()]  # a copy: the scheduler goes on measuring
        if not means:
            return 0.0
        weights = [min(count, 1 / WEIGHT) for _, _, count in means]
        whole = sum(weights)
        centre = sum(weight * size for weight, (size, _, _) in zip(weights, means, strict=True)) / whole
        level = sum(weight * ms for weight, (_, ms, _) in zip(weights, means, strict=True)) / whole
        spread = sum(weight * (size - centre) ** 2 for weight, (size, _, _) in zip(weights, means, strict=True))
        slope = most = level / centre
        if spread:
            rows = zip(weights, means, strict=True)
            slope = sum(weight * (size - centre) * (ms - level) for weight, (size, ms, _) in rows) / spread
        return level + min(max(slope, 0.0), most) * (tokens - centre)

    def step_ms(self, point: str, sequences: int = 1) -> float:
        """Of a step; 0 before one was measured.

        Between two numbers of sequences that were measured it is on a straight line, beyond them that of the nearest.
        """
        means = sorted(self._step.get(point, {}).copy().values())
        if not means:
            return 0.0
        at = bisect_left(means, sequences, key=itemgetter(0))
        (size, ms, _), (larger, larger_ms, _) = means[max(at - 1, 0)], means[min(at, len(means) - 1)]
        part = (sequences - size) / (larger - size) if larger > size else 1.0
        return ms + min(max(part, 0.0), 1.0) * (larger_ms - ms)

    def to_json(self) -> dict[str, Any]:
        """All that is measured."""
        return {
            "read": {point: [*means.values()] for point, means in self._read.items()},
            "step": {point: [*means.values()] for point, means in self._step.items()},
        }

    def take_over(self, content: Mapping[str, Any]) -> None:
        """Begins with what an earlier server has measured.

        Args:
            content: Of its `to_json`, perhaps read back from JSON text.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: It is something else.
        """

        def means(part: str) -> dict[str, list[_Mean]]:
            told = {
                str(point): [(float(size), float(ms), int(count)) for size, ms, count in rows]
                for point, rows in content[part].items()
            }
            if not all(size >= 1 and count >= 1 for rows in told.values() for size, _, count in rows):
                raise ValueError("expected sizes and counts of 1 or more")
            return told

        read, step = means("read"), means("step")
        self._read = {point: {int(row[0]).bit_length(): row for row in rows} for point, rows in read.items()}
        self._step = {point: {int(row[0]): row for row in rows} for point, rows in step.items()}


def _blend(means: dict[int, _Mean], key: int, size: float, ms: float) -> None:
    old_size, old_ms, count = means.get(key, (0.0, 0.0, 0))
    weight = max(1 / (count + 1), WEIGHT)
    means[key] = old_size + weight * (size - old_size), old_ms + weight * (ms - old_ms), count + 1


def timed(step: Callable[[_T], _R], argument: _T) -> tuple[_R, float]:
    """What a step gives, and its milliseconds; with logits on the CPU, the device is done with it."""
    begun = time.perf_counter()
    result = step(argument)
    return result, 1e3 * (time.perf_counter() - begun)
