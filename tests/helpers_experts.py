"""What one expert of a mixture computes, from the definition."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def of_expert(experts: Any, number: int, state: Tensor) -> Tensor:
    """What an expert gives for one token, from the definition."""
    if not hasattr(experts, "down_proj_bias"):
        gate, up = (experts.gate_up_proj[number] @ state).chunk(2)
        return torch.as_tensor(experts.down_proj[number] @ (F.silu(gate) * up))
    both = state @ experts.gate_up_proj[number] + experts.gate_up_proj_bias[number]
    gate, up = both[::2].clamp(max=7.0), both[1::2].clamp(-7.0, 7.0)
    inside = (up + 1) * gate * torch.sigmoid(1.702 * gate)
    return torch.as_tensor(inside @ experts.down_proj[number] + experts.down_proj_bias[number])
