"""Where tiny mixtures of experts have what, a design of one, and what one expert computes, from the definition."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from space.models.architectures import ARCHITECTURES

DENSE = (6, 3, 48)
CUT = [(6, 3, 9), DENSE, (6, 3, 5), (4, 2, 20)]


def mlp_of(family: str, layer: Any) -> Any:
    return layer.get_submodule(ARCHITECTURES[family].mlp.module)


def router_of(family: str, mlp: Any) -> Any:
    row = ARCHITECTURES[family].mlp.routed
    assert row is not None
    return mlp.get_submodule(row.router)


def of_expert(experts: Any, number: int, state: Tensor) -> Tensor:
    """What an expert gives for one token, from the definition."""
    if not hasattr(experts, "down_proj_bias"):
        gate, up = (experts.gate_up_proj[number] @ state).chunk(2)
        return torch.as_tensor(experts.down_proj[number] @ (F.silu(gate) * up))
    both = state @ experts.gate_up_proj[number] + experts.gate_up_proj_bias[number]
    gate, up = both[::2].clamp(max=7.0), both[1::2].clamp(-7.0, 7.0)
    inside = (up + 1) * gate * torch.sigmoid(1.702 * gate)
    return torch.as_tensor(inside @ experts.down_proj[number] + experts.down_proj_bias[number])
