"""How far a recovery is and how long its steps take: callbacks of transformers' Trainer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from transformers import TrainerCallback

QUIET_S = 60  # at most so long without a word


@dataclass(frozen=True)
class RecoveryProgress:
    """How far a recovery is.

    Attributes:
        tokens: Of training text so far.
        of: In all.
        loss: Mean since the last checkpoint.
        tokens_per_s: Since this process began.
        saved: Whether a checkpoint was just written.
    """

    tokens: int
    of: int
    loss: float
    tokens_per_s: float
    saved: bool

    @property
    def seconds_left(self) -> float:
        """At the speed so far."""
        return (self.of - self.tokens) / self.tokens_per_s


OnProgress = Callable[[RecoveryProgress], None]


class Reporter(TrainerCallback):
    """Tells of each checkpoint, and now and then in between."""

    def __init__(self, on_progress: OnProgress, step_tokens: int) -> None:
        """Tells nothing yet.

        Args:
            on_progress: Whom to tell.
            step_tokens: Tokens of a step of the optimizer.
        """
        self._on_progress, self._step_tokens = on_progress, step_tokens
        self._losses: list[float] = []
        self._begun = self._last = (time.monotonic(), 0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`."""
        self._begun = self._last = (time.monotonic(), state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """See `TrainerCallback`."""
        if "loss" in logs:
            self._losses.append(logs["loss"])
        if self._losses and time.monotonic() - self._last[0] > QUIET_S:
            self._say(state, saved=False)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`."""
        if self._losses:
            self._say(state, saved=True)
        self._losses = []

    def _say(self, state: Any, *, saved: bool) -> None:
        self._last = now, step = time.monotonic(), state.global_step
        begun, first = self._begun
        speed = (step - first) * self._step_tokens / max(now - begun, 1e-9)
        tokens, of = (count * self._step_tokens for count in (step, state.max_steps))
        self._on_progress(RecoveryProgress(tokens, of, fmean(self._losses), speed, saved))


class StepClock(TrainerCallback):
    """Times steps from the end of one to the end of the next.

    Attributes:
        seconds: Of each step so far.
    """

    def __init__(self) -> None:
        """Has no step yet."""
        self.seconds: list[float] = []
        self._last = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`."""
        self._last = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`."""
        if args.device.type == "cuda":
            torch.cuda.synchronize(args.device)
        last, self._last = self._last, time.perf_counter()
        self.seconds.append(self._last - last)
