"""What each point would lose on a prompt, predicted from a cheap first look at it; free of torch.

The logarithm of a point's loss is linear in what the look shows; losses are above 0 and differ by factors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from evaluators.latency.table_error import spearman

FEATURES = 5  # of a row: 1, and what a look shows
_RIDGE = 1e-2  # of each look, beside features whose variance is of that order: few looks make no wild predictions
_LEAST = 1e-6  # nats, below which losses are noise

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Look:
    """What the smallest point thinks of a prompt, in numbers of the order of 1.

    Attributes:
        length: Binary logarithm of the prompt's tokens, divided by 16.
        entropy: Of its next token, the mean over the prompt, as a part of the largest possible.
        last_entropy: The same behind the last token.
        surprise: Of the prompt's tokens: their mean negative log-likelihood, as a part of the largest entropy.
    """

    length: float
    entropy: float
    last_entropy: float
    surprise: float

    @property
    def row(self) -> Floats:
        """Shape (FEATURES,)."""
        return np.array([1.0, *asdict(self).values()])


def rows_of(looks: Sequence[Look]) -> Floats:
    """Shape (looks, FEATURES)."""
    return np.stack([look.row for look in looks])


@dataclass(frozen=True)
class Fit:
    """How well a prediction holds on text that it was not fitted on, by point.

    Attributes:
        r2: The part of the variance of losses that is explained.
        rank: Spearman's correlation of what is predicted with what is.
    """

    r2: Mapping[str, float]
    rank: Mapping[str, float]

    def remark(self) -> str:
        """The means over points in a sentence."""
        r2, rank = (float(np.mean([*values.values()])) for values in (self.r2, self.rank))
        return (
            f"difficulty: on held-out text the first look explains {r2:.2f} of the variance of a point's loss, and "
            f"ranks prompts with a correlation of {rank:.2f}, means of {len(self.r2)} points"
        )


@dataclass(frozen=True)
class LossModel:
    """Predicts losses.

    Attributes:
        weights: Of each point but the dense one, of the logarithm of its loss; FEATURES of them.
        factors: That make the mean prediction the mean loss, as the exponential of a mean is too small.
    """

    weights: Mapping[str, tuple[float, ...]]
    factors: Mapping[str, float]

    @classmethod
    def fitted(cls, looks: Sequence[Look], losses: Mapping[str, Sequence[float]]) -> Self:
        """Fits it.

        Args:
            looks: At prompts.
            losses: Of each point, nats a token against the dense model behind each prompt.
        """
        rows = rows_of(looks)
        penalty = _RIDGE * len(looks) * np.diag([0.0] + [1.0] * (FEATURES - 1))
        weights, factors = {}, {}
        for point, values in losses.items():
            logs = np.log(np.maximum(values, _LEAST))
            solved = np.linalg.solve(rows.T @ rows + penalty, rows.T @ logs)
            weights[point] = tuple(map(float, solved))
            factors[point] = float(np.mean(values) / np.mean(np.exp(rows @ solved)))
        return cls(weights, factors)

    def losses(self, look: Look) -> dict[str, float]:
        """Nats a token that each point is expected to lose."""
        return {point: float(self._predicted(point, look.row[None])[0]) for point in self.weights}

    def checked(self, looks: Sequence[Look], losses: Mapping[str, Sequence[float]]) -> Fit:
        """How well it holds.

        Args:
            looks: At prompts that it was not fitted on, two or more.
            losses: Their losses, as of `fitted`.
        """
        rows, r2, rank = rows_of(looks), {}, {}
        for point, values in losses.items():
            predicted, measured = self._predicted(point, rows), np.array(values)
            r2[point] = float(1 - ((predicted - measured) ** 2).sum() / ((measured - measured.mean()) ** 2).sum())
            rank[point] = spearman(predicted.tolist(), measured.tolist())
        return Fit(r2, rank)

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON; `LossModel(**content)` reads it."""
        return asdict(self)

    def _predicted(self, point: str, rows: Floats) -> Floats:
        return np.exp(rows @ np.array(self.weights[point])) * self.factors[point]
