"""Tuned subnets on disk: a file a candidate, written whole, and deleted only while nobody else is at work there."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from space.candidate import Candidate
from space.directory_lock import alone_in, in_use
from space.errors import UserError
from space.files import delete_unfinished, write_whole

State = dict[str, Any]  # of a subnet: `step` of its training, `student`, and the weights of its `correction`

_TEACHER = "teacher"


class TunedStates:
    """The states of a run's tuned subnets.

    Attributes:
        teacher: Directory of what their teacher says, see `evaluators.training.teacher`.
    """

    def __init__(self, directory: Path) -> None:
        """Reads nothing yet.

        Args:
            directory: Where they are.
        """
        self.teacher = directory / _TEACHER
        self._directory = directory

    def in_use(self) -> AbstractContextManager[None]:
        """While it is held, nobody deletes anything."""
        return in_use(self._directory)

    def has(self, candidate: Candidate) -> bool:
        """Whether something is stored of a candidate."""
        return self._file(candidate).exists()

    def get(self, candidate: Candidate) -> State | None:
        """What is stored of a candidate, None when nothing is.

        Raises:
            UserError: It cannot be read.
        """
        return _read(self._file(candidate)) if self.has(candidate) else None

    def put(self, candidate: Candidate, state: State) -> None:
        """Stores a candidate's state in the place of an earlier one.

        Raises:
            UserError: It cannot be stored.
        """
        _write(self._file(candidate), state)

    def keep(self, keys: Collection[str]) -> None:
        """See `evaluators.training.tuning.Tuning.keep`."""
        with alone_in(self._directory) as alone:
            if not alone:
                return
            for place in (self._directory, self.teacher):
                delete_unfinished(place)
            for file in self._directory.glob("s*.pt"):
                if file.stem not in keys:
                    file.unlink()
                    continue
                state = _read(file)
                if state["step"] and state["student"].pop("optimizer", None):
                    _write(file, state)

    def _file(self, candidate: Candidate) -> Path:
        return self._directory / f"{candidate.key}.pt"


def _read(file: Path) -> State:
    try:
        state: State = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        raise UserError(f"Expected {file} to be a tuned subnet, got: {error}. Delete it; it is made again.") from error
    return state


def _write(file: Path, state: State) -> None:
    write_whole(file, lambda path: torch.save(state, path), failures=(RuntimeError,))  # which it raises on a full disk
