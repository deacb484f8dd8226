"""Refits of the points, kept on disk beside the run: the next server, however this one ended, solves none of them."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from space.candidate import Candidate
from space.checks import dtype_name
from space.errors import UserError
from space.files import write_whole
from space.models.architectures import architecture_of
from space.models.stack import layers_of
from space.supernet.sizes import merges
from space.supernet.supernet import Supernet
from space.supernet.units import output_weight

FILE = "refits.safetensors"
ROOM = 2  # times what the file takes, that has to be free on the disk
_FORMAT = "1"
_log = logging.getLogger(__name__)


class KeptRefits:
    """The file with refits of one supernet."""

    def __init__(self, place: Path, supernet: Supernet, made_of: Iterable[Path]) -> None:
        """Hands the supernet what is kept of it; nothing where that is of another one.

        Args:
            place: The directory of the file.
            supernet: Of which no view was made yet.
            made_of: Small files by whose content the supernet is known.
        """
        content = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in made_of))
        self._about = {"format": _FORMAT, "supernet": content.hexdigest(), "dtype": dtype_name(supernet.model.dtype)}
        self._file, self._supernet, self._kept = place / FILE, supernet, set[str]()
        self._needed: dict[str, Tensor] = {}
        if self._file.exists():
            self._take_over()

    def add(self, candidate: Candidate, view: Any) -> None:
        """Takes the refits of a candidate's view in, to be kept; those of merged groups are stored elsewhere."""
        spec, strength = self._supernet.spec, self._supernet.strength(candidate)
        whole = Candidate.dense(spec).layers[0]
        for index, layer in zip(candidate.kept, layers_of(view), strict=True):
            shape = candidate.layers[index]
            for kind, layout in architecture_of(spec.family).blocks.items():
                option = shape.option(kind)
                refit = layout.output and option != whole.option(kind)
                if shape.keeps(kind) and refit and not merges(spec, kind, shape):
                    name = f"{strength}/{index}/{kind}/{','.join(map(str, option))}"
                    self._needed[name] = output_weight(layer.get_submodule(layout.module), layout)

    def write(self) -> None:
        """Keeps what was taken in, and nothing else, unless all is kept already, or the disk is nearly full."""
        if self._needed.keys() <= self._kept:
            return
        size = sum(tensor.nbytes for tensor in self._needed.values())
        self._file.parent.mkdir(exist_ok=True)
        if shutil.disk_usage(self._file.parent).free < ROOM * size:
            _log.warning("the points' refits, %d MB, are not kept: the disk is nearly full", size // 1_000_000)
            return
        tensors = {name: tensor.contiguous() for name, tensor in self._needed.items()}
        try:
            write_whole(self._file, lambda file: save_file(tensors, file, self._about), failures=(SafetensorError,))
        except UserError as error:  # the next server solves them again
            _log.warning("the points' refits are not kept: %s", error)

    def _take_over(self) -> None:
        try:
            with safe_open(self._file, "pt") as file:
                if file.metadata() != self._about:
                    return
                for name in file.keys():  # noqa: SIM118  (it is no mapping)
                    strength, index, kind, option = name.split("/")
                    key = int(index), kind, tuple(map(int, option.split(",")))
                    self._supernet.solved[float(strength)][key] = file.get_tensor(name)
                    self._kept.add(name)
        except (OSError, SafetensorError, ValueError) as error:
            raise UserError(
                f"Expected {self._file} to hold refits of the run's points, got: {type(error).__name__}: {error}. "
                "Delete it; they are solved again."
            ) from error
