"""Exact parameter counts of pruned decoder layers and whole models, from numbers alone and free of torch."""

from __future__ import annotations

from collections.abc import Callable

from space.candidate import KINDS, Candidate, LayerShape, Option, widths
from space.spec import ModelSpec


def attention_weights(spec: ModelSpec, query_heads: int, kv_heads: int) -> int:
    """Elements of the projection matrices of one attention block: q, k, v and o."""
    return 2 * spec.hidden * spec.head_dim * (query_heads + kv_heads)


def mlp_weights(spec: ModelSpec, mlp_channels: int, expert_channels: int = 0) -> int:
    """Elements of the matrices of one MLP block: up, down and, where there is one, the gate.

    Of a mixture, those of so many experts, the router's, and of what every token goes through besides; a plain MLP
    among mixtures is known by its channels.

    Args:
        spec: The dense model.
        mlp_channels: That are kept, or experts.
        expert_channels: That each of these keeps; 0 for all.
    """
    matrices = 2 + spec.gated
    if spec.routed and not spec.is_plain(mlp_channels):
        routed = (matrices * (expert_channels or spec.expert_channels) + 1) * spec.hidden * mlp_channels
        return routed + spec.shared_weights if mlp_channels else 0
    return matrices * spec.hidden * mlp_channels


def mlp_products(spec: ModelSpec, mlp_channels: int, expert_channels: int = 0) -> int:
    """Multiply-accumulates of one MLP block for a token: of a mixture, those of the experts that it goes through."""
    if spec.routed and not spec.is_plain(mlp_channels):
        active, width = min(spec.active_experts, mlp_channels), expert_channels or spec.expert_channels
        own = (2 + spec.gated) * width * spec.hidden * active + spec.hidden * mlp_channels
        return own + spec.shared_weights if mlp_channels else 0
    return mlp_weights(spec, mlp_channels)


def norm_params(spec: ModelSpec) -> int:
    """Parameters of one norm of the residual stream."""
    return (spec.norm_weight + spec.norm_bias) * spec.hidden


def attention_params(spec: ModelSpec, query_heads: int, kv_heads: int) -> int:
    """Parameters of one attention block with its biases and norms; 0 for a removed one, which takes its norms along."""
    if query_heads == 0:
        return 0
    count = attention_weights(spec, query_heads, kv_heads)
    count += spec.attention_norms * norm_params(spec) + spec.block_scales * spec.hidden
    if spec.qk_norm:
        count += (query_heads + kv_heads if spec.wide_qk_norm else 2) * spec.head_dim * (1 + spec.qk_norm_bias)
    if spec.qkv_bias:
        count += (query_heads + 2 * kv_heads) * spec.head_dim
    if spec.o_bias:
        count += spec.hidden
    return count + spec.sinks * query_heads


def mlp_params(spec: ModelSpec, mlp_channels: int, expert_channels: int = 0) -> int:
    """Parameters of one MLP block with its biases and norms; 0 for a removed one, which takes its norms along."""
    if mlp_channels == 0:
        return 0
    norms = spec.mlp_norms * norm_params(spec) + spec.block_scales * spec.hidden
    if spec.is_plain(mlp_channels):
        return spec.plain_params + norms
    count = mlp_weights(spec, mlp_channels, expert_channels) + norms
    count += spec.shared_biases + spec.score_bias * mlp_channels
    if spec.mlp_bias and spec.routed:
        count += mlp_channels * ((1 + spec.gated) * (expert_channels or spec.expert_channels) + spec.hidden + 1)
    elif spec.mlp_bias:
        count += (1 + spec.gated) * mlp_channels + spec.hidden
    return count


_PARAMS: dict[str, Callable[..., int]] = {"attention": attention_params, "mlp": mlp_params}


def block_params(spec: ModelSpec, kind: str, option: Option) -> int:
    """Parameters of one block of a kind, a key of `space.candidate.KINDS`, with this option; 0 where it is gone."""
    values = dict(zip(KINDS[kind], widths(kind, option), strict=False))
    values.pop(f"{kind}_type", None)
    return _PARAMS[kind](spec, **values)


def layer_params(spec: ModelSpec, shape: LayerShape) -> int:
    """Parameters of one decoder layer of this shape: projections, biases, norms; 0 for a layer that is gone."""
    blocks = sum(block_params(spec, kind, shape.option(kind)) for kind in KINDS)
    return blocks + (0 if shape.gone else spec.layer_norms * norm_params(spec))


def bare_params(spec: ModelSpec, *, attention: bool) -> int:
    """Parameters that a first layer, with attention or without, lacks beside others of its shape: perhaps a norm."""
    return norm_params(spec) if spec.bare_first and attention else 0


def vocabulary_size(spec: ModelSpec, candidate: Candidate) -> int:
    """Rows of a candidate's embedding matrix."""
    return candidate.vocabulary or spec.vocab


def decoder_params(spec: ModelSpec, candidate: Candidate) -> int:
    """Parameters of all decoder layers, without embeddings, final norm and LM head."""
    lacking = bare_params(spec, attention=bool(candidate.layers[0].query_heads))
    return sum(layer_params(spec, shape) for shape in candidate.layers) - lacking


def removed_params(spec: ModelSpec, candidate: Candidate) -> float:
    """The part of the decoder layers' parameters that a candidate lacks, from 0 to 1."""
    return 1 - decoder_params(spec, candidate) / decoder_params(spec, Candidate.dense(spec))


def total_params(spec: ModelSpec, candidate: Candidate) -> int:
    """Parameters of the whole model: layers, embeddings (once when tied), final norm and LM head, and the rest."""
    rows = vocabulary_size(spec, candidate)
    embeddings = (rows + spec.positions) * spec.hidden
    return decoder_params(spec, candidate) + embeddings + spec.head_params(rows) + spec.rest
