"""Which point answers a request that leaves it open (`model=auto`); free of torch.

A controller is a row in `conf/controller/`: a class that is made of the points, best first, and its settings; see
`serving.bandit` too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from serving.load import Load, Underway
from serving.requests import Choice, Request, Slo
from space.errors import UserError

if TYPE_CHECKING:  # which needs torch
    from serving.senses import Senses

AUTO, DENSE = "auto", "dense"  # ids of no point, and of the dense model
COMERS = 12  # requests that may still come, for which there is to be time


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
    def choose(self, request: Request, load: Callable[[], Load]) -> Choice:
        """Who answers.

        Args:
            request: What is asked; of several prompts the longest one.
            load: Says what is going on.
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

    def choose(self, request: Request, load: Callable[[], Load]) -> Choice:
        """See `Controller`."""
        return Choice(self._point)


class Timed(Controller):
    """Keeps limits of time, where there are such.

    It looks ahead, with the speeds that are measured: how everybody who waits or is being written will fare beside the
    request, and those who may come before it has ended, if the fastest point answers them. A point may answer where
    nobody is late with it whom another point would keep in time. So there is always a way back: by the next request the
    fastest one can still save what has come.
    """

    takes_slo = True

    def __init__(
        self,
        offers: Sequence[Offer],
        first_token_ms: float | None = None,
        token_ms: float | None = None,
        keep: float = 0.99,
        margin: float = 0.1,
    ) -> None:
        """Begins with the best one.

        Args:
            offers: The points that are served, in any order.
            first_token_ms: Limit to the first token of requests that say none; None for no such limit.
            token_ms: The same from token to token.
            keep: The probability with which no more requests come than there is time for.
            margin: The part of each limit that a forecast leaves free, as it is not exact.

        Raises:
            UserError: A limit is not above 0, `keep` is not between 0 and 1, or the margin not from 0 to below 1.
        """
        for name, limit in (("first_token_ms", first_token_ms), ("token_ms", token_ms)):
            if limit is not None and not limit > 0:
                raise UserError(f"controller.{name}: expected milliseconds above 0, or null for any, got {limit}.")
        if not 0 < keep < 1:
            raise UserError(f"controller.keep: expected a probability between 0 and 1, got {keep}.")
        if not 0 <= margin < 1:
            raise UserError(f"controller.margin: expected a part from 0 to below 1, got {margin}.")
        self.slo = None if first_token_ms is None and token_ms is None else Slo(first_token_ms, token_ms)
        self._ids = [offer.id for offer in sorted(offers, key=lambda offer: offer.loss)]
        self._fastest = offers[-1].id
        self._keep, self._most = keep, 1 - margin

    def _in_time(self, request: Request, load: Load) -> Iterator[str]:
        """The points that may answer, best first; the one by which the least is late, where something has to be.

        Points that are not measured may not, but where none is: then it is the fastest one of the run's front.
        """
        points = [point for point in self._ids if load.speeds.known(point)]
        if not points:
            return iter([self._fastest])
        fastest = min(points, key=lambda point: _work_ms(point, request, load))
        late = self._lateness(fastest, request, load)
        if late(fastest):  # perhaps less beside its like is one that writes already
            used = {each.point: None for each in load.writing if each.point in points}
            return iter([min({fastest: None, **used}, key=late)])
        return (point for point in points if point == fastest or not late(point))

    def _lateness(self, fastest: str, request: Request, load: Load) -> Callable[[str], float]:
        """How late everybody is, in parts of their limits, by who answers a request; `fastest` who comes later."""
        expected, slo = load.expected, request.slo
        prompt, new = max(round(expected.prompt), 1), expected.length(round(expected.new_tokens))
        before = [*load.writing, *load.waiting]
        comers = [Underway(fastest, prompt, new, age_ms=-ms, slo=slo) for ms in expected.times_ms(COMERS, self._keep)]

        def late(point: str) -> float:
            underway = [*before, load.asked(request, point), *comers]
            parts = (
                each.slo.part(forecast.first_token_ms, forecast.token_ms)
                for each, forecast in zip(underway, load.ahead(underway), strict=True)
                if each.slo is not None
            )
            return sum(max(part - self._most, 0.0) for part in parts)

        return late


def _work_ms(point: str, request: Request, load: Load) -> float:
    """Milliseconds of a point's time that a request takes where as many are written together as may be."""
    speeds, steps = load.speeds, load.expected.length(request.new_tokens) - 1
    return speeds.read_ms(point, len(request.prompt)) + steps * speeds.step_ms(point, load.active) / load.active


class SloKeeper(Timed):
    """The best point that is fast enough, for all who wait and may come; where none is, the one that is least late."""

    name = "slo"

    def choose(self, request: Request, load: Callable[[], Load]) -> Choice:
        """See `Controller`."""
        return Choice(self._ids[0] if request.slo is None else next(self._in_time(request, load())))


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
        margin: float = 0.1,
    ) -> None:
        """Predicts nothing yet.

        Args:
            offers: The points that are served, best first, then ever faster ones.
            loss: Nats a token that an answer is expected to lose against the dense model, at most.
            first_token_ms: See `Timed`.
            token_ms: See there.
            keep: See there.
            margin: See there.

        Raises:
            UserError: The loss is not above 0, or there is no point but the dense model; or see `Timed`.
        """
        super().__init__(offers, first_token_ms, token_ms, keep, margin)
        require_nats("loss", loss)
        if len(offers) == 1:
            raise UserError("controller=difficulty: expected points beside the dense model, got none. See points=.")
        self._loss = loss

    def begin(self, senses: Senses) -> None:
        """See `Controller`; fits its prediction, where that was not done before."""
        self._senses, (self._model, self._fit) = senses, senses.fit()

    def choose(self, request: Request, load: Callable[[], Load]) -> Choice:
        """See `Controller`."""
        losses = self._model.losses(self._senses.look(request.prompt)) | {DENSE: 0.0}
        now = load()  # after the look, which may have taken a while
        points = self._ids if request.slo is None else [*self._in_time(request, now)]
        times = {
            point: now.whole_ms(request, point)
            for point in reversed(points)  # of two that are not measured, the run's front has the faster one
            if losses[point] <= self._loss
        }
        point = min(times, key=times.__getitem__) if times else min(points, key=losses.__getitem__)
        return Choice(point, losses[point])

    def figures(self) -> Mapping[str, float]:
        """See `Controller`: how well its prediction holds on held-out text, the means over points."""
        return {"r2": fmean(self._fit.r2.values()), "rank_correlation": fmean(self._fit.rank.values())}


def smallest_of(offers: Sequence[Offer]) -> str:
    """The id of the smallest point; the fastest where the run has not named it."""
    return next((offer.id for offer in offers if "smallest" in offer.names), offers[-1].id)


def require_nats(name: str, nats: float) -> None:
    """Raises UserError unless a controller's loss is above 0."""
    if not nats > 0:
        raise UserError(f"controller.{name}: expected nats a token above 0, got {nats}.")
