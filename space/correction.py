"""The corrective refit: output projections fit in sequence, on the subnet's own inputs, to the dense residual stream.

The refit of `space.compensation` looks at one block at a time, on the dense model's inputs; behind a few cut blocks the
residual stream has drifted away from those. Here each kept `o_proj` and `down_proj`, in order, is fit again to

    argmin_W ‖(h_dense − h_subnet) − W X_subnet‖² + λ ‖W − W_refit‖²

with h_dense the dense model's residual stream after the block, h_subnet the subnet's before it, and X_subnet what the
subnet itself hands to the projection. So a block makes up for its own cut and for what those before it left. Tokens are
not weighted: the few of huge norm steer attention, and a fit that counts each token by the inverse of its norm makes a
model worse than its refit does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from space.candidate import Candidate
from space.errors import UserError

_FORMAT = "1"
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

    def save(self, file: Path) -> None:
        """Writes a safetensors file, whole or not at all.

        Raises:
            UserError: The file cannot be written.
        """
        tensors = {
            f"{index}.{name}": weight.contiguous()
            for index, layer in enumerate(self.weights)
            for name, weight in layer.items()
        }
        metadata = {"format": _FORMAT, "candidate": json.dumps(self.candidate.to_json())}
        partial = file.with_name(f"{file.name}.partial-{os.getpid()}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, partial, metadata=metadata)
            partial.replace(file)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"Expected to write a correction to {file}, got: {error}. Free space or choose another place."
            ) from error
        finally:
            if partial.exists():
                partial.unlink()

    @classmethod
    def load(cls, file: Path) -> Correction:
        """Reads what `save` wrote.

        Raises:
            UserError: There is no such file, or it is not a correction of this version.
        """
        try:
            with safe_open(file, framework="pt") as stored:
                metadata = stored.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise ValueError(f"format {metadata.get('format')} instead of {_FORMAT}")
                candidate = Candidate.from_json(json.loads(metadata["candidate"]))
                weights: list[dict[str, Tensor]] = [{} for _ in candidate.layers]
                for key in stored.keys():  # noqa: SIM118 - not a mapping
                    index, name = key.split(".")
                    weights[int(index)][name] = stored.get_tensor(key)
        except (OSError, SafetensorError, KeyError, IndexError, ValueError) as error:
            raise UserError(f"Expected a correction in {file}, got: {error}. Delete it and make it again.") from error
        return cls(candidate, tuple(weights))
