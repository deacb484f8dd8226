"""How often a text uses each token: counted once over all that there is of it, up to a limit, and kept in the cache."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluators.data.sources import Source
from evaluators.data.splits import Encode, digest_of
from evaluators.paths import Show
from space.files import kept


@dataclass(frozen=True)
class TokenCounts:
    """Uses of tokens.

    Attributes:
        counts: By id, as many as the model has rows.
        characters: Of the text that was counted.
        sources: Whose text that is.
    """

    counts: tuple[int, ...]
    characters: int
    sources: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """All uses."""
        return sum(self.counts)


def token_counts(
    sources: Sequence[Source],
    encode: Encode,
    rows: int,
    *,
    reserved: Mapping[bytes, int],
    characters: int,
    tokenizer: str,
    cache: Path,
    show: Show,
) -> TokenCounts:
    """The counts, from the cache where it has them.

    Documents are taken from whichever source has given the least text so far, so that a limit cuts all alike.

    Args:
        sources: Of the text.
        encode: See `evaluators.data.splits.encoder`.
        rows: Of the model's embedding matrix.
        reserved: Documents of which the first tokens alone count, see `evaluators.data.splits.TokenSplits.reserved`.
        characters: The most that is counted.
        tokenizer: What tells it from others.
        cache: A directory.
        show: Called with the characters that are counted, and the most.

    Raises:
        UserError: The text cannot be read, the tokenizer gives ids beyond the model's rows, or the cache cannot be
            written.
    """
    shards = {source.name: [shard.name for shard in source.shards] for source in sources}
    facts = [shards, rows, characters, tokenizer, sorted((digest.hex(), free) for digest, free in reserved.items())]
    name = f"tokens-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}.json"

    def counted() -> str:
        counts: Counter[int] = Counter()
        total = 0
        for source, text in in_turns(sources):
            ids = encode(text, source)
            free = reserved.get(digest_of(text), len(ids)) if reserved else len(ids)
            counts.update(ids[:free])
            total += len(text)
            show(min(total, characters), characters)
            if total >= characters:
                break
        return json.dumps({"counts": [counts[index] for index in range(rows)], "characters": total})

    cache.mkdir(parents=True, exist_ok=True)
    form = json.loads(kept(cache / name, counted))
    return TokenCounts(tuple(form["counts"]), form["characters"], tuple(source.name for source in sources))


def in_turns(sources: Sequence[Source]) -> Iterator[tuple[str, str]]:
    """Name and text of every document of all sources."""
    readers = {source.name: _documents(source) for source in sources}
    given = dict.fromkeys(readers, 0)
    while given:
        name = min(given, key=lambda each: given[each])
        text = next(readers[name], None)
        if text is None:
            del given[name]
            continue
        given[name] += len(text)
        yield name, text


def _documents(source: Source) -> Iterator[str]:
    for number in range(len(source.shards)):
        yield from filter(None, source.documents(number))
