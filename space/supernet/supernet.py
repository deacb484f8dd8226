"""The permuted dense model of which every candidate is a prefix: prepare it once, then be any candidate.

`Supernet.prepare` calibrates, orders the units, permutes the weights and stores one factor a block on disk. After that,
`activate` makes the model be a candidate by putting views in place, and `materialise` gives a candidate a model of its
own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from space.byte_cache import ByteCache
from space.candidate import Candidate, LayerShape
from space.models.architectures import architecture_of
from space.models.modeling_pruned import NoAttention, NoLayer, NoMLP
from space.spec import ModelSpec
from space.supernet.compensation import refit
from space.supernet.store import StoredLayers, lost_name, merged_name
from space.supernet.units import (
    BlockWeights,
    attention_columns,
    attention_weights,
    dense_weights,
    mlp_weights,
    put,
)

if TYPE_CHECKING:
    from space.supernet.correction import Correction


class Supernet:
    """A permuted dense model and the refits that its subnets need.

    Attributes:
        model: The causal LM; dense unless a candidate is active.
        spec: The dense model in numbers.
        influence: Block influence of every layer on the calibration text; small means that it changes little.
    """

    def __init__(self, model: Any, files: StoredLayers, refit_bytes: int) -> None:
        """Takes a model that is permuted already; use `prepare` or `load`."""
        self.model = model.eval().requires_grad_(False)
        self.spec = spec = files.spec
        self.influence = files.influence
        self._files = files
        self._family = architecture_of(spec.family)
        self._layers: list[Any] = list(model.model.layers)
        self._dense = [
            (dense_weights(layer.self_attn, spec.queries_per_group), dense_weights(layer.mlp, None))
            for layer in self._layers
        ]
        self._modules = [dict(layer._modules) for layer in self._layers]
        self._identity = nn.Identity()
        self._levels: ByteCache[tuple[object, ...], BlockWeights] = ByteCache(refit_bytes)
        self._active = False

    @classmethod
    def prepare(
        cls,
        model: Any,
        spec: ModelSpec,
        tokens: Tensor,
        directory: Path,
        *,
        dtype: torch.dtype,
        importance: str = "obs",
        damping: float = 0.01,
        steps: int = 48,
        batch: int = 8,
        refit_bytes: int = 2 << 30,
        on_layer: Callable[[int], None] = lambda index: None,
    ) -> Supernet:
        """Calibrates, orders and permutes a dense model, and stores what refits need in `directory`.

        Args:
            model: Dense causal LM in float32; its weights are permuted in place and cast to `dtype`.
            spec: The model in numbers.
            tokens: Calibration tokens, shape (windows, length).
            directory: Where the factors go; written whole or not at all.
            dtype: What the model runs in from here on.
            importance: Row of `space.supernet.importance.RULES`.
            damping: Ridge on the Gram matrices, as a fraction of their mean diagonal.
            steps: How often the OBS cost of channels is evaluated anew.
            batch: Windows of a forward pass.
            refit_bytes: Memory limit of the refit cache.
            on_layer: Called with the number of each layer that is done.

        Raises:
            UserError: The directory cannot be written, or a Gram matrix is not positive definite.
        """
        stored = StoredLayers.make(
            model, spec, tokens, directory, dtype=dtype, importance=importance, damping=damping, steps=steps,
            batch=batch, on_layer=on_layer,
        )  # fmt: skip
        return cls(_cast(model, dtype), stored, refit_bytes)

    @classmethod
    def load(
        cls, model: Any, spec: ModelSpec, directory: Path, *, dtype: torch.dtype, refit_bytes: int = 2 << 30
    ) -> Supernet:
        """Permutes a dense model as `prepare` once did, from what it stored.

        Raises:
            UserError: There is nothing stored, or it belongs to another model or version.
        """
        stored = StoredLayers.open(directory, spec)
        stored.permute(model)
        return cls(_cast(model, dtype), stored, refit_bytes)

    def link_to(self, directory: Path) -> None:
        """Puts what is stored into another directory, as hard links where the file system can.

        Raises:
            UserError: The directory cannot be written.
        """
        self._files.link_to(directory)

    @property
    def removal_order(self) -> list[int]:
        """All layers, from 0, the one that changes least on the calibration text first."""
        return sorted(range(self.spec.layers), key=lambda index: self.influence[index])

    def lost_energy(self, index: int) -> tuple[dict[tuple[int, int], float], list[float]]:
        """What a layer's blocks lose of their output at every level, refit included.

        Returns:
            For attention by (query_heads, kv_heads), and for the MLP by channels kept, (mlp_channels + 1,): fractions
            of the dense output's energy on the calibration text, see `space.supernet.compensation.lost_energy`.
        """
        spec = self.spec
        attention = {(0, 0): 1.0}
        for kept in range(1, spec.queries_per_group + 1):
            lost = self._stored(index, f"attention_lost_{kept}")
            for groups in range(1, spec.kv_heads + 1):
                attention[groups * kept, groups] = lost[groups * kept * spec.head_dim].item()
        for groups in spec.merged_kv_heads:
            attention[spec.query_heads, groups] = self._stored(index, lost_name(groups)).item()
        return attention, self._stored(index, "mlp_lost").tolist()

    @contextmanager
    def activate(self, candidate: Candidate, correction: Correction | None = None) -> Iterator[Any]:
        """Makes the model be the candidate inside the `with` block, and dense again after it, whatever happens.

        With warm refits this puts views in place and copies nothing.

        Args:
            candidate: What to be.
            correction: Output projections to use in place of the refits, of this very candidate.

        Raises:
            ValueError: The candidate or the correction does not fit the model, or a candidate is active already.
        """
        self._check(candidate)
        if correction is not None and correction.candidate != candidate:
            raise ValueError(f"Supernet: expected a correction of {candidate.key}, got {correction.candidate.key}'s.")
        if self._active:
            raise ValueError("Supernet: a candidate is active already; leave its `with` block first.")
        levels = [self._weights(index, shape) for index, shape in enumerate(candidate.layers)]
        self._active = True
        try:
            for index, (shape, weights) in enumerate(zip(candidate.layers, levels, strict=True)):
                self._shape_layer(index, shape, *weights)
            if correction is not None:
                correction.put(self._layers)
            yield self.model
        finally:
            for index in range(self.spec.layers):
                self._restore_layer(index)
            self._active = False

    def materialise(self, candidate: Candidate, correction: Correction | None = None) -> Any:
        """A model of its own with the candidate's weights, as stock modules with holes; nothing is shared."""
        with self.activate(candidate, correction) as model:
            return copy.deepcopy(model)

    def _check(self, candidate: Candidate) -> None:
        spec = self.spec
        if len(candidate.layers) != spec.layers:
            raise ValueError(f"Supernet: expected a candidate of {spec.layers} layers, got {len(candidate.layers)}.")
        if all(shape.kv_heads == 0 for shape in candidate.layers):
            raise ValueError("Supernet: expected at least one layer with attention, got none.")
        for index, shape in enumerate(candidate.layers):
            merged = shape.query_heads == spec.query_heads and shape.kv_heads in spec.merged_kv_heads
            if (
                shape.kv_heads > spec.kv_heads
                or (shape.queries_per_group > spec.queries_per_group and not merged)
                or shape.mlp_channels > spec.mlp_channels
            ):
                raise ValueError(f"Supernet: layer {index}: {shape} is no part of the dense model's layer.")

    def _weights(self, index: int, shape: LayerShape) -> tuple[BlockWeights | None, BlockWeights | None]:
        """Weights of a layer's blocks at a shape; None for a block that stays dense or is gone."""
        spec, layer = self.spec, self._layers[index]
        attention = mlp = None
        if shape.kv_heads and (shape.kv_heads, shape.query_heads) != (spec.kv_heads, spec.query_heads):

            def solve_attention() -> BlockWeights:
                kept = shape.queries_per_group
                if kept > spec.queries_per_group:
                    return self._merged(index, shape.kv_heads)
                columns = attention_columns(spec, kept).to(layer.self_attn.o_proj.weight.device)
                stored = self._stored(index, f"attention_factor_{kept}")
                output = refit(layer.self_attn.o_proj.weight[:, columns], stored, shape.query_heads * spec.head_dim)
                return attention_weights(layer.self_attn, spec, shape, output)

            attention = self._level((index, "attention", shape.kv_heads, shape.query_heads), solve_attention)
        if 0 < shape.mlp_channels < spec.mlp_channels:

            def solve_mlp() -> BlockWeights:
                output = refit(layer.mlp.down_proj.weight, self._stored(index, "mlp_factor"), shape.mlp_channels)
                return mlp_weights(layer.mlp, shape.mlp_channels, output)

            mlp = self._level((index, "mlp", shape.mlp_channels), solve_mlp)
        return attention, mlp

    def _merged(self, index: int, groups: int) -> BlockWeights:
        """A layer's attention with merged KV groups, as it is stored."""
        parameters = {
            name: {
                key: nn.Parameter(self._stored(index, merged_name(groups, f"{name}.{key}")), requires_grad=False)
                for key in held
            }
            for name, held in self._dense[index][0].parameters.items()
        }
        owned = sum(parameter.nbytes for held in parameters.values() for parameter in held.values())
        return BlockWeights(parameters, self.spec.query_heads // groups, owned)

    def _level(self, key: tuple[object, ...], solve: Callable[[], BlockWeights]) -> BlockWeights:
        """A level's weights: remembered, or solved now."""
        weights = self._levels.get(key)
        if weights is None:
            weights = solve()
            self._levels.put(key, weights, weights.owned_bytes)
        return weights

    def _stored(self, index: int, name: str) -> Tensor:
        return self._files.tensor(index, name, next(self.model.parameters()).device)

    def _shape_layer(
        self, index: int, shape: LayerShape, attention: BlockWeights | None, mlp: BlockWeights | None
    ) -> None:
        layer = self._layers[index]
        if shape.gone:
            self.model.model.layers._modules[str(index)] = NoLayer(index)
            return
        if attention is not None:
            put(layer.self_attn, attention)
        if mlp is not None:
            put(layer.mlp, mlp)
        if shape.kv_heads == 0:
            layer._modules["self_attn"] = NoAttention(index)
            layer._modules.update(dict.fromkeys(self._family.attention_norms, self._identity))
        if shape.mlp_channels == 0:
            layer._modules["mlp"] = NoMLP()
            layer._modules.update(dict.fromkeys(self._family.mlp_norms, self._identity))

    def _restore_layer(self, index: int) -> None:
        layer = self._layers[index]
        self.model.model.layers._modules[str(index)] = layer
        layer._modules.update(self._modules[index])
        attention, mlp = self._dense[index]
        put(layer.self_attn, attention)
        put(layer.mlp, mlp)


def _cast(model: Any, dtype: torch.dtype) -> Any:
    """Casts the parameters; buffers such as RoPE's frequencies stay in float32, as they do in a loaded checkpoint."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype
    return model
