"""The members of a front while a run ends: asked about once more, each with all that is known of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

import pandas as pd

from evaluators.base import Evaluation, Evaluator
from evaluators.metrics import BEFORE_TUNING
from search.agreement import rank_correlation
from search.archive import Archive
from search.run.front import Point, front_table
from space.candidate import Candidate
from space.errors import UserError

Show = Callable[[int, int], None]


def evaluate(
    evaluator: Evaluator,
    archive: Archive,
    candidates: Sequence[Candidate],
    *,
    show: Show = lambda done, of: None,
) -> list[Evaluation]:
    """Evaluations of all candidates, from the archive as far as it has them.

    Args:
        evaluator: Asked about the rest; each answer is stored before the next one is computed.
        archive: Where its answers are stored.
        candidates: Which.
        show: Called with how many are evaluated, of how many.
    """
    missing = [candidate for candidate in candidates if archive.get(candidate.key, evaluator.fidelity) is None]
    for done, evaluation in enumerate(evaluator.evaluate(missing), start=1):
        archive.add(evaluation)
        show(done, len(missing))
    answers = [archive.get(candidate.key, evaluator.fidelity) for candidate in candidates]
    return [evaluation for evaluation in answers if evaluation is not None]


class Members:
    """The dense model and the front's members, with all that is known of each."""

    def __init__(self, archive: Archive, dense: Candidate, show: Show) -> None:
        """There is none yet.

        Args:
            archive: Where answers are looked up and stored.
            dense: The dense model, the yardstick of all others.
            show: See `evaluate`.
        """
        self._archive = archive
        self._dense = dense
        self._show = show
        self._points: dict[str, tuple[Candidate, dict[str, float]]] = {}

    @property
    def dense(self) -> Point:
        """The dense model's."""
        return self._points[self._dense.key]

    @property
    def candidates(self) -> list[Candidate]:
        """All of them."""
        return [candidate for candidate, _ in self._points.values()]

    @property
    def pruned(self) -> list[Candidate]:
        """All but the dense model."""
        return [candidate for candidate in self.candidates if candidate != self._dense]

    def take(self, evaluation: Evaluation) -> None:
        """Takes in a new member, or more of one."""
        _, values = self._points.setdefault(evaluation.candidate.key, (evaluation.candidate, {}))
        values.update(evaluation.values)

    def take_untrained(self, fidelity: str) -> None:
        """Takes in what members were before training, under names of its own.

        Args:
            fidelity: At which they were asked about then.
        """
        for key, (_, values) in self._points.items():
            before = self._archive.get(key, fidelity)
            untrained = before.values if before is not None else {}
            values.update({name: untrained[old] for old, name in BEFORE_TUNING.items() if old in untrained})

    def ask(self, evaluator: Evaluator, candidates: Sequence[Candidate] | None = None) -> None:
        """Asks about all members, or about some candidates, and takes in what succeeds.

        Raises:
            UserError: The dense model failed.
        """
        members = self.candidates if candidates is None else candidates
        for evaluation in evaluate(evaluator, self._archive, members, show=self._show):
            if evaluation.status == "ok":
                self.take(evaluation)
            elif evaluation.candidate == self._dense:
                raise UserError(f"Expected the dense model to be evaluated, but it failed: {evaluation.error}")

    def recall(self, fidelity: str) -> None:
        """Takes in what the archive has of all members at a fidelity."""
        for key in self._points:
            answer = self._archive.get(key, fidelity)
            if answer is not None and answer.status == "ok":
                self.take(answer)

    def close(self, evaluator: Evaluator, keys: Iterable[str]) -> list[Evaluation]:
        """Asks about some members, takes in what succeeds, and gives that back; the dense model may fail too."""
        members = [self._points[key][0] for key in keys]
        answers = [e for e in evaluate(evaluator, self._archive, members, show=self._show) if e.status == "ok"]
        for answer in answers:
            self.take(answer)
        return answers

    def rename(self, names: Mapping[str, str]) -> None:
        """Gives values other names: old to new."""
        for _, values in self._points.values():
            values.update({new: values.pop(old) for old, new in names.items() if old in values})

    def keep(self, keys: Iterable[str]) -> None:
        """Leaves out all but these, which stand in this order from now on."""
        self._points = {str(key): self._points[str(key)] for key in keys}

    def agreement(self, qualities: Sequence[str]) -> dict[str, float]:
        """Rank correlation of each quality with the next one, over pruned members, whose divergence is not 0."""
        rows = [values for _, values in self._points.values()]
        return {
            f"{low}, {high}": rank_correlation([(v[low], v[high]) for v in rows if v.get(low, 0) > 0 and high in v])
            for low, high in pairwise(qualities)
        }

    def table(self, keys: Iterable[str] | None = None) -> pd.DataFrame:
        """The front's table of all members, or of some."""
        return front_table([self._points[key] for key in (self._points if keys is None else keys)], self.dense)
