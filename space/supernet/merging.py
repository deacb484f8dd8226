"""Merging KV groups: all query heads are kept and share fewer key-value heads.

The mean of the groups' projections (Ainslie et al. 2023, GQA, section 2.1) averages keys and values that stand in
unrelated bases. Here they are aligned first. Rotary embedding turns pair (j, j + head_dim / 2) of every head by one
angle, as a complex number, so that any complex factor on a pair may go from the keys to the queries: for each pair,
the best single key of a merged group is the first principal component of its groups' keys, each weighted by the energy
of its queries. Values have no such limits: the best shared value is the span of the first head_dim principal components
of all values in the group, as the output projection sees them. That projection is refit by least squares to the
output of the dense block on the calibration text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from space.models.architectures import architecture_of
from space.models.block_layout import BlockLayout, Projection
from space.models.pruned import set_groups
from space.spec import ModelSpec
from space.supernet.hooks import captured
from space.supernet.importance import damped
from space.supernet.modules import own_modules, put_parameter
from space.supernet.units import BlockWeights, joined_rows, own_parameters, split_rows

_TINY = 1e-12


@dataclass(frozen=True)
class Merged:
    """An attention block with merged groups.

    Attributes:
        parameters: By the projection's name and the tensor's, with a dot between them, float32.
        lost: Fraction of the dense output's energy that is lost on the calibration text.
    """

    parameters: Mapping[str, Tensor]
    lost: float


@torch.no_grad()
def merged_attention(
    layer: Any,
    spec: ModelSpec,
    inputs: Sequence[Tensor],
    arguments: Mapping[str, Any],
    *,
    damping: float,
    forward_dtype: torch.dtype,
) -> dict[int, Merged]:
    """A layer's attention with neighbouring groups merged, by how many are left: `spec.merged_kv_heads`.

    Args:
        layer: Decoder layer with float32 weights, its groups in their final order.
        spec: The dense model.
        inputs: Residual streams before the layer, each (windows, time, hidden), on any device.
        arguments: What else the layer is called with.
        damping: Ridge on the refit, as a fraction of the Gram matrix's mean diagonal.
        forward_dtype: Of the forward passes.
    """
    if not spec.merged_kv_heads:
        return {}
    layout = architecture_of(spec.family).attention
    attention = getattr(layer, layout.module)
    weight = getattr(attention, layout.output).weight.float()
    device = weight.device

    def rows_of(layer: Any, state: Tensor, *projections: Projection) -> list[Tensor]:
        """What the projections hand on, and what the output one is given: float32, shape (tokens, columns)."""
        autocast = torch.autocast(device.type, dtype=forward_dtype, enabled=forward_dtype != torch.float32)
        names = [projection.name for projection in projections]
        with autocast, captured(getattr(layer, layout.module), layout.output, names) as rows:
            layer(state.to(device), **arguments)
        return [rows[name].flatten(0, -2).float() for name in (*names, layout.output)]

    own = own_modules(layer)
    moments = _Moments.zeros(spec, device)
    for state in inputs:
        outputs = zip(layout.inputs, rows_of(own, state, *layout.inputs)[:-1], strict=True)
        parts = [split_rows(spec, projection, output, dim=1) for projection, output in outputs]
        moments.add(**{part: rows for each in parts for part, rows in each.items()})
    merged = {groups: _projections(attention, layout, spec, groups, moments) for groups in spec.merged_kv_heads}
    layers = {groups: _with_weights(layer, layout, weights, spec, groups) for groups, weights in merged.items()}
    width = weight.shape[1]
    grams = {groups: weight.new_zeros(width, width) for groups in merged}
    crosses = {groups: weight.new_zeros(len(weight), width) for groups in merged}
    energy = 0.0
    for state in inputs:
        (columns,) = rows_of(own, state)
        target = columns @ weight.T
        energy += target.square().sum().item()
        for groups in merged:
            (columns,) = rows_of(layers[groups], state)
            grams[groups].addmm_(columns.T, columns)
            crosses[groups].addmm_(target.T, columns)
    return {
        groups: _refit(weights, layout, crosses[groups], grams[groups], damping, energy)
        for groups, weights in merged.items()
    }


@dataclass(frozen=True)
class _Moments:
    """Second moments over tokens of queries, keys and values.

    Attributes:
        query: Energy of the queries of a group in a rotary pair, shape (kv_heads, head_dim / 2).
        key: Of the groups' keys as complex numbers, shape (head_dim / 2, kv_heads, kv_heads).
        value: Of the values of all groups, shape (kv_heads · head_dim,) * 2.
    """

    query: Tensor
    key: Tensor
    value: Tensor

    @classmethod
    def zeros(cls, spec: ModelSpec, device: torch.device) -> _Moments:
        groups, half = spec.kv_heads, spec.head_dim // 2
        return cls(
            torch.zeros(groups, half, device=device),
            torch.zeros(half, groups, groups, dtype=torch.complex64, device=device),
            torch.zeros(groups * spec.head_dim, groups * spec.head_dim, device=device),
        )

    def add(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Adds tokens, each tensor of shape (tokens, columns)."""
        groups, half = self.query.shape
        self.query.add_(query.reshape(len(query), groups, -1, 2, half).square().sum((0, 2, 3)))
        pairs = key.reshape(len(key), groups, 2, half)
        turned = torch.complex(pairs[:, :, 0], pairs[:, :, 1]).permute(2, 1, 0)  # (half, groups, tokens)
        self.key.add_(turned @ turned.mH)
        self.value.addmm_(value.T, value)


def _projections(attention: Any, layout: BlockLayout, spec: ModelSpec, groups: int, moments: _Moments) -> BlockWeights:
    """Merged projections; the output one is the dense one behind the best linear maps from shared values to groups'."""
    size, width, queries = spec.kv_heads // groups, spec.head_dim, spec.queries_per_group
    from_key, to_query = _key_factors(moments, groups)  # (kv_heads, head_dim / 2)
    output = getattr(attention, layout.output).weight.float().view(-1, spec.kv_heads, queries, width)
    blocks = range(0, spec.kv_heads * width, size * width)
    maps = [
        _value_maps(moments.value[at : at + size * width, at : at + size * width], output[:, at // width :][:, :size])
        for at in blocks
    ]

    def queries_of(dense: Tensor) -> Tensor:
        rows = dense.reshape(spec.kv_heads, queries, 2, width // 2, -1)
        return _times(to_query[:, None], rows).reshape(dense.shape)

    def keys_of(dense: Tensor) -> Tensor:
        rows = _times(from_key, dense.reshape(spec.kv_heads, 2, width // 2, -1))
        return rows.view(groups, size, width, -1).sum(1).reshape(groups * width, *dense.shape[1:])

    def values_of(dense: Tensor) -> Tensor:
        parts = dense.reshape(groups, size * width, -1)
        rows = torch.stack([shared @ part for (shared, _), part in zip(maps, parts, strict=True)])
        return rows.reshape(groups * width, *dense.shape[1:])

    merge = {"query": queries_of, "key": keys_of, "value": values_of}
    parameters = {
        projection.name: {
            key: joined_rows(
                projection,
                [merge[part](rows).contiguous() for part, rows in split_rows(spec, projection, dense).items()],
                groups,
            )
            for key, dense in own_parameters(getattr(attention, projection.name))
        }
        for projection in layout.inputs
    }
    back = torch.stack([group for _, groups_back in maps for group in groups_back])  # (kv_heads, width, width)
    weight = torch.einsum("hgqc,gcd->hgqd", output, back).flatten(1).contiguous()
    parameters[layout.output] = dict(own_parameters(getattr(attention, layout.output))) | {"weight": weight}
    return BlockWeights(parameters, 0)


def _key_factors(moments: _Moments, groups: int) -> tuple[Tensor, Tensor]:
    """Complex factors of the keys in their merged one, and of the queries: both (kv_heads, head_dim / 2).

    With queries weighing w, a key k_g ≈ a_g m, m = Σ_g b_g k_g: of all such, the first principal component of √w k has
    the least error; conj(q) k_g ≈ conj(conj(a) q) m moves a to the query.
    """
    kv_heads = len(moments.query)
    size = kv_heads // groups
    scale = moments.query.sqrt()
    scale = scale.clamp_min(1e-3 * scale.max().clamp_min(_TINY))
    from_key, to_query = [], []
    for start in range(0, kv_heads, size):
        part = slice(start, start + size)
        weight = scale[part].T  # (half, size)
        moment = weight[:, :, None] * moments.key[:, part, part] * weight[:, None, :]
        first = torch.linalg.eigh(moment.to(torch.complex128)).eigenvectors[:, :, -1].to(torch.complex64)
        back = first / weight
        norm = back.abs().square().mean(1, keepdim=True).sqrt()  # queries keep their size
        from_key.append((first.conj() * weight * norm).T)
        to_query.append((back / norm).conj().T)
    return torch.cat(from_key), torch.cat(to_query)


def _value_maps(moment: Tensor, output: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The shared value of merged groups as a map of theirs, and the best maps back to each.

    Args:
        moment: Of the groups' values, shape (size · head_dim,) * 2.
        output: The output projection's columns, shape (hidden, size, queries_per_group, head_dim).

    Returns:
        Shapes (head_dim, size · head_dim), and (head_dim, head_dim) a group.
    """
    size, width = output.shape[1], output.shape[3]
    moment = damped(moment, 1e-6, torch.float64)
    root = torch.zeros_like(moment)  # square root of each group's metric under the output projection
    for group in range(size):
        columns = output[:, group].flatten(0, 1).double()
        part = slice(group * width, (group + 1) * width)
        values, vectors = torch.linalg.eigh(columns.T @ columns)
        root[part, part] = vectors @ (values.clamp_min(0).sqrt()[:, None] * vectors.T)
    vectors = torch.linalg.eigh(root @ moment @ root).eigenvectors[:, -width:]
    shared = vectors.T @ root
    inside = shared @ moment @ shared.T
    factor = (moment.diagonal().mean() / inside.diagonal().mean().clamp_min(_TINY)).sqrt()
    shared, inside = factor * shared, factor.square() * inside
    back = torch.linalg.solve(damped(inside, 1e-6, torch.float64), shared @ moment).T  # (size · width, width)
    return shared.float(), [*back.float().view(size, width, width)]


def _times(factor: Tensor, rows: Tensor) -> Tensor:
    """Multiplies rotary pairs by complex factors: (..., half) and (..., 2, half, columns)."""
    real, imaginary = rows[..., 0, :, :], rows[..., 1, :, :]
    a, b = factor.real[..., None], factor.imag[..., None]
    return torch.stack([a * real - b * imaginary, b * real + a * imaginary], dim=-3)


def _refit(
    weights: BlockWeights, layout: BlockLayout, cross: Tensor, gram: Tensor, damping: float, energy: float
) -> Merged:
    """With the output projection W that fits the dense block's output, drawn a little to the one W₀ it comes with.

    W − W₀ = (C − W₀ G)(G + λI)⁻¹ with G the Gram matrix and C the cross moments; so W G = C − λ (W − W₀), and the
    energy that W explains, 2 ⟨C, W⟩ − ⟨W G, W⟩, is ⟨C, W⟩ + λ ⟨W − W₀, W⟩.
    """
    start, exact = weights.parameters[layout.output]["weight"].double(), gram.double()
    cross, inside = cross.double(), damped(exact, damping)
    ridge = (inside.diagonal() - exact.diagonal()).mean()
    change = torch.cholesky_solve((cross - start @ exact).T, torch.linalg.cholesky(inside)).T
    output = start + change
    explained = (cross * output).sum() + ridge * (change * output).sum()
    lost = min(1.0, max(0.0, 1 - explained.item() / max(energy, _TINY)))
    parameters = {
        f"{name}.{key}": parameter.clone()
        for name, tensors in weights.parameters.items()
        for key, parameter in tensors.items()
    }
    return Merged(parameters | {f"{layout.output}.weight": output.float()}, lost)


def _with_weights(layer: Any, layout: BlockLayout, weights: BlockWeights, spec: ModelSpec, groups: int) -> Any:
    """A layer of its own with other weights in its attention block, for fewer groups."""
    own = own_modules(layer)
    attention = getattr(own, layout.module)
    for name, tensors in weights.parameters.items():
        for key, tensor in tensors.items():
            put_parameter(getattr(attention, name), key, tensor)
    set_groups(attention, spec.query_heads, groups)
    return own
