"""What stands for each dropped token: the pieces into which a trimmed tokenizer cuts it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Pieces:
    """The tokens of a smaller vocabulary, and what stands for the others.

    Attributes:
        kept: Ids, in the whole vocabulary, of the tokens that stay; the place of one is its new id.
        of: By the old id of each dropped token, the new ids of its pieces.
    """

    kept: tuple[int, ...]
    of: Mapping[int, tuple[int, ...]]

    @classmethod
    def between(cls, tokenizer: Any, small: Any, kept: Sequence[int]) -> Pieces:
        """Those of a trimmed tokenizer.

        Args:
            tokenizer: The whole one, of transformers.
            small: The trimmed one.
            kept: Old ids of its tokens.
        """
        there, model = set(kept), small.backend_tokenizer.model
        of = {}
        for token, old in tokenizer.get_vocab().items():
            if old not in there:
                of[old] = tuple(piece.id for piece in model.tokenize(token))
        return cls(tuple(kept), dict(sorted(of.items())))

    @cached_property
    def rows(self) -> list[int]:
        """New ids of those that stand for dropped tokens, rising."""
        return sorted({piece for pieces in self.of.values() for piece in pieces})

    def spelt(self, tokens: Iterable[int]) -> list[tuple[int, ...]]:
        """Tokens of the whole vocabulary, each as new ids."""
        return [self.of[old] if old in self.of else (self._new[old],) for old in tokens]

    @cached_property
    def _new(self) -> dict[int, int]:
        return {old: place for place, old in enumerate(self.kept)}
