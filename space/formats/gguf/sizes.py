"""Bytes of a GGUF file's tensors as a function of a candidate: no file, no weights."""

from __future__ import annotations

from typing import Any

from space.candidate import Candidate, LayerShape
from space.formats.checkpoint import kept_shapes
from space.formats.gguf.families import held_shapes
from space.formats.gguf.types import matrix_type, row_bytes
from space.size import attention_params, attention_weights, mlp_params, mlp_weights, norm_params
from space.spec import ModelSpec

_F32 = 4  # bytes of a value of a norm or a bias


def tensor_bytes(config: Any, spec: ModelSpec, candidate: Candidate, kind: str) -> int:
    """Bytes of all tensors in the file of a candidate; what the file has beside is its tokenizer and its padding.

    Args:
        config: The dense model's transformers config.
        spec: The dense model.
        candidate: What is written.
        kind: Row of `space.formats.gguf.types.TYPES`.

    Raises:
        ShapeError: No layer keeps attention.
        UserError: llama.cpp does not hold the family.
    """
    layers = sum(_layer_bytes(spec, shape, kind) for shape in held_shapes(kept_shapes(candidate), spec))
    embedding = _matrix_bytes("model.embed_tokens", spec.vocab, spec.hidden, spec, kind)
    head = 0 if spec.tied_embeddings else _matrix_bytes("lm_head", spec.vocab, spec.hidden, spec, kind)
    stretched = config.rope_parameters.get("rope_type") == "llama3"  # the file has its factors, one a rotary pair
    return layers + embedding + head + _F32 * (norm_params(spec) + (spec.head_dim // 2 if stretched else 0))


def _layer_bytes(spec: ModelSpec, shape: LayerShape, kind: str) -> int:
    """Bytes of one layer at the shape that the file has."""

    def pair(inner: int, outputs: int) -> int:
        """Matrices that read the residual stream, so many rows together, and the one that reads them."""
        reading = _matrix_bytes("", inner, spec.hidden, spec, kind)
        return reading + _matrix_bytes("", spec.hidden, outputs, spec, kind)

    total, heads, groups, channels = 0, shape.query_heads, shape.kv_heads, shape.mlp_channels
    if heads:
        total += pair((heads + 2 * groups) * spec.head_dim, heads * spec.head_dim)
        total += _F32 * (attention_params(spec, heads, groups) - attention_weights(spec, heads, groups))
    if channels:
        total += pair((1 + spec.gated) * channels, channels)
        total += _F32 * (mlp_params(spec, channels) - mlp_weights(spec, channels))
    return total


def _matrix_bytes(module: str, rows: int, columns: int, spec: ModelSpec, kind: str) -> int:
    return rows * row_bytes(columns, matrix_type(module, columns, kind, tied=spec.tied_embeddings))
