"""Settings of the corrective refit, which `space.supernet.corrective_refit` makes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CorrectiveRefit:
    """Settings of the corrective refit.

    Attributes:
        windows: Windows of the calibration text.
        damping: See `space.supernet.corrective_refit.correct`.
        batch_size: Windows of a forward pass.
    """

    windows: int
    damping: float = 0.001
    batch_size: int = 8
