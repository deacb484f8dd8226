"""A controller that learns what points lose as it serves: a contextual linear bandit with Thompson sampling.

A part of the requests explores: its point is chosen by weights that are drawn from what they may be (Agrawal and Goyal,
2013), and what it wrote is compared with the dense model, which is all that the bandit ever learns of. All other
requests get the point that costs least by the mean weights. A point costs the part of the dense model's time that it
takes, and what it loses, in units of `worth`.
"""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.controllers import DENSE, Controller, Offer, longest_of, require_nats
from serving.difficulty import FEATURES, Floats
from serving.load import Load
from serving.requests import Choice, Request
from space.errors import UserError
from space.files import write_whole

if TYPE_CHECKING:  # which needs torch
    from serving.senses import Senses

FILE = "bandit.json"  # what was learned, for the run's next server
_FORMAT = 2  # raised when a look's row becomes another one
COMPARING = 4  # answers that wait to be compared, at most: further ones are not
NOISE = 0.5  # standard deviation of a loss around what a look says of it, as a part of the point's loss on the front
_log = logging.getLogger(__name__)
_LEAST = 1e-3  # nats that a point's loss on the front is taken for, at least


class Belief:
    """What the loss of one point may be, linear in a look's row: a normal distribution of its weights."""

    def __init__(self, loss: float) -> None:
        """Believes that it is what it is on the front, give or take as much again.

        Args:
            loss: On the front, nats a token.
        """
        self._scale = max(loss, _LEAST)
        self._precision = np.eye(FEATURES)
        self._moment = np.eye(FEATURES)[0]  # the mean weights, times the precision: 1 of the scale, whatever the look

    @property
    def mean(self) -> Floats:
        """The likeliest weights, shape (FEATURES,)."""
        return np.linalg.solve(self._precision, self._moment)

    def drawn(self, generator: np.random.Generator) -> Floats:
        """Weights that may be, shape (FEATURES,)."""
        root = np.linalg.cholesky(np.linalg.inv(self._precision))
        return self.mean + root @ generator.standard_normal(FEATURES)

    def loss(self, weights: Floats, row: Floats) -> float:
        """Nats a token by some weights, not below 0.

        Args:
            weights: See `mean`.
            row: Of a look, shape (FEATURES,).
        """
        return max(float(weights @ row), 0.0) * self._scale

    def learn(self, row: Floats, loss: float) -> None:
        """Takes in what was lost once."""
        self._precision += np.outer(row, row) / NOISE**2
        self._moment += row * (loss / self._scale) / NOISE**2

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {"scale": self._scale, "precision": self._precision.tolist(), "moment": self._moment.tolist()}

    def take_over(self, told: Mapping[str, Any]) -> None:
        """Believes what another one did, where that began with the same loss.

        Args:
            told: Its JSON.
        """
        if told["scale"] != self._scale:
            return
        precision, moment = np.array(told["precision"], float), np.array(told["moment"], float)
        if precision.shape != (FEATURES, FEATURES) or moment.shape != (FEATURES,):
            raise ValueError(f"expected {FEATURES} features, got {moment.shape}")
        self._precision, self._moment = precision, moment


class Bandit(Controller):
    """The point of least cost, of which it learns more as it goes."""

    name = "bandit"

    def __init__(self, offers: Sequence[Offer], worth: float = 0.5, share: float = 0.05, seed: int = 0) -> None:
        """Has learned nothing.

        Args:
            offers: The points that are served.
            worth: Nats a token that weigh as much as all the time that the dense model takes.
            share: Of the requests, those that explore.
            seed: Of what is drawn.

        Raises:
            UserError: A value is out of its range.
        """
        require_nats("worth", worth)
        if not 0 <= share <= 1:
            raise UserError(f"controller.share: expected a part of the requests from 0 to 1, got {share}.")
        if seed < 0:
            raise UserError(f"controller.seed: expected at least 0, got {seed}.")
        self._beliefs = {offer.id: Belief(offer.loss) for offer in offers if offer.id != DENSE}
        self._worth, self._share = worth, share
        self._generator = np.random.default_rng(seed)
        self._lock = threading.Lock()
        self._comparing = 0
        self._explored = self._compared = 0
        self._regret = 0.0

    def begin(self, senses: Senses) -> None:
        """See `Controller`; takes over what an earlier server of the run has learned by looks of the same point."""
        self._senses, self._file = senses, senses.place / FILE
        if not self._file.exists():
            return
        try:
            told = json.loads(self._file.read_text(encoding="utf-8"))
            if told["looks"] == senses.smallest and told["format"] == _FORMAT:
                for point in {*self._beliefs} & {*told["beliefs"]}:
                    self._beliefs[point].take_over(told["beliefs"][point])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"Expected {self._file} to be what a server's controller=bandit has learned, got: "
                f"{type(error).__name__}: {error}. Delete it; it is learned again."
            ) from error

    def choose(self, requests: Sequence[Request], load: Callable[[], Load]) -> Choice:
        """See `Controller`."""
        request = longest_of(requests)
        row = self._senses.look(request.prompt).row
        times = self._times(request, load())
        with self._lock:
            explores = self._generator.random() < self._share
            means = self._losses(row, drawn=False)
            costs = self._costs(self._losses(row, drawn=True) if explores else means, times)
            point = min(costs, key=costs.__getitem__)
            if not explores:
                return Choice(point, means[point])
            beyond = times[point] - min(self._costs(means, times).values())
            self._explored += 1
            if point == DENSE:  # which loses nothing: there is nothing to compare
                self._regret += beyond
                return Choice(point, 0.0)
        return Choice(point, means[point], partial(self._answered, point, row, beyond))

    def figures(self) -> Mapping[str, float]:
        """See `Controller`: requests that explored, answers that were compared, and the regret in units of cost.

        The regret of a request is what its point has cost, by what it really lost, beyond the least cost that any
        point was then believed to have.
        """
        with self._lock:
            return {"explored": self._explored, "compared": self._compared, "regret": self._regret}

    def _times(self, request: Request, load: Load) -> dict[str, float]:
        """The part of the dense model's time that each measured point takes, as the queue stands."""
        ms = {point: load.whole_ms(request, point) for point in (DENSE, *self._beliefs)}
        if math.isinf(ms[DENSE]):
            return {DENSE: 1.0}
        return {point: each / ms[DENSE] for point, each in ms.items() if math.isfinite(each)}

    def _losses(self, row: Floats, *, drawn: bool) -> dict[str, float]:
        losses = {
            point: belief.loss(belief.drawn(self._generator) if drawn else belief.mean, row)
            for point, belief in self._beliefs.items()
        }
        return {DENSE: 0.0, **losses}

    def _costs(self, losses: Mapping[str, float], times: Mapping[str, float]) -> dict[str, float]:
        return {point: time + losses[point] / self._worth for point, time in times.items()}

    def _answered(self, point: str, row: Floats, beyond: float, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """Has an answer compared; `beyond` is what its point's time was more than the least cost."""
        with self._lock:
            if self._comparing == COMPARING:
                return
            self._comparing += 1
        self._senses.compare(point, prompt, answer, partial(self._learned, point, row, beyond))

    def _learned(self, point: str, row: Floats, beyond: float, loss: float | None) -> None:
        """Takes in what an answer has lost; None where that could not be had."""
        with self._lock:
            self._comparing -= 1
            if loss is None or not math.isfinite(loss):
                return
            self._compared += 1
            self._regret += beyond + loss / self._worth
            self._beliefs[point].learn(row, loss)
            beliefs = {point: belief.to_json() for point, belief in self._beliefs.items()}
        try:
            kept = {"format": _FORMAT, "looks": self._senses.smallest, "beliefs": beliefs}
            write_whole(self._file, json.dumps(kept))
        except UserError as error:  # a full disk ends no server
            _log.warning("what was learned is not kept in %s: %s", self._file, error)
