"""What the blocks of a layer lose of their output at every level, from what is stored of a supernet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from space.candidate import LayerShape
from space.rounding.rounded import GGML
from space.supernet.rounded_blocks import nearest
from space.supernet.sizes import lost_name
from space.supernet.store import StoredLayers
from space.types import GGUF_TYPES

_ROWS = 64  # of a matrix, by which its errors are known to some per cent


def lost_energy(files: StoredLayers, index: int) -> tuple[dict[tuple[int, int], float], Callable[[LayerShape], float]]:
    """What a layer's blocks lose of their output at every level, refit included.

    Args:
        files: What is stored of the supernet.
        index: The layer.

    Returns:
        For attention by (query_heads, kv_heads), and for the MLP of a layer of any shape: fractions of the dense
        output's energy on the calibration text, see `space.supernet.compensation.lost_energy`. What experts lose is
        the sum of what each of them does, see `space.supernet.experts.ExpertSums`.
    """
    spec = files.spec

    def stored(name: str) -> Tensor:
        return files.tensor(index, name, torch.device("cpu"))

    attention = {(0, 0): 1.0}
    for kept in range(1, spec.queries_per_group + 1):
        lost = stored(f"attention_lost_{kept}")
        for groups in range(1, spec.kv_heads + 1):
            attention[groups * kept, groups] = lost[groups * kept * spec.head_dim].item()
    for groups in spec.merged_kv_heads:
        attention[spec.query_heads, groups] = stored(lost_name(groups)).item()
    channels = (0, spec.plain_channels) if index in spec.plain_mlps else range(spec.mlp_channels + 1)
    mlp = dict(zip(channels, stored("mlp_lost").tolist(), strict=True))

    @cache
    def in_experts() -> Tensor:  # energy of each, and the part of it that is kept, shape (experts, channels + 1)
        return stored("expert_energy")[:, None] * (1 - stored("expert_lost"))

    def of_mlp(shape: LayerShape) -> float:
        if not shape.expert_channels:
            return mlp[shape.mlp_channels]
        kept = in_experts()[: shape.mlp_channels, shape.expert_channels].sum()
        return 1 - (kept / in_experts()[:, -1].sum()).item()

    return attention, of_mlp


def lost_by_rounding(weights: Sequence[Tensor], number: int) -> float:
    """The part of its output's energy that a block loses, about, by its matrices in a type.

    Errors of matrices add up, as they have nothing to do with each other; each is as large a part of what the matrix
    gives as of the matrix itself, were its inputs white. Output projections lose less, see `rounded_blocks`.

    Args:
        weights: The block's matrices.
        number: A row of `space.types.GGUF_TYPES`.
    """
    lost = 0.0
    for weight in weights:
        rows = weight.detach()[:: max(1, len(weight) // _ROWS)].float().cpu()
        error = nearest(rows, GGML[GGUF_TYPES[number]]).values - rows
        lost += float(error.square().sum() / rows.square().sum())
    return lost
