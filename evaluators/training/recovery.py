"""Longer distillation of one pick, after the search: transformers' Trainer on the divergence from the dense model.

All decoder weights are trained, in float32 with bfloat16 autocast where the run is in bfloat16; embeddings and the
output matrix stay. The teacher runs beside the student: each text is needed once. Windows come from a stream, whose
position is beside each checkpoint, so that a run that was killed goes on from its last one to the same end.
What the Trainer has is the student's body, without the output matrix, as it wraps the forward pass of what it is given
(autocast, and several GPUs). Where torchrun or `accelerate launch` start a process for each GPU, all take their share
of each step.
"""

from __future__ import annotations

import copy
import gc
import json
import math
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from evaluators.data.stream import TokenStream
from evaluators.training.objectives import WORDS, Objective
from evaluators.training.power_law import Curve
from evaluators.training.processes import Processes
from evaluators.training.progress import OnProgress, Reporter, StepClock
from evaluators.training.rates import share_of
from evaluators.training.recipes import POLISH_BYTES, SHARED_TRAINABLE, Recovery
from evaluators.training.repeatable import repeatable
from evaluators.training.rows import fitting_row
from evaluators.training.windows import POSITION_FILE, KeepsPosition, StreamWindows
from space.errors import UserError
from space.models.device import gpu_bytes
from space.models.embedded import quiet_transformers
from space.models.stack import is_in_layers, is_in_stack, layers_of, stack_of
from space.models.streams import recorded_streams

_CURVE = 4096  # points of the loss that are kept, at most
_UNTIMED, _TIMED = 2, 3  # steps that a speed is measured with: the first ones take longer


class _Distiller(Trainer):
    """A Trainer whose loss is the divergence from a teacher."""

    teacher: Any
    objective: Objective
    kept: Sequence[int]
    marks: tuple[bool, bool]

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """That of the arguments, whose steps are as large a part of each tensor, see `evaluators.training.rates`."""
        kind, settings = self.get_optimizer_cls_and_kwargs(self.args)
        trained = [weight for weight in (model or self.model).parameters() if weight.requires_grad]
        groups = [{"params": [weight], "lr": settings["lr"] * share_of(weight)} for weight in trained]
        self.optimizer = kind(groups, **settings)
        return self.optimizer

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """That of the task, see `evaluators.training.objectives`."""
        tokens = self.objective.texts_of(inputs["input_ids"], self.state.global_step, self.marks)
        with torch.autocast(tokens.device.type, enabled=False):
            loss_of = self.objective.loss_of(self.teacher, tokens, self.kept)
        places = {layer: place for place, layer in enumerate(self.kept)} if self.objective.streams else {}
        with recorded_streams(self.model, places) as streams:
            hidden = model(tokens, use_cache=False).last_hidden_state
        with torch.autocast(tokens.device.type, enabled=False):
            loss = loss_of(hidden, streams)
        return (loss, {"hidden": hidden}) if return_outputs else loss


@dataclass(frozen=True)
class Recovered:
    """How a recovery went.

    Attributes:
        tokens: Of training in all.
        curve: Tokens so far and the loss of training there, in nats a token, `(points,)` each, as long as text was new.
    """

    tokens: int
    curve: tuple[Curve, Curve]


def recover(
    student: Any,
    teacher: Any,
    stream: TokenStream,
    settings: Recovery,
    directory: Path,
    on_progress: OnProgress = lambda progress: None,
    objective: Objective = WORDS,
    kept: Sequence[int] | None = None,
) -> Recovered:
    """Trains a model in place, from its last checkpoint where there is one.

    Args:
        student: Its trained weights its own, see `student_of`; afterwards in the dtype that it came in, without
            gradients.
        teacher: The dense model.
        stream: Training text, from its beginning or, with a checkpoint, from that on.
        settings: How long, with tokens, and how, as filled in for a task.
        directory: Of the checkpoints; it is the caller's to delete once the result is safe.
        on_progress: Called at each checkpoint, and about every `QUIET_S` seconds.
        objective: What it learns.
        kept: The dense model's numbers of the layers that the student has; None for all of them.

    Raises:
        UserError: A checkpoint cannot be written, the batch does not divide among the processes, or the models are on
            another GPU than the first.
    """
    assert settings.tokens is not None
    dtype, step_tokens = next(student.parameters()).dtype, settings.step_windows * stream.length
    steps, every = (max(1, math.ceil(count / step_tokens)) for count in (settings.tokens, settings.save_tokens))
    trainer = _trainer(student, teacher, stream, settings, directory, steps, every, objective, kept)
    checkpoint = _last_checkpoint(directory)
    if checkpoint:
        stream.restore(json.loads((Path(checkpoint) / POSITION_FILE).read_text("utf-8")))
    trainer.add_callback(Reporter(on_progress, step_tokens))
    try:
        with quiet_transformers(), repeatable(trainer.args.device), warnings.catch_warnings():
            # a checkpoint's config says its rotary base for transformers 4 too, and is read back as any family's
            warnings.filterwarnings("ignore", "`rope_scaling` is deprecated", FutureWarning)
            trainer.train(resume_from_checkpoint=checkpoint)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"Expected to write a checkpoint of the recovery to {directory}, got: {error}. Free some space, then run "
            "the same command again: it goes on from the last checkpoint."
        ) from error
    # the forward pass is no longer under autocast
    trainer.accelerator.unwrap_model(stack_of(student), keep_fp32_wrapper=False)
    if settings.checkpointing:
        stack_of(student).activation_checkpointing_disable()
    for parameter in student.parameters():  # buffers stay: rotary frequencies are in float32
        parameter.data = parameter.data.to(dtype)
    student.eval().requires_grad_(False)
    new = math.inf if stream.new_windows is None else stream.new_windows * stream.length
    history = [(entry["step"] * step_tokens, entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    at, losses = np.array([point for point in history if point[0] <= new], float).reshape(-1, 2).T
    return Recovered(steps * step_tokens, (at, losses))


def trained_row(student: Any, teacher: Any, settings: Recovery) -> str:
    """The row of `SHARED_TRAINABLE` that settings mean: with `auto`, what fits into memory."""

    named, trains = dict(student.named_parameters()), SHARED_TRAINABLE

    def taken(row: str) -> int:
        more = sum(p.numel() for name, p in named.items() if is_in_stack(student, name) and trains[row](name))
        return sum(weight.nbytes for weight in (*teacher.parameters(), *named.values())) + POLISH_BYTES * more

    return fitting_row(settings, gpu_bytes(next(student.parameters()).device), taken)


def student_of(model: Any, teacher: Any, settings: Recovery) -> Any:
    """A copy of a subnet's model to be trained: what is trained is its own, all other tensors are still the model's."""
    trains = SHARED_TRAINABLE[trained_row(model, teacher, settings)]
    frozen: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False)
        for name, parameter in model.named_parameters()
        if not (is_in_stack(model, name) and trains(name))
    }
    return copy.deepcopy(model, frozen)


def measured_speed(
    student: Any,
    teacher: Any,
    stream: TokenStream,
    settings: Recovery,
    objective: Objective = WORDS,
    kept: Sequence[int] | None = None,
) -> float:
    """Tokens a second of `recover`, from the median of a few steps of a copy of the student.

    Args:
        student: A subnet's model, which is left as it is.
        teacher: The dense model.
        stream: Training text.
        settings: How it would be trained.
        objective: What it would learn.
        kept: See `recover`.

    Raises:
        UserError: See `recover`.
    """
    with TemporaryDirectory() as directory:
        steps = _UNTIMED + _TIMED
        copied = student_of(student, teacher, settings)
        trainer = _trainer(copied, teacher, stream, settings, Path(directory), steps, None, objective, kept)
        clock = StepClock()
        trainer.add_callback(clock)
        with quiet_transformers(), repeatable(trainer.args.device):
            trainer.train()
    del trainer
    gc.collect()  # a trainer refers to itself, and holds the optimizer's state
    return settings.step_windows * stream.length / median(clock.seconds[_UNTIMED:])


def _require_place(model: torch.device, trainer: torch.device) -> None:
    """Checks that models are on the GPU that transformers' Trainer takes, which is the first that it sees.

    Raises:
        UserError: They are on another one.
    """
    if model.type == "cuda" and model != trainer:
        raise UserError(
            f"Training: expected the model on {trainer}, the GPU on which transformers trains, got {model}. Show this "
            f"command that GPU alone: CUDA_VISIBLE_DEVICES={model.index} in front of it, and model.device=cuda."
        )


def _trainer(
    student: Any,
    teacher: Any,
    stream: TokenStream,
    settings: Recovery,
    directory: Path,
    steps: int,
    every: int | None,
    objective: Objective,
    kept: Sequence[int] | None,
) -> _Distiller:
    """A trainer of so many steps from the stream's beginning, with a checkpoint after `every` of them, if any."""
    processes, dtype = Processes.here(), next(student.parameters()).dtype
    assert settings.learning_rate is not None
    if settings.together % processes.count:
        raise UserError(
            f"recover.batch_size: expected a multiple of {processes.count}, as there are so many processes, got "
            f"{settings.together}."
        )
    row = trained_row(student, teacher, settings)
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(is_in_stack(student, name) and SHARED_TRAINABLE[row](name))
        inside = is_in_stack(student, name) and (row == "all" or not is_in_layers(student, name))
        if inside or parameter.requires_grad:  # others are as good in the run's dtype
            parameter.data = parameter.data.float()
    for module in student.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # a teacher's answers are no small text that is learned by heart
    arguments = TrainingArguments(
        output_dir=str(directory),
        max_steps=steps,
        per_device_train_batch_size=settings.together // processes.count,
        gradient_accumulation_steps=settings.accumulation,
        activation_checkpointing=settings.checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        torch_compile=settings.compile,
        optim="adamw_torch_fused",
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(settings.warmup * steps),
        weight_decay=0.0,
        max_grad_norm=settings.clip,
        bf16=dtype == torch.bfloat16,
        use_cpu=next(teacher.parameters()).device.type == "cpu",
        ddp_find_unused_parameters=False,
        save_strategy="steps" if every else "no",
        save_steps=every or steps,
        save_total_limit=2,
        logging_steps=math.ceil(steps / _CURVE),
        report_to=[],
        disable_tqdm=True,
        seed=settings.seed,
        remove_unused_columns=False,
        ignore_data_skip=True,
    )
    _require_place(next(teacher.parameters()).device, arguments.device)
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process trains on one GPU, whatever else it sees
    stream.rewind()
    windows = StreamWindows(stream, settings.step_windows)
    trainer = _Distiller(stack_of(student), arguments, train_dataset=windows)
    trainer.add_callback(KeepsPosition(windows))
    trainer.teacher, trainer.objective, trainer.marks = teacher, objective, stream.marks
    trainer.kept = range(len(layers_of(student))) if kept is None else kept
    trainer.remove_callback(PrinterCallback)
    return trainer


def _last_checkpoint(directory: Path) -> str | None:
    """The last checkpoint that was written to its end; those that were not are deleted."""
    for checkpoint in directory.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        try:
            json.loads((checkpoint / POSITION_FILE).read_text(encoding="utf-8"))  # written last
        except (OSError, ValueError):
            shutil.rmtree(checkpoint)
    last: str | None = get_last_checkpoint(str(directory)) if directory.exists() else None
    return last
