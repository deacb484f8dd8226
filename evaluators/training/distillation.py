"""A few steps of distillation from the dense model: what a subnet is worth is seen better after them than before.

    loss = (1 − l) T² KL(teacher ‖ student at temperature T) + l NLL + s Σ_layers ‖h_S − h_T‖² / ‖h_T‖²

(Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015; the last term as in Minitron,
Muralidharan et al., 2024). What is trained is a row of `evaluators.training.recipes.TRAINABLE`; embeddings and output
matrix never are. Where the model runs in bfloat16, trained parameters have a float32 master, which the optimizer sees.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.output_head import OutputHead
from evaluators.training.recipes import TRAINABLE, Distillation
from evaluators.training.repeatable import repeatable
from evaluators.training.teacher import Lesson
from space.models.names import PROJECTIONS
from space.models.stack import family_of, layers_of, stack_of
from space.models.streams import recorded_streams

_ADAPTER = "default"

JUDGED = 8  # steps whose mean loss is looked at to see whether training diverges, as windows differ
WORSE = 4.0  # times the first loss


class _CrossEntropy(torch.autograd.Function):
    """Mean of what `OutputHead.cross_entropy` gives, with its gradient; logits are never stored."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: OutputHead, labels: Tensor) -> Tensor:
        loss, gradient = head.cross_entropy(hidden.float(), labels)
        ctx.save_for_backward(gradient)
        ctx.dtype = hidden.dtype
        return loss.mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradients[0] * gradient / len(gradient)).to(ctx.dtype), None, None


def cross_entropy(hidden: Tensor, head: OutputHead, labels: Tensor) -> Tensor:
    """Mean cross-entropy of hidden states `(tokens, hidden)` with labels, see `OutputHead.mean_logit`.

    It is differentiable by `hidden` alone.
    """
    loss: Tensor = _CrossEntropy.apply(hidden, head, labels)
    return loss


def stream_loss(stream: Tensor, target: Tensor) -> Tensor:
    """The mean of ‖h_S − h_T‖² / ‖h_T‖² over tokens; of streams `(tokens, hidden)`, of which the target is float32."""
    return ((stream.float() - target).pow(2).sum(-1) / target.pow(2).sum(-1)).mean()


class Student:
    """A subnet with a model of its own, and what is trained of it."""

    def __init__(self, model: Any, settings: Distillation, tokens: int, kept: Sequence[int] | None = None) -> None:
        """Takes a model, whose modules are changed.

        Args:
            model: A causal language model in evaluation mode, all of it this student's own.
            settings: What is trained, and how.
            tokens: Of a lesson, about.
            kept: The dense model's numbers of the layers that the model has; None for all of them.
        """
        self._kept = [*kept] if kept is not None else [*range(len(layers_of(model)))]
        self.model = model
        self.step = 0
        self._settings = settings
        self._head = OutputHead.of(model, tokens)
        self._warm_head = OutputHead.of(model, tokens, temperature=settings.temperature)
        self._losses: list[float] = []
        if settings.trainable == "adapters":
            _add_adapters(model, settings)
        trainable = TRAINABLE[settings.trainable]
        self._working: dict[str, nn.Parameter] = {}
        for name, parameter in stack_of(model).named_parameters():
            parameter.requires_grad_(trainable(name))
            if parameter.requires_grad:
                self._working[name] = parameter
        self._masters = {
            name: p if p.dtype == torch.float32 else nn.Parameter(p.detach().float())
            for name, p in self._working.items()
        }
        self._optimizer = torch.optim.AdamW(self._masters.values(), lr=0.0, betas=(0.9, 0.99), weight_decay=0.0)

    @property
    def trained(self) -> int:
        """How many parameters are."""
        return sum(parameter.numel() for parameter in self._working.values())

    def learn(self, lesson: Lesson) -> float:
        """One step.

        Returns:
            The loss before it.

        Raises:
            ArithmeticError: The loss is not finite, or has become a few times what it was at first.
        """
        with repeatable(lesson.tokens.device):
            loss = self._loss(lesson)
            loss.backward()
        for name, parameter in self._working.items():
            gradient, parameter.grad = parameter.grad, None
            self._masters[name].grad = None if gradient is None else gradient.float()
        norm = nn.utils.clip_grad_norm_(self._masters.values(), self._settings.clip)
        self._losses.append(loss.item())
        first, recent = self._losses[0], self._losses[-JUDGED:]
        mean = sum(recent) / JUDGED  # as good as none before there are that many
        if not math.isfinite(mean + norm.item()) or mean > WORSE * first:
            raise ArithmeticError(
                f"distillation diverged: the loss was {first:.3g} at first, and is {mean:.3g} at step {self.step}. "
                "Lower distillation.learning_rate."
            )
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.rate(self.step)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._put()
        self.step += 1
        return self._losses[-1]

    def _loss(self, lesson: Lesson) -> Tensor:
        settings = self._settings
        places = {layer: bisect_right(self._kept, layer) - 1 for layer in lesson.streams}
        with recorded_streams(self.model, places) as streams:
            hidden = stack_of(self.model)(lesson.tokens, use_cache=False).last_hidden_state
        flat, warm = hidden.flatten(0, 1), settings.temperature
        divergence = cross_entropy(flat, self._warm_head, lesson.known) - lesson.cross.mean()
        loss = (1 - settings.lm) * warm**2 * divergence
        if settings.lm:
            words = lesson.tokens[:, 1:].flatten()
            loss = loss + settings.lm * cross_entropy(hidden[:, :-1].flatten(0, 1), self._head, words)
        for layer, target in lesson.streams.items():
            loss = loss + settings.streams / len(lesson.streams) * stream_loss(streams[layer], target)
        return loss

    @torch.no_grad()
    def _put(self) -> None:
        for name, master in self._masters.items():
            if self._working[name] is not master:
                self._working[name].copy_(master)

    def state(self) -> dict[str, Any]:
        """What has to be kept to go on: the trained parameters, the optimizer, how far it is."""
        masters = {name: master.detach() for name, master in self._masters.items()}
        return {
            "step": self.step,
            "losses": self._losses,
            "masters": masters,
            "optimizer": self._optimizer.state_dict(),
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes back to a state; without an optimizer's, it can be merged but not learn on."""
        for name, master in self._masters.items():
            master.copy_(state["masters"][name])
        self._put()
        self.step, self._losses = state["step"], [*state["losses"]]
        if "optimizer" in state:
            self._optimizer.load_state_dict(state["optimizer"])

    def merged(self) -> Any:
        """The model with its adapters merged, of stock modules again; the student is spent."""
        for module in [*self.model.modules()]:
            for name, child in module.named_children():
                if hasattr(child, "get_base_layer"):
                    child.merge()
                    setattr(module, name, child.get_base_layer())
        self.model.requires_grad_(False)
        return self.model


def _add_adapters(model: Any, settings: Distillation) -> None:
    """Low-rank adapters on every projection that is left, each a change of nothing at first."""
    from peft import LoraConfig, inject_adapter_in_model  # slow to import, and only wanted here

    present = {name.rpartition(".")[2] for name, _ in stack_of(model).named_modules()} & PROJECTIONS
    transposed = any(block.transposed for block in family_of(model).blocks.values())
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.rank, target_modules=sorted(present), fan_in_fan_out=transposed
    )
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        inject_adapter_in_model(config, stack_of(model), _ADAPTER)
