"""A model's tokens in the order in which smaller vocabularies keep them, and its tokenizer with some of them alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from evaluators.data.chats import renderer
from evaluators.data.places import TextPlace
from evaluators.data.sources import text_sources
from evaluators.data.splits import encoder
from evaluators.paths import Stage
from evaluators.vocabulary.contexts import Contexts, contexts_of
from evaluators.vocabulary.counts import token_counts
from evaluators.vocabulary.pieces import Pieces
from space.errors import UserError
from space.formats.trimmed import named_tokens, tokenizer_contents, trimmed_tokenizer
from space.models.loading import LoadedModel
from space.vocabulary.check import CHARACTERS, Comparison, compared
from space.vocabulary.kinds import ids_of
from space.vocabulary.levels import Levels

ENOUGH = 30  # uses of each token in the mean, below which a ranking is mostly of what the text did not come to
_CHATS = (  # of which a template takes one at least
    [{"role": role, "content": "Hello"} for role in ("system", "user", "assistant")],
    [{"role": role, "content": "Hello"} for role in ("user", "assistant")],
)


@dataclass(frozen=True)
class Ranked:
    """Tokens, ranked by how often a text uses them.

    Attributes:
        levels: Their order.
        tokens: Of the text.
        sources: Whose text that is.
    """

    levels: Levels
    tokens: int
    sources: tuple[str, ...]

    def remarks(self) -> list[str]:
        """That too little text was counted, if so."""
        wanted = ENOUGH * len(self.levels.order)
        if self.tokens >= wanted:
            return []
        return [
            f"ranked by {self.tokens:,} tokens of text: by fewer than {wanted:,}, {ENOUGH} for each one, levels leave "
            "out much that such text uses. Give more of the kind that the model will meet: data.path for a search, "
            "vocabulary.data.path for an export"
        ]

    def to_json(self) -> str:
        """As a run keeps it."""
        order, least = self.levels.order, self.levels.least
        return json.dumps({"order": order, "least": least, "tokens": self.tokens, "sources": self.sources})

    @classmethod
    def from_json(cls, text: str) -> Ranked:
        """The inverse of `to_json`."""
        form = json.loads(text)
        return cls(Levels(tuple(form["order"]), form["least"]), form["tokens"], tuple(form["sources"]))


class Vocabulary:
    """The vocabulary of a dense model, and smaller ones of the same ranking.

    Attributes:
        tokenizer: Of the whole one.
        rows: Of the embedding matrix.
        start: The token before a text, by its id.
    """

    def __init__(self, loaded: LoadedModel, name: str) -> None:
        """Reads the tokenizer.

        Args:
            loaded: The model.
            name: Of the setting that asks for smaller ones, for messages.

        Raises:
            UserError: The model has no tokenizer whose vocabulary can be trimmed, or embeds fewer tokens than it has.
        """
        tokenizer, rows, model = loaded.tokenizer, loaded.spec.vocab, loaded.model
        if tokenizer is None:
            raise UserError(f"{name}: expected a model with a tokenizer, got none. Leave it out.")
        if loaded.surroundings is not None:
            raise UserError(
                f"{name}: expected a model that is all language, whose tokens may have other numbers then, got the "
                "language part of another one, which has tokens of images too. Leave it out."
            )
        contents = tokenizer_contents(tokenizer)
        always = named_tokens(model.config, getattr(model, "generation_config", None)) | _of_chats(tokenizer)
        self.tokenizer, self.rows, self._name, self._contents = tokenizer, rows, name, contents
        self._levels = partial(Levels.of, contents, always=always)
        if (last := max(ids_of(contents).values())) >= rows:
            raise UserError(
                f"{name}: expected a tokenizer of at most {rows} tokens, which the model embeds, but it has one with "
                f"the id {last}. Leave it out."
            )
        begins = (tokenizer.bos_token_id, tokenizer.eos_token_id)
        given = [index for index in begins if index is not None]
        self.start: int = (given or self._levels(()).order)[0]

    def count(self, keep: float) -> int:
        """How many tokens a level has, see `Levels.count`; no text is read.

        Raises:
            UserError: There are too few, or too many.
        """
        return self._levels(()).count(keep, self._name)

    def ranked(
        self, place: TextPlace, reserved: Mapping[bytes, int], characters: float, cache: Path, stage: Stage
    ) -> Ranked:
        """The ranking by a text, counted now where the cache does not have it.

        Args:
            place: Where the text is.
            reserved: Documents of which the first tokens alone count, see `TokenSplits.reserved`.
            characters: The most that is counted.
            cache: What runs share.
            stage: Opened around the count.

        Raises:
            UserError: See `token_counts`.
        """
        with stage("counting tokens") as show:
            counts = token_counts(
                text_sources(place, render=renderer(self.tokenizer)),
                encoder(self.tokenizer, self.rows),
                self.rows,
                reserved=reserved,
                characters=int(characters),
                tokenizer=hashlib.sha256(json.dumps(self._contents, sort_keys=True).encode()).hexdigest(),
                cache=cache / "vocabulary",
                show=show,
            )
        return Ranked(self._levels(counts.counts), counts.tokens, counts.sources)

    def contexts(
        self,
        pieces: Pieces,
        place: TextPlace,
        reserved: Mapping[bytes, int],
        characters: float,
        stage: Stage,
        *,
        uses: int,
        windows: int,
    ) -> Contexts:
        """Where a text uses dropped tokens, and some of its running text.

        Args:
            pieces: What stands for dropped tokens.
            place: See `ranked`, as the next three.
            reserved: Documents of which the first tokens alone are read.
            characters: The most that is read.
            stage: Opened around the reading.
            uses: Of dropped tokens, at most.
            windows: Of running text, at most.

        Raises:
            UserError: The text cannot be read.
        """
        with stage("finding dropped tokens") as show:
            return contexts_of(
                text_sources(place, render=renderer(self.tokenizer)),
                encoder(self.tokenizer, self.rows),
                self.rows,
                pieces.of,
                uses=uses,
                windows=windows,
                reserved=reserved,
                characters=int(characters),
                show=show,
            )

    def small(self, kept: Sequence[int]) -> Any:
        """The tokenizer with some tokens alone."""
        return trimmed_tokenizer(self.tokenizer, kept)

    def compared(self, small: Any, kept: Sequence[int], texts: Sequence[str]) -> Comparison:
        """Checks a trimmed tokenizer on special tokens, on the characters of many scripts and on texts.

        Returns:
            How it cuts the texts.

        Raises:
            UserError: It does not pass.
        """
        whole, trimmed = self.tokenizer.backend_tokenizer, small.backend_tokenizer
        compared(whole, trimmed, kept, [CHARACTERS, *(token["content"] for token in self._contents["added_tokens"])])
        return compared(whole, trimmed, kept, texts)


def texts_of(tokenizer: Any, windows: Tensor, start: int | None, end: int | None = None) -> tuple[str, ...]:
    """Windows of tokens as text, without a character that a window's bounds cut; those of nothing else are left out.

    Args:
        tokenizer: Whose tokens these are.
        windows: Token ids, shape (windows, length).
        start: The token that every window begins with, if any.
        end: The token that every window ends with, if any.
    """
    rows = windows[:, int(start is not None) : windows.shape[1] - (end is not None)].tolist()
    texts = tokenizer.batch_decode(rows, clean_up_tokenization_spaces=False)
    return tuple(whole for each in texts if (whole := each.strip("\N{REPLACEMENT CHARACTER}")))


def cut(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Texts in a tokenizer's tokens, without special ones."""
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _of_chats(tokenizer: Any) -> set[int]:
    """The tokens of a chat's frame, which its template may write in words of the vocabulary."""
    render: Callable[..., str] = renderer(tokenizer)
    for chat in _CHATS if tokenizer.chat_template else ():
        try:
            return set(tokenizer(render(chat, "a chat of one turn"), add_special_tokens=False)["input_ids"])
        except UserError:
            if chat is _CHATS[-1]:
                raise
    return set()
