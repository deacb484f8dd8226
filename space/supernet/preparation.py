"""From a dense model and calibration tokens to its supernet, calibrating only what no earlier run has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from space.errors import UserError
from space.models.embedded import cache_dir
from space.models.loading import LoadedModel
from space.supernet.importance import rule_of
from space.supernet.store import FORMAT, is_prepared
from space.supernet.supernet import Supernet


@dataclass(frozen=True)
class Preparation:
    """How units are ordered and output projections refit; see `Supernet.prepare`."""

    importance: str = "obs"
    damping: float = 0.01
    steps: int = 48
    batch_size: int = 8
    refit_bytes: int = 2 << 30

    def __post_init__(self) -> None:
        rule_of(self.importance)
        if self.damping <= 0 or min(self.steps, self.batch_size, self.refit_bytes) < 1:
            raise UserError(
                "supernet: expected damping above 0, and steps, batch_size and refit_bytes of at least 1, "
                f"got {asdict(self)}."
            )

    def supernet(
        self,
        loaded: LoadedModel,
        tokens: Tensor,
        directory: Path,
        on_layer: Callable[[int], None] = lambda index: None,
        cache: Path | None = None,
    ) -> Supernet:
        """The supernet, with what it needs from disk in `directory`.

        A calibration is kept in the cache under everything that it depends on, and linked into `directory`; the
        next run with the same model, text and settings starts from there.

        Args:
            loaded: The dense model in float32; permuted in place.
            tokens: Calibration tokens, shape (windows, length).
            directory: Where the run keeps its factors.
            on_layer: Called with the number of each layer that is calibrated.
            cache: Where calibrations are kept; None for the user's cache.
        """
        cached = (cache or cache_dir()) / "supernets" / self._digest(loaded, tokens)
        source = next((place for place in (directory, cached) if is_prepared(place)), None)
        if source is not None:
            supernet = Supernet.load(
                loaded.model, loaded.spec, source, dtype=loaded.dtype, refit_bytes=self.refit_bytes
            )
        else:
            supernet = Supernet.prepare(
                loaded.model,
                loaded.spec,
                tokens,
                cached,
                dtype=loaded.dtype,
                importance=self.importance,
                damping=self.damping,
                steps=self.steps,
                batch_size=self.batch_size,
                refit_bytes=self.refit_bytes,
                on_layer=on_layer,
            )
        supernet.link_to(directory)
        return supernet

    def _digest(self, loaded: LoadedModel, tokens: Tensor) -> str:
        settings = {
            "format": FORMAT,
            "spec": loaded.spec.identity,
            "dtype": str(loaded.dtype),
            "device": loaded.device.type,
            "shape": list(tokens.shape),
            "importance": self.importance,
            "damping": self.damping,
            "steps": self.steps,
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        digest.update(tokens.cpu().numpy().astype("<i8").tobytes())
        return digest.hexdigest()[:16]
