"""A run's text for models that guess hidden words: in each window some tokens are the mask, the same ones each time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evaluators.data.places import Part
from evaluators.data.splits import TokenSplits
from evaluators.data.stream import TokenStream
from space.task import STRETCH

NO_CLASS = -100  # of a token that is not asked about
_BATCH = 16  # windows that a model is asked about at once


def hidden_words(windows: Tensor, mask: int, *, start: bool, end: bool) -> Tensor:
    """Windows with a token of every stretch of text hidden, the last one perhaps shorter; which one, the text decides.

    Args:
        windows: Token ids, shape (windows, length).
        mask: What stands in the place of a hidden one.
        start: Whether windows begin with a token that is no text.
        end: Whether they end with one.

    Returns:
        Token ids, shape (windows, length).
    """
    starts = torch.arange(int(start), windows.shape[1] - end, STRETCH)
    widths = (windows.shape[1] - end - starts).clamp(max=STRETCH)
    rows = windows.clone()
    for row in rows:
        generator = torch.Generator().manual_seed(int(row.sum()))
        row[starts + (torch.rand(len(starts), generator=generator) * widths).long()] = mask
    return rows


@dataclass(frozen=True, eq=False)
class MaskedSplits(TokenSplits):
    """Text whose windows have hidden words.

    Attributes:
        mask: The token in their place.
    """

    mask: int = 0

    @classmethod
    def of(cls, text: TokenSplits, mask: int) -> MaskedSplits:
        """The same text with words hidden."""
        return cls(text.tokens, text.documents, text.start, text.skipped, text.end, mask)

    def blocks(self, part: Part, windows: int, length: int) -> Tensor:
        """See `TokenSplits.blocks`."""
        whole = super().blocks(part, windows, length)
        return hidden_words(whole, self.mask, start=self.start is not None, end=self.end is not None)

    def labelled(self, windows: int, length: int) -> list[tuple[Tensor, Tensor]]:
        """Held-out windows with hidden words, and these words as their classes, in batches; both (batch, length)."""
        shown = self.blocks("heldout", windows, length)
        hidden = (shown == self.mask, super().blocks("heldout", windows, length))
        classes = torch.where(*hidden, NO_CLASS)
        return [*zip(shown.split(_BATCH), classes.split(_BATCH), strict=True)]


class MaskedStream(TokenStream):
    """Windows with hidden words for longer training."""

    def __init__(self, *args: Any, mask: int, **settings: Any) -> None:
        """See `TokenStream`.

        Args:
            args: Its own.
            mask: The token in the place of a hidden one.
            settings: Its own.
        """
        super().__init__(*args, **settings)
        self._mask = mask

    def __iter__(self) -> Iterator[Tensor]:
        """See `TokenStream`."""
        marks = {"start": self.start is not None, "end": self.end is not None}
        return (hidden_words(window[None], self._mask, **marks)[0] for window in super().__iter__())
