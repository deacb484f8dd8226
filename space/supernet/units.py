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


def attention_weights(attention: Any, spec: ModelSpec, shape: LayerShape, output: Tensor) -> BlockWeights:
    """An attention block's weights at a level: views where the kept rows are contiguous, `output` for `o_proj`.

    Args:
        attention: The permuted dense attention module.
        spec: The dense model.
        shape: Heads and groups to keep, at least one.
        output: Refit weight of `o_proj`, shape (hidden, query_heads · head_dim).
    """
    kept, groups = shape.queries_per_group, shape.kv_heads
    parameters: dict[str, dict[str, Tensor]] = {}
    for name in _INPUT_PROJECTIONS:
        parameters[name] = {}
        for key, dense in own_parameters(getattr(attention, name)):
            if name == "q_proj":
                heads = dense.view(spec.kv_heads, spec.queries_per_group, spec.head_dim, *dense.shape[1:])
                rows = heads[:groups, :kept].reshape(shape.query_heads * spec.head_dim, *dense.shape[1:])
            else:
                rows = dense[: groups * spec.head_dim]
            parameters[name][key] = rows
    return _with_output(parameters, attention, "o_proj", output)


def mlp_weights(mlp: Any, channels: int, output: Tensor) -> BlockWeights:
    """An MLP's weights at a level: views of the first `channels` rows, `output` (hidden, channels) for `down_proj`."""
    parameters = {
        name: {key: dense[:channels] for key, dense in own_parameters(getattr(mlp, name))}
        for name in ("gate_proj", "up_proj")
    }
    return _with_output(parameters, mlp, "down_proj", output)


def _with_output(parameters: dict[str, dict[str, Tensor]], block: Any, name: str, output: Tensor) -> BlockWeights:
    projection = getattr(block, name)
    parameters[name] = dict(own_parameters(projection)) | {"weight": output}
    storages = {dense.untyped_storage().data_ptr() for dense in block.parameters()}
    held = [parameter for group in parameters.values() for parameter in group.values()]
    owned = sum(p.nbytes for p in held if p.untyped_storage().data_ptr() not in storages)
    return BlockWeights(parameters, owned)


def own_parameters(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A projection's tensors by name, a bias that it has not left out."""
    return ((name, parameter.detach()) for name, parameter in module._parameters.items() if parameter is not None)
