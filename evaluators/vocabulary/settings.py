"""What of the vocabulary an export keeps, and the text by which it is chosen."""

from __future__ import annotations

from dataclasses import dataclass, field

from evaluators.data.places import TextPlace
from space.errors import UserError


@dataclass(frozen=True)
class VocabularySettings:
    """Settings of a trimmed vocabulary.

    Attributes:
        keep: The part of the tokens that stay, above 1 how many; None for all.
        characters: Of text in which tokens are counted, at most; a minute counts some 50 million.
        data: Where that text is; without a path, the run's own but for what it searches with or holds out.
    """

    keep: float | None = None
    characters: float = 50_000_000
    data: TextPlace = field(default_factory=TextPlace)

    def __post_init__(self) -> None:
        if self.keep is not None and not self.keep > 0:
            raise UserError(f"vocabulary.keep: expected a part of the tokens or how many, above 0, got {self.keep}.")
        if self.characters < 1:
            raise UserError(f"vocabulary.characters: expected at least 1, got {self.characters}.")
