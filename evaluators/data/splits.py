"""A run's share of its sources in tokens, split by position into parts that share no text, and drawn from evenly."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from evaluators.data.chats import renderer
from evaluators.data.cutting import Marks, marks_of
from evaluators.data.places import Part, TextPlace
from evaluators.data.sources import read_documents
from space.errors import UserError

# First and last tenth of every source's tokens, the last one excluded.
_TENTHS: Mapping[Part, tuple[int, int]] = {"calibration": (0, 6), "search": (6, 8), "heldout": (8, 10)}

PARTS = tuple(_TENTHS)
MOST_NAMED = 8  # sources in a remark

Encode = Callable[[str, str], list[int]]


@dataclass(frozen=True, eq=False)
class TokenSplits:
    """The tokens of every source, of which each part owns a range.

    The first 60 % of a source are for calibration, the next 20 % for the search's fidelities, the last 20 % held out.

    Attributes:
        tokens: Source name to int64 token ids `(tokens,)`, in the order in which blocks take turns.
        documents: Source name to its documents in order: what `digest_of` says of each, and where its tokens end.
        start: Token that every window begins with, where the model's tokenizer begins texts with one (Gemma's and
            Llama's do, and Gemma is at a loss without; those of encoders with [CLS]); None elsewhere.
        skipped: Source name to its rows without text, where it has such.
        end: Token that every window ends with, where the tokenizer ends texts with a separator: those of encoders do.
    """

    tokens: Mapping[str, Tensor]
    documents: Mapping[str, Sequence[tuple[bytes, int]]] = field(default_factory=dict)
    start: int | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)
    end: int | None = None

    @cached_property
    def digest(self) -> str:
        """16 hex digits over all token ids, source by source, equal on every machine and whatever files are called."""
        marks = [token for token in (self.start, self.end) if token is not None]
        digest = hashlib.sha256("".join(f"{token}\0" for token in marks).encode())
        for ids in self.tokens.values():
            digest.update(f"{len(ids)}\0".encode())
            digest.update(ids.numpy().astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    @property
    def sources(self) -> dict[str, int]:
        """How many tokens each source has."""
        return {name: len(ids) for name, ids in self.tokens.items()}

    def part(self, part: Part) -> dict[str, Tensor]:
        """The token ids `(tokens,)` of one part by source; parts do not overlap."""
        first, last = _TENTHS[part]
        return {name: ids[len(ids) * first // 10 : len(ids) * last // 10] for name, ids in self.tokens.items()}

    @cached_property
    def reserved(self) -> dict[bytes, int]:
        """The documents of which something is for search or held out, by digest: how many first tokens are not."""
        reserved: dict[bytes, int] = {}
        for name, documents in self.documents.items():
            free, start = len(self.tokens[name]) * _TENTHS["calibration"][1] // 10, 0
            for digest, end in documents:
                if end > free:
                    reserved[digest] = min(reserved.get(digest, end), max(free - start, 0))
                start = end
        return reserved

    @property
    def heldout(self) -> frozenset[bytes]:
        """The documents that are held out as a whole, and stand nowhere else, by digest."""
        held, others = set[bytes](), set[bytes]()
        for name, documents in self.documents.items():
            first, start = len(self.tokens[name]) * _TENTHS["heldout"][0] // 10, 0
            for digest, end in documents:
                (held if start >= first else others).add(digest)
                start = end
        return frozenset(held - others)

    def room(self, part: Part, length: int) -> int:
        """How many windows of so many tokens, with the `start` token, a part has."""
        return sum(self._rooms(part, length).values())

    def shares(self, part: Part, windows: int, length: int) -> dict[str, int]:
        """How many of `blocks` are of each source: equal numbers, but for what a source does not have.

        Raises:
            UserError: See `blocks`.
        """
        counts = Counter(name for _, _, name in self._turns(part, windows, length))
        return {name: counts[name] for name in self.tokens}

    def remarks(self, windows: Mapping[Part, int], length: int) -> list[str]:
        """Which sources have rows without text, and too little text for an even share of so many windows of each part.

        Raises:
            UserError: See `blocks`.
        """
        lines = skipped_rows(self.skipped)
        for part, count in windows.items():
            shares = self.shares(part, count, length)
            short = {name: share for name, share in shares.items() if share < count // len(shares) or not share}
            if short and count < len(shares):
                without = _shortened([*short])
                lines.append(
                    f"{part} text: {count} windows are too few for {len(shares)} sources, without any of {without}"
                )
            elif short:
                lines.append(
                    f"{part} text is uneven: an even share of {count} windows is {count / len(shares):.3g} a source, "
                    f"but there are {_counted(short)}"
                )
        return lines

    def blocks(self, part: Part, windows: int, length: int) -> Tensor:
        """Windows of consecutive tokens of one part; they do not overlap.

        Sources take turns, so that any leading rows are a mixture as even as any; a source that is used up leaves its
        turns to the others. The windows of a source are spread evenly over its part.

        Args:
            part: Which part of the text.
            windows: How many rows.
            length: Tokens in a row, with the `start` token.

        Returns:
            int64 token ids `(windows, length)`, the same for the same text and arguments.

        Raises:
            UserError: A count is not positive, or the part has less text than asked for.
        """
        turns, sources = self._turns(part, windows, length), self.part(part)
        shares = Counter(name for _, _, name in turns)
        own = length - self._marks
        starts = [len(sources[name]) * turn // shares[name] for turn, _, name in turns]
        rows = [sources[name][start : start + own] for (_, _, name), start in zip(turns, starts, strict=True)]
        ends = [torch.full((windows, int(mark is not None)), mark or 0) for mark in (self.start, self.end)]
        return torch.cat([ends[0], torch.stack(rows), ends[1]], 1)  # no column without a mark

    @property
    def marks(self) -> Marks:
        """Whether windows begin, and whether they end, with a token that is no text."""
        return marks_of(self.start, self.end)

    @property
    def _marks(self) -> int:
        """How many tokens of a window are no text."""
        return sum(self.marks)

    def _rooms(self, part: Part, length: int) -> dict[str, int]:
        own = length - self._marks  # of the text
        return {name: len(ids) // own for name, ids in self.part(part).items()}

    def _turns(self, part: Part, windows: int, length: int) -> list[tuple[int, int, str]]:
        """Number of a source's window, number of the source, and its name, of each row."""
        least = 1 + self._marks
        if windows < 1 or length < least:
            raise UserError(f"Expected at least 1 {part} window of at least {least} tokens, got {windows} of {length}.")
        rooms = self._rooms(part, length)
        if windows > sum(rooms.values()):
            raise UserError(
                f"Expected {windows} {part} windows of {length} tokens, but the text has {sum(rooms.values())} "
                f"({', '.join(f'{name} {count}' for name, count in rooms.items())}). "
                f"Lower data.{part}_windows or data.length, or give longer text with data.path."
            )
        return sorted((turn, index, name) for index, name in enumerate(rooms) for turn in range(rooms[name]))[:windows]


def skipped_rows(rows: Mapping[str, int]) -> list[str]:
    """What to say of so many rows without text, by source; nothing of none."""
    return [f"rows without text are skipped: {_counted(rows)}"] if rows else []


def _counted(counts: Mapping[str, int]) -> str:
    return _shortened([f"{name} {count}" for name, count in counts.items()])


def _shortened(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{', '.join(names[:MOST_NAMED])}{more}"


def digest_of(document: str) -> bytes:
    """By what a document is known again."""
    return hashlib.blake2b(document.encode(), digest_size=16).digest()


def encoder(tokenizer: PreTrainedTokenizerBase, vocab: int | None = None) -> Encode:
    """Token ids of a document of a source, without special tokens.

    Args:
        tokenizer: The model's tokenizer.
        vocab: Rows of the model's embedding matrix, to check the tokenizer against.

    Returns:
        A function of document and source; it raises a UserError where the tokenizer gives a token id that the model
        has no embedding for.
    """

    def encode(document: str, source: str) -> list[int]:
        encoded = tokenizer(document, add_special_tokens=False, return_attention_mask=False, verbose=False)
        ids: list[int] = encoded["input_ids"]
        if vocab is not None and ids and max(ids) >= vocab:
            raise UserError(
                f"Expected token ids below {vocab}, which is what the model embeds, but the tokenizer gave "
                f"{max(ids)} for {source}. Use the tokenizer that belongs to the model."
            )
        return ids

    return encode


def read_text(
    place: TextPlace, tokenizer: PreTrainedTokenizerBase, *, vocab: int | None = None, digest: str | None = None
) -> TokenSplits:
    """A run's text.

    Args:
        place: Where it is.
        tokenizer: See `encoder`.
        vocab: See `encoder`.
        digest: That it must have; None for any.

    Raises:
        UserError: See `read_documents` and `split_tokens`; or it has another digest.
    """
    text = split_tokens(read_documents(place, render=renderer(tokenizer)), tokenizer, vocab=vocab)
    if digest is not None and text.digest != digest:
        raise UserError(
            f"Expected the text of the run, with the digest {digest}, but {place.path or 'the embedded text'} has "
            f"{text.digest}: it has changed, or is another. Set data.path to where the run's text is now."
        )
    return text


def split_tokens(
    documents: Mapping[str, Sequence[str]], tokenizer: PreTrainedTokenizerBase, *, vocab: int | None = None
) -> TokenSplits:
    """Tokenises every document once; notes the token that the tokenizer would begin with.

    Args:
        documents: Source name to its documents, as `read_documents` has them; empty ones are counted and left out.
        tokenizer: See `encoder`.
        vocab: See `encoder`.

    Raises:
        UserError: See `encoder`; or a source gives no tokens.
    """
    encode, tokens, marks = encoder(tokenizer, vocab), {}, {}
    skipped = {name: texts.count("") for name, texts in documents.items() if "" in texts}
    for name, given in documents.items():
        texts = [text for text in given if text]
        encoded = [torch.tensor(encode(text, name), dtype=torch.int64) for text in texts]
        tokens[name] = torch.cat(encoded)
        if not len(tokens[name]):
            raise UserError(
                f"Expected tokens from {name}, but the tokenizer made none of its {sum(map(len, texts))} characters."
            )
        ends = torch.tensor([len(ids) for ids in encoded]).cumsum(0).tolist()
        marks[name] = [(digest_of(text), end) for text, end in zip(texts, ends, strict=True)]
    special = tokenizer("").get("input_ids", [])  # what it adds to nothing
    start = special[0] if special and special[0] in (tokenizer.bos_token_id, tokenizer.cls_token_id) else None
    end = special[-1] if len(special) > 1 and special[-1] == tokenizer.sep_token_id else None
    return TokenSplits(tokens, marks, start, skipped, end)
