"""Which point answers a request that leaves it open (`model=auto`); free of torch.

A controller is a row in `conf/controller/`: a class that is made of the points, best first, and its settings; see
`serving.timed` and `serving.bandit` too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from serving.load import Load
from serving.requests import Choice, Request, Slo
from serving.switching import Move, Sources
from space.errors import UserError

if TYPE_CHECKING:  # which needs torch
    from serving.senses import Senses

AUTO, DENSE = "auto", "dense"  # ids of no point, and of the dense model


@dataclass(frozen=True)
class Offer:
    """A point that is served.

    Attributes:
        id: The model id by which it is asked for: `dense`, or its key.
        names: Further ones: `recommended`, `fastest`, `smallest`.
        loss: What it loses on held-out text, as the run's front has it; 0 for the dense model.
        figures: Numbers of the front that are shown with it.
        heirs: The points that can go on with what it has written, and where they find that: see `serving.switching`.
    """

    id: str
    names: tuple[str, ...]
    loss: float
    figures: dict[str, float]
    heirs: Mapping[str, Sources] = field(default_factory=dict)


class Controller(ABC):
    """Chooses; from any thread.

    Attributes:
        name: As `controller=` has it.
        takes_slo: Whether a request may say how fast its answer is to be.
        slo: Of requests that do not.
        switching: Whether answers may go on with other points than they began with, see `again`.
    """

    name: str
    takes_slo: bool = False
    slo: Slo | None = None
    switching: bool = False

    def begin(self, senses: Senses) -> None:
        """Is told, before it is asked, whom to ask about prompts and answers; most ask nobody.

        Raises:
            UserError: What it needs cannot be had.
        """
        return

    @abstractmethod
    def choose(self, requests: Sequence[Request], load: Callable[[], Load]) -> Choice:
        """Who answers.

        Args:
            requests: What is asked; several where one client asks them at once, of one point.
            load: Says what is going on.
        """

    def again(self, load: Load) -> Move | None:
        """Who hands over all that it writes for `auto`, and to whom; None where all is well. In the scheduler's thread.

        Args:
            load: What is going on now.
        """
        return None

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

    def choose(self, requests: Sequence[Request], load: Callable[[], Load]) -> Choice:
        """See `Controller`."""
        return Choice(self._point)


def longest_of(requests: Sequence[Request]) -> Request:
    """The one with the longest prompt, at which a controller looks."""
    return max(requests, key=lambda request: len(request.prompt))


def smallest_of(offers: Sequence[Offer]) -> str:
    """The id of the smallest point; the fastest where the run has not named it."""
    return next((offer.id for offer in offers if "smallest" in offer.names), offers[-1].id)


def require_nats(name: str, nats: float) -> None:
    """Raises UserError unless a controller's loss is above 0."""
    if not nats > 0:
        raise UserError(f"controller.{name}: expected nats a token above 0, got {nats}.")
