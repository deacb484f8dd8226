"""Which point answers a request that leaves it open (`model=auto`); free of torch.

A controller is a row in `conf/controller/`: a class that is made of the points, best first, and its settings.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from serving.requests import Slo
from serving.speeds import Load
from space.errors import UserError

AUTO, DENSE = "auto", "dense"  # ids of no point, and of the dense model


@dataclass(frozen=True)
class Offer:
    """A point that is served.

    Attributes:
        id: The model id by which it is asked for: `dense`, or its key.
        names: Further ones: `recommended`, `fastest`, `smallest`.
        loss: What it loses on held-out text, as the run's front has it; 0 for the dense model.
        figures: Numbers of the front that are shown with it.
    """

    id: str
    names: tuple[str, ...]
    loss: float
    figures: dict[str, float]


class Controller(Protocol):
    """Chooses; from any thread."""

    takes_slo: bool  # whether a request may say how fast its answer is to be
    slo: Slo | None  # of requests that do not

    def choose(self, tokens: int, slo: Slo | None, load: Load) -> str:
        """The id of a point.

        Args:
            tokens: Of the prompt.
            slo: How fast the answer is to be.
            load: What is going on.
        """


class Static:
    """One point, always."""

    takes_slo, slo = False, None

    def __init__(self, offers: Sequence[Offer], point: str | None = None) -> None:
        """Takes it.

        Args:
            offers: The points that are served, best first.
            point: Its id or name; None for the recommended one, or the dense model where there is none.

        Raises:
            UserError: It is not served.
        """
        if point is None:
            self._point = next((offer.id for offer in offers if "recommended" in offer.names), offers[0].id)
            return
        ids = [offer.id for offer in offers if point in (offer.id, *offer.names)]
        if not ids:
            served = ", ".join(name for offer in offers for name in (offer.id, *offer.names))
            raise UserError(f"controller.point: expected a point that is served, one of {served}, got {point}.")
        self._point = ids[0]

    def choose(self, tokens: int, slo: Slo | None, load: Load) -> str:
        """See `Controller`."""
        return self._point


class SloKeeper:
    """The best point that is fast enough, as the queue stands; the fastest where none is.

    From one request to the next it goes to a better point only where that keeps the limits with room to spare, so that
    small changes of the load do not make it go to and fro.
    """

    takes_slo = True

    def __init__(
        self,
        offers: Sequence[Offer],
        first_token_ms: float | None = None,
        token_ms: float | None = None,
        room: float = 0.8,
    ) -> None:
        """Begins with the best one.

        Args:
            offers: The points that are served, best first.
            first_token_ms: Limit to the first token of requests that say none; None for no such limit.
            token_ms: The same from token to token.
            room: The part of the limits that a better point than the last one may take.

        Raises:
            UserError: A limit is not above 0, or the room not above 0 and at most 1.
        """
        for name, limit in (("first_token_ms", first_token_ms), ("token_ms", token_ms)):
            if limit is not None and not limit > 0:
                raise UserError(f"controller.{name}: expected milliseconds above 0, or null for any, got {limit}.")
        if not 0 < room <= 1:
            raise UserError(f"controller.room: expected a part above 0 and at most 1, got {room}.")
        self.slo = None if first_token_ms is None and token_ms is None else Slo(first_token_ms, token_ms)
        self._ids = [offer.id for offer in sorted(offers, key=lambda offer: offer.loss)]
        self._room, self._last, self._lock = room, 0, threading.Lock()

    def choose(self, tokens: int, slo: Slo | None, load: Load) -> str:
        """See `Controller`."""
        slo = slo or Slo()
        times = [load.forecast(point, tokens) for point in self._ids]
        parts = [slo.part(each.first_token_ms, each.token_ms) for each in times]
        with self._lock:
            kept = (at for at, part in enumerate(parts) if part <= (self._room if at < self._last else 1.0))
            self._last = next(kept, parts.index(min(parts)))
            return self._ids[self._last]
