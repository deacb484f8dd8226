"""From a dense model and calibration tokens to its supernet, calibrating only what no earlier run has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from torch import Tensor

from space.candidate import Candidate
from space.checks import dtype_name
from space.errors import UserError
from space.files import free_disk_bytes
from space.locations import CACHE_ADVICE, cache_dir
from space.models.loading import LoadedModel
from space.size import total_params
from space.supernet.affordable import affordable, first_layer_s
from space.supernet.placement import Placement
from space.supernet.recipe import Preparation
from space.supernet.sizes import ITEM_BYTES, supernet_bytes
from space.supernet.solved import OnDisk
from space.supernet.store import format_of, is_prepared
from space.supernet.supernet import Supernet

_LARGE_BYTES = 1_000_000_000  # of files, which a person is told of


def prepared_supernet(
    preparation: Preparation,
    loaded: LoadedModel,
    tokens: Callable[[], Tensor],
    directory: Path,
    on_layer: Callable[[int], None] = lambda index: None,
    cache: Path | None = None,
    channels: Sequence[int] = (),
    *,
    read: bool = False,
    seconds: float = inf,
) -> Supernet:
    """The supernet, with what it needs from disk in `directory`.

    A calibration is kept in the cache under everything that it depends on, and linked into `directory`; the
    next run with the same model, text and settings starts from there.

    Args:
        preparation: How.
        loaded: The dense model; permuted in place.
        tokens: Gives calibration tokens, shape (windows, length), where they are needed.
        directory: Where the run keeps its factors.
        on_layer: Called with the number of each layer that is calibrated.
        cache: Where calibrations are kept; None for the user's cache.
        channels: MLP levels that will be asked for, see `space.supernet.solved`.
        read: See `Supernet.prepare`.
        seconds: That a calibration may take; on fewer windows where it takes longer, see `affordable`.
    """

    def at(windows: Tensor) -> Path:
        return (cache or cache_dir()) / "supernets" / _digest(preparation, loaded, windows, read)

    placement = Placement(loaded.device, loaded.streamed)
    how: dict[str, Any] = {"dtype": loaded.dtype, "place": placement, "refit_bytes": refit_limit(preparation, loaded)}
    how["on_disk"] = OnDisk(preparation.disk_limit(_weight_bytes(loaded)), tuple(channels))
    if is_prepared(directory):
        return Supernet.load(loaded.model, loaded.spec, directory, **how)
    windows = tokens()
    if seconds < inf and not is_prepared(at(windows)):
        windows = affordable(windows, loaded.spec.layers, seconds, partial(first_layer_s, loaded, preparation))
    if is_prepared(place := at(windows)):
        supernet = Supernet.load(loaded.model, loaded.spec, place, **how)
    else:
        _require_room(loaded, place, read)
        supernet = Supernet.prepare(
            loaded.model,
            loaded.spec,
            windows,
            place,
            importance=preparation.importance,
            experts=preparation.experts,
            damping=preparation.damping,
            steps=preparation.steps,
            batch_size=preparation.batch_size,
            read=read,
            on_layer=on_layer,
            **how,
        )
    supernet.link_to(directory)
    return supernet


def window_remarks(supernet: Supernet, windows: int) -> list[str]:
    """What a person should know of a calibration that was to read so many windows of text, in lines."""
    few = supernet.calibration_windows
    if few is None or few >= windows:
        return []
    return [f"calibrated on {few} of {windows} windows of text, as minutes are short"]


def disk_remarks(loaded: LoadedModel, directory: Path, *, read: bool = False) -> list[str]:
    """What a person should know of the disk before a supernet is prepared, in lines: its size, where that is large."""
    size = _size(loaded, read)
    if is_prepared(directory) or size < _LARGE_BYTES:
        return []
    return [f"what refits need takes {size / 1e9:.1f} GB on disk, in {cache_dir()}, to which {directory} is linked"]


def _size(loaded: LoadedModel, read: bool) -> int:
    return supernet_bytes(loaded.spec, dtype_name(loaded.dtype), read=read)


def _require_room(loaded: LoadedModel, place: Path, read: bool) -> None:
    """Refuses a calibration whose files the disk has no room for.

    Raises:
        UserError: It has not.
    """
    free, size = free_disk_bytes(place.parent), _size(loaded, read)
    if free < size:
        raise UserError(
            f"Expected {size / 1e6:,.1f} MB of free disk for what refits of {loaded.spec.name} need, in "
            f"{place.parent}, got {free / 1e6:,.1f} MB. {CACHE_ADVICE}"
        )


def refit_limit(preparation: Preparation, loaded: LoadedModel) -> int:
    """Memory limit of narrower blocks of a model, in bytes."""
    return preparation.refit_limit(_weight_bytes(loaded))


def _weight_bytes(loaded: LoadedModel) -> int:
    return ITEM_BYTES[dtype_name(loaded.dtype)] * total_params(loaded.spec, Candidate.dense(loaded.spec))


def _digest(preparation: Preparation, loaded: LoadedModel, tokens: Tensor, read: bool) -> str:
    settings = {
        "format": format_of(loaded.spec),
        "spec": loaded.spec.identity,
        "dtype": str(loaded.dtype),
        "device": loaded.device.type,
        "shape": list(tokens.shape),
        "importance": preparation.importance,
        "damping": preparation.damping,
        "steps": preparation.steps,
        **({"read": True} if read else {}),
    }
    if loaded.spec.routed:
        settings["experts"] = preparation.experts
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(tokens.cpu().numpy().astype("<i8").tobytes())
    return digest.hexdigest()[:16]
