"""Healing of the supernet: the weights that its subnets share learn from the dense model through some of these subnets.

Each step sends a batch of windows through one of the designs, in turn, and lowers the divergence from the dense model,

    loss = KL(teacher ‖ student),

by the weights that all designs share (`space.supernet.shared`). What one design teaches them helps every other, those
that were never trained too: the weight-sharing training of one-shot architecture search (Yu et al., "BigNAS", 2020; Cai
et al., "Once-for-all", 2020), on designs that a search has found promising instead of on random ones.

The shared weights have float32 masters, which AdamW sees. What healing gives is on disk before it is used, and never
made twice; a killed one goes on from its last checkpoint, to the same bits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from evaluators.output_head import OutputHead
from evaluators.training.distillation import cross_entropy
from evaluators.training.teacher import taught
from space.candidate import Candidate
from space.errors import UserError
from space.files import write_whole
from space.supernet.shared import SharedWeights
from space.supernet.supernet import Supernet

# Row name to whether a shared weight of that name is trained.
TRAINABLE: Mapping[str, Callable[[str], bool]] = {
    "all": lambda name: True,
    "outputs": lambda name: name.endswith(("o_proj.weight", "down_proj.weight", "bias", "norm.weight")),
    "norms": lambda name: name.endswith(("bias", "norm.weight")),
}
LAST_RATE = 0.1  # of the learning rate is left at the end of its cosine
JUDGED = 16  # steps at the least whose mean loss is compared with that of the first ones
WORSE = 4.0  # times the first loss: training diverges

_WEIGHTS = "weights.safetensors"
_DESIGNS = "designs.json"
_STATE = "state.pt"


@dataclass(frozen=True)
class Healing:
    """Settings.

    Attributes:
        tokens: Of training, over all designs.
        trainable: Row of `TRAINABLE`.
        learning_rate: Of AdamW, after the warm-up; it falls along a cosine to `LAST_RATE` of it.
        warmup: Part of the steps in which it rises.
        batch_size: Windows of a step, which is one forward pass.
        clip: Largest norm of the gradient.
        save_tokens: Training tokens between two checkpoints.
    """

    tokens: int = 120_000
    trainable: str = "all"
    learning_rate: float = 3e-4
    warmup: float = 0.03
    batch_size: int = 1
    clip: float = 1.0
    save_tokens: int = 60_000

    def __post_init__(self) -> None:
        if self.trainable not in TRAINABLE:
            raise UserError(f"distillation.trainable: expected one of {', '.join(TRAINABLE)}, got {self.trainable!r}.")
        for name in ("tokens", "batch_size", "save_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"distillation.{name}: expected at least 1, got {getattr(self, name)}.")
        if not self.learning_rate > 0 or not self.clip > 0 or not 0 <= self.warmup < 1:
            raise UserError(
                "distillation: expected learning_rate and clip above 0 and warmup from 0 to below 1, got "
                f"{self.learning_rate}, {self.clip} and {self.warmup}."
            )

    def steps(self, length: int) -> int:
        """How many steps there are with windows of so many tokens."""
        return -(-self.tokens // (self.batch_size * length))

    def rate(self, step: int, steps: int) -> float:
        """The learning rate at a step, from 0."""
        rising = min(1.0, (step + 1) / max(1.0, self.warmup * steps))
        falling = LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * step / steps))
        return self.learning_rate * rising * falling


class Healer:
    """Heals the supernet of one run, once."""

    def __init__(
        self,
        supernet: Callable[[], Supernet],
        settings: Healing,
        windows: Callable[[int], Tensor],
        directory: Path,
        stage: Callable[[], AbstractContextManager[Callable[[int, int], None]]],
    ) -> None:
        """Runs nothing yet.

        Args:
            supernet: Gives the supernet as it was prepared.
            settings: How, and how long.
            windows: Gives so many windows of training text, `(windows, length)`, or all that there are.
            directory: Where the healed weights are kept.
            stage: Opened around the training; gives a function to call with how many steps are done, of how many.
        """
        self.settings = settings
        self._supernet = supernet
        self._windows = windows
        self._directory = directory
        self._stage = stage
        self._healed: Supernet | None = None

    @property
    def designs(self) -> list[Candidate]:
        """What the supernet is, or is to be, healed through; none before that is known."""
        file = self._directory / _DESIGNS
        if not file.exists():
            return []
        return [Candidate.from_json(form) for form in json.loads(file.read_text(encoding="utf-8"))["designs"]]

    def supernet(self) -> Supernet:
        """The healed supernet, from disk.

        Raises:
            UserError: It is not healed yet.
        """
        if self._healed is None:
            file = self._directory / _WEIGHTS
            if not file.exists():
                raise UserError(
                    f"Expected the healed weights of the run in {file}, but there are none. "
                    "Run the search again with the same run_dir: it goes on to where they are made."
                )
            self._healed = self._supernet().with_weights(load_file(file))
        return self._healed

    def heal(self, candidates: Sequence[Candidate]) -> Supernet:
        """The healed supernet; it is healed now, through these candidates, where it was not before.

        Raises:
            UserError: Training diverged, or the disk is full.
        """
        if not (self._directory / _WEIGHTS).exists():
            designs = self.designs or [c for c in candidates if c != Candidate.dense(self._supernet().spec)]
            self._write(_DESIGNS, json.dumps({"designs": [c.to_json() for c in designs], **asdict(self.settings)}))
            training = _Training(self._supernet(), designs, self.settings)
            with self._stage() as show:
                self._train(training, show)
            weights = training.weights()
            self._write(_WEIGHTS, lambda file: save_file(weights, file))
            (self._directory / _STATE).unlink(missing_ok=True)
        return self.supernet()

    def tokens(self, candidate: Candidate) -> int:
        """The share of the training's tokens that a candidate answers for: they are counted once, by its designs."""
        designs = self.designs
        return -(-self.settings.tokens // len(designs)) if candidate in designs else 0

    def _train(self, training: _Training, show: Callable[[int, int], None]) -> None:
        settings, length = self.settings, self._windows(1).shape[1]
        steps, size = settings.steps(length), settings.batch_size
        text = self._windows(steps * size)
        file, every = self._directory / _STATE, max(1, settings.save_tokens // (size * length))
        if file.exists():
            training.restore(torch.load(file, map_location="cpu", weights_only=True))
        for step in range(training.step, steps):
            rows = torch.arange(step * size, (step + 1) * size) % len(text)
            training.learn(text[rows], settings.rate(step, steps))
            if training.step % every == 0 and training.step < steps:
                self._write(_STATE, lambda file: torch.save(training.state(), file))
            show(training.step, steps)

    def _write(self, name: str, content: Any) -> None:
        write_whole(self._directory / name, content, failures=(RuntimeError,))  # which torch raises on a full disk


class _Training:
    """The shared weights on their way, with the optimizer."""

    def __init__(self, supernet: Supernet, designs: Sequence[Candidate], settings: Healing) -> None:
        self.step = 0
        self._designs = [*designs]
        self._settings = settings
        self._teacher = supernet.model
        self._shared = SharedWeights(supernet, self._designs, TRAINABLE[settings.trainable])
        self._masters = {name: nn.Parameter(p.detach().float()) for name, p in self._shared.parameters.items()}
        self._optimizer = torch.optim.AdamW(
            self._masters.values(), lr=0.0, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )
        self._losses: list[float] = []

    def learn(self, tokens: Tensor, rate: float) -> None:
        """One step of the next design, on windows `(windows, length)`."""
        design = self._designs[self.step % len(self._designs)]
        tokens = tokens.to(self._teacher.device)
        head = OutputHead(self._teacher.lm_head, tokens.numel())
        lesson = taught(self._teacher, head, tokens)
        hidden = self._shared.hidden(design, tokens).flatten(0, 1)
        loss = cross_entropy(hidden, head, lesson.embedding) - lesson.cross.mean()
        loss.backward()
        for name, parameter in self._shared.parameters.items():
            gradient, parameter.grad = parameter.grad, None
            self._masters[name].grad = None if gradient is None else gradient.float()
        trained = [master for master in self._masters.values() if master.grad is not None]
        norm = nn.utils.clip_grad_norm_(trained, self._settings.clip)
        self._judge(loss.item(), norm.item())
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._put()
        self.step += 1

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
            "optimizer": self._optimizer.state_dict(),
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state."""
        for name, master in self._masters.items():
            master.copy_(state["masters"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._put()
        self.step, self._losses = state["step"], [*state["losses"]]

    @torch.no_grad()
    def _put(self) -> None:
        for name, master in self._masters.items():
            self._shared.parameters[name].copy_(master)

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
