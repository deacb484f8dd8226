"""Order of a mixture's experts: what each adds to the residual stream of the tokens that are routed to it.

Experts are dropped whole, with their rows of the router. Tokens that went through one then go through the next best of
those that are left, which nothing here makes up for: no refit is known that needs no training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from space.supernet.recipe import require_expert_rule


@dataclass(frozen=True)
class ExpertSums:
    """What calibration learns of a layer's experts, each float64 of shape (experts,).

    Attributes:
        tokens: That are routed to the expert.
        norms: Over these, the sum of the norm of what it adds to the residual stream: its output times its weight.
        energy: The same of the square of the norm.
    """

    tokens: Tensor
    norms: Tensor
    energy: Tensor

    @property
    def lost(self) -> Tensor:
        """What every prefix of the experts, in their order here, lacks of the energy of all, shape (experts + 1,)."""
        left = self.energy.flip(0).cumsum(0).flip(0)
        lost = left / self.energy.sum().clamp_min(torch.finfo(torch.float64).tiny)
        return torch.cat([lost, lost.new_zeros(1)])

    def reordered(self, order: Tensor) -> ExpertSums:
        """The same with experts in another order."""
        return ExpertSums(self.tokens[order], self.norms[order], self.energy[order])


class ExpertHook:
    """Sums over the tokens that reach a module of experts while it is on, see `space.models.block_layout.Routed`."""

    def __init__(self, experts: Any) -> None:
        """Begins with a module, of which each expert runs once more, alone, for what it adds."""
        held = next(experts.parameters())  # an entry each
        self.sums = ExpertSums(*(torch.zeros(len(held), dtype=torch.float64, device=held.device) for _ in range(3)))
        self._handle = experts.register_forward_hook(self._add)

    def _add(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        states, chosen, weights = inputs  # (tokens, hidden), (tokens, active), (tokens, active)
        for expert in chosen.unique().tolist():
            token, place = torch.where(chosen == expert)
            alone = (states[token], chosen[token, place][:, None], weights[token, place][:, None])
            norms = module.forward(*alone).double().norm(dim=-1)  # not the call, which would come back here
            self.sums.tokens[expert] += len(token)
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
