"""Longer distillation of one pick, after the search: transformers' Trainer on the divergence from the dense model.

All decoder weights are trained, in float32 with bfloat16 autocast where the run is in bfloat16; embeddings and the
output matrix stay. The teacher runs beside the student: each text is needed once. Windows come from a stream, whose
position is beside each checkpoint, so that a run that was killed goes on from its last one to the same end.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from evaluators.data.places import TextPlace
from evaluators.data.stream import TokenStream
from evaluators.output_head import OutputHead
from evaluators.training.distillation import cross_entropy
from space.errors import UserError
from space.models.embedded import quiet_transformers


@dataclass(frozen=True)
class Recovery:
    """Settings of the distillation of a pick.

    Attributes:
        tokens: Of training text, rounded up to whole steps; 0 for none.
        learning_rate: Of AdamW, after the warm-up; it falls to 0 along a cosine.
        warmup: Part of the steps in which the learning rate rises.
        batch_size: Windows of a forward pass.
        accumulation: Forward passes of a step.
        clip: Largest norm of the gradient.
        save_tokens: Training tokens between two checkpoints, and between two looks at held-out text.
        seed: Of the trainer, and of the order of the text.
        data: Where the text is; without a path, the run's own.
    """

    tokens: float = 0
    learning_rate: float = 2e-4
    warmup: float = 0.02
    batch_size: int = 2
    accumulation: int = 1
    clip: float = 1.0
    save_tokens: float = 100_000
    seed: int = 0
    data: TextPlace = field(default_factory=TextPlace)

    def __post_init__(self) -> None:
        if self.tokens < 0 or self.save_tokens < 1:
            raise UserError(
                "recover: expected tokens of at least 0 and save_tokens of at least 1, got "
                f"{self.tokens:g} and {self.save_tokens:g}."
            )
        for name in ("batch_size", "accumulation"):
            if getattr(self, name) < 1:
                raise UserError(f"recover.{name}: expected at least 1, got {getattr(self, name)}.")
        if not self.learning_rate > 0 or not self.clip > 0 or not 0 <= self.warmup < 1:
            raise UserError(
                "recover: expected learning_rate and clip above 0 and warmup from 0 to below 1, got "
                f"{self.learning_rate}, {self.clip} and {self.warmup}."
            )

    @property
    def step_windows(self) -> int:
        """Windows of a step of the optimizer."""
        return self.batch_size * self.accumulation


_POSITION = "position.json"  # of the text, in a checkpoint
QUIET_S = 60  # at most so long without a word


class _Windows(IterableDataset[dict[str, Tensor]]):
    """Windows of a stream, which is read ahead of the training."""

    def __init__(self, stream: TokenStream, step_windows: int) -> None:
        self._stream, self._step_windows = stream, step_windows
        self._positions: deque[dict[str, Any]] = deque(maxlen=8)  # behind the last steps' windows

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for window in self._stream:
            position = self._stream.state()
            if position["windows"] % self._step_windows == 0:
                self._positions.append(position)
            yield {"input_ids": window}

    def position(self, step: int) -> dict[str, Any]:
        """Where the stream was behind a step's windows, one of the last ones."""
        return next(each for each in self._positions if each["windows"] == step * self._step_windows)


class _KeepsPosition(TrainerCallback):
    """Writes the position beside each checkpoint, which is whole with it."""

    def __init__(self, windows: _Windows) -> None:
        self._windows = windows

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`."""
        if state.is_world_process_zero:
            checkpoint = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            (checkpoint / _POSITION).write_text(json.dumps(self._windows.position(state.global_step)), "utf-8")


class _Distiller(Trainer):
    """A Trainer whose loss is the divergence from a teacher."""

    teacher: Any

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean divergence a token, in nats."""
        tokens = inputs["input_ids"]
        head = OutputHead(self.teacher.lm_head, tokens.numel())
        with torch.inference_mode(), torch.autocast(tokens.device.type, enabled=False):
            states = self.teacher.model(tokens, use_cache=False).last_hidden_state.flatten(0, 1).float()
            lse, embedding = head.expected(states)
            cross = (lse - (states * embedding).sum(-1)).mean()
        hidden = model.model(tokens, use_cache=False).last_hidden_state.flatten(0, 1)
        with torch.autocast(tokens.device.type, enabled=False):
            loss = cross_entropy(hidden, head, embedding.clone()) - cross.clone()
        return (loss, {"hidden": hidden}) if return_outputs else loss


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


class _Reporter(TrainerCallback):
    """Tells of each checkpoint, and now and then in between."""

    def __init__(self, on_progress: OnProgress, step_tokens: int) -> None:
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
        self._say(state, saved=True)
        self._losses = []

    def _say(self, state: Any, *, saved: bool) -> None:
        self._last = now, step = time.monotonic(), state.global_step
        begun, first = self._begun
        speed = (step - first) * self._step_tokens / max(now - begun, 1e-9)
        tokens, of = (count * self._step_tokens for count in (step, state.max_steps))
        self._on_progress(RecoveryProgress(tokens, of, fmean(self._losses), speed, saved))


def recover(
    student: Any,
    teacher: Any,
    stream: TokenStream,
    settings: Recovery,
    directory: Path,
    on_progress: OnProgress = lambda progress: None,
) -> int:
    """Trains a model in place, from its last checkpoint where there is one.

    Args:
        student: A subnet's own model; afterwards in the dtype that it came in, without gradients.
        teacher: The dense model.
        stream: Training text, from its beginning or, with a checkpoint, from that on.
        settings: How long, and how.
        directory: Of the checkpoints; it is the caller's to delete once the result is safe.
        on_progress: Called at each checkpoint, and about every `QUIET_S` seconds.

    Returns:
        Tokens of training.

    Raises:
        UserError: A checkpoint cannot be written.
    """
    dtype, step_tokens = next(student.parameters()).dtype, settings.step_windows * stream.length
    steps, every = (max(1, math.ceil(count / step_tokens)) for count in (settings.tokens, settings.save_tokens))
    student.float()
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name.startswith("model.") and "embed_tokens" not in name)
    arguments = TrainingArguments(
        output_dir=str(directory),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(settings.warmup * steps),
        weight_decay=0.0,
        max_grad_norm=settings.clip,
        bf16=dtype == torch.bfloat16,
        use_cpu=next(teacher.parameters()).device.type == "cpu",
        save_steps=every,
        save_total_limit=2,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        seed=settings.seed,
        remove_unused_columns=False,
        ignore_data_skip=True,
    )
    windows, checkpoint = _Windows(stream, settings.step_windows), _last_checkpoint(directory)
    trainer = _Distiller(student, arguments, train_dataset=windows)
    trainer.teacher = teacher
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_KeepsPosition(windows))
    trainer.add_callback(_Reporter(on_progress, step_tokens))
    stream.rewind()
    if checkpoint:
        stream.restore(json.loads((Path(checkpoint) / _POSITION).read_text("utf-8")))
    try:
        with quiet_transformers():
            trainer.train(resume_from_checkpoint=checkpoint)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"Expected to write a checkpoint of the recovery to {directory}, got: {error}. Free some space, then run "
            "the same command again: it goes on from the last checkpoint."
        ) from error
    trainer.accelerator.unwrap_model(student, keep_fp32_wrapper=False)  # its forward is no longer under autocast
    for parameter in student.parameters():  # buffers stay: rotary frequencies are in float32
        parameter.data = parameter.data.to(dtype)
    student.eval().requires_grad_(False)
    return steps * step_tokens


def _last_checkpoint(directory: Path) -> str | None:
    """The last checkpoint that was written to its end; those that were not are deleted."""
    for checkpoint in directory.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        try:
            json.loads((checkpoint / _POSITION).read_text(encoding="utf-8"))  # written last
        except (OSError, ValueError):
            shutil.rmtree(checkpoint)
    last: str | None = get_last_checkpoint(str(directory)) if directory.exists() else None
    return last
