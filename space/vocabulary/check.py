"""A trimmed tokenizer beside the whole one: the same text back, the same tokens where it can, and how many more."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from space.errors import UserError

# Nearly all characters of the first scripts, and some of others: what a text may have that the counts never saw.
_RANGES = range(1, 0x3000), range(0x4E00, 0x4F00), range(0xAC00, 0xAD00), range(0x1F600, 0x1F650)
CHARACTERS = "".join(chr(code) for codes in _RANGES for code in codes)
_WORD = re.compile(r"\s*\S+|\s+")


@dataclass(frozen=True)
class Comparison:
    """How a trimmed tokenizer cuts some texts.

    Attributes:
        words: Words of the texts, blanks before a word counted with it.
        recut: Those that have a dropped token.
        tokens: Of the texts by the whole tokenizer.
        tokens_now: Of the texts by the trimmed one.
    """

    words: int
    recut: int
    tokens: int
    tokens_now: int

    @property
    def recut_share(self) -> float:
        """The part of the words that are cut otherwise, mostly into more tokens."""
        return self.recut / max(self.words, 1)

    @property
    def longer(self) -> float:
        """By which part the texts have more tokens."""
        return self.tokens_now / max(self.tokens, 1) - 1


def compared(whole: Tokenizer, small: Tokenizer, kept: Sequence[int], texts: Iterable[str]) -> Comparison:
    """Cuts texts with both, word by word and as they are.

    Args:
        whole: The whole tokenizer.
        small: The trimmed one.
        kept: Ids, in the whole one, of the trimmed one's tokens in their order.
        texts: Any.

    Raises:
        UserError: The trimmed one does not give a text back as the whole one does, or cuts a text otherwise that needs
            no dropped token; or a token that it keeps has another id.
    """
    new = {old: place for place, old in enumerate(kept)}
    for old, place in new.items():
        token, given = whole.id_to_token(old), small.id_to_token(place)
        if given != token:
            raise _failed(str(token), f"has the new id {place}, which is of {given!r}")
    texts = [text for text in texts if text]
    words = Counter(word for text in texts for word in _WORD.findall(text))
    recut = _cut(whole, small, new, [*words])
    _cut(whole, small, new, texts)
    return Comparison(
        words=words.total(),
        recut=sum(words[word] for word in recut),
        tokens=_tokens(whole, texts),
        tokens_now=_tokens(small, texts),
    )


def _cut(whole: Tokenizer, small: Tokenizer, new: Mapping[int, int], texts: Sequence[str]) -> Collection[str]:
    """Those of the texts that need a dropped token."""
    recut = []
    both = zip(texts, whole.encode_batch(list(texts)), small.encode_batch(list(texts)), strict=True)
    for text, before, now in both:
        expected = [new.get(old, -1) for old in before.ids]
        if -1 in expected:
            recut.append(text)
        elif expected != now.ids:
            raise _failed(text, f"needs no dropped token, but is cut into {now.tokens[:12]}, not {before.tokens[:12]}")
        wanted = whole.decode(before.ids, skip_special_tokens=False)
        given = small.decode(now.ids, skip_special_tokens=False)
        if given != wanted:
            raise _failed(text, f"comes back as {given[:60]!r}, not as {wanted[:60]!r}")
    return recut


def _tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> int:
    return sum(len(each.ids) for each in tokenizer.encode_batch(list(texts), add_special_tokens=False))


def _failed(text: str, what: str) -> UserError:
    return UserError(
        f"The trimmed tokenizer failed its check: {text[:60]!r} {what}. Export with the whole vocabulary "
        "(vocabulary.keep=null), and report the tokenizer."
    )
