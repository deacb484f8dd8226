"""Who has come of late, and who is to be expected from that."""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

SPAN_S = 20.0  # in which what has come is forgotten, but for 37 % of it
LATELY = 16  # requests: where the last ones came faster than on average, theirs is the rate
LEAST_S = 1.0  # that demand is averaged over, at a server's beginning
RECENT = 128  # arrivals, of which bursts are known, and answers, whose lengths are
AT_ONCE = 0.05  # of the mean time between two requests, within which they come at once
SPREAD = 2.0  # variance of how many come in a while, as a part of its mean: 1 if each did so alone, at a known rate
_MOMENT_S = 1e-3  # of no length


@dataclass(frozen=True)
class Expected:
    """What requests are to be expected.

    Attributes:
        rate: Of them, a second.
        prompt: Tokens of one, on average.
        new_tokens: That one asks for at most, on average.
        written: Of what is asked for at most, the part that is really written.
        followers: How many came at once behind each of the last ones, in rising order.
    """

    rate: float = 0.0
    prompt: float = 0.0
    new_tokens: float = 0.0
    written: float = 1.0
    followers: Sequence[int] = ()

    def times_ms(self, count: int, keep: float) -> list[float]:
        """Milliseconds until the next ones come, if they come as early as with this probability at most.

        As many come at once as follow a request with this probability at most, and then, within `t` seconds,
        `rate t + z sqrt(SPREAD rate t)` more, with `z` the normal quantile.

        Args:
            count: Of requests.
            keep: The probability, above 0 and below 1, with which no more come.
        """
        if not self.rate:
            return []
        at_once = self.followers[math.ceil(keep * len(self.followers)) - 1] if self.followers else 0
        surplus = NormalDist().inv_cdf(keep) * math.sqrt(SPREAD)
        later = (max(number - at_once, 0) for number in range(1, count + 1))
        roots = ((math.sqrt(surplus**2 + 4 * number) - surplus) / 2 for number in later)
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
        self._came: deque[float] = deque(maxlen=RECENT)
        self._written: deque[float] = deque([1.0], RECENT)

    def come(self, prompt: int, new: int, came: float | None = None) -> None:
        """Takes in that a request has come.

        Args:
            prompt: Its tokens.
            new: To be written, at most.
            came: When it did, by the clock; None for now.
        """
        now = self._clock()
        self._came.append(now if came is None else came)
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
        came, at_once, rate = sorted(self._came), AT_ONCE * span / count, count / span
        if (lately := min(LATELY, len(came) - 1)) >= LATELY / 2:  # a rise is not to be averaged away
            rate = max(rate, lately / max(now - came[-lately - 1], _MOMENT_S))
        followers = (bisect_right(came, each + at_once) - number for number, each in enumerate(came, start=1))
        return Expected(rate, prompts / count, news / count, fmean(self._written), sorted(followers))

    def _left(self, now: float) -> tuple[float, float, float]:
        part = math.exp((self._at - now) / SPAN_S)
        count, prompts, news = self._sums
        return count * part, prompts * part, news * part
