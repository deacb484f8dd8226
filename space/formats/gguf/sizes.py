"""Bytes of a GGUF file's tensors as a function of a candidate: no file, no weights."""

from __future__ import annotations

from typing import Any

from space.candidate import Candidate, LayerShape
from space.formats.checkpoint import kept_shapes
from space.formats.gguf.families import held_shapes
from space.formats.gguf.types import FileTypes, row_bytes
from space.size import attention_params, attention_weights, mlp_params, mlp_weights, norm_params
from space.spec import ModelSpec

_F32 = 4  # bytes of a value of a norm or a bias


def tensor_bytes(config: Any, spec: ModelSpec, candidate: Candidate, kind: str = "f16") -> int:
    """Bytes of all tensors in the file of a candidate; what the file has beside is its tokenizer and its padding.

    Args:
        config: The dense model's transformers config.
        spec: The dense model.
        candidate: What is written.
        kind: Row of `space.formats.gguf.types.TYPES`, where the candidate has no types of its own.

    Raises:
        ShapeError: No layer keeps attention.
        UserError: llama.cpp does not hold the family.
    """
    types, held = FileTypes.of(candidate, kind, tied=spec.tied_embeddings), held_shapes(kept_shapes(candidate), spec)
    layers = sum(_layer_bytes(spec, place, shape, types) for place, shape in enumerate(held))
    embedding = _matrix_bytes("model.embed_tokens", spec.vocab, spec.hidden, types)
    head = 0 if spec.tied_embeddings else _matrix_bytes("lm_head", spec.vocab, spec.hidden, types)
    stretched = config.rope_parameters.get("rope_type") == "llama3"  # the file has its factors, one a rotary pair
    return layers + embedding + head + _F32 * (norm_params(spec) + (spec.head_dim // 2 if stretched else 0))


def _layer_bytes(spec: ModelSpec, place: int, shape: LayerShape, types: FileTypes) -> int:
    """Bytes of the layer at a place of the file, at the shape that it has there."""

    def pair(block: str, inner: int, outputs: int) -> int:
        """Matrices that read the residual stream, so many rows together, and the one that reads them."""
        module = f"model.layers.{place}.{block}"
        return _matrix_bytes(module, inner, spec.hidden, types) + _matrix_bytes(module, spec.hidden, outputs, types)

    total, heads, groups, channels = 0, shape.query_heads, shape.kv_heads, shape.mlp_channels
    if heads:
        total += pair("self_attn", (heads + 2 * groups) * spec.head_dim, heads * spec.head_dim)
        total += _F32 * (attention_params(spec, heads, groups) - attention_weights(spec, heads, groups))
    if channels:
        total += pair("mlp", (1 + spec.gated) * channels, channels)
        total += _F32 * (mlp_params(spec, channels) - mlp_weights(spec, channels))
    return total


def _matrix_bytes(module: str, rows: int, columns: int, types: FileTypes) -> int:
    return rows * row_bytes(columns, types.matrix(module, columns))
