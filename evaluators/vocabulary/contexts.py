"""Places of a text: where it uses certain tokens, with what stands before these, and running text beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluators.data.sources import Source
from evaluators.data.splits import Encode, digest_of
from evaluators.paths import Show
from evaluators.vocabulary.counts import in_turns

LENGTH = 64  # tokens of a window
BEFORE = 10  # tokens that are kept before a use
LEAST = 20  # windows, and uses, from which anything is learned


@dataclass(frozen=True)
class Contexts:
    """Places of a text.

    Attributes:
        windows: Running text, token ids, `(windows, LENGTH)`.
        tokens: The token of each use that was taken, `(uses,)`.
        before: What stands before it, `(uses, BEFORE)`.
        counts: How often the text uses each token, by id.
    """

    windows: np.ndarray
    tokens: np.ndarray
    before: np.ndarray
    counts: np.ndarray

    @property
    def are_enough(self) -> bool:
        """Whether there is something to learn from, and something to see by what it gave."""
        return len(self.windows) >= LEAST and len(self.tokens) >= LEAST


def contexts_of(
    sources: Sequence[Source],
    encode: Encode,
    rows: int,
    wanted: Collection[int],
    *,
    reserved: Mapping[bytes, int],
    characters: int,
    show: Show,
    uses: int = 1,
    windows: int = 400,
    seed: int = 0,
) -> Contexts:
    """Takes places at random, all of them equally likely (Vitter, "Random sampling with a reservoir", 1985).

    Args:
        sources: Of the text, see `evaluators.vocabulary.counts.token_counts`.
        encode: See `evaluators.data.splits.encoder`.
        rows: Of the model's embedding matrix.
        wanted: The tokens whose uses are taken.
        reserved: Documents of which the first tokens alone are read.
        characters: The most that is read.
        show: Called with the characters that are read, and the most.
        uses: Of each of the tokens, at most.
        windows: Of running text, at most.
        seed: Of what is taken.

    Raises:
        UserError: The text cannot be read.
    """
    generator = np.random.default_rng(seed)
    asked = np.zeros(rows, dtype=bool)
    asked[list(wanted)] = True
    counts = np.zeros(rows, dtype=np.int64)
    met: Counter[int] = Counter()
    taken: dict[int, list[np.ndarray]] = {}
    running: list[np.ndarray] = []
    total = number = 0
    for source, text in in_turns(sources):
        tokens = np.array(encode(text, source), dtype=np.int64)
        if reserved:
            tokens = tokens[: reserved.get(digest_of(text), len(tokens))]
        counts += np.bincount(tokens, minlength=rows)
        for place in np.flatnonzero(asked[tokens[BEFORE:]]):  # that of the first of the tokens before it
            token = int(tokens[place + BEFORE])
            met[token] += 1
            _take(taken.setdefault(token, []), tokens[place : place + BEFORE], met[token], uses, generator)
        for start in range(0, len(tokens) - LENGTH + 1, LENGTH):
            number += 1
            _take(running, tokens[start : start + LENGTH], number, windows, generator)
        total += len(text)
        show(min(total, characters), characters)
        if total >= characters:
            break
    each = [(token, before) for token, some in sorted(taken.items()) for before in some]
    return Contexts(
        windows=np.array(running).reshape(-1, LENGTH),
        tokens=np.array([token for token, _ in each], dtype=np.int64),
        before=np.array([before for _, before in each], dtype=np.int64).reshape(-1, BEFORE),
        counts=counts,
    )


def _take(some: list[np.ndarray], one: np.ndarray, number: int, most: int, generator: np.random.Generator) -> None:
    """Puts the so-manyth of its kind among those that are taken, with the chance that keeps all equally likely."""
    if len(some) < most:
        some.append(one)
    elif (place := int(generator.integers(number))) < most:
        some[place] = one
