"""The fidelity behind the corrective refit: what a subnet is worth on held-out text once its projections are refit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from evaluators.base import Evaluation, MeasureEvaluator, Metric
from evaluators.data import TokenSplits, text_of
from evaluators.divergence import Divergence
from space.candidate import Candidate
from space.correction import Correction
from space.corrective_refit import correct
from space.errors import UserError
from space.supernet import Supernet

Show = Callable[[int, int], None]


@dataclass(frozen=True)
class CorrectiveRefit:
    """Settings of the corrective refit, of the front's members and, of the same text with the same result, of exports.

    Attributes:
        windows: Windows of the calibration text.
        damping: See `space.corrective_refit.correct`.
        batch: Windows of a forward pass.
    """

    windows: int
    damping: float = 0.001
    batch: int = 8

    def on(self, supernet: Supernet, text: TokenSplits, length: int) -> Corrections:
        """Makes corrections of this model's subnets with windows of so many tokens of this text.

        Raises:
            UserError: The calibration text is shorter than that.
        """
        return Corrections(self, supernet, text.blocks("calibration", self.windows, length))

    def again(self, supernet: Supernet, tokenizer: Any, data: Mapping[str, Any], digest: str) -> Corrections:
        """The same for a run that has ended.

        Args:
            supernet: The run's.
            tokenizer: The dense model's.
            data: The run's `data` settings.
            digest: Of the run's text.

        Raises:
            UserError: The text can not be had, or is another one.
        """
        text = text_of(data, tokenizer, supernet.spec.vocab)
        if text.digest != digest:
            raise UserError(
                f"Expected the run's text ({digest}) for the corrective refit, but {data['path']} has changed "
                f"({text.digest}). Bring the old text back, or export with correction=false."
            )
        return self.on(supernet, text, data["length"])


@dataclass(frozen=True)
class Corrections:
    """Makes corrections of subnets on fixed tokens `(windows, length)`."""

    settings: CorrectiveRefit
    supernet: Supernet
    tokens: Tensor

    def of(self, candidates: Sequence[Candidate], show: Show = lambda done, of: None) -> list[Correction]:
        """Corrections of candidates, in order; they share the dense model's pass over the text.

        Args:
            candidates: At once; each takes memory for its hidden states of all tokens.
            show: Called with how many layers are done, of how many.
        """
        layers = self.supernet.spec.layers
        return correct(
            self.supernet,
            candidates,
            self.tokens,
            damping=self.settings.damping,
            batch=self.settings.batch,
            on_layer=lambda index: show(index + 1, layers),
        )


class Corrected:
    """An `Evaluator` of corrected subnets: `heldout_kl` and `heldout_ppl`, as of the checkpoint that export writes.

    Candidates that are asked about together are corrected together. When that fails, each is tried alone, so that a
    failure is recorded with the candidate that it belongs to.
    """

    fidelity = "corrected"

    def __init__(self, corrections: Corrections, heldout: Divergence, show: Show = lambda done, of: None) -> None:
        """Runs nothing yet.

        Args:
            corrections: How they are made.
            heldout: On text that neither the search nor the corrections have seen.
            show: Called with how many layers are done, of how many.
        """
        self._corrections = corrections
        self._heldout = heldout
        self._show = show

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """See `Evaluator`."""
        return self._heldout.heldout_measure().metrics

    def __call__(self, candidates: Sequence[Candidate]) -> list[Evaluation]:
        """See `Evaluator`; the seconds of a common correction are shared out evenly."""
        start = time.perf_counter()
        tokens = self._corrections.tokens.numel()
        try:
            made = {c.candidate.key: c for c in self._corrections.of(candidates, self._show)}
        except RuntimeError as error:
            if len(candidates) > 1:
                return [evaluation for candidate in candidates for evaluation in self([candidate])]
            seconds, said = time.perf_counter() - start, f"{type(error).__name__}: {error}"
            return [Evaluation(candidates[0], self.fidelity, "failed", seconds=seconds, tokens=tokens, error=said)]
        shared = (time.perf_counter() - start) / len(candidates)
        measure = self._heldout.heldout_measure(lambda candidate: made[candidate.key])
        scored = MeasureEvaluator(self.fidelity, [replace(measure, tokens=measure.tokens + tokens)])(candidates)
        return [replace(evaluation, seconds=evaluation.seconds + shared) for evaluation in scored]
