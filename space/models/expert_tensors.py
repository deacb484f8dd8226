"""How transformers keeps a mixture's experts in common tensors: what one computes inside, and its channels in them.

Modules of experts hold `gate_up_proj`, of which gates and ups are halves (`is_concatenated`) or take turns, and
`down_proj`, both with an entry for each expert first, and inputs before outputs where `is_transposed`; and biases of
both (`has_bias`). That they say so themselves is how one code serves all families.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_DOWN = "down_proj"


def inner_states(experts: Any, expert: int, states: Tensor) -> Tensor:
    """What an expert hands to its down projection for some tokens, shape (tokens, channels).

    Args:
        experts: The module of all experts.
        expert: Which.
        states: What it reads, shape (tokens, hidden).
    """
    weight = _upright(experts, experts.gate_up_proj[expert])
    bias = experts.gate_up_proj_bias[expert] if experts.has_bias else None
    inner: Tensor = experts._apply_gate(F.linear(states, weight, bias))
    return inner


def outer_states(experts: Any, expert: int, inner: Tensor) -> Tensor:
    """What an expert makes of that, before its weight for the token, shape (tokens, hidden)."""
    bias = experts.down_proj_bias[expert] if experts.has_bias else None
    return F.linear(inner, _upright(experts, experts.down_proj[expert]), bias)


def column_squares(experts: Any) -> Tensor:
    """The squared norm of the column of each channel in its down projection, float64, shape (experts, channels)."""
    weights = [_upright(experts, weight.detach()) for weight in experts.down_proj]
    return torch.stack([weight.double().square().sum(0) for weight in weights])


@torch.no_grad()
def permute_channels(experts: Any, order: Tensor) -> None:
    """Puts the channels of each expert in an order of its own, in place; what it computes is unchanged.

    Args:
        experts: The module of all experts.
        order: Shape (experts, channels).
    """
    for name, parameter in experts.named_parameters():
        if (axis := _axis(experts, name)) is None:
            continue
        for tensor, places in zip(parameter, order.to(parameter.device), strict=True):  # one at a time: they are large
            apart, place = _apart(experts, name, tensor, axis - 1)
            channels = apart.movedim(place, 0)
            channels.copy_(channels[places])


def first_channels(experts: Any, name: str, tensor: Tensor, kept: int) -> Tensor:
    """The same tensor with the first channels of each expert alone; differentiable, a view where it can be.

    Args:
        experts: The module that it is of, which says how.
        name: What it is called there.
        tensor: Of some of the experts.
        kept: How many channels.
    """
    if (axis := _axis(experts, name)) is None:
        return tensor
    apart, place = _apart(experts, name, tensor, axis)
    first = apart.narrow(place, 0, kept)
    return first if name == _DOWN else first.flatten(axis, axis + 1)


def _apart(experts: Any, name: str, tensor: Tensor, axis: int) -> tuple[Tensor, int]:
    """A view of a tensor in which channels have an axis to themselves, and which that is."""
    if name == _DOWN:
        return tensor, axis
    if experts.is_concatenated:
        return tensor.unflatten(axis, (2, -1)), axis + 1
    return tensor.unflatten(axis, (-1, 2)), axis


def _axis(experts: Any, name: str) -> int | None:
    """Which axis of a tensor of all experts has channels, or their gates and ups; None where none has."""
    if name == f"{_DOWN}_bias":
        return None
    if name.endswith("_bias"):
        return 1
    return 1 if experts.is_transposed == (name == _DOWN) else 2


def _upright(experts: Any, weight: Tensor) -> Tensor:
    """An expert's weight with outputs as rows."""
    return weight.mT if experts.is_transposed else weight
