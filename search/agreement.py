"""How well a search knows what it does, in words: surrogates against answers, cheap fidelities against dear ones."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from evaluators.base import Evaluation
from evaluators.latency.table_error import spearman

if TYPE_CHECKING:  # finished runs are read without what is slow to import
    from search.surrogate.predictor import Surrogate

JUDGED = 32  # the last answers by which surrogates are judged


def agreement(metric: str, surrogate: Surrogate, unseen: Sequence[Evaluation]) -> str:
    """How good a surrogate was at candidates that it had not learned from.

    Args:
        metric: What it predicts.
        surrogate: Fitted before those were evaluated.
        unseen: Evaluations with predictions.
    """
    text = f"{metric} by {surrogate.chosen} (cross-validated tau {surrogate.taus[surrogate.chosen]:.2f})"
    judged = next((row for row in unseen_agreement(unseen) if row.metric == metric and row.count > 1), None)
    return text if judged is None else f"{text}: tau {judged.tau:.2f} and {judged.off:.0%} off on {judged.count} unseen"


def fidelity_agreements(metric: str, answers: Sequence[Mapping[str, Evaluation]]) -> list[str]:
    """Rank correlations of each fidelity with the next one, Kendall's tau and Spearman's rho.

    Args:
        metric: What is compared.
        answers: For each fidelity, cheapest first, evaluations by key.
    """
    notes = []
    for index, (low, high) in enumerate(pairwise(answers)):
        if alike := fidelity_agreement(metric, low, high):
            notes.append(f"fidelity {index} to {index + 1}: tau {alike.tau:.2f}, rho {alike.rho:.2f} on {alike.count}")
    return notes


@dataclass(frozen=True)
class Alike:
    """How alike two fidelities rank designs.

    Attributes:
        count: Designs that have both.
        tau: Kendall's.
        rho: Spearman's.
    """

    count: int
    tau: float
    rho: float


def fidelity_agreement(
    metric: str, low: Mapping[str, Evaluation], high: Mapping[str, Evaluation], *, positive: bool = False
) -> Alike | None:
    """How alike two fidelities rank the designs that have both; None for fewer than three.

    Args:
        metric: What is compared.
        low: Evaluations of the one by key.
        high: Of the other.
        positive: Whether designs with a value of 0, as the dense model has of a divergence, are left out.
    """
    both = [(low[key].values[metric], high[key].values[metric]) for key in high if key in low]
    both = [pair for pair in both if min(pair) > 0 or not positive]
    if len(both) < 3:
        return None
    return Alike(len(both), rank_correlation(both), spearman(*zip(*both, strict=True)))


@dataclass(frozen=True)
class Unseen:
    """How good surrogates were at one metric of designs that they had not learned from.

    Attributes:
        metric: The metric.
        count: Designs.
        tau: Kendall's tau of what was expected and what was measured; NaN where it is undefined.
        off: Median absolute error, as a fraction of what was measured.
    """

    metric: str
    count: int
    tau: float
    off: float


def unseen_agreement(evaluations: Sequence[Evaluation]) -> list[Unseen]:
    """How good surrogates were at these evaluations, metric by metric, as far as they were predicted."""
    predicted = [e for e in evaluations if e.predicted and e.status == "ok"]
    agreements = []
    for metric in dict.fromkeys(name for e in predicted for name in e.predicted):
        pairs = [(e.predicted[metric], e.values[metric]) for e in predicted if metric in e.predicted]
        off = float(np.median([abs(one - other) / max(abs(other), 1e-9) for one, other in pairs]))
        agreements.append(Unseen(metric, len(pairs), rank_correlation(pairs), off))
    return agreements


class Judged:
    """Surrogates judged by the last answers at each fidelity that they had not seen."""

    def __init__(self) -> None:
        """There are no answers yet."""
        self._answers: defaultdict[str, deque[Evaluation]] = defaultdict(partial(deque, maxlen=JUDGED))

    def add(self, evaluation: Evaluation) -> None:
        """Takes one more answer in; those that were not predicted or that failed say nothing."""
        if evaluation.predicted and evaluation.status == "ok":
            self._answers[evaluation.fidelity].append(evaluation)

    def taus(self) -> dict[tuple[str, str], float]:
        """Kendall's tau by fidelity and metric; NaN where it is undefined."""
        return {
            (fidelity, row.metric): row.tau
            for fidelity, answers in self._answers.items()
            for row in unseen_agreement([*answers])
        }


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Kendall's tau of pairs of values; NaN where it is undefined."""
    from scipy.stats import kendalltau  # slow to import, and finished runs do not want it

    return float(kendalltau(*np.array(pairs).T).statistic) if len(pairs) > 1 else math.nan
