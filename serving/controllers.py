"""Which point answers a request that leaves it open (`model=auto`); free of torch.

A controller is a row in `conf/controller/`: a class that is made of the points, best first, and its settings; see
`serving.bandit` too.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from serving.pace import Pace
from serving.requests import Choice, Request, Slo
from serving.speeds import Load
from space.errors import UserError

if TYPE_CHECKING:  # which needs torch
    from serving.senses import Senses

AUTO, DENSE = "auto", "dense"  # ids of no point, and of the dense model
RECENT = 48  # requests, whose predicted losses say how busy points will be


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


class Controller(ABC):
    """Chooses; from any thread.

    Attributes:
        name: As `controller=` has it.
        takes_slo: Whether a request may say how fast its answer is to be.
        slo: Of requests that do not.
    """

    name: str
    takes_slo: bool = False
    slo: Slo | None = None

    def begin(self, senses: Senses) -> None:
        """Is told, before it is asked, whom to ask about prompts and answers; most ask nobody.

        Raises:
            UserError: What it needs cannot be had.
        """
        return

    @abstractmethod
    def choose(self, request: Request, load: Load) -> Choice:
        """Who answers.

        Args:
            request: What is asked; of several prompts the longest one.
            load: What is going on.
        """

    def figures(self) -> Mapping[str, float]:
        """What it knows of its own work, for `/metrics`; always under the same names."""
        return {}


class Static(Controller):
    """One point, always."""

    name = "static"

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

    def choose(self, request: Request, load: Load) -> Choice:
        """See `Controller`."""
        return Choice(self._point)


class Timed(Controller):
    """Keeps limits of time, where there are such."""

    takes_slo = True

    def __init__(
        self,
        offers: Sequence[Offer],
        first_token_ms: float | None = None,
        token_ms: float | None = None,
        keep: float = 0.99,
        room: float = 0.8,
    ) -> None:
        """Begins with the best one.

        Args:
            offers: The points that are served, in any order.
            first_token_ms: Limit to the first token of requests that say none; None for no such limit.
            token_ms: The same from token to token.
            keep: See `serving.pace.Pace`.
            room: See there.

        Raises:
            UserError: A limit is not above 0, or see `serving.pace.Pace`.
        """
        for name, limit in (("first_token_ms", first_token_ms), ("token_ms", token_ms)):
            if limit is not None and not limit > 0:
                raise UserError(f"controller.{name}: expected milliseconds above 0, or null for any, got {limit}.")
        self.slo = None if first_token_ms is None and token_ms is None else Slo(first_token_ms, token_ms)
        self._ids = [offer.id for offer in sorted(offers, key=lambda offer: offer.loss)]
        self._fastest = offers[-1].id
        self._pace = Pace(keep, room)

    def figures(self) -> Mapping[str, float]:
        """See `Controller`: the part of its time that a point may be busy, as it was learned."""
        return {"busy_limit": self._pace.most}

    def _in_time(self, request: Request, load: Load, begin: int) -> str:
        """The best point in time, as the queue stands; where none is, the one that is least late.

        Args:
            request: What is asked, with limits.
            load: What is going on.
            begin: The first one that may answer, of `_ids`.
        """
        assert request.slo is not None
        times = [load.forecast(point, len(request.prompt)) for point in self._ids]
        parts = [request.slo.part(each.first_token_ms, each.token_ms) for each in times]
        if math.isinf(min(parts)):  # none is measured: the run's front says which is the fastest
            return self._fastest
        kept = (at for at, part in enumerate(parts) if at >= begin and part <= 1)
        return self._ids[next(kept, parts.index(min(parts)))]

    def _learner(self, point: str) -> Callable[[float], None]:
        """What a choice is to be told of its limits: the fastest point is late whatever others may do."""
        return lambda part: self._pace.told(part) if part <= 1 or point != self._ids[-1] else None


class SloKeeper(Timed):
    """The best point that is fast enough, for what is asked for and as the queue stands; the fastest where none is.

    Points whose speed is not measured yet are taken where no other is, the fastest one of the run's front first.
    """

    name = "slo"

    def choose(self, request: Request, load: Load) -> Choice:
        """See `Controller`."""
        if request.slo is None:
            return Choice(self._ids[0])
        point = self._in_time(request, load, self._pace.first([load.busy(point) for point in self._ids]))
        return Choice(point, took=self._learner(point))


class Difficulty(Timed):
    """The fastest point, as the queue stands, that is not expected to lose more than so much on the prompt."""

    name = "difficulty"

    def __init__(
        self,
        offers: Sequence[Offer],
        loss: float = 0.3,
        first_token_ms: float | None = None,
        token_ms: float | None = None,
        keep: float = 0.99,
        room: float = 0.8,
    ) -> None:
        """Predicts nothing yet.

        Args:
            offers: The points that are served, best first, then ever faster ones.
            loss: Nats a token that an answer is expected to lose against the dense model, at most.
            first_token_ms: See `Timed`.
            token_ms: See there.
            keep: See there.
            room: See there.

        Raises:
            UserError: The loss is not above 0, or there is no point but the dense model; or see `Timed`.
        """
        super().__init__(offers, first_token_ms, token_ms, keep, room)
        require_nats("loss", loss)
        if len(offers) == 1:
            raise UserError("controller=difficulty: expected points beside the dense model, got none. See points=.")
        self._most = loss
        self._recent: deque[Mapping[str, float]] = deque(maxlen=RECENT)

    def begin(self, senses: Senses) -> None:
        """See `Controller`; fits its prediction, where that was not done before."""
        self._senses, (self._model, self._fit) = senses, senses.fit()

    def choose(self, request: Request, load: Load) -> Choice:
        """See `Controller`."""
        losses = self._model.losses(self._senses.look(request.prompt)) | {DENSE: 0.0}
        if request.slo is None:
            times = {
                point: load.forecast(point, len(request.prompt)).whole_ms(request.new_tokens)
                for point in reversed(self._ids)  # of two that are not measured, the run's front has the faster one
                if losses[point] <= self._most
            }
            point = min(times, key=times.__getitem__)
            return Choice(point, losses[point])
        busy = {point: load.busy(point) for point in self._ids}
        self._recent.append(losses)  # of its last requests follows how busy it would be
        recent = [*self._recent]
        mean = [fmean(busy[self._within(each, busy, at)] for each in recent) for at in range(len(self._ids))]
        point = self._within(losses, busy, self._pace.first(mean))
        point = self._in_time(request, load, self._ids.index(point))
        return Choice(point, losses[point], took=self._learner(point))

    def _within(self, losses: Mapping[str, float], busy: Mapping[str, float], begin: int) -> str:
        """The least busy of the points from one on that loses little enough; where none does, that one."""
        within = [point for point in reversed(self._ids[begin:]) if losses[point] <= self._most]  # as above
        return min(within, key=busy.__getitem__, default=self._ids[begin])

    def figures(self) -> Mapping[str, float]:
        """See `Timed`; and how well its prediction holds on held-out text, the means over points."""
        fit = {"r2": fmean(self._fit.r2.values()), "rank_correlation": fmean(self._fit.rank.values())}
        return {**super().figures(), **fit}


def smallest_of(offers: Sequence[Offer]) -> str:
    """The id of the smallest point; the fastest where the run has not named it."""
    return next((offer.id for offer in offers if "smallest" in offer.names), offers[-1].id)


def require_nats(name: str, nats: float) -> None:
    """Raises UserError unless a controller's loss is above 0."""
    if not nats > 0:
        raise UserError(f"controller.{name}: expected nats a token above 0, got {nats}.")
