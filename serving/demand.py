"""Who has come of late, and who is to be expected from that."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist, fmean

SPAN_S = 20.0  # in which what has come is forgotten, but for 37 % of it
LEAST_S = 1.0  # that demand is averaged over, at a server's beginning
TOGETHER = 2.0  # variance of the number that comes, as a part of its mean: some come in bursts; 1 if each by itself
RECENT = 32  # answers, whose lengths are those to be expected


@dataclass(frozen=True)
class Expected:
    """What requests are to be expected.

    Attributes:
        rate: Of them, a second.
        prompt: Tokens of one, on average.
        new_tokens: That one asks for at most, on average.
        written: Of what is asked for at most, the part that is really written.
    """

    rate: float = 0.0
    prompt: float = 0.0
    new_tokens: float = 0.0
    written: float = 1.0

    def times_ms(self, count: int, keep: float) -> list[float]:
        """Milliseconds until the next ones come, if they come as early as with this probability at most.

        In `t` seconds there come at most `rate t + z sqrt(TOGETHER rate t)`, with `z` the normal quantile; the times
        are those at which this reaches 1, 2, 3 and so on.

        Args:
            count: Of requests.
            keep: The probability, above 0 and below 1, with which no more come.
        """
        if not self.rate:
            return []
        surplus = NormalDist().inv_cdf(keep) * math.sqrt(TOGETHER)
        roots = ((math.sqrt(surplus**2 + 4 * number) - surplus) / 2 for number in range(1, count + 1))
        return [1e3 * root**2 / self.rate for root in roots]

    def length(self, new_tokens: int) -> int:
        """Tokens that are likely to be written of so many at most."""
        return max(math.ceil(self.written * new_tokens), 1)


class Demand:
    """Averages that forget; for one thread at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Nobody has come.

        Args:
            clock: Seconds.
        """
        self._clock = clock
        self._begun = self._at = clock()
        self._sums = (0.0, 0.0, 0.0)  # of requests, of their prompts' tokens and of those asked for
        self._written: deque[float] = deque([1.0], RECENT)

    def come(self, prompt: int, new: int) -> None:
        """Takes in that a request has come.

        Args:
            prompt: Its tokens.
            new: To be written, at most.
        """
        now = self._clock()
        count, prompts, news = self._left(now)
        self._at, self._sums = now, (count + 1, prompts + prompt, news + new)

    def wrote(self, new: int, most: int) -> None:
        """Takes in that an answer is complete.

        Args:
            new: Tokens that were written; none where the first one ended it.
            most: That were asked for.
        """
        self._written.append(new / most)

    def expected(self) -> Expected:
        """What has come of late, as what is to come."""
        now = self._clock()
        count, prompts, news = self._left(now)
        if not count:
            return Expected(written=fmean(self._written))
        span = SPAN_S * (1 - math.exp(-max(now - self._begun, LEAST_S) / SPAN_S))
        return Expected(count / span, prompts / count, news / count, fmean(self._written))

    def _left(self, now: float) -> tuple[float, float, float]:
        part = math.exp((self._at - now) / SPAN_S)
        count, prompts, news = self._sums
        return count * part, prompts * part, news * part
