"""What others want of the models, one forward pass at a time, between two steps of the scheduler."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

_T = TypeVar("_T")


class Calls:
    """Those that wait, first those that are to be answered soon; from any thread."""

    def __init__(self, changed: threading.Condition) -> None:
        """None waits.

        Args:
            changed: Held by whoever looks at them.
        """
        self._changed = changed
        self._soon: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._later: deque[tuple[Callable[[], Any], Future[Any]]] = deque()

    def __len__(self) -> int:
        return len(self._soon) + len(self._later)

    def add(self, work: Callable[[], _T], *, soon: bool) -> Future[_T]:
        """See `Scheduler.call`."""
        future: Future[_T] = Future()
        with self._changed:
            (self._soon if soon else self._later).append((work, future))
        return future

    def answer(self) -> None:
        """Does what has been called for the longest, if anything."""
        with self._changed:
            if not len(self):
                return
            work, future = (self._soon or self._later).popleft()
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except Exception as error:  # of whoever called
            future.set_exception(error)

    def cancel(self) -> None:
        """Says that none will be answered any more."""
        with self._changed:
            for calls in (self._soon, self._later):
                for _, future in calls:
                    future.cancel()
                calls.clear()
