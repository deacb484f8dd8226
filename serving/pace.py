"""How good the points may be that answer, so that answers keep their limits of time; free of torch.

A forecast knows what waits, not who comes later: the best point in time for each request by itself fills the queue, and
then the fastest one is late too. So what is asked for is held against what a point can do. How much of its time it may
be busy is learned: less after an answer that was late, a little more after each that was not, so that as many keep
their limits as are to (adaptive conformal inference, Gibbs and Candes, 2021, equation 2, here of a logarithm). While no
answer takes half of its limits it learns faster.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

from space.errors import UserError

BEGIN, LEAST = 0.3, 0.02  # of its time, that a point may be busy at first, and at the least
STEP = 0.1  # of the logarithm of that part, where an answer was late
EASY, IN_A_ROW, EASY_STEP = 0.5, 20, 0.02  # where so many in a row took less than this part of their limits


class Pace:
    """The best point that may answer; from any thread."""

    def __init__(self, keep: float, room: float) -> None:
        """Has learned nothing.

        Args:
            keep: The part of the answers that are to keep their limits.
            room: The part of what a point may be busy up to which one goes to it from a faster one.

        Raises:
            UserError: `keep` is not between 0 and 1, or the room not above 0 and at most 1.
        """
        if not 0 < keep < 1:
            raise UserError(f"controller.keep: expected a part of the answers between 0 and 1, got {keep}.")
        if not 0 < room <= 1:
            raise UserError(f"controller.room: expected a part above 0 and at most 1, got {room}.")
        self._keep, self._room = keep, room
        self._most, self._last, self._easy = BEGIN, 0, 0
        self._lock = threading.Lock()

    @property
    def most(self) -> float:
        """The part of its time that a point may be busy."""
        return self._most

    def first(self, busy: Sequence[float]) -> int:
        """The first of some points, best first, that has room for what is asked for; the last one where none has.

        Args:
            busy: The part of its time that each would be busy with all that is asked for.
        """
        with self._lock:
            allowed = (
                at for at, part in enumerate(busy) if part <= self._most * (self._room if at < self._last else 1)
            )
            self._last = next(allowed, len(busy) - 1)
            return self._last

    def told(self, part: float) -> None:
        """Learns which part of its limits an answer took, above 1 if it was late, where a faster point could answer."""
        with self._lock:
            self._easy = self._easy + 1 if part <= EASY else 0
            change = STEP * ((1 - self._keep) if part <= 1 else -self._keep)
            if self._easy > IN_A_ROW:
                change = max(change, EASY_STEP)
            self._most = min(max(self._most * math.exp(change), LEAST), 1.0)
