"""Gram matrices of what the dense model's output projections read, from what is stored for refits.

The maps of an MLP are those of its Cholesky factor L, a row of blocks each: with T_j = L[j, :s] · L[:s, :s]⁻¹ stored,
L[j, :s] = T_j · L[:s, :s], from the first block on.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from space.candidate import LayerShape
from space.supernet.store import StoredLayers
from space.supernet.units import attention_columns


def output_gram(files: StoredLayers, index: int, kind: str, shape: LayerShape, device: torch.device) -> Tensor:
    """The damped Gram matrix of the columns that a block keeps, in their order, shape (columns, columns).

    Args:
        files: What is stored of the supernet.
        index: The layer.
        kind: Of block, a row of `space.candidate.KINDS`.
        shape: A shape of the layer whose block is neither gone nor merged.
        device: Where to.
    """
    if kind == "attention":
        columns = attention_columns(files.spec, shape.queries_per_group)[: shape.query_heads * files.spec.head_dim]
        rows = files.attention_factor(index, device)[columns.to(device)]
        return rows @ rows.T
    lower = first_factor(files.maps(index, device, last_first=False), shape.mlp_channels)
    return lower @ lower.T


def read_gram(files: StoredLayers, kind: str, device: torch.device, index: int = 0) -> Tensor | None:
    """The damped Gram matrix of what a block's input projections read, or the LM head, shape (hidden, hidden).

    Args:
        files: What is stored of the supernet.
        kind: Of block, or `space.candidate.HEAD`.
        device: Where to.
        index: The block's layer.

    Returns:
        It, or None where nothing of it is stored.
    """
    if not files.reads:
        return None
    lower = files.read_factor(index, kind, device)
    return lower @ lower.T


def first_factor(blocks: Iterable[Tensor], kept: int) -> Tensor:
    """The Cholesky factor of the first columns' Gram matrix, shape (kept, kept).

    Args:
        blocks: See `space.supernet.compensation.maps`, the first one first.
        kept: Columns.
    """
    rows: list[Tensor] = []
    lower = torch.empty(0, 0)
    for block in blocks:
        start, end = len(lower), min(block.shape[1], kept)
        own = block[: end - start, :end]
        before = own[:, :start] @ lower.to(own)
        rows.append(torch.cat([before, own[:, start:].tril(), own.new_zeros(end - start, kept - end)], 1))
        lower = torch.cat(rows)[:, :end]
        if end == kept:
            break
    return lower
