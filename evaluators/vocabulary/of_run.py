"""The vocabularies of a run whose designs choose one: ranked once, by the run's own text, and kept with it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from evaluators.data.places import TextPlace
from evaluators.data.splits import TokenSplits
from evaluators.paths import Paths, Stage
from evaluators.vocabulary.ranked import Ranked, Vocabulary, cut, texts_of
from evaluators.vocabulary.settings import VocabularySettings
from space.errors import UserError
from space.files import kept
from space.models.loading import LoadedModel

SETTING = "space.vocabulary"


class RunVocabulary:
    """The whole vocabulary and the smaller ones of a space.

    Attributes:
        whole: The whole one.
        counts: Tokens of the smaller ones.
        ranked: By what these are chosen.
    """

    def __init__(self, whole: Vocabulary, counts: Sequence[int], ranked: Ranked, start: int | None) -> None:
        """Makes no tokenizer yet.

        Args:
            whole: The whole vocabulary.
            counts: Tokens of the smaller ones.
            ranked: The tokens.
            start: The token that windows of the run's text begin with, if any.
        """
        self.whole, self.counts, self.ranked, self._start = whole, tuple(counts), ranked, start
        self._tokenizers: dict[int, Any] = {0: whole.tokenizer}
        self._rows: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(
        cls,
        loaded: LoadedModel,
        counts: Sequence[int],
        place: TextPlace,
        text: TokenSplits,
        paths: Paths,
        stage: Stage,
    ) -> RunVocabulary:
        """Those of a run, by all its text but for what it searches with or holds out.

        Args:
            loaded: The dense model.
            counts: Tokens of the smaller ones.
            place: Where the run's text is.
            text: What the run takes of it.
            paths: Where the run lives, and what is counted before.
            stage: Opened around the count.

        Raises:
            UserError: See `Vocabulary`, and `Vocabulary.ranked`.
        """
        whole, characters = Vocabulary(loaded, SETTING), VocabularySettings().characters
        made = kept(
            paths.vocabulary, lambda: whole.ranked(place, text.reserved, characters, paths.cache, stage).to_json()
        )
        return cls(whole, counts, Ranked.from_json(made), text.start)

    @property
    def digest(self) -> str:
        """Of the ranking, with which the numbers of a run go."""
        return hashlib.sha256(self.ranked.to_json().encode()).hexdigest()[:16]

    def kept(self, count: int) -> tuple[int, ...]:
        """The ids of a vocabulary's tokens in the whole one."""
        return self.ranked.levels.kept(count)

    def tokenizer(self, count: int) -> Any:
        """The tokenizer of a vocabulary of so many tokens, 0 being all; it is checked when it is first asked for.

        Raises:
            UserError: It does not cut text as the whole one does where it can, or does not give a text back.
        """
        if count not in self._tokenizers:
            tokenizer = self.whole.small(self.kept(count))
            self.whole.compared(tokenizer, self.kept(count), [])
            self._tokenizers[count] = tokenizer
        return self._tokenizers[count]

    def texts(self, windows: Tensor) -> tuple[str, ...]:
        """Windows of the run's text as text, see `texts_of`."""
        return texts_of(self.whole.tokenizer, windows, self._start)

    def cut(self, texts: Sequence[str], count: int) -> list[list[int]]:
        """Texts in the tokens of a vocabulary of so many, 0 being all, by their ids in the whole one."""
        rows = cut(self.tokenizer(count), texts)
        if not count:
            return rows
        old = self.kept(count)
        return [[old[index] for index in row] for row in rows]

    def remarks(self, windows: Tensor) -> list[str]:
        """By how little they are ranked, if so, and how each smaller vocabulary cuts text, in lines.

        Args:
            windows: Of the text.
        """
        lines, texts = self.ranked.remarks(), self.texts(windows)
        for count in self.counts:
            comparison = self.whole.compared(self.tokenizer(count), self.kept(count), texts)
            lines.append(
                f"of {count:,} of {self.whole.rows:,} tokens: {comparison.recut_share:.1%} of the words of held-out "
                f"text are cut otherwise, and it has {comparison.longer:.1%} more tokens"
            )
        return lines

    def output_rows(self, model: Any) -> Tensor:
        """The output matrix of a model with its rows as they are ranked: those of a vocabulary come first."""
        weight = model.get_output_embeddings().weight
        if self._rows is None or self._rows[0] is not weight:
            order = torch.tensor(self.ranked.levels.order, device=weight.device)
            self._rows = weight, weight.detach()[order]
        return self._rows[1]


def require_levels(loaded: LoadedModel, counts: Sequence[int]) -> None:
    """Refuses vocabularies that a model cannot have, without reading any text.

    Args:
        loaded: The dense model.
        counts: Of tokens.

    Raises:
        UserError: See `Vocabulary`; or one is too small or too large.
    """
    if counts:
        if loaded.spec.head_bias:
            raise UserError(
                f"Expected a model whose LM head has no bias for {SETTING}, got {loaded.spec.name}, whose has one. "
                "Leave the setting out."
            )
        whole = Vocabulary(loaded, SETTING)
        for count in counts:
            whole.count(count)
