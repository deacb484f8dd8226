"""What tells the options of a latency table apart, and which are timed for the times of all; free of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

from space.candidate import KINDS, LayerShape, Option, required, shortened, widths
from space.spec import ModelSpec
from space.types import GGUF_TYPES


def outer_types(spec: ModelSpec, types: Sequence[int]) -> list[Option]:
    """Types of the embedding and the LM head, but both the first, that designs may have.

    Args:
        spec: The dense model.
        types: Those of a space but the first.
    """
    heads = (0,) if spec.tied_embeddings else (0, *types)
    return [(embedding, head) for embedding in (0, *types) for head in heads if embedding or head]


def label(kind: str, option: Option) -> str:
    """An option in the words of files and lines.

    `9/3` for nine heads in three groups, `1536 q4_0` for channels, `16/384` for experts of so many channels each.
    """
    number, names = LayerShape.of(**{kind: option}).type_of(kind), KINDS[kind]
    plain = [n for name, n in zip(names, widths(kind, option), strict=False) if not name.endswith("_type")]
    return "/".join(map(str, plain)) + (f" {GGUF_TYPES[number]}" if number else "")


def option_of(kind: str, text: str) -> Option:
    """The inverse of `label`."""
    plain, _, name = text.partition(" ")
    numbers = iter(numbers_of(plain))
    types = {f"{kind}_type": GGUF_TYPES.index(name) if name else 0}
    names = KINDS[kind]
    return shortened(names, [types[each] if each in types else next(numbers, 0) for each in names])


def numbers_of(text: str) -> Option:
    """Numbers that stand in one text, with a stroke between two of them."""
    return tuple(int(value) for value in text.split("/"))


def timed_options(kind: str, options: Sequence[Option]) -> list[Option]:
    """The options of a block, of some, that are timed: all in the first type, and the widest in each of the others.

    So it is with the channels of experts: each count of experts is timed with all of them, and most experts with each.
    """
    least = required(kind)
    widest = _widest(kind, options)
    return [option for option in options if len(option) == least or option[:least] == widest]


def times_of_all(kind: str, timed: Mapping[Option, float], options: Sequence[Option]) -> dict[Option, float]:
    """Milliseconds of all options of a block, from those that `timed_options` gives."""
    least = required(kind)
    widest = _widest(kind, options)

    def scaled(option: Option) -> float:
        return timed[option[:least]] * timed[widest + option[least:]] / (timed[widest] or inf)

    return {option: timed[option] if option in timed else scaled(option) for option in options}


def _widest(kind: str, options: Sequence[Option]) -> Option:
    """What is kept in the largest option that comes in types, or with fewer channels of experts; else in any."""
    least = required(kind)
    return max((option[:least] for option in options if len(option) > least), default=max(options)[:least])
