"""The corrective refit: output projections fit in sequence, on the subnet's own inputs, to the dense residual stream.

The refit of `space.supernet.compensation` looks at one block at a time, on the dense model's inputs; behind a few cut
blocks the residual stream has drifted away from those. Here each kept `o_proj` and `down_proj`, in order, is fit to

    argmin_W ‖(h_dense − h_subnet) − W X_subnet‖² + λ ‖W − W_refit‖²

with h_dense the dense model's residual stream after the block, h_subnet the subnet's before it, and X_subnet what the
subnet itself hands to the projection. So a block makes up for its own cut and for what those before it left. Tokens are
not weighted: the few of huge norm steer attention, and a fit that counts each token by the inverse of its norm makes a
model worse than its refit does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from space.candidate import Candidate


@dataclass(frozen=True, eq=False)
class Correction:
    """Output projections of one candidate that take the place of its refits.

    Attributes:
        candidate: Whose they are.
        weights: Of every layer, `o_proj` and `down_proj` to a weight of shape (hidden, kept columns). A projection that
            is not named keeps its refit: blocks that are gone, and those before the first cut, which have no drift.
    """

    candidate: Candidate
    weights: tuple[Mapping[str, Tensor], ...]

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.candidate.layers):
            raise ValueError(
                f"Correction: expected weights of {len(self.candidate.layers)} layers, got {len(self.weights)}."
            )

    @property
    def nbytes(self) -> int:
        """Memory that the weights take, in bytes."""
        return sum(weight.nbytes for layer in self.weights for weight in layer.values())
