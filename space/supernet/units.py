"""Permuting a dense model's units in place, and the views that make a block smaller, on transformers' stock modules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from space.candidate import Candidate, LayerShape
from space.models.block_layout import BlockLayout, Projection
from space.models.expert_tensors import first_channels
from space.spec import ModelSpec
from space.supernet.importance import AttentionOrder

_OF_HEADS = ("query", "sink")  # parts whose rows are of query heads


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
    """Columns of the output projection with the first `queries_per_group` heads of every group first, group by group.

    Keeping g groups at this number of heads is then keeping the first g · queries_per_group · head_dim columns.
    """
    columns = torch.arange(spec.query_heads * spec.head_dim).view(spec.kv_heads, spec.queries_per_group, spec.head_dim)
    return torch.cat([columns[:, :queries_per_group].reshape(-1), columns[:, queries_per_group:].reshape(-1)])


def require_part(spec: ModelSpec, index: int, shape: LayerShape) -> None:
    """Raises ValueError where a layer's shape is no part of the dense model's layer, merged groups included."""
    merged = shape.query_heads == spec.query_heads and shape.kv_heads in spec.merged_kv_heads
    whole = spec.whole_mlp(index)
    if (
        shape.kv_heads > spec.kv_heads
        or (shape.queries_per_group > spec.queries_per_group and not merged)
        or shape.mlp_channels > whole
    ):
        raise ValueError(f"Supernet: layer {index}: {shape} is no part of the dense model's layer.")
    if 0 < shape.mlp_channels < whole and index in spec.plain_mlps:
        raise ValueError(
            f"Supernet: layer {index}: expected all {whole} channels of its MLP, which is none of experts, or none, "
            f"got {shape.mlp_channels}."
        )
    if 0 < shape.mlp_channels < spec.least_mlp_channels:
        raise ValueError(
            f"Supernet: layer {index}: expected at least {spec.least_mlp_channels} experts, as each token goes through "
            f"so many, got {shape.mlp_channels}."
        )
    most = spec.expert_channels if spec.narrow_experts and index not in spec.plain_mlps else 0
    if shape.expert_channels and shape.expert_channels >= most:
        raise ValueError(
            f"Supernet: layer {index}: expected fewer channels of experts than {most}, or 0 for all, got "
            f"{shape.expert_channels}."
        )


def upright(layout: BlockLayout, tensor: Tensor) -> Tensor:
    """A projection's tensor with outputs as rows, from how its family stores it, and the other way round; a view."""
    return tensor.mT if layout.transposed and tensor.ndim == 2 else tensor


def output_weight(block: Any, layout: BlockLayout) -> Tensor:
    """The weight of a block's output projection, a view of shape (hidden, columns)."""
    return upright(layout, block.get_submodule(layout.output).weight.detach())


def adding_weight(layer: Any, layout: BlockLayout) -> Tensor:
    """The same as it adds to the residual stream, where that is scaled; float32 then, else a view."""
    weight = output_weight(layer.get_submodule(layout.module), layout)
    if not layout.scaled:
        return weight
    assert layout.after is not None
    scale: Tensor = layer.get_submodule(layout.after)(weight.new_ones(len(weight)))
    return weight * scale[:, None]


def split_rows(spec: ModelSpec, projection: Projection, tensor: Tensor, dim: int = 0) -> dict[str, Tensor]:
    """The parts of a dense input projection's tensor, or of what it gives, by what they are; views if whole."""
    sizes = projection.rows(Candidate.dense(spec).layers[0], spec.head_dim)
    if projection.grouped:
        grouped = tensor.unflatten(dim, (spec.kv_heads, -1)).split([size // spec.kv_heads for size in sizes], dim + 1)
        return {part: rows.flatten(dim, dim + 1) for part, rows in zip(projection.parts, grouped, strict=True)}
    return dict(zip(projection.parts, tensor.split(sizes, dim), strict=True))


def joined_rows(projection: Projection, parts: Sequence[Tensor], groups: int) -> Tensor:
    """A tensor of an input projection from its parts, in their order, of so many groups; a single one is the tensor."""
    if projection.grouped:
        return torch.cat([rows.unflatten(0, (groups, -1)) for rows in parts], 1).flatten(0, 1)
    return parts[0] if len(projection.parts) == 1 else torch.cat([*parts])


@torch.no_grad()
def permute_attention(attention: Any, layout: BlockLayout, spec: ModelSpec, order: AttentionOrder) -> None:
    """Puts an attention block's groups, and the heads of each, in the given order; its function is unchanged."""
    heads = (spec.kv_heads, spec.queries_per_group, spec.head_dim)
    groups, within = order.groups, order.heads[order.groups]  # (groups,), (groups, queries)

    def moved(part: str, rows: Tensor) -> Tensor:
        if part in _OF_HEADS:
            return rows.unflatten(0, (*heads[:2], -1))[groups[:, None], within].reshape(rows.shape)
        return rows.unflatten(0, (spec.kv_heads, -1))[groups].reshape(rows.shape)

    for name, projection in layout.by_rows.items():
        for _, parameter in own_parameters(attention.get_submodule(name)):
            tensor = upright(layout, parameter)
            parts = [moved(part, rows) for part, rows in split_rows(spec, projection, tensor).items()]
            tensor.copy_(joined_rows(projection, parts, spec.kv_heads))
    weight = output_weight(attention, layout)
    old = weight.reshape(-1, *heads)
    weight.copy_(old[:, groups[:, None], within].reshape(weight.shape))


@torch.no_grad()
def permute_mlp(mlp: Any, layout: BlockLayout, spec: ModelSpec, order: Tensor) -> None:
    """Puts an MLP's channels, or the experts of a mixture, in the given order; its function is unchanged."""
    if layout.routed:
        for place, tensors in expert_tensors(mlp, layout).items():
            for key, tensor in tensors.items():
                rows = tensor.movedim(layout.routed.axis(place, key), 0)
                rows.copy_(rows[order])
        return
    for projection in layout.inputs:
        for _, parameter in own_parameters(mlp.get_submodule(projection.name)):
            for rows in split_rows(spec, projection, upright(layout, parameter)).values():
                rows.copy_(rows[order])
    weight = output_weight(mlp, layout)
    weight.copy_(weight[:, order])


def expert_tensors(mlp: Any, layout: BlockLayout) -> dict[str, dict[str, Tensor]]:
    """All tensors of a mixture, by module and name; each has an entry for every expert, see `Routed.axis`."""
    assert layout.routed is not None
    held = {name: dict(own_parameters(mlp.get_submodule(name))) for name in layout.routed.modules}
    if layout.routed.correction is not None:
        place, _, key = layout.routed.correction.rpartition(".")
        held.setdefault(place, {})[key] = getattr(mlp.get_submodule(place), key).detach()
    return held


def first_experts(mlp: Any, layout: BlockLayout, shape: LayerShape) -> BlockWeights:
    """A mixture with the first experts alone, among which the router chooses: views of its tensors.

    Where experts keep their first channels alone, their tensors are copies, as an export has them.
    """
    routed = layout.routed
    assert routed is not None
    parameters = {
        place: {key: tensor.narrow(routed.axis(place, key), 0, shape.mlp_channels) for key, tensor in held.items()}
        for place, held in expert_tensors(mlp, layout).items()
    }
    if not shape.expert_channels:
        return BlockWeights(parameters, 0)
    experts = mlp.get_submodule(routed.experts)
    parameters[routed.experts] = {
        key: first_channels(experts, key, tensor, shape.expert_channels).contiguous()
        for key, tensor in parameters[routed.experts].items()
    }
    return weights_of(mlp, parameters)


def kept_rows(spec: ModelSpec, shape: LayerShape, layout: BlockLayout, projection: Projection, dense: Tensor) -> Tensor:
    """What a block keeps, at a shape, of a tensor of an input projection; differentiable, and a view if it can be.

    Args:
        spec: The dense model.
        shape: Heads and groups, or channels, to keep, none of them merged.
        layout: Of the block.
        projection: Which.
        dense: Its weight or bias as it is stored, units in their order.
    """
    parts = split_rows(spec, projection, upright(layout, dense))
    kept = joined_rows(projection, [_kept(spec, shape, part, rows) for part, rows in parts.items()], shape.kv_heads)
    return upright(layout, kept).contiguous()


def _kept(spec: ModelSpec, shape: LayerShape, part: str, rows: Tensor) -> Tensor:
    """The rows that are kept of one part."""
    if part in ("gate", "up"):
        return rows[: shape.mlp_channels]
    if part not in _OF_HEADS:
        return rows[: shape.kv_heads * spec.head_dim]
    heads = rows.unflatten(0, (spec.kv_heads, spec.queries_per_group, -1))
    kept = heads[: shape.kv_heads, : shape.queries_per_group]
    return kept.reshape(-1, *rows.shape[1:])


def narrower(block: Any, layout: BlockLayout, spec: ModelSpec, shape: LayerShape, weight: Tensor) -> BlockWeights:
    """A block's weights at a level: views of its input projections where the kept rows are contiguous.

    Args:
        block: The permuted dense block.
        layout: Where it keeps what.
        spec: The dense model.
        shape: What to keep, see `kept_rows`.
        weight: The refit weight of its output projection, shape (hidden, columns kept).
    """
    parameters = {
        name: {
            key: kept_rows(spec, shape, layout, projection, dense)
            for key, dense in own_parameters(block.get_submodule(name))
        }
        for name, projection in layout.by_rows.items()
    }
    output = {"weight": upright(layout, weight).contiguous()}
    parameters[layout.output] = dict(own_parameters(block.get_submodule(layout.output))) | output
    return weights_of(block, parameters)


def weights_of(block: Any, parameters: dict[str, dict[str, Tensor]]) -> BlockWeights:
    """Weights of a narrower block, of which some are views of the dense block's."""
    storages = {dense.untyped_storage().data_ptr() for dense in block.parameters()}
    held = [parameter for group in parameters.values() for parameter in group.values()]
    owned = sum(p.nbytes for p in held if p.untyped_storage().data_ptr() not in storages)
    return BlockWeights(parameters, owned)


def own_parameters(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A projection's tensors by name, a bias that it has not left out."""
    return ((name, parameter.detach()) for name, parameter in module._parameters.items() if parameter is not None)
