"""LayerShape and Candidate: one pruned architecture as a value, free of torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from space.spec import ModelSpec


@dataclass(frozen=True)
class LayerShape:
    """What one decoder layer keeps.

    Attributes:
        query_heads: Query heads kept; 0 together with `kv_heads` means that the attention block is gone.
        kv_heads: Key-value groups kept; divides `query_heads`. With more query heads a group than the dense model has,
            all query heads are kept and groups are merged; else the groups and heads beyond these are dropped.
        mlp_channels: Intermediate channels kept; 0 means that the MLP block is gone.
    """

    query_heads: int
    kv_heads: int
    mlp_channels: int

    def __post_init__(self) -> None:
        if min(self.query_heads, self.kv_heads, self.mlp_channels) < 0:
            raise ValueError(f"LayerShape: expected counts of at least 0, got {self}.")
        if (self.query_heads == 0) != (self.kv_heads == 0):
            raise ValueError(
                f"LayerShape: query_heads and kv_heads are 0 together or not at all, "
                f"got {self.query_heads} and {self.kv_heads}."
            )
        if self.kv_heads and self.query_heads % self.kv_heads:
            raise ValueError(
                f"LayerShape: expected query_heads to be a multiple of kv_heads, "
                f"got {self.query_heads} and {self.kv_heads}."
            )

    @property
    def gone(self) -> bool:
        """Whether nothing of the layer is left."""
        return self.query_heads == 0 and self.mlp_channels == 0

    @property
    def queries_per_group(self) -> int:
        """Query heads kept in each key-value group, 0 without attention."""
        return self.query_heads // self.kv_heads if self.kv_heads else 0


@dataclass(frozen=True)
class Candidate:
    """A pruned architecture: the shape of every layer of the dense model, in order."""

    layers: tuple[LayerShape, ...]

    @classmethod
    def dense(cls, spec: ModelSpec) -> Candidate:
        """The candidate that keeps everything."""
        return cls((LayerShape(spec.query_heads, spec.kv_heads, spec.mlp_channels),) * spec.layers)

    @cached_property
    def key(self) -> str:
        """Short name of the architecture, equal on every machine; led by a letter, so it never reads as a number."""
        text = json.dumps(self.to_json(), separators=(",", ":"))
        return "s" + hashlib.sha256(text.encode()).hexdigest()[:11]

    def to_json(self) -> list[list[int]]:
        """A list of `[query_heads, kv_heads, mlp_channels]`, one a layer."""
        return [[s.query_heads, s.kv_heads, s.mlp_channels] for s in self.layers]

    @classmethod
    def from_json(cls, rows: Sequence[Sequence[int]]) -> Candidate:
        """The inverse of `to_json`.

        Raises:
            ValueError: A row does not have three counts.
        """
        for index, row in enumerate(rows):
            if len(row) != 3:
                raise ValueError(
                    f"Candidate layer {index}: expected [query_heads, kv_heads, mlp_channels], got {list(row)}."
                )
        return cls(tuple(LayerShape(*row) for row in rows))
