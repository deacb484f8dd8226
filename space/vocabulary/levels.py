"""All tokens of a tokenizer in the order in which levels keep them: a level is a prefix, and levels are nested."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from space.errors import UserError
from space.options import MULTIPLE
from space.vocabulary.kinds import Contents, ids_of, kind_of
from space.vocabulary.trimmed import named_ids


@dataclass(frozen=True)
class Levels:
    """The levels of a vocabulary.

    Attributes:
        order: Ids of all tokens: those that every level keeps, then what text uses most. What a token is made through
            stands before it, so every prefix from `least` on cuts text as the whole vocabulary does where it can.
        least: How many tokens every level keeps.
    """

    order: tuple[int, ...]
    least: int

    @classmethod
    def of(cls, contents: Contents, counts: Sequence[int], always: Iterable[int] = ()) -> Levels:
        """The levels by how often text uses each token.

        Args:
            contents: Of the tokenizer.json.
            counts: Uses of each token by its id. Of equally used ones the lower id comes first: tokenizers number
                their tokens by their use in the text that they were made of.
            always: Ids of further tokens that every level keeps.

        Raises:
            UserError: The tokenizer is of no kind that can be trimmed.
        """
        kind, ids = kind_of(contents), ids_of(contents)
        parts = kind.parts(contents)
        tokens = {index: token for token, index in ids.items()}
        basic = {ids[token] for token in kind.basic(contents)} | {token["id"] for token in contents["added_tokens"]}
        basic |= named_ids(contents)

        def made(order: Iterable[int]) -> Iterator[int]:
            for index in order:
                yield from (ids[part] for part in parts(tokens[index]) if part in ids)
                yield index

        # What is always kept is so with what it is made through; dict.fromkeys keeps the first place of each.
        base = dict.fromkeys(made(sorted(basic | {index for index in always if index in tokens})))
        used = sorted(tokens, key=lambda index: (-counts[index] if index < len(counts) else 0, index))
        return cls(tuple(dict.fromkeys([*base, *made(used)])), len(base))

    def count(self, keep: float, name: str = "vocabulary.keep") -> int:
        """How many tokens a level has: a multiple of `MULTIPLE` where it can.

        Args:
            keep: The part of all tokens up to 1, above it how many, rounded up.
            name: Of the setting, for messages.

        Raises:
            UserError: That is fewer than every level keeps, or more than there are.
        """
        whole = len(self.order)
        wanted = round(keep * whole) if keep <= 1 else round(keep)
        if not self.least <= wanted <= whole:
            raise UserError(
                f"{name}: expected from {self.least} to {whole} tokens, or a part of at least "
                f"{self.least / whole:.3g}, as special, added and single-byte tokens are always kept, got {keep:g}."
            )
        return min(-(-wanted // MULTIPLE) * MULTIPLE, whole)

    def kept(self, count: int) -> tuple[int, ...]:
        """The ids of a level's tokens in the whole vocabulary, rising; a token's new id is its place here."""
        return tuple(sorted(self.order[:count]))
