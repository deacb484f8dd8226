"""What the dense model says of the training text, computed once and shared by all students: on disk, memory-mapped.

The divergence of a student from the teacher, and its gradient by the student's last hidden state h, need the teacher's
probabilities p in one form alone, the expected output embedding Wᵀp (`evaluators.divergence`); where logits are
soft-capped, the teacher's hidden state stands in its place (`evaluators.output_head`). So a hidden-sized vector
a token stands for the whole vocabulary, with nothing cut off: no top-k, no tail term, no error beyond float32's. Where
residual streams are to be matched too, the teacher's are stored beside it.

Lessons lie in a directory that is named by all that they depend on and appears when they are complete. Nothing replaces
or deletes them, so that several processes may write and read them at once.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evaluators.output_head import OutputHead
from space.files import whole_directory
from space.models.stack import stack_of
from space.models.streams import recorded_streams

_META = "teacher.json"
_FORMAT = 2


@dataclass(frozen=True)
class Lesson:
    """What a student is to learn from one batch of windows; all but the ids are float32.

    Attributes:
        tokens: Ids, `(windows, length)`.
        known: What is kept of the teacher at the temperature, see `OutputHead.expected`, `(windows · length, hidden)`.
        cross: Its cross-entropy with itself, `(windows · length,)`: the divergence is relative to it.
        streams: The residual stream behind each matched layer, by layer, `(windows · length, hidden)`.
    """

    tokens: Tensor
    known: Tensor
    cross: Tensor
    streams: Mapping[int, Tensor]


@torch.no_grad()
def taught(model: Any, head: OutputHead, tokens: Tensor) -> Lesson:
    """What the dense model says of some windows `(windows, length)`, for text that is looked at once."""
    states = stack_of(model)(tokens, use_cache=False).last_hidden_state.flatten(0, 1).float()
    lse, known = head.expected(states, exact=False)  # as good as the gradient that it is for
    return Lesson(tokens, known, lse - head.mean_logit(states, known), {})


class Teacher:
    """Lessons of the dense model on fixed windows of text."""

    def __init__(
        self,
        model: Any,
        digest: str,
        tokens: Tensor,
        directory: Path,
        *,
        batch_size: int,
        temperature: float = 1.0,
        layers: Sequence[int] = (),
        on_lesson: Callable[[int, int], None] = lambda done, of: None,
    ) -> None:
        """Opens the lessons that `directory` holds, or runs the model and writes them there.

        Args:
            model: The dense model, or a view of it.
            digest: Of the model.
            tokens: Token ids, `(windows, length)`.
            directory: Where the lessons of all models, texts and temperatures are.
            batch_size: Windows of a lesson.
            temperature: What logits are divided by.
            layers: Layers behind which the residual stream is stored, from 0.
            on_lesson: Called with how many lessons are written, of how many.

        Raises:
            UserError: The directory cannot be written.
        """
        self.layers = tuple(layers)
        self._parts = tokens.split(batch_size)
        self._device = next(model.parameters()).device
        ids = hashlib.sha256(tokens.cpu().numpy().astype("<i8").tobytes()).hexdigest()
        facts = {"format": _FORMAT, "model": digest, "dtype": str(model.dtype), "temperature": temperature}
        facts |= {"ids": ids, "shape": [*tokens.shape], "layers": [*layers]}
        text = json.dumps(facts, sort_keys=True)
        self._directory = directory / hashlib.sha256(text.encode()).hexdigest()[:16]
        if not _is_whole(self._directory):
            with whole_directory(self._directory, is_whole=_is_whole) as unfinished:
                self._write(model, temperature, unfinished, on_lesson)
                (unfinished / _META).write_text(text)
        hidden, count = model.config.hidden_size, tokens.numel()
        self._streams = {layer: self._open(f"stream-{layer}", count, hidden) for layer in layers}
        self._known = self._open("known", count, hidden)
        self._cross = self._open("cross", count)
        self._starts = np.cumsum([0, *(part.numel() for part in self._parts)])

    def lesson(self, step: int) -> Lesson:
        """What a student learns at a step, from 0; behind the last batch of windows, from the first one again."""
        number = step % len(self._parts)
        rows = slice(*self._starts[number : number + 2])

        def read(array: npt.NDArray[np.float32]) -> Tensor:
            return torch.from_numpy(np.array(array[rows])).to(self._device)

        streams = {layer: read(array) for layer, array in self._streams.items()}
        return Lesson(self._parts[number].to(self._device), read(self._known), read(self._cross), streams)

    @torch.inference_mode()
    def _write(self, model: Any, temperature: float, directory: Path, on_lesson: Callable[[int, int], None]) -> None:
        head = OutputHead.of(model, self._parts[0].numel(), temperature=temperature)
        with ExitStack() as stack:
            names = ("known", "cross", *(f"stream-{layer}" for layer in self.layers))
            files = {name: stack.enter_context((directory / f"{name}.f32").open("wb")) for name in names}
            for number, part in enumerate(self._parts):
                with recorded_streams(model, {layer: layer for layer in self.layers}) as streams:
                    final = stack_of(model)(part.to(self._device), use_cache=False).last_hidden_state
                states = final.flatten(0, 1).float()
                lse, known = head.expected(states)
                tensors = {"known": known, "cross": lse - head.mean_logit(states, known)}
                tensors |= {f"stream-{layer}": stream for layer, stream in streams.items()}
                for name, tensor in tensors.items():
                    files[name].write(tensor.float().cpu().numpy().tobytes())
                on_lesson(number + 1, len(self._parts))

    def _open(self, name: str, *shape: int) -> npt.NDArray[np.float32]:
        return np.memmap(self._directory / f"{name}.f32", np.float32, "r", shape=shape)


def spread_layers(count: int, of: int) -> list[int]:
    """So many of a model's layers, evenly spaced, the last one among them."""
    return sorted({math.ceil(of * (index + 1) / count) - 1 for index in range(count)})


def _is_whole(directory: Path) -> bool:
    return (directory / _META).is_file()
