"""What a server does now, kept beside the run for whoever looks at that: the dashboard."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from serving.requests import Served
from serving.scheduler import Scheduler
from space.errors import UserError
from space.files import write_whole

EVERY_S = 2.0  # between two looks
LOOKS = 300  # that are kept
RECENT_S = 60.0  # of the figures in words
_log = logging.getLogger(__name__)


class Live:
    """Writes a file every `EVERY_S` seconds, in a thread of its own, from `start` to `close`.

    The file has, in JSON: `address` and `controller`; `at`, seconds since 1970; `ended`, true once the server has been
    closed; `recent`, see `figures`, of the last `RECENT_S`; and `looks`, of each look `at`, `writing` and `waiting`
    (requests) and `ended`: by point, those that have ended since the look before.
    """

    def __init__(self, file: Path, address: str, controller: str) -> None:
        """Writes nothing yet.

        Args:
            file: To be written.
            address: Where the server is.
            controller: Who chooses, as people call it.
        """
        self._file, self._about = file, {"address": address, "controller": controller}
        self._looks: deque[dict[str, Any]] = deque(maxlen=LOOKS)
        self._recent: deque[tuple[float, Served]] = deque()
        self._ended: Counter[str] = Counter()
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def served(self, served: Served) -> None:
        """Takes in a request that has ended."""
        with self._lock:
            self._recent.append((time.time(), served))
            self._ended[served.point] += 1

    def start(self, scheduler: Scheduler) -> None:
        """Begins to look at a scheduler."""
        self._thread = threading.Thread(target=self._look_on, args=(scheduler,), name="live", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Looks for the last time, and says that this is the end."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def _look_on(self, scheduler: Scheduler) -> None:
        try:
            while not self._closing.wait(EVERY_S if self._looks else 0):
                self._look(scheduler)
            self._look(scheduler)
        except UserError as error:  # a full disk ends no server
            _log.warning("what the server does is no longer told in %s: %s", self._file, error)

    def _look(self, scheduler: Scheduler) -> None:
        load, now = scheduler.load(), time.time()
        with self._lock:
            ended, self._ended = self._ended, Counter()
            while self._recent and self._recent[0][0] < now - RECENT_S:
                self._recent.popleft()
            recent = [served for _, served in self._recent]
        look = {"at": now, "writing": len(load.writing), "waiting": len(load.waiting), "ended": ended}
        self._looks.append(look)
        told = {**self._about, "at": now, "ended": self._closing.is_set(), "recent": figures(recent)}
        write_whole(self._file, json.dumps({**told, "looks": [*self._looks]}))


def figures(ended: Sequence[Served]) -> dict[str, Any]:
    """What there is to say of requests that have ended, ready for JSON; None where nothing is known.

    Returns:
        `requests`: how many, by point; `failed`: of them, by time or an error; `first_token_s` and `token_s`: medians,
        see `Served`; `slo_kept`: the part of those with a limit of time; `predicted_loss`: the mean, in nats a token.
    """
    return {
        "requests": Counter(each.point for each in ended),
        "failed": sum(each.outcome in ("timeout", "error") for each in ended),
        "first_token_s": _of(median, (each.first_token_s for each in ended)),
        "token_s": _of(median, (each.token_s for each in ended)),
        "slo_kept": _of(fmean, (each.slo_kept for each in ended)),
        "predicted_loss": _of(fmean, (each.predicted_loss for each in ended)),
    }


def _of(statistic: Any, values: Iterable[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return statistic(known) if known else None
