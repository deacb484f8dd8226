"""Decoder layers written larger without changing what they compute: units of zeros, for engines that want their number.

A KV group or query head whose columns of the output projection are zero adds nothing, whatever it attends to; nor does
an MLP channel whose column of the down projection is zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    prefix = f"model.layers.{index}."
    result, family = dict(state), architecture_of(spec.family)
    like = state["model.embed_tokens.weight"]

    def grow(name: str, was: tuple[int, ...], now: tuple[int, ...]) -> None:
        """Puts the tensor into the corner of a larger one of zeros, both viewed as blocks of units."""
        full = like.new_zeros(now)
        if prefix + name in state:
            full[tuple(slice(size) for size in was)] = state[prefix + name].reshape(was)
        rows = len(now) - 1 if name.endswith("weight") else len(now)  # dimensions that one side of the matrix has
        if name.startswith(("self_attn.o_proj", "mlp.down_proj")):
            result[prefix + name] = full.flatten(1)
        else:
            result[prefix + name] = full.flatten(0, rows - 1)

    def ones(names: tuple[str, ...], size: int) -> None:
        for name in names:
            result.setdefault(f"{prefix}{name}.weight", torch.ones(size, dtype=like.dtype, device=like.device))

    if new.kv_heads and (old.query_heads, old.kv_heads) != (new.query_heads, new.kv_heads):
        width, hidden = spec.head_dim, spec.hidden
        for name in ("q_proj", "k_proj", "v_proj"):
            query = name == "q_proj"
            was, now = ((shape.kv_heads, *((shape.queries_per_group,) if query else ()), width) for shape in (old, new))
            grow(f"self_attn.{name}.weight", (*was, hidden), (*now, hidden))
            if spec.qkv_bias:
                grow(f"self_attn.{name}.bias", was, now)
        was, now = ((hidden, shape.kv_heads, shape.queries_per_group, width) for shape in (old, new))
        grow("self_attn.o_proj.weight", was, now)
        if spec.o_bias:
            result.setdefault(f"{prefix}self_attn.o_proj.bias", like.new_zeros(hidden))
        ones(family.attention.norms, hidden)
        ones(tuple(f"self_attn.{name}" for name in family.qk_norms), width)
    if old.mlp_channels != new.mlp_channels:
        for name in ("gate_proj", "up_proj"):
            grow(f"mlp.{name}.weight", (old.mlp_channels, spec.hidden), (new.mlp_channels, spec.hidden))
            if spec.mlp_bias:
                grow(f"mlp.{name}.bias", (old.mlp_channels,), (new.mlp_channels,))
        grow("mlp.down_proj.weight", (spec.hidden, old.mlp_channels), (spec.hidden, new.mlp_channels))
        if spec.mlp_bias:
            result.setdefault(f"{prefix}mlp.down_proj.bias", like.new_zeros(spec.hidden))
        ones(family.mlp.norms, spec.hidden)
    return result
