"""Exact parameter counts of pruned decoder layers and whole models, from numbers alone and free of torch."""

from __future__ import annotations

from space.candidate import Candidate, LayerShape
from space.models.architectures import family_of
from space.spec import ModelSpec


def attention_weights(spec: ModelSpec, query_heads: int, kv_heads: int) -> int:
    """Elements of the projection matrices of one attention block: q, k, v and o."""
    return 2 * spec.hidden * spec.head_dim * (query_heads + kv_heads)


def mlp_weights(spec: ModelSpec, mlp_channels: int) -> int:
    """Elements of the projection matrices of one gated MLP block: gate, up and down."""
    return 3 * spec.hidden * mlp_channels


def attention_params(spec: ModelSpec, query_heads: int, kv_heads: int) -> int:
    """Parameters of one attention block with its biases and norms; 0 for a removed block, which takes its norms along.

    Raises:
        UnsupportedFamilyError: `spec.family` has no row in `space.models.architectures.FAMILIES`.
    """
    family = family_of(spec.family)
    if query_heads == 0:
        return 0
    count = attention_weights(spec, query_heads, kv_heads)
    count += len(family.attention_norms) * spec.hidden
    if family.qk_norm:
        count += 2 * spec.head_dim
    if spec.qkv_bias:
        count += (query_heads + 2 * kv_heads) * spec.head_dim
    if spec.o_bias:
        count += spec.hidden
    return count


def mlp_params(spec: ModelSpec, mlp_channels: int) -> int:
    """Parameters of one MLP block with its biases and norms; 0 for a removed block, which takes its norms along.

    Raises:
        UnsupportedFamilyError: `spec.family` has no row in `space.models.architectures.FAMILIES`.
    """
    family = family_of(spec.family)
    if mlp_channels == 0:
        return 0
    count = mlp_weights(spec, mlp_channels) + len(family.mlp_norms) * spec.hidden
    if spec.mlp_bias:
        count += 2 * mlp_channels + spec.hidden
    return count


def layer_params(spec: ModelSpec, shape: LayerShape) -> int:
    """Parameters of one decoder layer of this shape: projections, biases, norms; 0 for a layer that is gone."""
    return attention_params(spec, shape.query_heads, shape.kv_heads) + mlp_params(spec, shape.mlp_channels)


def decoder_params(spec: ModelSpec, candidate: Candidate) -> int:
    """Parameters of all decoder layers, without embeddings, final norm and LM head."""
    return sum(layer_params(spec, shape) for shape in candidate.layers)


def total_params(spec: ModelSpec, candidate: Candidate) -> int:
    """Parameters of the whole model: decoder layers, final norm, embeddings (once when tied) and LM head."""
    embeddings = spec.vocab * spec.hidden * (1 if spec.tied_embeddings else 2)
    return decoder_params(spec, candidate) + spec.hidden + embeddings
