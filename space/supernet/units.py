"""Permuting a dense model's units in place, and the views that make a block smaller, on transformers' stock modules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from space.candidate import LayerShape
from space.spec import ModelSpec
from space.supernet.importance import AttentionOrder

_INPUT_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class BlockWeights:
    """The weights of one block at one level.

    Attributes:
        parameters: Projection name to its parameters by name (`weight`, `bias`).
        owned_bytes: Memory that the level holds beyond views of the supernet's weights.
    """

    parameters: dict[str, dict[str, Tensor]]
    owned_bytes: int


def attention_columns(spec: ModelSpec, queries_per_group: int) -> Tensor:
    """Columns of `o_proj` with the first `queries_per_group` heads of every group first, group by group.

    Keeping g groups at this number of heads is then keeping the first g · queries_per_group · head_dim columns.
    """
    columns = torch.arange(spec.query_heads * spec.head_dim).view(spec.kv_heads, spec.queries_per_group, spec.head_dim)
    return torch.cat([columns[:, :queries_per_group].reshape(-1), columns[:, queries_per_group:].reshape(-1)])


@torch.no_grad()
def permute_attention(attention: Any, spec: ModelSpec, order: AttentionOrder) -> None:
    """Puts an attention block's groups, and the heads of each, in the given order; its function is unchanged."""
    heads = (spec.kv_heads, spec.queries_per_group, spec.head_dim)
    groups, within = order.groups, order.heads[order.groups]  # (groups,), (groups, queries)
    for name in _INPUT_PROJECTIONS:
        for parameter in getattr(attention, name).parameters(recurse=False):
            rest = parameter.shape[1:]
            if name == "q_proj":
                old = parameter.view(*heads, *rest)
                parameter.copy_(old[groups[:, None], within].reshape(parameter.shape))
            else:
                old = parameter.view(spec.kv_heads, spec.head_dim, *rest)
                parameter.copy_(old[groups].reshape(parameter.shape))
    weight = attention.o_proj.weight
    old = weight.view(-1, *heads)
    weight.copy_(old[:, groups[:, None], within].reshape(weight.shape))


@torch.no_grad()
def permute_mlp(mlp: Any, order: Tensor) -> None:
    """Puts an MLP's channels in the given order; its function is unchanged."""
    for name in ("gate_proj", "up_proj"):
        for parameter in getattr(mlp, name).parameters(recurse=False):
            parameter.copy_(parameter[order])
    weight = mlp.down_proj.weight
    weight.copy_(weight[:, order])


def kept_rows(spec: ModelSpec, shape: LayerShape, name: str, dense: Tensor) -> Tensor:
    """What a block keeps, at a shape, of a tensor of an input projection; differentiable, and a view if it can be.

    Args:
        spec: The dense model.
        shape: Heads and groups, or channels, to keep, none of them merged.
        name: The projection: `q_proj`, `k_proj`, `v_proj`, `gate_proj` or `up_proj`.
        dense: Its weight or bias, units in their order, shape (rows, ...).
    """
    if name not in _INPUT_PROJECTIONS:
        return dense[: shape.mlp_channels]
    if name != "q_proj":
        return dense[: shape.kv_heads * spec.head_dim]
    heads = dense.view(spec.kv_heads, spec.queries_per_group, spec.head_dim, *dense.shape[1:])
    rows = heads[: shape.kv_heads, : shape.queries_per_group]
    return rows.reshape(shape.query_heads * spec.head_dim, *dense.shape[1:])


def narrower(block: Any, spec: ModelSpec, shape: LayerShape, output: str, weight: Tensor) -> BlockWeights:
    """A block's weights at a level: views of its input projections where the kept rows are contiguous.

    Args:
        block: The permuted dense block.
        spec: The dense model.
        shape: What to keep, see `kept_rows`.
        output: Name of the output projection.
        weight: Its refit weight, shape (hidden, columns kept).
    """
    parameters = {
        name: {key: kept_rows(spec, shape, name, dense) for key, dense in own_parameters(projection)}
        for name, projection in block.named_children()
        if isinstance(projection, nn.Linear) and name != output
    }
    parameters[output] = dict(own_parameters(getattr(block, output))) | {"weight": weight}
    storages = {dense.untyped_storage().data_ptr() for dense in block.parameters()}
    held = [parameter for group in parameters.values() for parameter in group.values()]
    owned = sum(p.nbytes for p in held if p.untyped_storage().data_ptr() not in storages)
    return BlockWeights(parameters, owned)


def own_parameters(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A projection's tensors by name, a bias that it has not left out."""
    return ((name, parameter.detach()) for name, parameter in module._parameters.items() if parameter is not None)
