"""Decoder layers written larger without changing what they compute: units of zeros, for engines that want their number.

A KV group or query head whose columns of the output projection are zero adds nothing, whatever it attends to; nor does
an MLP channel whose column of the down projection is zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from space.candidate import LayerShape
from space.formats.checkpoint import CheckpointParts
from space.models.architectures import architecture_of
from space.spec import ModelSpec


def widened(parts: CheckpointParts, held: Sequence[LayerShape], spec: ModelSpec) -> CheckpointParts:
    """The parts of a checkpoint with layers in larger shapes and the same function.

    Args:
        parts: Of the subnet; blocks that are gone have no tensors in its state.
        held: The new shape of each layer: at least as many KV groups, query heads in each of them and MLP channels.
        spec: The dense model.
    """
    state = parts.state
    for index, (old, new) in enumerate(zip(parts.shapes, held, strict=True)):
        state = _with_wider_layer(state, index, old, new, spec)
    return replace(parts, shapes=tuple(held), state=state)


def _with_wider_layer(
    state: Mapping[str, Tensor], index: int, old: LayerShape, new: LayerShape, spec: ModelSpec
) -> dict[str, Tensor]:
    """The state with one layer in another shape; tensors of the other layers are handed on."""
    assert new.kv_heads >= old.kv_heads
    assert new.queries_per_group >= old.queries_per_group
    assert new.mlp_channels >= old.mlp_channels
    family = architecture_of(spec.family)  # one whose projections are each of one part
    stack, attention, mlp = family.stack, family.attention, family.mlp
    prefix = f"{stack.module}.{stack.layers}.{index}."
    result, like = dict(state), state[f"{stack.module}.{stack.embedding}.weight"]

    def grow(name: str, was: tuple[int, ...], now: tuple[int, ...], rows: int) -> None:
        """Puts the tensor into the corner of a larger one of zeros, both viewed as blocks of units.

        Args:
            name: Of the tensor, in the layer.
            was: Its shape in blocks.
            now: That of the larger one.
            rows: How many of the dimensions are rows; a weight has others for its columns.
        """
        full = like.new_zeros(now)
        if prefix + name in state:
            full[tuple(slice(size) for size in was)] = state[prefix + name].reshape(was)
        result[prefix + name] = (full if len(now) == rows else full.flatten(rows)).flatten(0, rows - 1)

    def setdefault(names: Iterable[str], size: int, fill: float) -> None:
        for name in names:
            value = torch.full((size,), fill, dtype=like.dtype, device=like.device)
            result.setdefault(prefix + name, value)

    hidden, width = spec.hidden, spec.head_dim
    if new.kv_heads and (old.query_heads, old.kv_heads) != (new.query_heads, new.kv_heads):
        for projection in attention.inputs:
            query, path = projection.parts == ("query",), attention.path(projection.name)
            was, now = ((shape.kv_heads, *((shape.queries_per_group,) if query else ()), width) for shape in (old, new))
            grow(f"{path}.weight", (*was, hidden), (*now, hidden), len(now))
            if spec.qkv_bias:
                grow(f"{path}.bias", was, now, len(now))
        path = attention.path(attention.output)
        was, now = ((hidden, shape.kv_heads, shape.queries_per_group, width) for shape in (old, new))
        grow(f"{path}.weight", was, now, 1)
        setdefault([f"{path}.bias"] * spec.o_bias, hidden, 0)
        setdefault([f"{name}.weight" for name in attention.norms], hidden, 1)
        setdefault([f"{attention.path(name)}.weight" for name in family.qk_norms], width, 1)
    if old.mlp_channels != new.mlp_channels:
        for projection in mlp.inputs:
            path = mlp.path(projection.name)
            grow(f"{path}.weight", (old.mlp_channels, hidden), (new.mlp_channels, hidden), 1)
            if spec.mlp_bias:
                grow(f"{path}.bias", (old.mlp_channels,), (new.mlp_channels,), 1)
        path = mlp.path(mlp.output)
        grow(f"{path}.weight", (hidden, old.mlp_channels), (hidden, new.mlp_channels), 1)
        setdefault([f"{path}.bias"] * spec.mlp_bias, hidden, 0)
        setdefault([f"{name}.weight" for name in mlp.norms], hidden, 1)
    return result
