"""Curves of a search against its tokens, besides that of the hypervolume: how good surrogates are; and short ones."""

from __future__ import annotations

import math
from collections import Counter

from evaluators.base import Evaluation
from search.agreement import Judged
from search.course import Curve

BETWEEN_TAUS = 16  # predicted answers


class TauCurves:
    """Kendall's tau of surrogates and answers, over the last designs that surrogates had not seen.

    Attributes:
        curves: By fidelity and metric.
    """

    def __init__(self) -> None:
        """There are no answers yet."""
        self.curves: dict[tuple[str, str], Curve] = {}
        self._judged = Judged()
        self._predicted: Counter[str] = Counter()  # answers by fidelity

    def add(self, evaluation: Evaluation, tokens: int) -> None:
        """Takes one more answer in.

        Args:
            evaluation: The answer.
            tokens: Those of the search up to this answer.
        """
        if not evaluation.predicted or evaluation.status == "failed":
            return
        self._judged.add(evaluation)
        self._predicted[evaluation.fidelity] += 1
        if self._predicted[evaluation.fidelity] % BETWEEN_TAUS:
            return
        for (fidelity, metric), tau in self._judged.taus().items():
            if fidelity == evaluation.fidelity and math.isfinite(tau):
                self.curves.setdefault((fidelity, metric), []).append((tokens, tau))


def thinned(curve: Curve, most: int) -> Curve:
    """At most so many points of a curve, its first and its last among them."""
    if len(curve) <= most:
        return curve
    return [curve[round(place * (len(curve) - 1) / (most - 1))] for place in range(most)]
