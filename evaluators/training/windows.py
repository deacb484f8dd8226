"""Windows of text for transformers' Trainer, and where in the text each of its checkpoints is."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from evaluators.data.stream import TokenStream

POSITION_FILE = "position.json"  # of the text, in a checkpoint


class StreamWindows(IterableDataset[dict[str, Tensor]]):
    """Windows of a stream, which is read ahead of the training."""

    def __init__(self, stream: TokenStream, step_windows: int) -> None:
        """Reads nothing yet.

        Args:
            stream: The text.
            step_windows: Windows of a step of the optimizer.
        """
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


class KeepsPosition(TrainerCallback):
    """Writes the position beside each checkpoint, which is whole with it."""

    def __init__(self, windows: StreamWindows) -> None:
        """Takes what the Trainer trains on."""
        self._windows = windows

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`."""
        if state.is_world_process_zero:
            checkpoint = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            (checkpoint / POSITION_FILE).write_text(json.dumps(self._windows.position(state.global_step)), "utf-8")
