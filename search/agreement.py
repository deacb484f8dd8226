"""How well a search knows what it does, in words: surrogates against answers, cheap fidelities against dear ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from scipy.stats import kendalltau, spearmanr

from evaluators.base import Evaluation
from search.predictor import Surrogate


def agreement(metric: str, surrogate: Surrogate, unseen: Sequence[Evaluation]) -> str:
    """How good a surrogate was at candidates that it had not learned from.

    Args:
        metric: What it predicts.
        surrogate: Fitted before those were evaluated.
        unseen: Evaluations with predictions.
    """
    text = f"{metric} by {surrogate.chosen} (cross-validated tau {surrogate.taus[surrogate.chosen]:.2f})"
    pairs = np.array([[e.predicted[metric], e.values[metric]] for e in unseen if e.predicted])
    if len(pairs) < 2:
        return text
    off = np.median(np.abs(pairs[:, 0] - pairs[:, 1]) / np.maximum(np.abs(pairs[:, 1]), 1e-9))
    return f"{text}: tau {rank_correlation(list(pairs)):.2f} and {off:.0%} off on {len(pairs)} unseen"


def rung_agreement(metric: str, answers: Sequence[Mapping[str, Evaluation]]) -> list[str]:
    """Rank correlations of each fidelity with the next one, Kendall's tau and Spearman's rho.

    Args:
        metric: What is compared.
        answers: For each fidelity, cheapest first, evaluations by key.
    """
    notes = []
    for rung, (low, high) in enumerate(pairwise(answers)):
        both = [(low[key].values[metric], high[key].values[metric]) for key in high if key in low]
        if len(both) > 2 and np.ptp(both, axis=0).all():  # ranks of equal values say nothing
            rho = float(spearmanr(*np.array(both).T).statistic)
            notes.append(
                f"fidelity {rung} to {rung + 1}: tau {rank_correlation(both):.2f}, rho {rho:.2f} on {len(both)}"
            )
    return notes


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Kendall's tau of pairs of values; NaN where it is undefined."""
    return float(kendalltau(*np.array(pairs).T).statistic) if len(pairs) > 1 else math.nan
