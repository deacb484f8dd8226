"""How far to move an output projection on the evidence of some text: ridge steps that one half checks for the other.

A least-squares fit to little text fits its noise too, and in a correction the noise adds up from block to block. So the
text is in two halves. A step that is fit on one half is judged by what it does to the other's residual: this chooses
the length of the step, down to none at all where the fit does not carry over.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from space.supernet.products import fast_products


@dataclass
class Moments:
    """Sums over tokens of a projection's inputs x and of the residuals r that its weight leaves, in float32.

    Attributes:
        gram: Σ x xᵀ, shape (columns, columns).
        cross: Σ r xᵀ, shape (hidden, columns).
    """

    gram: Tensor
    cross: Tensor

    @classmethod
    def zeros_for(cls, weight: Tensor) -> Moments:
        """No tokens yet, for a projection's weight of shape (hidden, columns)."""
        hidden, columns = weight.shape
        zeros = torch.zeros(hidden + columns, columns, device=weight.device)
        return cls(zeros[hidden:], zeros[:hidden])

    def add(self, inputs: Tensor, residuals: Tensor, dtype: torch.dtype) -> None:
        """Adds tokens; `inputs` of shape (tokens, columns) and `residuals` (tokens, hidden) are rounded to `dtype`.

        Inputs are numbers of that dtype already (but behind a norm, where they are scaled); what the residuals lose
        averages out over the tokens.
        """
        with fast_products(dtype, inputs.device):
            self.gram.addmm_(inputs.T, inputs)
            self.cross.addmm_(residuals.T, inputs)


@dataclass(frozen=True)
class Step:
    """A change of an output projection's weight.

    Attributes:
        change: Fit to both halves of the text, float32, shape (hidden, columns).
        length: How much of the fit it is, from 0 to 1.
    """

    change: Tensor
    length: float


def ridge(moments: Moments, penalty: Tensor | float) -> Tensor:
    """argmin_D Σ ‖r − D x‖² + penalty ‖D‖², float64, shape (hidden, columns)."""
    gram = moments.gram.double()
    gram.diagonal().add_(penalty)
    factor = torch.linalg.cholesky(gram)
    return torch.cholesky_solve(moments.cross.double().T, factor).T


def corrective_step(halves: tuple[Moments, Moments], damping: float) -> Step:
    """The step whose like, fit on one half, lowers the squared residual most on the other.

    For a direction D fit on one half, the other half's squared residual falls by 2 t ⟨C, D⟩ − t² ⟨D G, D⟩ at length t
    (G and C its moments), so that the best t in [0, 1] is known at once.

    Args:
        halves: Moments of either half of the text.
        damping: Ridge penalty, as a fraction of the mean diagonal of all text's Gram matrix.
    """
    first, second = halves
    both = Moments(first.gram + second.gram, first.cross + second.cross)
    scale = both.gram.diagonal().double().mean().clamp_min(torch.finfo(torch.float32).tiny)
    along = curve = 0.0
    for half, other in (halves, halves[::-1]):
        direction = ridge(half, damping * scale)
        along += (direction * other.cross).sum().item()
        curve += (direction @ other.gram.double() * direction).sum().item()
    length = min(1.0, max(0.0, along / curve)) if curve > 0 else 0.0
    return Step(length * ridge(both, damping * scale).float(), length)
