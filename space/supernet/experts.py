"""Order of a mixture's experts, and of the channels of each: what these add to the residual stream of its tokens.

Experts are dropped whole, with their rows of the router. Tokens that went through one then go through the next best of
those that are left, which nothing here makes up for: no refit is known that needs no training. Of the channels of an
expert those stay that add most energy; their columns of the down projection stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from space.models.expert_tensors import column_squares, inner_states, outer_states
from space.supernet.recipe import require_expert_rule

_TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class ExpertSums:
    """What calibration learns of a layer's experts, each float64 of shape (experts,), but for the last.

    Attributes:
        tokens: That are routed to the expert.
        norms: Over these, the sum of the norm of what it adds to the residual stream: its output times its weight.
        energy: The same of the square of the norm.
        channels: Of each channel of each expert, the energy of what it adds alone, shape (experts, channels).
    """

    tokens: Tensor
    norms: Tensor
    energy: Tensor
    channels: Tensor

    @property
    def lost(self) -> Tensor:
        """What every prefix of the experts, in their order here, lacks of the energy of all, shape (experts + 1,)."""
        left = self.energy.flip(0).cumsum(0).flip(0)
        lost = left / self.energy.sum().clamp_min(_TINY)
        return torch.cat([lost, lost.new_zeros(1)])

    @property
    def lost_inside(self) -> Tensor:
        """The part of its energy that each expert lacks with every prefix of its channels.

        It is that of what channels add alone, as if they had nothing to do with each other.

        Returns:
            Shape (experts, channels + 1).
        """
        left = self.channels.flip(1).cumsum(1).flip(1)
        lost = left / left[:, :1].clamp_min(_TINY)
        return torch.cat([lost, lost.new_zeros(len(lost), 1)], 1)

    def reordered(self, order: Tensor) -> ExpertSums:
        """The same with experts in another order."""
        return ExpertSums(self.tokens[order], self.norms[order], self.energy[order], self.channels[order])

    def inside(self, order: Tensor) -> ExpertSums:
        """The same with the channels of each expert in another order, shape (experts, channels)."""
        return replace(self, channels=self.channels.gather(1, order))


class ExpertHook:
    """Sums over the tokens that reach a module of experts while it is on, see `space.models.block_layout.Routed`."""

    def __init__(self, experts: Any) -> None:
        """Begins with a module, of which each expert runs once more, alone, for what it adds."""
        self._columns = column_squares(experts)
        none = torch.zeros_like(self._columns)
        self.sums = ExpertSums(none[:, 0].clone(), none[:, 0].clone(), none[:, 0].clone(), none)
        self._handle = experts.register_forward_hook(self._add)

    def _add(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        states, chosen, weights = inputs  # (tokens, hidden), (tokens, active), (tokens, active)
        for expert in chosen.unique().tolist():
            token, place = torch.where(chosen == expert)
            inner, share = inner_states(module, expert, states[token]), weights[token, place].float()
            norms = outer_states(module, expert, inner).double().norm(dim=-1) * share.abs()
            squares = (inner * share[:, None]).square().sum(0, dtype=torch.float64)
            self.sums.tokens[expert] += len(token)
            self.sums.channels[expert] += squares * self._columns[expert]
            self.sums.norms[expert] += norms.sum()
            self.sums.energy[expert] += norms.square().sum()

    def close(self) -> None:
        """Ends."""
        self._handle.remove()


def reap_scores(sums: ExpertSums) -> Tensor:
    """The mean norm of what an expert adds, over the tokens routed to it (REAP, Lasby et al. 2025)."""
    return sums.norms / sums.tokens.clamp_min(1)


def energy_scores(sums: ExpertSums) -> Tensor:
    """The energy of what an expert adds to all tokens together, so that one that is seldom chosen counts little."""
    return sums.energy


_SCORES: dict[str, Callable[[ExpertSums], Tensor]] = {"reap": reap_scores, "energy": energy_scores}


def expert_order(sums: ExpertSums, rule: str) -> Tensor:
    """Order of experts, most important first, shape (experts,).

    Raises:
        UserError: There is no such rule.
    """
    require_expert_rule(rule)
    return torch.argsort(_SCORES[rule](sums), descending=True, stable=True)


def channel_order(sums: ExpertSums) -> Tensor:
    """Order of the channels of each expert, those of most energy first, shape (experts, channels)."""
    return torch.argsort(sums.channels, dim=1, descending=True, stable=True)
