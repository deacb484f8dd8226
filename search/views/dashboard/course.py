"""How a search goes: counts, the front of each fidelity, and hypervolume and surrogate quality against tokens."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from functools import partial

import numpy as np

from evaluators.base import Evaluation, Metric
from search.agreement import unseen_agreement
from search.pareto import Floats, hypervolume, minimised, non_dominated, reference_point
from search.views.watch.tracking import JUDGED

_RUNG = re.compile(r"(search|distilled)(?:-(\d+))?")
REFERENCE_FROM = 5  # evaluations of a fidelity, whose worst values are the reference of its hypervolume
BETWEEN_TAUS = 16  # predicted evaluations

Curve = list[tuple[int, float]]


def rung_of(fidelity: str) -> tuple[bool, float] | None:
    """How dear a fidelity of the search is, to be compared; None for one that is asked after the search.

    The first part says whether it looks at trained subnets.
    """
    found = _RUNG.fullmatch(fidelity)
    return (found[1] == "distilled", float(found[2] or math.inf)) if found else None


class Course:
    """All evaluations of a run, in order, and what follows from them.

    Attributes:
        made: Evaluations by fidelity and key.
        fronts: Of each of the search's fidelities, the evaluations that no other dominates.
        tokens: Sent through candidates by the search; what comes after it does not count.
        failed: Evaluations that failed.
        scoring: Whether the last evaluation was one that comes after the search.
        volumes: For each of the search's fidelities, tokens and the hypervolume below a reference that its first
            few fix. It ends where a dearer fidelity begins.
        taus: For each fidelity and metric, tokens and Kendall's tau of surrogate and answer over the last designs that
            the surrogate had not seen.
    """

    def __init__(self, objectives: Sequence[Metric]) -> None:
        """Nothing has happened yet.

        Args:
            objectives: What the front is about.
        """
        self._objectives = tuple(objectives)
        self.made: dict[str, dict[str, Evaluation]] = {}
        self.fronts: dict[str, list[Evaluation]] = {}
        self.tokens = 0
        self.failed = 0
        self.scoring = False
        self.volumes: dict[str, Curve] = {}
        self.taus: dict[tuple[str, str], Curve] = {}
        self._values: dict[str, Floats] = {}  # of the fronts
        self._references: dict[str, Floats] = {}
        self._unseen: defaultdict[str, deque[Evaluation]] = defaultdict(partial(deque, maxlen=JUDGED))
        self._predicted: Counter[str] = Counter()

    @property
    def rungs(self) -> list[str]:
        """The search's fidelities that have answered, cheapest first."""
        found = [(rung, name) for name in self.made if (rung := rung_of(name))]
        return [name for _, name in sorted(found)]

    def add(self, evaluation: Evaluation) -> None:
        """Takes one more evaluation in."""
        fidelity = evaluation.fidelity
        self.made.setdefault(fidelity, {})[evaluation.candidate.key] = evaluation
        self.failed += evaluation.status == "failed"
        self.scoring = rung_of(fidelity) is None
        if self.scoring:
            return
        self.tokens += evaluation.tokens
        if evaluation.status == "ok" and all(metric.name in evaluation.values for metric in self._objectives):
            self._to_front(evaluation)
            self._judge(evaluation)

    def _to_front(self, evaluation: Evaluation) -> None:
        fidelity = evaluation.fidelity
        front = [*self.fronts.get(fidelity, []), evaluation]
        new = minimised([evaluation.values], self._objectives)
        values = np.vstack([self._values[fidelity], new]) if fidelity in self._values else new
        mask = non_dominated(values)
        self.fronts[fidelity] = [e for e, kept in zip(front, mask, strict=True) if kept]
        self._values[fidelity] = values[mask]
        if fidelity not in self._references and len(self.made[fidelity]) >= REFERENCE_FROM:
            self._references[fidelity] = reference_point(values[mask])
        if fidelity == self.rungs[-1] and fidelity in self._references:
            volume = hypervolume(values[mask], self._references[fidelity])
            self.volumes.setdefault(fidelity, []).append((self.tokens, volume))

    def _judge(self, evaluation: Evaluation) -> None:
        if not evaluation.predicted:
            return
        fidelity = evaluation.fidelity
        self._unseen[fidelity].append(evaluation)
        self._predicted[fidelity] += 1
        if self._predicted[fidelity] % BETWEEN_TAUS:
            return
        for row in unseen_agreement([*self._unseen[fidelity]]):
            if math.isfinite(row.tau):
                self.taus.setdefault((fidelity, row.metric), []).append((self.tokens, row.tau))


def thinned(curve: Curve, most: int) -> Curve:
    """At most so many points of a curve, its first and its last among them."""
    if len(curve) <= most:
        return curve
    return [curve[round(place * (len(curve) - 1) / (most - 1))] for place in range(most)]
