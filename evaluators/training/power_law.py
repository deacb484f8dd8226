"""What longer training would bring: a power law through the loss of a training that was done, and how far it is off.

    loss(tokens) = limit + scale · tokens^−exponent

It is what the P² Law (Chen et al., "P² Law: Scaling Law for Post-Training After Model Pruning", ACL 2025, arXiv
2411.10272), a Chinchilla law for pruned models, says of one model at one pruning rate as its training tokens grow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

LEAST_POINTS = 30
LARGEST_ERROR = 0.1  # on the last third; a law that is further off says nothing of 10 times the tokens
_START = 0.1  # part of the tokens that is left out: the learning rate rises, and a power law has no beginning
_END = 0.9  # part of the tokens behind which a loss has come to its end
_EXPONENTS = np.geomspace(0.02, 2, 200)

Curve = npt.NDArray[np.float64]


class FitError(ValueError):
    """No power law says where a loss goes; the message says why."""


@dataclass(frozen=True)
class PowerLaw:
    """A loss by tokens of training.

    Attributes:
        limit: What the loss falls to in the end, at least 0.
        scale: What is above it after one token.
        exponent: How fast that falls.
        error: The law's mean loss on the last third of the tokens, fit to those before it, against the loss that was
            there, as a fraction of that.
        end: The mean loss of the last tenth of the tokens, which is below the law where a learning rate goes to 0.
    """

    limit: float
    scale: float
    exponent: float
    error: float
    end: float

    def loss(self, tokens: float) -> float:
        """The loss after so many tokens."""
        return float(self.limit + self.scale * tokens**-self.exponent)


def fit_power_law(tokens: Curve, losses: Curve) -> PowerLaw:
    """The power law of a loss, by least squares.

    Args:
        tokens: Of training, rising, `(points,)`.
        losses: At these, as noisy as those of single steps, `(points,)`.

    Raises:
        FitError: There are too few points, the loss does not fall, or its last third is not where the others led.
    """
    later = tokens >= _START * tokens[-1] if len(tokens) else np.zeros(0, bool)
    tokens, losses = np.asarray(tokens, float)[later], np.asarray(losses, float)[later]
    if len(tokens) < LEAST_POINTS:
        raise FitError(f"the loss has {len(tokens)} points behind its start, which are fewer than {LEAST_POINTS}")
    if not np.isfinite(losses).all():
        raise FitError("the loss is not finite everywhere")
    early = tokens <= tokens[-1] * 2 / 3
    led, there = _fit(tokens[early], losses[early]), losses[~early].mean()
    error = float(abs(np.mean([led.loss(count) for count in tokens[~early]]) - there) / there)
    if error > LARGEST_ERROR:
        raise FitError(f"a power law through the first two thirds is {error:.0%} off on the last one")
    law = _fit(tokens, losses)
    return replace(law, error=error, end=float(losses[tokens > _END * tokens[-1]].mean()))


def _fit(tokens: Curve, losses: Curve) -> PowerLaw:
    """The law of least squared error with a limit of at least 0, of those with one of `_EXPONENTS`."""
    last, mean = tokens[-1], losses.mean()
    powers = (tokens / last) ** -_EXPONENTS[:, None]  # (exponents, points)
    centred = powers - powers.mean(1, keepdims=True)
    scales = centred @ (losses - mean) / (centred**2).sum(1)
    limits = mean - scales * powers.mean(1)
    through = powers @ losses / (powers**2).sum(1)  # with a limit of 0
    scales, limits = np.where(limits < 0, through, scales), np.maximum(limits, 0)
    errors = ((limits[:, None] + scales[:, None] * powers - losses) ** 2).sum(1)
    errors[scales <= 0] = np.inf
    best = int(errors.argmin())
    if not np.isfinite(errors[best]):
        raise FitError("the loss does not fall")
    exponent = float(_EXPONENTS[best])
    limit, scale = float(limits[best]), float(scales[best] * last**exponent)
    return PowerLaw(limit, scale, exponent, error=0.0, end=float(losses[-1]))
