"""Fidelities in turn: who is asked what, whose answers are kept, and which fidelity has nothing more to tell.

Successive halving over fidelities (Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter
optimization", AISTATS 2016), for fronts: what goes on to the next fidelity is what should raise its hypervolume.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence

import numpy as np

from evaluators.base import Evaluation
from search.pareto import Floats, fill_front, ranks, reference_point
from search.protocol import Question
from search.script import Answers, Script
from search.surrogate.forecast import Forecast
from space.candidate import Candidate

PROMOTABLE = 60  # candidates of a fidelity, those of lowest rank, of which the next one's are chosen
JUDGED = 16  # promoted designs by which a fidelity is judged


class Halving:
    """The answers of a search at all its fidelities.

    Attributes:
        answers: By fidelity and key, those that succeeded.
        entry: The fidelity that new designs are asked about at first.
    """

    def __init__(
        self,
        forecast: Forecast,
        fidelities: int,
        trained: int,
        was_asked: Callable[[Candidate, int], bool],
        most: float,
    ) -> None:
        """Asks nothing yet.

        Args:
            forecast: What is expected of designs; also, how objectives are compared.
            fidelities: How many fidelities there are.
            trained: How many of them, the last ones, look at trained subnets; none of these is skipped.
            was_asked: Whether a candidate has been asked about at a fidelity.
            most: See `Forecast.wanted`.
        """
        self._forecast = forecast
        self._was_asked = was_asked
        self._most = most
        self._untrained = fidelities - trained
        self.answers: list[dict[str, Evaluation]] = [{} for _ in range(fidelities)]
        self.entry = 0
        # what the surrogate, and what the fidelity below, got wrong of each promoted design, by fidelity
        self._wrong: list[list[tuple[Floats, Floats]]] = [[] for _ in range(fidelities)]

    def ask(
        self,
        fidelity: int,
        candidates: Sequence[Candidate],
        predicted: Mapping[str, Mapping[str, float]] | None = None,
    ) -> Generator[list[Question], Answers, list[Evaluation]]:
        """Asks, neighbours in the trie of layers together, and keeps the answers."""
        ordered = sorted(candidates, reverse=True)
        answers = yield [Question(c, fidelity, (predicted or {}).get(c.key, {})) for c in ordered]
        succeeded = [e for e in answers if e is not None]
        self.answers[fidelity].update((e.candidate.key, e) for e in succeeded)
        return succeeded

    def promote(self, count: int, *, first: int) -> Generator[list[Question], Answers, int]:
        """Sends the best of each untrained fidelity, from the first on, to the next one, each time fewer.

        They are those that should raise the next fidelity's hypervolume most, if its answers differ from this one's as
        they do for most designs that have both; when none should, those of the lowest rank.

        Returns:
            How many were sent.
        """
        return (yield from self._promote(count, range(first, self._untrained - 1)))

    def train(self, count: int) -> Generator[list[Question], Answers, int]:
        """Sends the best of the last untrained fidelity to the trained ones, as `promote` does.

        Returns:
            How many were sent.
        """
        return (yield from self._promote(count, range(self._untrained - 1, len(self.answers) - 1)))

    def _promote(self, count: int, fidelities: range) -> Generator[list[Question], Answers, int]:
        forecast, sent = self._forecast, 0
        for fidelity in fidelities:
            answered, above = self.answers[fidelity], self.answers[fidelity + 1]
            waiting = [e for e in answered.values() if not self._was_asked(e.candidate, fidelity + 1)]
            if not waiting:
                continue
            truth = forecast.truth(waiting)
            waiting = [e for e, wanted in zip(waiting, forecast.wanted(truth, self._most), strict=True) if wanted]
            rank = ranks(forecast.truth(waiting))
            best = [waiting[i] for i in np.argsort(rank, kind="stable")[: max(PROMOTABLE, count)]]
            if fidelity + 1 >= self._untrained and forecast.knows(fidelity + 1):
                best = waiting  # training changes ranks
                expected = forecast.evened(forecast.values(forecast.genes(best), fidelity + 1))
            else:
                expected = self._even(best)
                if both := [key for key in answered if key in above]:
                    low, high = (self._even([part[key] for key in both]) for part in (answered, above))
                    expected = expected + np.median(high - low, axis=0)
            front = self._even(list(above.values())) if above else expected[:0]
            chosen = fill_front(expected, front, reference_point(np.vstack([front, expected])), count)
            chosen += [i for i in range(len(best)) if i not in chosen][: count - len(chosen)]
            yield from self._compared(fidelity + 1, [best[i] for i in chosen])
            sent += len(chosen)
            count = max(1, count // 2)
        return sent

    def _compared(self, fidelity: int, below: Sequence[Evaluation]) -> Script:
        """Asks about designs that have an answer at the fidelity below, and notes who had been how wrong."""
        forecast, candidates = self._forecast, [e.candidate for e in below]
        if not candidates or not forecast.knows(fidelity):
            yield from self.ask(fidelity, candidates)
            return
        values = forecast.values(forecast.genes(below), fidelity)
        guesses = dict(zip([c.key for c in candidates], forecast.learned_part(forecast.evened(values)), strict=True))
        named = {c.key: forecast.named(row) for c, row in zip(candidates, values, strict=True)}
        answers = yield from self.ask(fidelity, candidates, named)
        for answer in answers:
            key = answer.candidate.key
            true, cheap = forecast.learned_part(self._even([answer, self.answers[fidelity - 1][key]]))
            self._wrong[fidelity].append((guesses[key] - true, cheap - true))

    def enter_higher(self) -> list[str]:
        """Skips a fidelity for good once it tells less of the next one than the surrogate knows before asking it.

        Returns:
            What to say of it.
        """
        fidelity = self.entry + 1
        if fidelity >= self._untrained or len(self._wrong[fidelity]) < JUDGED:
            return []
        surrogate, cheap = (float(np.std(errors)) for errors in zip(*self._wrong[fidelity][-JUDGED:], strict=True))
        if surrogate >= cheap:
            return []
        self.entry = fidelity
        skipped = f"fidelity {fidelity - 1} is skipped from here on"
        return [f"{skipped}: {cheap:.3f} off (log), the surrogate {surrogate:.3f}"]

    def _even(self, evaluations: Sequence[Evaluation]) -> Floats:
        """Objectives of evaluations, see `Forecast.evened`; shape `(evaluations, objectives)`."""
        return self._forecast.evened(self._forecast.truth(evaluations))
