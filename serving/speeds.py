"""How fast the server itself is at each point, as every step shows, and what that means for who comes now."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nsmallest

WEIGHT = 0.2  # of a new measurement


class Speeds:
    """Milliseconds of each point: of a prompt's token, and of a step of all its sequences.

    A step is the last ones' average: it grows with the sequences that it has, and shrinks again.
    """

    def __init__(self) -> None:
        """Has measured nothing."""
        self._read: dict[str, float] = {}
        self._step: dict[str, float] = {}

    def read(self, point: str, tokens: int, ms: float) -> None:
        """Takes in that so many tokens of a prompt were read."""
        _blend(self._read, point, ms / tokens)

    def stepped(self, point: str, ms: float) -> None:
        """Takes in that every sequence of a point was given a token."""
        _blend(self._step, point, ms)

    def read_ms(self, point: str) -> float:
        """Of a prompt's token; 0 before it was measured."""
        return self._read.get(point, 0.0)

    def step_ms(self, point: str) -> float:
        """Of a step; 0 before it was measured."""
        return self._step.get(point, 0.0)


def _blend(values: dict[str, float], point: str, ms: float) -> None:
    values[point] = ms if point not in values else (1 - WEIGHT) * values[point] + WEIGHT * ms


@dataclass(frozen=True)
class Forecast:
    """What a request has to expect, in milliseconds: from arrival to the first token, and from token to token."""

    first_token_ms: float
    token_ms: float


@dataclass(frozen=True)
class Load:
    """What is going on, and how fast that goes.

    Attributes:
        speeds: Of the points.
        waiting: Point and tokens that are still to be read of each request before the next one, in their order.
        writing: Point and tokens that are still to be written, at most, of each request that has begun to be.
        active: Requests that are read or written at a time.
        prefill_tokens: Of a prompt, that are read between two steps.
    """

    speeds: Speeds
    waiting: Sequence[tuple[str, int]]
    writing: Sequence[tuple[str, int]]
    active: int
    prefill_tokens: int

    def forecast(self, point: str, tokens: int) -> Forecast:
        """What a request that comes now has to expect of a point.

        Prompts are read one after the other, in pieces, and between two pieces each point that writes makes one step.
        Where all places are taken, those have to be written to their end first that have the least left.

        Args:
            point: Whose it would be.
            tokens: Of its prompt.
        """
        busy = {each for each, _ in self.writing}
        round_ms = sum(map(self.speeds.step_ms, busy))
        prompts = [*self.waiting, (point, tokens)]
        ms = sum(left * self.speeds.read_ms(each) for each, left in prompts)
        pieces = sum(math.ceil(left / self.prefill_tokens) for _, left in prompts)
        ends = len(self.writing) + len(prompts) - self.active  # of those who write, before there is a place
        steps = max(nsmallest(ends, (left for _, left in self.writing)), default=0) if ends > 0 else 0
        return Forecast(
            first_token_ms=ms + max(pieces - 1, steps) * round_ms,
            token_ms=sum(map(self.speeds.step_ms, busy | {point})),
        )
