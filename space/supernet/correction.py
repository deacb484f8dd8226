"""The corrective refit: output projections fit in sequence, on the subnet's own inputs, to the dense residual stream.

The refit of `space.supernet.compensation` looks at one block at a time, on the dense model's inputs; behind a few cut
blocks the residual stream has drifted away from those. Here each kept `o_proj` and `down_proj`, in order, is fit again to

    argmin_W ‖(h_dense − h_subnet) − W X_subnet‖² + λ ‖W − W_refit‖²

with h_dense the dense model's residual stream after the block, h_subnet the subnet's before it, and X_subnet what the
subnet itself hands to the projection. So a block makes up for its own cut and for what those before it left. Tokens are
not weighted: the few of huge norm steer attention, and a fit that counts each token by the inverse of its norm makes a
model worse than its refit does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from space.candidate import Candidate

BLOCKS = {"o_proj": "self_attn", "down_proj": "mlp"}


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

    def put(self, layers: Sequence[Any]) -> None:
        """Makes decoder layers that are the candidate already hold these weights; nothing is copied.

        Raises:
            ValueError: A weight has no place, or another shape than the one in its place.
        """
        for index, weights in enumerate(self.weights):
            for name, weight in weights.items():
                projection = getattr(getattr(layers[index], BLOCKS[name]), name, None)
                if projection is None or projection.weight.shape != weight.shape:
                    found = None if projection is None else tuple(projection.weight.shape)
                    raise ValueError(
                        f"Correction: layer {index}: expected {name} of shape {tuple(weight.shape)}, got {found}."
                    )
                projection._parameters["weight"] = torch.nn.Parameter(weight.to(projection.weight), requires_grad=False)
