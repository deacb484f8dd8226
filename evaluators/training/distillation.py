"""A few steps of distillation from the dense model: what a subnet is worth is seen better after them than before.

    loss = (1 − l) T² KL(teacher ‖ student at temperature T) + l NLL + s Σ_layers ‖h_S − h_T‖² / ‖h_T‖²

(Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015; the last term as in Minitron,
Muralidharan et al., 2024). What is trained is a row of `TRAINABLE`; embeddings and output matrix never are. Where the
model runs in bfloat16, trained parameters have a float32 master, which the optimizer sees.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn import functional as F

from evaluators.output_head import OutputHead
from evaluators.training.teacher import Lesson, recorded_streams
from space.errors import UserError

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_ADAPTER = "default"

# Row name to whether a decoder parameter of that name is trained. Names are peft's where there are adapters.
TRAINABLE: Mapping[str, Callable[[str], bool]] = {
    "adapters": lambda name: ".lora_" in name or _is_small(name),
    "outputs": lambda name: name.endswith(("o_proj.weight", "down_proj.weight")) or _is_small(name),
    "norms": lambda name: _is_small(name),
    "all": lambda name: "embed_tokens" not in name,
}


def _is_small(name: str) -> bool:
    return name.endswith("bias") or name.endswith("norm.weight")


@dataclass(frozen=True)
class Distillation:
    """Settings, the same for all candidates.

    Attributes:
        tokens: Of training of each trained fidelity, in total, rising.
        trainable: Row of `TRAINABLE`.
        rank: Of the low-rank adapters.
        learning_rate: Of AdamW, after the warm-up; it falls with the root of the steps.
        warmup: Steps in which the learning rate rises.
        batch_size: Windows of a step, which is one forward pass.
        clip: Largest norm of the gradient.
        temperature: What logits are divided by.
        lm: Weight of the language-model loss, 0..1; the divergence has the rest.
        streams: Weight of the match of residual streams.
        stream_layers: Behind how many layers, evenly spaced, they are matched.
        seed: Of the adapters' initial values.
    """

    tokens: tuple[int, ...]
    trainable: str = "adapters"
    rank: int = 16
    learning_rate: float = 1e-3
    warmup: int = 4
    batch_size: int = 1
    clip: float = 1.0
    temperature: float = 1.0
    lm: float = 0.0
    streams: float = 0.0
    stream_layers: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        tokens = [*self.tokens]
        object.__setattr__(self, "tokens", tuple(tokens))  # configurations have lists
        if not tokens or tokens != sorted(set(tokens)) or tokens[0] < 1:
            raise UserError(f"distillation.tokens: expected rising counts of tokens, got {tokens}. Give one at least.")
        if self.trainable not in TRAINABLE:
            raise UserError(f"distillation.trainable: expected one of {', '.join(TRAINABLE)}, got {self.trainable!r}.")
        for name in ("rank", "batch_size", "stream_layers"):
            if getattr(self, name) < 1:
                raise UserError(f"distillation.{name}: expected at least 1, got {getattr(self, name)}.")
        for name in ("learning_rate", "clip", "temperature"):
            if not getattr(self, name) > 0:
                raise UserError(f"distillation.{name}: expected more than 0, got {getattr(self, name)}.")
        if not 0 <= self.lm <= 1 or self.streams < 0 or self.warmup < 0:
            raise UserError(
                "distillation: expected lm from 0 to 1, streams and warmup of at least 0, got "
                f"{self.lm}, {self.streams} and {self.warmup}."
            )

    def rate(self, step: int) -> float:
        """The learning rate at a step, from 0: a warm-up, then a fall that does not depend on where training ends.

        So a student that is promoted goes on where it was, and one that is not loses little by the end.
        """
        return self.learning_rate * min((step + 1) / max(self.warmup, 1), 1.0) / math.sqrt(1 + step / DECAY_STEPS)


DECAY_STEPS = 16  # after so many, the learning rate has fallen by the root of 2
JUDGED = 8  # steps whose mean loss is looked at to see whether training diverges, as windows differ
WORSE = 4.0  # times the first loss


class _CrossEntropy(torch.autograd.Function):
    """Mean of lse(W h) − h · target, whose gradient by h is Wᵀ softmax(W h) − target; logits are never stored."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: OutputHead, target: Tensor) -> Tensor:
        wide = hidden.float()
        lse, embedding = head.expected(wide, exact=False)
        ctx.save_for_backward(embedding.sub_(target))
        ctx.dtype = hidden.dtype
        return (lse - (wide * target).sum(-1)).mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (difference,) = ctx.saved_tensors
        return (gradients[0] * difference / len(difference)).to(ctx.dtype), None, None


def cross_entropy(hidden: Tensor, head: OutputHead, target: Tensor) -> Tensor:
    """Mean cross-entropy of hidden states `(tokens, hidden)` with soft labels of expected output embedding `target`.

    It is differentiable by `hidden` alone. `target` has the same shape: Wᵀp for labels p, a row of W for one word.
    """
    loss: Tensor = _CrossEntropy.apply(hidden, head, target)
    return loss


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
        self._kept = [*kept] if kept is not None else [*range(len(model.model.layers))]
        self.model = model
        self.step = 0
        self._settings = settings
        self._head = OutputHead(model.lm_head, tokens)
        self._losses: list[float] = []
        if settings.trainable == "adapters":
            _add_adapters(model, settings)
        trainable = TRAINABLE[settings.trainable]
        self._working: dict[str, nn.Parameter] = {}
        for name, parameter in model.model.named_parameters():
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
            hidden = self.model.model(lesson.tokens, use_cache=False).last_hidden_state
        flat, warm = hidden.flatten(0, 1), settings.temperature
        divergence = cross_entropy(flat / warm, self._head, lesson.embedding) - lesson.cross.mean()
        loss = (1 - settings.lm) * warm**2 * divergence
        if settings.lm:
            words = F.embedding(lesson.tokens[:, 1:], self._head.weight).flatten(0, 1).float()
            loss = loss + settings.lm * cross_entropy(hidden[:, :-1].flatten(0, 1), self._head, words)
        for layer, target in lesson.streams.items():
            off = (streams[layer].float() - target).pow(2).sum(-1) / target.pow(2).sum(-1)
            loss = loss + settings.streams / len(lesson.streams) * off.mean()
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
    present = {name.rpartition(".")[2] for name, _ in model.model.named_modules()} & {*_PROJECTIONS}
    config = LoraConfig(r=settings.rank, lora_alpha=settings.rank, target_modules=sorted(present))
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        inject_adapter_in_model(config, model.model, _ADAPTER)
