"""What is stored of a calibrated layer: order of units, factors for refits, merged groups, and what levels lose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from space.errors import UserError
from space.models.architectures import architecture_of
from space.models.expert_tensors import permute_channels
from space.models.stack import experts_of
from space.spec import ModelSpec
from space.supernet.calibration import LayerStatistics
from space.supernet.compensation import factor, lost_energy, maps, reordered, solving_dtype
from space.supernet.experts import channel_order, expert_order
from space.supernet.importance import Rule, attention_order, damp_, mlp_order
from space.supernet.merging import merged_attention
from space.supernet.sizes import MOVED_ROWS, PACKED_ROWS, lost_name, merged_name, read_name
from space.supernet.units import adding_weight, attention_columns, permute_attention, permute_mlp


@torch.no_grad()
def prepared_layer(
    statistics: LayerStatistics,
    spec: ModelSpec,
    rule: Rule,
    *,
    experts: str,
    damping: float,
    steps: int,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """The tensors of one layer by name.

    Args:
        statistics: Of the layer, whose copy of it is put in order; its Gram matrices are taken out.
        spec: The dense model.
        rule: See `space.supernet.importance`.
        experts: Rule of a mixture's experts, see `space.supernet.experts`.
        damping: Ridge on the Gram matrices, as a fraction of their mean diagonal.
        steps: How often the OBS cost of channels is evaluated anew.
        dtype: What the model runs in.

    Raises:
        UserError: A Gram matrix is not positive definite.
    """
    with _factorable(statistics.index):
        tensors = (
            _expert_tensors(statistics, spec, experts)
            if spec.routed
            else _mlp_tensors(statistics, spec, rule, damping, steps, solving_dtype(dtype))
        )
        tensors |= _attention_tensors(statistics, spec, rule, damping)
        for kind, gram in statistics.read.items():
            tensors |= packed(read_name(kind), factor(damp_(gram, damping)))
    merges = merged_attention(
        statistics.layer, spec, statistics.inputs, statistics.arguments, damping=damping, forward_dtype=dtype
    )
    for groups, merged in merges.items():
        tensors[lost_name(groups)] = torch.tensor(merged.lost)
        tensors |= {merged_name(groups, name): tensor.to(dtype) for name, tensor in merged.parameters.items()}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _mlp_tensors(
    statistics: LayerStatistics, spec: ModelSpec, rule: Rule, damping: float, steps: int, exact: torch.dtype
) -> dict[str, Tensor]:
    layout = architecture_of(spec.family).mlp
    mlp, gram = statistics.layer.get_submodule(layout.module), damp_(statistics.grams.pop("mlp"), damping)
    channels = mlp_order(gram, adding_weight(statistics.layer, layout), rule, steps)
    permute_mlp(mlp, layout, spec, channels)
    lower = _factored_(gram, channels)
    lost = lost_energy(adding_weight(statistics.layer, layout), lower)
    rows = {f"mlp_maps.{block.shape[1] - len(block)}": block for block in maps(lower, PACKED_ROWS, exact)}
    return {"mlp_order": channels, "mlp_lost": lost, **rows}


def _expert_tensors(statistics: LayerStatistics, spec: ModelSpec, rule: str) -> dict[str, Tensor]:
    layout, sums = architecture_of(spec.family).mlp, statistics.experts
    if sums is None:  # a plain MLP among mixtures, which has no order, and is there or not
        return {"mlp_order": torch.arange(0), "mlp_lost": torch.tensor([1.0, 0.0], dtype=torch.float64)}
    order = expert_order(sums, rule)
    sums = sums.reordered(order)
    permute_mlp(statistics.layer.get_submodule(layout.module), layout, spec, order)
    tensors = {"mlp_order": order, "mlp_lost": sums.lost}
    if spec.narrow_experts:
        within = channel_order(sums)
        permute_channels(experts_of(statistics.layer, layout), within)
        tensors |= {
            "expert_energy": sums.energy,
            "expert_order": within,
            "expert_lost": sums.inside(within).lost_inside,
        }
    return tensors


def _attention_tensors(statistics: LayerStatistics, spec: ModelSpec, rule: Rule, damping: float) -> dict[str, Tensor]:
    layout = architecture_of(spec.family).attention
    attention, gram = statistics.layer.get_submodule(layout.module), damp_(statistics.grams.pop("attention"), damping)
    order = attention_order(gram, adding_weight(statistics.layer, layout), spec.kv_heads, spec.queries_per_group, rule)
    permute_attention(attention, layout, spec, order)
    weight = adding_weight(statistics.layer, layout)
    units = torch.arange(len(gram), device=gram.device).view(*order.heads.shape, spec.head_dim)
    lower = _factored_(gram, units[order.groups[:, None], order.heads[order.groups]].reshape(-1))
    tensors = {"group_order": order.groups, "head_order": order.heads, **packed("attention_factor", lower)}
    for kept in range(1, spec.queries_per_group + 1):
        columns = attention_columns(spec, kept).to(lower.device)
        tensors[f"attention_lost_{kept}"] = lost_energy(weight[:, columns], reordered(lower, columns))
    return tensors


def _factored_(gram: Tensor, order: Tensor) -> Tensor:
    """The factor of a damped Gram matrix with its columns in another order, in the matrix's own memory."""
    gram.copy_(gram[order])
    for rows in gram.split(MOVED_ROWS):
        rows.copy_(rows[:, order])
    return gram.copy_(factor(gram))


def packed(name: str, lower: Tensor) -> dict[str, Tensor]:
    """A lower triangular matrix as blocks of rows, without most of the zeros above its diagonal."""
    ends = range(PACKED_ROWS, len(lower) + PACKED_ROWS, PACKED_ROWS)
    return {f"{name}.{end - PACKED_ROWS}": lower[end - PACKED_ROWS : end, :end].contiguous() for end in ends}


@contextmanager
def _factorable(index: int) -> Iterator[None]:
    """Says of which layer a matrix could not be factored."""
    try:
        yield
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise UserError(
            f"Layer {index}: expected a positive definite Gram matrix, but it could not be factored ({error}). "
            "Raise supernet.damping, or calibrate on more or other text."
        ) from error
