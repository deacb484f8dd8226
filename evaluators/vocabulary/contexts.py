"""Places of a text: where it uses certain tokens, with what stands around these, and running text beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluators.data.sources import Source
from evaluators.data.splits import Encode, digest_of
from evaluators.paths import Show
from evaluators.vocabulary.counts import in_turns

LENGTH = 128  # tokens of running text that are kept together
BEFORE, AFTER = 12, 3  # tokens that are kept before a use, and behind it


@dataclass(frozen=True)
class Contexts:
    """Places of a text, in random order.

    Attributes:
        uses: Token ids, `(uses, BEFORE + 1 + AFTER)`: first one use of each token, then a second one, and so on.
        running: Running text, `(windows, LENGTH)`.
    """

    uses: npt.NDArray[np.int64]
    running: npt.NDArray[np.int64]


def contexts_of(
    sources: Sequence[Source],
    encode: Encode,
    rows: int,
    wanted: Collection[int],
    *,
    uses: int,
    windows: int,
    reserved: Mapping[bytes, int],
    characters: int,
    show: Show,
    seed: int = 0,
) -> Contexts:
    """Takes places at random, all of them equally likely (Vitter, "Random sampling with a reservoir", 1985).

    Args:
        sources: Of the text, see `evaluators.vocabulary.counts.token_counts`.
        encode: See `evaluators.data.splits.encoder`.
        rows: Of the model's embedding matrix.
        wanted: The tokens whose uses are taken.
        uses: Of all these tokens together, at most; as many of each as there is room for.
        windows: Of running text, at most.
        reserved: Documents of which the first tokens alone are read.
        characters: The most that is read.
        show: Called with the characters that are read, and the most.
        seed: Of what is taken.

    Raises:
        UserError: The text cannot be read.
    """
    generator = np.random.default_rng(seed)
    asked = np.zeros(rows, dtype=bool)
    asked[list(wanted)] = True
    each = 1 + 2 * uses // max(1, len(wanted))  # as many tokens have no use at all
    met: Counter[int] = Counter()
    taken: dict[int, list[npt.NDArray[np.int64]]] = {}
    running: list[npt.NDArray[np.int64]] = []
    total = number = 0
    for source, text in in_turns(sources):
        tokens = np.array(encode(text, source), dtype=np.int64)
        if reserved:
            tokens = tokens[: reserved.get(digest_of(text), len(tokens))]
        for place in np.flatnonzero(asked[tokens[BEFORE : len(tokens) - AFTER]]):  # that of the first token before it
            token = int(tokens[place + BEFORE])
            met[token] += 1
            around = tokens[place : place + BEFORE + 1 + AFTER]
            _take(taken.setdefault(token, []), around, met[token], each, generator)
        for start in range(0, len(tokens) - LENGTH + 1, LENGTH):
            number += 1
            _take(running, tokens[start : start + LENGTH], number, windows, generator)
        total += len(text)
        show(min(total, characters), characters)
        if total >= characters:
            break
    turns: list[npt.NDArray[np.int64]] = []
    mixed = [[places[index] for index in generator.permutation(len(places))] for _, places in sorted(taken.items())]
    for turn in range(each):
        some = [places[turn] for places in mixed if turn < len(places)]
        turns.extend(some[index] for index in generator.permutation(len(some)))
    order = generator.permutation(len(running))
    return Contexts(
        uses=np.array(turns[:uses], dtype=np.int64).reshape(-1, BEFORE + 1 + AFTER),
        running=np.array([running[index] for index in order], dtype=np.int64).reshape(-1, LENGTH),
    )


def _take(
    some: list[npt.NDArray[np.int64]],
    one: npt.NDArray[np.int64],
    number: int,
    most: int,
    generator: np.random.Generator,
) -> None:
    """Puts the so-manyth of its kind among those that are taken, with the chance that keeps all equally likely."""
    if len(some) < most:
        some.append(one)
    elif (place := int(generator.integers(number))) < most:
        some[place] = one
