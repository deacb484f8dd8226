"""The training of a supernet's shared weights, step by step, with a float32 master of each for AdamW."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.training.distillation import WORSE
from evaluators.training.objectives import objective_of
from evaluators.training.rates import share_of
from evaluators.training.recipes import SHARED_TRAINABLE, STATE_BYTES, Healing
from evaluators.training.repeatable import repeatable
from evaluators.training.rows import fitting_row
from space.candidate import Candidate
from space.checks import dtype_name
from space.errors import UserError
from space.models.architectures import architecture_of
from space.models.device import gpu_bytes
from space.models.stack import stack_of
from space.supernet.shared import SharedWeights
from space.supernet.sizes import maps_bytes
from space.supernet.supernet import Supernet

JUDGED = 16  # steps at the least whose mean loss is compared with that of the first ones


def trainable_row(supernet: Supernet, settings: Healing) -> str:
    """The row of `SHARED_TRAINABLE` that settings mean for a supernet: with `auto`, what fits into memory."""
    weights = dict(stack_of(supernet.model).named_parameters())
    mlp = architecture_of(supernet.spec.family).mlp
    maps = maps_bytes(supernet.spec, dtype_name(supernet.model.dtype))

    def taken(row: str) -> int:
        trained = SHARED_TRAINABLE[row]
        more = sum(w.numel() * (w.itemsize + STATE_BYTES) for name, w in weights.items() if trained(name))
        more += maps if mlp.output and trained(f"{mlp.path(mlp.output)}.weight") else 0
        return sum(weight.nbytes for weight in supernet.model.parameters()) + more

    return fitting_row(settings, gpu_bytes(supernet.place.home), taken)


class SharedTraining:
    """The shared weights on their way, with the optimizer."""

    def __init__(self, supernet: Supernet, designs: Sequence[Candidate], settings: Healing) -> None:
        """Takes nothing of the supernet's own.

        Args:
            supernet: As it was prepared.
            designs: Those that take turns.
            settings: What is trained, and the largest norm of its gradient.
        """
        self.step = 0
        self._designs = [*designs]
        self._clip = settings.clip
        self._objective = objective_of(supernet.spec)
        self._teacher, self._device = supernet.dense(), supernet.place.device
        self._shared = SharedWeights(supernet, self._designs, SHARED_TRAINABLE[trainable_row(supernet, settings)])
        self._masters = {name: nn.Parameter(p.detach().float()) for name, p in self._shared.parameters.items()}
        # one a weight, so that no more than one weight has a float32 gradient at a time
        self._optimizers = {name: _adam(master) for name, master in self._masters.items()}
        self._shares = {name: share_of(master) for name, master in self._masters.items()}
        self._losses: list[float] = []

    def learn(self, tokens: Tensor, rate: float) -> None:
        """One step of the next design, on windows `(windows, length)`."""
        design = self._designs[self.step % len(self._designs)]
        tokens = tokens.to(self._device)
        loss_of, streams = self._objective.loss_of(self._teacher, tokens, design.kept), dict[int, Tensor]()
        with repeatable(tokens.device):
            hidden = self._shared.hidden(design, tokens, streams if self._objective.streams else None)
            loss = loss_of(hidden, streams)
            loss.backward()
        gradients = [p.grad for p in self._shared.parameters.values() if p.grad is not None]
        norm = torch.stack([torch.linalg.vector_norm(g, dtype=torch.float32) for g in gradients]).norm().item()
        self._judge(loss.item(), norm)
        for name, parameter in self._shared.parameters.items():
            if parameter.grad is not None:
                self._step(name, parameter, rate, min(1.0, self._clip / max(norm, 1e-6)))
        self.step += 1

    @torch.no_grad()
    def _step(self, name: str, parameter: nn.Parameter, rate: float, scale: float) -> None:
        """One step of a shared weight, by its gradient times `scale`."""
        master, optimizer = self._masters[name], self._optimizers[name]
        assert parameter.grad is not None
        master.grad, parameter.grad = parameter.grad.float() * scale, None
        for group in optimizer.param_groups:
            group["lr"] = rate * self._shares[name]
        optimizer.step()
        master.grad = None
        parameter.copy_(master)

    def weights(self) -> dict[str, Tensor]:
        """The shared weights as they are now, in the model's dtype."""
        return {name: parameter.detach().contiguous() for name, parameter in self._shared.parameters.items()}

    def state(self) -> dict[str, Any]:
        """What has to be kept to go on."""
        masters = {name: master.detach() for name, master in self._masters.items()}
        return {
            "step": self.step,
            "losses": self._losses,
            "masters": masters,
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()},
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state."""
        for name, master in self._masters.items():
            master.copy_(state["masters"][name])
            self._shared.parameters[name].copy_(master)
            self._optimizers[name].load_state_dict(state["optimizers"][name])
        self.step, self._losses = state["step"], [*state["losses"]]

    def _judge(self, loss: float, norm: float) -> None:
        """Notes a loss.

        Raises:
            UserError: It, or the gradient's norm, is not finite, or the loss has become a few times what it was.
        """
        self._losses.append(loss)
        judged = max(JUDGED, len(self._designs))
        first, recent = (sum(part) / len(part) for part in (self._losses[:judged], self._losses[-judged:]))
        if not math.isfinite(loss + norm) or recent > WORSE * first:
            raise UserError(
                f"Healing diverged: the loss was {first:.3g} at first, and is {recent:.3g} at step {self.step}. "
                "Lower distillation.learning_rate and start a new run."
            )


def _adam(weight: nn.Parameter) -> torch.optim.Optimizer:
    return torch.optim.AdamW([weight], lr=0.0, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
