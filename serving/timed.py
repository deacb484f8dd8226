"""Controllers that keep limits of time, by who answers and who goes on with what has been begun; free of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from statistics import fmean
from typing import TYPE_CHECKING

from serving.controllers import DENSE, Controller, Offer, longest_of, require_nats
from serving.load import Load, Underway
from serving.requests import Choice, Request, Slo
from serving.switching import Move
from space.errors import UserError

if TYPE_CHECKING:  # which needs torch
    from serving.senses import Senses

COMERS = 12  # requests that may still come, for which there is to be time


class Timed(Controller):
    """Keeps limits of time, where there are such.

    It looks ahead, with the speeds that are measured: how everybody who waits or is being written will fare beside the
    request, and those who may come before it has ended, if the fastest point answers them. A point may answer where
    nobody is late with it whom another point would keep in time. So there is always a way back: by the next request the
    fastest one can still save what has come.

    Where answers may go on with other points, there is more of a way back: it is enough that nobody is late if all goes
    on as it is and nobody comes, nor if, one turn from now, the fastest points that can go on with all there is, and
    answer those who may come.
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
        self._losses = {offer.id: offer.loss for offer in sorted(offers, key=lambda offer: offer.loss)}
        self._heirs = {offer.id: [*offer.heirs] for offer in offers}
        self._fastest = offers[-1].id
        self._keep, self._margin = keep, margin

    @property
    def _best(self) -> str:
        return next(iter(self._losses))

    def _known(self, load: Load) -> list[str]:
        """The points that are measured, best first."""
        return [point for point in self._losses if load.speeds.known(point)]

    def _in_time(self, requests: Sequence[Request], load: Load) -> Iterator[str]:
        """The points that may answer, best first: with whom nobody is later than has to be.

        Points that are not measured may not, but where none is: then it is the fastest one of the run's front.
        """
        points = self._known(load)
        if not points:
            return iter([self._fastest])
        fastest = min(
            points, key=lambda point: sum(_work_ms(point, len(r.prompt), r.new_tokens, load) for r in requests)
        )
        before, comers = [*load.writing, *load.waiting], self._comers(fastest, requests[0].slo, load)

        @cache
        def late(point: str) -> float:
            return self._late([*before, *(load.asked(each, point) for each in requests)], comers, load)

        # Where somebody has to be late, it is perhaps less beside its like by a point that writes already.
        used = {each.point: None for each in load.writing if each.point in points and late(fastest)}
        least = min({fastest: None, **used}, key=late)
        return (point for point in points if point == least or late(point) <= late(least))

    def _comers(self, fastest: str, slo: Slo | None, load: Load) -> list[Underway]:
        """Who may come, answered by the fastest point, with such limits."""
        expected = load.expected
        prompt, new = max(round(expected.prompt), 1), expected.length(round(expected.new_tokens))
        times = expected.times_ms(COMERS, self._keep)
        return [Underway(fastest, prompt, new, age_ms=-ms, slo=slo) for ms in times]

    def _late(self, underway: Sequence[Underway], comers: Sequence[Underway], load: Load, margin: float = 1.0) -> float:
        """How late everybody is, in parts of their limits.

        Args:
            underway: Those that are being written, then those that wait.
            comers: Those that may come.
            load: With whose speeds.
            margin: To be left free, in units of the usual one.
        """
        if not self.switching:
            return self._lateness([*underway, *comers], load, margin)
        return self._lateness(underway, load, margin) + self._lateness(
            [*self._saved(underway, load), *comers], load, margin
        )

    def _lateness(self, underway: Sequence[Underway], load: Load, margin: float) -> float:
        most = 1 - margin * self._margin
        parts = (
            each.slo.part(forecast.first_token_ms, forecast.token_ms)
            for each, forecast in zip(underway, load.ahead(underway), strict=True)
            if each.slo is not None
        )
        return sum(max(part - most, 0.0) for part in parts)

    def _saved(self, underway: Sequence[Underway], load: Load) -> Iterator[Underway]:
        """The same a turn later, when the fastest points that can have gone on with them; nothing is read meanwhile."""
        ms, heirs = load.turn_ms(underway), dict[str, str]()
        for each in underway:
            later = replace(each, age_ms=each.age_ms + ms)
            if each.free:
                if each.point not in heirs:
                    able = [each.point, *(heir for heir in self._heirs[each.point] if load.speeds.known(heir))]
                    heirs[each.point] = min(able, key=lambda point: load.speeds.step_ms(point, load.active))
                later = replace(later, point=heirs[each.point], reader=each.point)
            if each.unread:
                yield later
            elif each.unwritten > 1:
                yield replace(later, written=each.written + 1, unwritten=each.unwritten - 1)


def _work_ms(point: str, prompt: int, new_tokens: int, load: Load) -> float:
    """Milliseconds of a point's time that a request takes where as many are written together as may be."""
    speeds, steps = load.speeds, load.expected.length(new_tokens) - 1
    return speeds.read_ms(point, prompt) + steps * speeds.step_ms(point, load.active) / load.active


class SloKeeper(Timed):
    """The best point that is fast enough, for all who wait and may come; where none is, the one that is least late."""

    name = "slo"

    def __init__(
        self,
        offers: Sequence[Offer],
        first_token_ms: float | None = None,
        token_ms: float | None = None,
        keep: float = 0.99,
        margin: float = 0.1,
        switching: bool = False,
    ) -> None:
        """Begins with the best one.

        Args:
            offers: The points that are served, in any order.
            first_token_ms: See `Timed`.
            token_ms: See there.
            keep: See there.
            margin: See there.
            switching: Whether answers go on with other points where time is short, and where there is more again.

        Raises:
            UserError: They are to, and no point can go on with another one's; or see `Timed`.
        """
        super().__init__(offers, first_token_ms, token_ms, keep, margin)
        self.switching = switching
        if switching and not any(self._heirs.values()):
            raise UserError(
                "controller.switching: expected points that can go on with what others have written, whose layers keep "
                "no more groups of keys and values than theirs, but there are none. Serve more points, or leave it out."
            )

    def choose(self, requests: Sequence[Request], load: Callable[[], Load]) -> Choice:
        """See `Controller`."""
        return Choice(self._best if requests[0].slo is None else next(self._in_time(requests, load())))

    def again(self, load: Load) -> Move | None:
        """See `Controller`: the best point with which nobody is late, where somebody would be or a better one can."""
        points = self._known(load)
        used = {each.point: None for each in load.writing if each.free and each.point in points}
        if not used:
            return None
        before = [*load.writing, *load.waiting]
        newest = min((each for each in before if each.free), key=lambda each: each.age_ms)
        new = max(round(load.expected.new_tokens), 1)
        fastest = min(points, key=lambda point: _work_ms(point, max(round(load.expected.prompt), 1), new, load))
        comers = self._comers(fastest, newest.slo, load)

        @cache
        def late(move: Move | None, margin: float = 1.0) -> float:
            return self._late(before if move is None else _moved(before, move), comers, load, margin)

        moves = [(point, heir) for point in used for heir in points if heir in self._heirs[point]]
        faster = [move for move in moves if self._losses[move[1]] > self._losses[move[0]]]
        if faster and (now := late(None)):
            least = min(faster, key=lambda move: (late(move), self._losses[move[1]]))
            if late(least) < now:
                return least
        better = [move for move in moves if self._losses[move[1]] < self._losses[move[0]]]
        return next((move for move in better if late(move, 2.0) <= late(None, 2.0)), None)


def _moved(underway: Iterable[Underway], move: Move) -> list[Underway]:
    """The same where a point has gone on with what another one writes."""
    one, other = move
    return [
        replace(each, point=other) if each.free and not each.unread and each.point == one else each for each in underway
    ]


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

    def choose(self, requests: Sequence[Request], load: Callable[[], Load]) -> Choice:
        """See `Controller`."""
        request = longest_of(requests)
        losses = self._model.losses(self._senses.look(request.prompt)) | {DENSE: 0.0}
        now = load()  # after the look, which may have taken a while
        points = [*self._losses] if request.slo is None else [*self._in_time(requests, now)]
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
