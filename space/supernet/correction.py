"""A correction: the output projections that the corrective refit has fit for one candidate."""

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
        weights: Of every layer, by kind of block, the weight of its output projection, shape (hidden, kept columns). A
            block that is not named keeps its refit: one that is gone, or before the first cut, where nothing drifts.
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
