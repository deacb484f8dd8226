"""Windows of text without an end, for training longer than memory would hold: evenly of all sources, in a seeded order.

A pass through a source takes its shards in a drawn order and, within them, blocks of documents that follow each other,
each in a drawn order; windows are cut from one document after the other. So a place in it is a handful of numbers, and
to go on from there takes reading that shard again, and tokenising one document.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from evaluators.data.chats import renderer
from evaluators.data.cutting import marks_of
from evaluators.data.places import TextPlace
from evaluators.data.shards import no_text
from evaluators.data.sources import Source, text_sources
from evaluators.data.splits import Encode, TokenSplits, digest_of, encoder
from space.errors import UserError

# Up to so many passes, repeated text is about as good as new (Muennighoff et al. 2023, arXiv:2305.16264, section 6).
PASSES = 4
SHUFFLED = 4096  # documents in memory, of all sources


def training_stream(
    place: TextPlace,
    text: TokenSplits,
    length: int,
    tokenizer: PreTrainedTokenizerBase,
    *,
    vocab: int | None = None,
    seed: int = 0,
    kind: Callable[..., TokenStream] | None = None,
) -> TokenStream:
    """All text of a place, without what a run searches with or holds out.

    Args:
        place: Where it is; of the run's own place, it is the calibration part and what the run did not read.
        text: The run's.
        length: Tokens in a window.
        tokenizer: See `evaluators.data.splits.encoder`.
        vocab: See `evaluators.data.splits.encoder`.
        seed: See `TokenStream`.
        kind: What makes the stream, in place of `TokenStream`.

    Raises:
        UserError: See `evaluators.data.sources.text_sources` and `TokenStream`.
    """
    encode, sources = encoder(tokenizer, vocab), text_sources(place, render=renderer(tokenizer))
    return (kind or TokenStream)(
        sources, encode, length=length, start=text.start, end=text.end, reserved=text.reserved, seed=seed
    )


class TokenStream:
    """Windows of training text, one after the other; iterating goes on from where the last one ended.

    Sources take turns. One that was read through begins anew, but waits where it is `PASSES` passes ahead of another.

    Attributes:
        length: Tokens in a window.
        start, end, marks: Tokens that every window begins and ends with, None for none; and whether there are such.
        without: Sources of which nothing is for training.
        new_windows: How many windows there were before any text came again; None while none did.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        encode: Encode,
        *,
        length: int,
        start: int | None = None,
        end: int | None = None,
        reserved: Mapping[bytes, int] | None = None,
        seed: int = 0,
    ) -> None:
        """Begins at the beginning.

        Args:
            sources: Of the text.
            encode: See `evaluators.data.splits.encoder`.
            length: Tokens in a window, with the `start` token.
            start: Token that every window begins with; None for none.
            end: Token that every window ends with; None for none.
            reserved: Documents of which the first tokens alone are for training, and how many: see
                `evaluators.data.splits.TokenSplits.reserved`.
            seed: Of the order of shards and documents.

        Raises:
            UserError: The text can not be read, nothing of it is for training, or a window has no room for text.
        """
        self.length, self.start, self.end, self.marks = length, start, end, marks_of(start, end)
        own = length - sum(self.marks)
        if own < 1:
            raise UserError(f"Expected training windows of at least {length - own + 1} tokens, got {length}.")
        self._own, self._seed, self._reserved = own, seed, dict(reserved or {})
        shuffled = max(SHUFFLED // len(sources), 1)
        readers = [_Reader(source, encode, self._reserved, seed, shuffled) for source in sources]
        self._readers = [reader for reader in readers if reader.has_text]
        self.without = [reader.source.name for reader in readers if not reader.has_text]
        if not self._readers:
            raise UserError(
                f"Expected text to train on in {', '.join(self.without)}, but all of it is what the run searches with "
                "or holds out. Give other text with recover.data.path, or longer text."
            )
        self.rewind()

    def rewind(self) -> None:
        """Goes back to the beginning."""
        self._turn = self._windows = 0
        self.new_windows: int | None = None
        for reader in self._readers:
            reader.go_to(_Place())

    @property
    def names(self) -> list[str]:
        """The sources that it is of."""
        return [reader.source.name for reader in self._readers]

    @property
    def skipped(self) -> dict[str, int]:
        """Rows without text in the first pass, as far as it was read from the last start on, by source."""
        return {reader.source.name: reader.skipped for reader in self._readers if reader.skipped}

    @property
    def digest(self) -> str:
        """16 hex digits over all that the windows depend on, with files known by name and size."""
        shards = {reader.source.name: [shard.name for shard in reader.source.shards] for reader in self._readers}
        reserved = sorted((digest.hex(), free) for digest, free in self._reserved.items())
        marks = [self.start] if self.end is None else [self.start, self.end]
        facts = [shards, self.length, *marks, self._seed, reserved]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def __iter__(self) -> Iterator[Tensor]:
        """int64 token ids `(length,)`, without an end."""
        first, last = ([] if mark is None else [mark] for mark in (self.start, self.end))
        while True:
            reader = self._next()
            window = torch.tensor(first + reader.take(self._own) + last)
            if reader.place.passes and self.new_windows is None:
                self.new_windows = self._windows
            self._windows += 1
            yield window

    def _next(self) -> _Reader:
        """Whose turn it is."""
        least = min(reader.place.passes for reader in self._readers)
        while True:
            reader = self._readers[self._turn % len(self._readers)]
            self._turn += 1
            if reader.place.passes < least + PASSES:
                return reader

    def state(self) -> dict[str, Any]:
        """Where it is, ready for JSON; `windows` is how many there were."""
        places = {reader.source.name: asdict(reader.place) for reader in self._readers}
        return {"windows": self._windows, "new": self.new_windows, "turn": self._turn, "places": places}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from where a stream of the same text was.

        Raises:
            UserError: It was of other sources.
        """
        if set(state["places"]) != set(self.names):
            raise UserError(
                f"Expected to go on with text of {', '.join(state['places'])}, but it is of {', '.join(self.names)} "
                "now. Bring the old text back, or begin anew in another directory."
            )
        self._turn, self._windows, self.new_windows = state["turn"], state["windows"], state["new"]
        for reader in self._readers:
            reader.go_to(_Place(**state["places"][reader.source.name]))


@dataclass
class _Place:
    """Where a reader is.

    Attributes:
        passes: That it has completed.
        block: Number of the block in the pass.
        shard: Number, in the pass's order, of the shard that the block begins in.
        row: Of the source's documents in that shard, how many are before the block.
        document: How many of the block's are used up.
        token: How many of the next one's tokens are used up.
    """

    passes: int = 0
    block: int = 0
    shard: int = 0
    row: int = 0
    document: int = 0
    token: int = 0


class _Reader:
    """Tokens of one source, pass after pass."""

    def __init__(self, source: Source, encode: Encode, reserved: Mapping[bytes, int], seed: int, shuffled: int) -> None:
        self.source, self.place = source, _Place()
        self._encode, self._reserved, self._shuffled = encode, reserved, shuffled
        self._seed = seed, zlib.crc32(source.name.encode())
        self.go_to(self.place)

    @property
    def has_text(self) -> bool:
        """Whether any of its documents is for training."""
        texts = (text for number in range(len(self.source.shards)) for text in self.source.documents(number))
        rows = blank = 0
        for text in texts:
            if text and self._free(text) != 0:
                return True
            rows, blank = rows + 1, blank + (not text)
        if rows == blank:
            raise no_text(self.source.name, rows)
        return False

    def go_to(self, place: _Place) -> None:
        """Goes on from a place."""
        self.place, self.skipped = place, 0
        self._rows: Iterator[tuple[int, int, str]] | None = None  # of the rest of the pass, behind the block
        self._block: list[str] = []
        self._end = place.shard, place.row
        self._ids: list[int] | None = None  # of the next document
        self._has_tokens = place != _Place()  # in this pass, as far as is known

    def take(self, count: int) -> list[int]:
        """The next token ids."""
        taken: list[int] = []
        while len(taken) < count:
            if self._ids is None:
                self._ids = self._next_document()
            part = self._ids[self.place.token : self.place.token + count - len(taken)]
            taken += part
            self.place.token += len(part)
            if self.place.token == len(self._ids):
                self.place.token, self._ids = 0, None
                self.place.document += 1
        return taken

    def _next_document(self) -> list[int]:
        place = self.place
        if not self._block:
            self._read()
        while place.document >= len(self._block):
            if len(self._block) < self._shuffled:  # the pass ends with it
                if not self._has_tokens:
                    raise UserError(f"Expected text to train on in {self.source.name}, but it has no tokens.")
                self.place = place = _Place(place.passes + 1)
                self._rows, self._has_tokens = None, False
            else:
                place.shard, place.row = self._end
                place.block, place.document = place.block + 1, 0
            self._read()
        order = self._drawn(len(self._block), place.passes, place.block)
        text = self._block[order[place.document]]
        ids = self._encode(text, self.source.name)[: self._free(text)]
        self._has_tokens |= bool(ids)
        return ids

    def _read(self) -> None:
        """Reads the block that begins at the place."""
        if self._rows is None:
            self._rows = self._pass()
        rows = ((shard, row, text) for shard, row, text in self._rows if text and self._free(text) != 0)
        self._block = []
        for shard, row, text in islice(rows, self._shuffled):
            self._block.append(text)
            self._end = shard, row

    def _pass(self) -> Iterator[tuple[int, int, str]]:
        """Documents from the place to the pass's end, and the place behind each."""
        order, skipped = self._drawn(len(self.source.shards), self.place.passes), self.place.row
        for shard in range(self.place.shard, len(order)):
            documents = self.source.documents(order[shard])
            for row, text in enumerate(islice(documents, skipped, None), skipped + 1):
                self.skipped += not text and not self.place.passes
                yield shard, row, text
            skipped = 0

    def _free(self, text: str) -> int | None:
        """How many of a document's first tokens are for training; None for all."""
        return self._reserved.get(digest_of(text)) if self._reserved else None

    def _drawn(self, count: int, *of: int) -> list[int]:
        """A permutation, always the same of the same source, pass and block."""
        order: list[int] = np.random.default_rng([*self._seed, *of]).permutation(count).tolist()
        return order
