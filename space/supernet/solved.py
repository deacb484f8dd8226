"""Refit output projections that are kept on disk once they are solved, under a limit of bytes.

A search asks for the same levels again and again, of all layers in turn, and memory has room for few of them. They are
read from here in a hundredth of the time in which they are solved, to the same bits.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from space.candidate import Option
from space.errors import UserError
from space.supernet.store import StoredLayers


@dataclass(frozen=True)
class OnDisk:
    """What is kept on disk of solved levels, of one set of dense weights.

    Attributes:
        bytes: Limit.
        channels: Of MLPs that will be asked for: those of a layer that are kept are solved together.
    """

    bytes: int = 0
    channels: tuple[int, ...] = ()


NOTHING = OnDisk()


class SolvedLevels:
    """Levels of one set of dense weights; safe between threads.

    The files, one a layer, have no name: they are gone with this object, or with the process, however that ends.
    """

    def __init__(self, beside: StoredLayers, on_disk: OnDisk) -> None:
        """Writes nothing yet.

        Args:
            beside: Where the supernet is stored; what is solved is kept on that disk.
            on_disk: What is kept. Layers have equal parts of its bytes, and the blocks of a layer as their output
                projections are wide.
        """
        spec = beside.spec
        columns = {"mlp": spec.mlp_columns, "attention": spec.query_heads * spec.head_dim}
        share = on_disk.bytes / spec.layers / sum(columns.values())
        self._rooms: Mapping[str, int] = {kind: int(share * width) for kind, width in columns.items()}
        self._hidden, self._channels = spec.hidden, sorted(set(on_disk.channels) - {0, spec.mlp_channels})
        self._beside = beside
        self._open = ExitStack()
        weakref.finalize(self, self._open.close)
        self._files: dict[int, Any] = {}  # of layers
        self._places: dict[tuple[int, str, Option], tuple[int, torch.dtype, int]] = {}  # start, dtype, columns
        self._taken: dict[tuple[int, str], int] = {}
        self._lock = Lock()

    def kept_channels(self, dtype: torch.dtype) -> list[int]:
        """MLP channels that are kept, of weights in a dtype: as many of the narrowest levels, the dearest to solve."""
        kept, room = [], self._rooms["mlp"]
        for channels in self._channels:
            room -= dtype.itemsize * self._hidden * channels
            if room >= 0:
                kept.append(channels)
        return kept

    def get(self, index: int, kind: str, option: Option, device: torch.device) -> Tensor | None:
        """The output projection of a layer's block at an option, shape (hidden, columns kept), if it is here."""
        with self._lock:
            if (index, kind, option) not in self._places:
                return None
            start, dtype, columns = self._places[index, kind, option]
            content = bytearray(dtype.itemsize * self._hidden * columns)
            self._files[index].seek(start)
            read = self._files[index].readinto(content)
        assert read == len(content)
        return torch.frombuffer(content, dtype=dtype).view(self._hidden, columns).to(device)

    def put(self, index: int, kind: str, option: Option, weight: Tensor) -> None:
        """Keeps an output projection, if there is room.

        Raises:
            UserError: The disk is full, or the directory cannot be written.
        """
        with self._lock:
            taken = self._taken.get((index, kind), 0) + weight.nbytes
            if (index, kind, option) in self._places or taken > self._rooms[kind]:
                return
            content = weight.cpu().contiguous().view(torch.uint8).numpy()
            directory = self._beside.directory
            try:
                if index not in self._files:
                    file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115  (it stays open)
                    self._files[index] = self._open.enter_context(file)
                start = self._files[index].seek(0, os.SEEK_END)
                self._files[index].write(content)
                self._files[index].flush()
            except OSError as error:
                raise UserError(
                    f"Expected room for solved levels on the disk of {directory}, but writing failed ({error}). "
                    "Free some space, or lower supernet.disk_bytes, the limit of what they take; 0 keeps none."
                ) from error
            self._places[index, kind, option] = start, weight.dtype, weight.shape[1]
            self._taken[index, kind] = taken
