"""Timings of whole models relative to the dense one, kept on disk from run to run."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from space.errors import UserError
from space.files import write_whole
from space.locations import CACHE_ADVICE


@dataclass
class Timings:
    """What is known of one phase on one device.

    Attributes:
        about: All that the times depend on.
        file: Where they are kept; None for nowhere.
        dense_ms: Of the dense model, in milliseconds; None before anything was timed.
        ratios: Model name to its times in the rounds, each divided by the dense model's about then.
        head_ms: Of a prefill's LM head alone, see `evaluators.latency.clocks.Clock.head_ms`.
    """

    about: Mapping[str, Any]
    file: Path | None
    dense_ms: float | None = None
    ratios: dict[str, list[float]] = field(default_factory=dict)
    head_ms: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, about: Mapping[str, Any], directory: Path | None) -> Timings:
        """What a directory holds of it, perhaps nothing.

        Raises:
            UserError: The file there is broken.
        """
        if directory is None:
            return cls(about, None)
        text = json.dumps(about, sort_keys=True)
        file = directory / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
        if not file.exists():
            return cls(about, file)
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            times = {str(name): [float(ratio) for ratio in rounds] for name, rounds in stored["ratios"].items()}
            if not all(times.values()):
                raise ValueError("a model without times")
            head_ms = {str(name): float(ms) for name, ms in stored.get("head_ms", {}).items()}
            return cls(about, file, float(stored["dense_ms"]), times, head_ms)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"Expected {file} to hold timings of earlier runs, got {type(error).__name__}: {error}. "
                "Delete it, they are measured again; or run with latency.cache=false."
            ) from error

    def ratio(self, name: str) -> float:
        """A model's time relative to the dense model's, the median over the rounds."""
        return statistics.median(self.ratios[name])

    @property
    def rounds(self) -> int:
        """The fewest that a model has."""
        return min(map(len, self.ratios.values()))

    def spread(self) -> float:
        """Interquartile range over median of a model's times, the median over all models."""
        return statistics.median(spread(ratios) for ratios in self.ratios.values())

    def save(self) -> None:
        """Writes it, all or nothing.

        Raises:
            UserError: It cannot be written.
        """
        if self.file is None:
            return
        advice = f"{CACHE_ADVICE} Or run with latency.cache=false."
        stored = {
            "about": dict(self.about),
            "dense_ms": self.dense_ms,
            "ratios": self.ratios,
            "head_ms": self.head_ms,
        }
        write_whole(self.file, json.dumps(stored, indent=1), advice=advice)


def spread(times: list[float]) -> float:
    """Interquartile range over median; 0 for a single time."""
    if len(times) < 2:
        return 0.0
    lower, middle, upper = statistics.quantiles(times, n=4, method="inclusive")
    return (upper - lower) / middle
