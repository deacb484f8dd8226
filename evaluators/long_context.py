"""Held-out text in windows longer than the run's own: what pruning does to a model's use of long context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from evaluators.base import Evaluator, MeasureEvaluator, ModelOf
from evaluators.data.splits import TokenSplits
from evaluators.divergence import Divergence
from evaluators.metrics import LONG_QUALITY, metric_named
from evaluators.settings import TextSettings
from space.models.refusals import positions
from space.supernet.supernet import Supernet

TOKENS = 8192  # in all, so that it costs about what the held-out score does


@dataclass(frozen=True, eq=False)
class LongText:
    """Held-out text in long windows, or why there is none.

    Attributes:
        windows: Token ids, shape (windows, length); None where there are none.
        words: How many of which length, or why none, for people; empty where nobody asked.
    """

    windows: Tensor | None
    words: str

    @classmethod
    def of(cls, text: TokenSplits, settings: TextSettings, config: Any) -> LongText:
        """The long windows that a run's text and the model's positions allow.

        Args:
            text: The run's.
            settings: Their `long` and `length`.
            config: The dense model's, of which the positions count.
        """
        length = settings.long
        if length is None:
            return cls(None, "")
        limit = positions(config)
        room = text.room("heldout", length)
        if length <= settings.length:
            return cls(None, f"none: data.long={length} is no longer than data.length={settings.length}")
        if limit is not None and limit < length:
            return cls(None, f"none: the model has {limit} positions, fewer than data.long={length}")
        if not room:
            return cls(None, f"none: no source has a held-out part of data.long={length} tokens")
        windows = text.blocks("heldout", min(room, max(1, TOKENS // length)), length)
        return cls(windows, f"{len(windows)} of {length:,} tokens")

    def remarks(self) -> list[str]:
        """What a person should know before the search, in lines: why there are none."""
        return [f"long windows of held-out text: {self.words}"] if self.words and self.windows is None else []

    def evaluators(self, supernet: Supernet, model_of: ModelOf, tokens: int) -> list[Evaluator]:
        """What asks for `heldout_long_ppl` of models as they are exported; nothing where there are no windows.

        Args:
            supernet: The run's.
            model_of: A candidate's own model.
            tokens: Of a forward pass, at most, but for a window that is longer.
        """
        if self.windows is None:
            return []
        length = self.windows.shape[1]
        divergence = Divergence(supernet, self.windows, batch_size=max(1, tokens // length))
        measure = divergence.perplexity_measure(metric_named(LONG_QUALITY), model_of)
        return [MeasureEvaluator(f"heldout-{length}", [measure])]
