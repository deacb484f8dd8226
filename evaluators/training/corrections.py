"""Settings of the corrective refit, and the refit on a run's text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from evaluators.data import TokenSplits
from space.candidate import Candidate
from space.supernet.correction import Correction
from space.supernet.corrective_refit import correct
from space.supernet.supernet import Supernet


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

    def on(self, supernet: Supernet, text: TokenSplits, length: int) -> Corrections:
        """Makes corrections of this model's subnets with windows of so many tokens of this text.

        Raises:
            UserError: The calibration text is shorter than that.
        """
        return Corrections(self, supernet, text.blocks("calibration", self.windows, length))


@dataclass(frozen=True)
class Corrections:
    """Makes corrections of subnets on fixed tokens `(windows, length)`."""

    settings: CorrectiveRefit
    supernet: Supernet
    tokens: Tensor

    def of(self, candidates: Sequence[Candidate]) -> list[Correction]:
        """Corrections of candidates, in order; they share the dense model's pass over the text.

        Args:
            candidates: At once; each takes memory for its hidden states of all tokens.
        """
        settings = self.settings
        return correct(self.supernet, candidates, self.tokens, damping=settings.damping, batch_size=settings.batch_size)
