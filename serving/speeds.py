"""How fast the server itself is at each point, as every step shows, and what that means for who comes now."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, TypeVar

import numpy as np

WEIGHT = 0.2  # of a new measurement
SPAN_S = 20.0  # in which what was asked for is forgotten, but for 37 % of it
LEAST_S = 1.0  # that demand is averaged over, at a server's beginning
_T = TypeVar("_T")
_R = TypeVar("_R")


class Speeds:
    """Milliseconds of each point: of a prompt's token, and of a step by the number of sequences that have one.

    Each is an average in which the last measurements weigh most.
    """

    def __init__(self) -> None:
        """Has measured nothing."""
        self._read: dict[str, float] = {}
        self._step: dict[str, dict[int, float]] = {}

    def read(self, point: str, tokens: int, ms: float) -> None:
        """Takes in that so many tokens of a prompt were read."""
        _blend(self._read, point, ms / tokens)

    def stepped(self, point: str, sequences: int, ms: float) -> None:
        """Takes in that so many sequences of a point were given a token."""
        _blend(self._step.setdefault(point, {}), sequences, ms)

    def known(self, point: str) -> bool:
        """Whether both were measured of a point."""
        return point in self._read and point in self._step

    def read_ms(self, point: str) -> float:
        """Of a prompt's token; 0 before it was measured."""
        return self._read.get(point, 0.0)

    def step_ms(self, point: str, sequences: int = 1) -> float:
        """Of a step; 0 before one was measured.

        Between two numbers of sequences that were measured it is on a straight line, beyond them that of the nearest.
        """
        times = sorted(self._step.get(point, {}).copy().items())  # a copy: the scheduler goes on measuring
        if not times:
            return 0.0
        sizes, ms = zip(*times, strict=True)
        return float(np.interp(sequences, sizes, ms))

    def to_json(self) -> dict[str, Any]:
        """All that is measured."""
        return {"read_ms": dict(self._read), "step_ms": {point: dict(times) for point, times in self._step.items()}}

    def take_over(self, content: Mapping[str, Any]) -> None:
        """Begins with what an earlier server has measured.

        Args:
            content: Of its `to_json`, perhaps read back from JSON text.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: It is something else.
        """
        read = {str(point): float(ms) for point, ms in content["read_ms"].items()}
        step = {
            str(point): {int(size): float(ms) for size, ms in times.items()}
            for point, times in content["step_ms"].items()
        }
        self._read, self._step = read, step


def _blend(values: dict[Any, float], key: Any, ms: float) -> None:
    values[key] = ms if key not in values else (1 - WEIGHT) * values[key] + WEIGHT * ms


class Demand:
    """Tokens a second that are asked for, of whatever point: averages that forget."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Was asked for nothing.

        Args:
            clock: Seconds.
        """
        self._clock, self._begun = clock, clock()
        self._at, self._tokens = self._begun, (0.0, 0.0)

    def come(self, prompt: int, new: int) -> None:
        """Takes in that a request has come.

        Args:
            prompt: Its tokens.
            new: To be written, at most.
        """
        now = self._clock()
        read, written = self._kept(now)
        self._at, self._tokens = now, (read + prompt, written + new)

    def rates(self) -> tuple[float, float]:
        """Tokens of prompts a second, and tokens to be written a second."""
        now = self._clock()
        read, written = self._kept(now)
        span = SPAN_S * (1 - math.exp(-max(now - self._begun, LEAST_S) / SPAN_S))
        return read / span, written / span

    def _kept(self, now: float) -> tuple[float, float]:
        left = math.exp((self._at - now) / SPAN_S)
        return self._tokens[0] * left, self._tokens[1] * left


@dataclass(frozen=True)
class Forecast:
    """What a request has to expect, in milliseconds: from arrival to the first token, and from token to token."""

    first_token_ms: float
    token_ms: float

    def whole_ms(self, new_tokens: int) -> float:
        """From arrival to the last one of so many tokens."""
        later = new_tokens - 1
        return self.first_token_ms + (later * self.token_ms if later else 0.0)  # which may be infinite


@dataclass(frozen=True)
class Waiting:
    """A request that is not read yet, or not wholly.

    Attributes:
        point: Who answers.
        tokens: Of its prompt, that are still to be read.
        new_tokens: To be written, at most.
    """

    point: str
    tokens: int
    new_tokens: int


@dataclass(frozen=True)
class Load:
    """What is going on, and how fast that goes.

    Attributes:
        speeds: Of the points.
        waiting: Requests before the next one, in their order.
        writing: Point and tokens that are still to be written, at most, of each request that has begun to be.
        active: Requests that are read or written at a time.
        prefill_tokens: Of a prompt, that are read between two steps.
        rates: Tokens a second that are asked for, see `Demand`.
    """

    speeds: Speeds
    waiting: Sequence[Waiting]
    writing: Sequence[tuple[str, int]]
    active: int
    prefill_tokens: int
    rates: tuple[float, float] = (0.0, 0.0)

    def forecast(self, point: str, tokens: int) -> Forecast:
        """What a request that comes now has to expect of a point; infinite for one that was not measured.

        Prompts are read one after the other, in pieces, and between two pieces each point that writes makes one step.
        Where all places are taken, those have to be written to their end first that have the least left. It is then
        written beside those that came last before it.

        Args:
            point: Whose it would be.
            tokens: Of its prompt.
        """
        if not self.speeds.known(point):
            return Forecast(math.inf, math.inf)
        writing = [each for each, _ in self.writing]
        before = [*writing, *(each.point for each in self.waiting)]
        beside = before[max(len(before) - self.active + 1, 0) :]
        return Forecast(
            first_token_ms=self._read_ms([*self._prompts, (point, tokens)]),
            token_ms=self._round_ms([*beside, point]),
        )

    def busy(self, point: str) -> float:
        """The part of its time that a point would be busy with all that is asked for, with as many together as may be.

        Above 1 where that is more than it can do; infinite for one that was not measured.
        """
        if not self.speeds.known(point):
            return math.inf
        read, written = self.rates
        token_ms = self.speeds.step_ms(point, self.active) / self.active
        return (read * self.speeds.read_ms(point) + written * token_ms) / 1e3

    def wait_ms(self) -> float:
        """Milliseconds until a request that comes now is read; points that were not measured count as nothing."""
        return self._read_ms(self._prompts)

    @property
    def _prompts(self) -> list[tuple[str, int]]:
        return [(each.point, each.tokens) for each in self.waiting]

    def _read_ms(self, prompts: Sequence[tuple[str, int]]) -> float:
        """Milliseconds until prompts are read, one after the other, by the points and tokens of each."""
        ms = sum(tokens * self.speeds.read_ms(point) for point, tokens in prompts)
        pieces = sum(math.ceil(tokens / self.prefill_tokens) for _, tokens in prompts)
        return ms + max(pieces - 1, self._steps()) * self._round_ms([point for point, _ in self.writing])

    def _steps(self) -> int:
        """Steps until there is a place for who comes now."""
        ends: list[int] = []  # of all who have a place, the step at which each has ended
        for _, left in self.writing:
            heappush(ends, left)
        for each in self.waiting:
            begin = heappop(ends) if len(ends) >= self.active else 0
            heappush(ends, begin + each.new_tokens)
        return ends[0] if len(ends) >= self.active else 0

    def _round_ms(self, points: Sequence[str]) -> float:
        """Milliseconds in which each of some sequences is given a token, by the points that write them."""
        return sum(self.speeds.step_ms(point, sequences) for point, sequences in Counter(points).items())


def timed(step: Callable[[_T], _R], argument: _T) -> tuple[_R, float]:
    """What a step gives, and its milliseconds; with logits on the CPU, the device is done with it."""
    begun = time.perf_counter()
    result = step(argument)
    return result, 1e3 * (time.perf_counter() - begun)
