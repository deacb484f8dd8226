"""What tells the options of a latency table apart, in the words of its file and of lines; free of torch."""

from __future__ import annotations

from collections.abc import Sequence

from space.candidate import Option, widths
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
    """An option in the words of files and lines: `9/3` for nine heads in three groups, `1536 q4_0` for channels."""
    plain = widths(kind, option)
    return "/".join(map(str, plain)) + "".join(f" {GGUF_TYPES[number]}" for number in option[len(plain) :])


def option_of(text: str) -> Option:
    """The inverse of `label`."""
    plain, _, name = text.partition(" ")
    return numbers_of(plain) + ((GGUF_TYPES.index(name),) if name else ())


def numbers_of(text: str) -> Option:
    """Numbers that stand in one text, with a stroke between two of them."""
    return tuple(int(value) for value in text.split("/"))
