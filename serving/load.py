"""What a server has to do now, and how that goes on: the scheduler's own turns, rolled forward with measured speeds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from serving.demand import Expected
from serving.requests import Request, Slo
from serving.speeds import Speeds


@dataclass(frozen=True)
class Forecast:
    """What a request has to expect, in milliseconds: from arrival to the first token, and from token to token."""

    first_token_ms: float
    token_ms: float

    def whole_ms(self, new_tokens: int) -> float:
        """From arrival to the last one of so many tokens."""
        return self.first_token_ms + (new_tokens - 1) * self.token_ms


@dataclass(frozen=True)
class Underway:
    """A request, as far as it is.

    Attributes:
        point: Who answers; who writes, where another one reads.
        unread: Tokens of its prompt that are still to be read; 0 where it is being written.
        unwritten: Tokens that are still to be written, one or more.
        written: Those that are.
        age_ms: Since it came; below 0 where it is still to come.
        first_ms: From its arrival to its first token; of no meaning before that.
        slo: How fast its answer is to be; None where that is left open.
        free: Whether it is left open who answers.
        reader: Who reads its prompt; empty for the point.
    """

    point: str
    unread: int
    unwritten: int
    written: int = 0
    age_ms: float = 0.0
    first_ms: float = 0.0
    slo: Slo | None = None
    free: bool = False
    reader: str = ""


@dataclass(frozen=True)
class Load:
    """What is going on, and how fast that goes.

    Attributes:
        speeds: Of the points.
        waiting: Requests whose prompts are not read, or not wholly, in their order.
        writing: Those that are being written.
        active: Requests that are read or written at a time.
        prefill_tokens: Of a prompt, that are read between two steps.
        expected: Who is likely to come.
        now: Seconds, by the scheduler's clock.
    """

    speeds: Speeds
    waiting: Sequence[Underway]
    writing: Sequence[Underway]
    active: int
    prefill_tokens: int
    expected: Expected = field(default_factory=Expected)
    now: float = 0.0
    _step_ms: dict[tuple[str, int], float] = field(default_factory=dict, repr=False, compare=False)
    _read_ms: dict[tuple[str, int], float] = field(default_factory=dict, repr=False, compare=False)

    def asked(self, request: Request, point: str) -> Underway:
        """A request that is to be answered by some point, as it would be at the end of the queue."""
        age_ms = 0.0 if request.came is None else 1e3 * (self.now - request.came)
        length = self.expected.length(request.new_tokens)
        return Underway(point, len(request.prompt), length, age_ms=age_ms, slo=request.slo, free=True)

    def whole_ms(self, request: Request, point: str) -> float:
        """Milliseconds from a request's arrival to its last token if nobody comes later; infinite if not measured."""
        if not self.speeds.known(point):
            return math.inf
        asked = self.asked(request, point)
        return self.ahead([*self.writing, *self.waiting, asked])[-1].whole_ms(asked.unwritten)

    def wait_ms(self) -> float:
        """Milliseconds until a request that comes now is read; points that were not measured count as nothing."""
        return self.ahead([*self.writing, *self.waiting, Underway("", 1, 1)])[-1].first_token_ms

    def ahead(self, underway: Sequence[Underway]) -> list[Forecast]:
        """How requests fare, by the rules of `serving.scheduler`: what each has come to at its end.

        In a turn one piece of the first prompt that waits is read, where there is a place, and then each point that
        writes makes one step. Turns in which nothing changes are taken at once.

        Args:
            underway: Those that are being written, then all others in the order in which they have come or will.
        """
        ends: list[tuple[int, int]] = []  # the turn in which each that has a place has ended, and its number
        first_at = [0.0] * len(underway)  # milliseconds from now, where known
        forecasts = [Forecast(each.first_ms, 0.0) for each in underway]
        sizes: dict[str, int] = {}  # sequences that each point writes
        for number, each in enumerate(underway):
            if not each.unread:
                heappush(ends, (each.unwritten, number))
                sizes[each.point] = sizes.get(each.point, 0) + 1
                first_at[number] = each.first_ms - each.age_ms
        at, last, unread = len(ends), len(underway), 0  # the next one that is read, and what is left of its prompt
        now, turn, turn_ms = 0.0, 0, self._turn_ms(sizes)
        while at < last or ends:
            turns = ends[0][0] - turn if ends else 1
            if at < last and len(ends) < self.active:
                each = underway[at]
                if -each.age_ms <= now:
                    turns, unread = 1, unread or each.unread
                    piece = min(unread, self.prefill_tokens)
                    now, unread = now + self._piece_ms(each.reader or each.point, piece), unread - piece
                    if not unread:
                        first_at[at] = now
                        forecasts[at] = Forecast(now + each.age_ms, 0.0)
                        if each.unwritten > 1:
                            heappush(ends, (turn + each.unwritten - 1, at))
                            sizes[each.point] = sizes.get(each.point, 0) + 1
                            turn_ms = self._turn_ms(sizes)
                        at += 1
                elif not ends:
                    now = -each.age_ms
                elif turn_ms:
                    turns = min(turns, math.ceil((-each.age_ms - now) / turn_ms))
            if not ends:
                continue
            turn, now, before = turn + turns, now + turns * turn_ms, len(ends)
            while ends and ends[0][0] <= turn:
                number = heappop(ends)[1]
                each = underway[number]
                steps = max(each.written + each.unwritten - 1, 1)
                forecasts[number] = Forecast(forecasts[number].first_token_ms, (now - first_at[number]) / steps)
                sizes[each.point] -= 1
            if len(ends) < before:
                turn_ms = self._turn_ms(sizes)
        return forecasts

    def turn_ms(self, underway: Sequence[Underway]) -> float:
        """Milliseconds in which all that are being written get a token."""
        return self._turn_ms(Counter(each.point for each in underway if not each.unread))

    def _turn_ms(self, sizes: Mapping[str, int]) -> float:
        """Milliseconds in which each of some points makes a step."""
        return sum(_kept(self._step_ms, (point, size), self.speeds.step_ms) for point, size in sizes.items() if size)

    def _piece_ms(self, point: str, tokens: int) -> float:
        return _kept(self._read_ms, (point, tokens), self.speeds.read_ms)


def _kept(values: dict[tuple[str, int], float], key: tuple[str, int], made: Callable[[str, int], float]) -> float:
    if key not in values:
        values[key] = made(*key)
    return values[key]
