"""What of the vocabulary an export keeps, and the text by which it is chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from evaluators.data.places import TextPlace
from space.errors import UserError


@dataclass(frozen=True)
class VocabularySettings:
    """Settings of a trimmed vocabulary.

    Attributes:
        keep: The part of the tokens that stay, above 1 how many; None for all.
        characters: Of text in which tokens are counted, at most; a minute counts some 50 million.
        data: Where that text is; without a path, the run's own but for what it searches with or holds out. A design
            with a vocabulary of its own was ranked by its run: of this text it learns alone.
        tokens: Of that text, around uses of dropped tokens, in which the model learns to write these in pieces, see
            `evaluators.vocabulary.spelling`; 0 for none.
    """

    keep: float | None = None
    characters: float = 50_000_000
    data: TextPlace = field(default_factory=TextPlace)
    tokens: float = 0

    def require_none(self, own: int) -> None:
        """Raises UserError where anything is chosen here, for a design that has a vocabulary of its own."""
        if self.keep is not None:
            raise UserError(
                f"vocabulary.keep: expected null, as the design has a vocabulary of its own, of {own} tokens, got "
                f"{self.keep:g}. Leave it null, or take a point with the whole vocabulary."
            )

    def __post_init__(self) -> None:
        if self.keep is not None and not self.keep > 0:
            raise UserError(f"vocabulary.keep: expected a part of the tokens or how many, above 0, got {self.keep}.")
        if self.characters < 1:
            raise UserError(f"vocabulary.characters: expected at least 1, got {self.characters}.")
        if not 0 <= self.tokens < math.inf:
            raise UserError(f"vocabulary.tokens: expected at least 0, got {self.tokens}.")
        if self.keep is None and not self.tokens and self.data.path is not None:
            raise UserError(
                "vocabulary.data.path: expected null where no tokens are chosen and nothing is learned, got "
                f"{self.data.path}. Set vocabulary.keep; for a point with a level, vocabulary.tokens; or leave it out."
            )


def require_bits(objectives: Sequence[str], engine: str, tasks: Sequence[str]) -> None:
    """Refuses what cannot be asked of designs with vocabularies of their own.

    Args:
        objectives: Of the search.
        engine: That latency is measured in.
        tasks: Of lm-eval, that the run asks.

    Raises:
        UserError: An objective compares tokens; or tasks or another engine want one vocabulary for all.
    """
    if "kl" in objectives:
        raise UserError(
            f"objectives: expected bpb, bits a byte, where space.vocabulary has levels, got {', '.join(objectives)}: "
            "another vocabulary cuts a text into other tokens. Set objectives=[bpb,latency_ms]."
        )
    if engine != "torch":
        raise UserError(
            f"latency.engine={engine}: expected torch where space.vocabulary has levels. Set latency.engine=torch, or "
            "space.vocabulary=[] and trim the export: vocabulary.keep=0.85."
        )
    if tasks or "acc" in objectives:
        raise UserError(
            f"evaluate.tasks: expected none where space.vocabulary has levels, got {', '.join(tasks) or 'acc'}: "
            "lm-eval is asked with one tokenizer. Set evaluate.tasks=[], and score an export."
        )
