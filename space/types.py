"""Types that a matrix of a GGUF file can have, and how designs choose among them; free of torch.

A design says of each block, by the number of a row of `GGUF_TYPES`, in which type its matrices are; 0 is as they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from space.errors import UserError

GGUF_TYPES = ("f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")  # of ever fewer bits
BLOCK = 32  # values of a row that all of them but the first store together


def check_types(types: Any) -> None:
    """Raises UserError unless these are names of `GGUF_TYPES`, each once, in a list."""
    listed = isinstance(types, list | tuple) and all(isinstance(name, str) for name in types)
    if not listed or len({*types}) < len(types) or not {*types} <= {*GGUF_TYPES}:
        raise UserError(
            f"space.types: expected a list of different types among {', '.join(GGUF_TYPES)}, such as [q8_0,q4_0], got "
            f"{types!r}. f16 is always one; [] leaves all matrices in it."
        )


def rounded_types(names: Sequence[str]) -> tuple[int, ...]:
    """The numbers of some types but the first, rising."""
    return tuple(number for number, name in enumerate(GGUF_TYPES) if number and name in names)


def require_whole_blocks(columns: Sequence[int], what: str, remedy: str) -> None:
    """Refuses rows that no type of blocks can hold.

    Args:
        columns: Values of rows, of each kind that there is.
        what: They are, in words.
        remedy: What works, in words.

    Raises:
        UserError: Some are no multiple of `BLOCK`.
    """
    ragged = [count for count in columns if count % BLOCK]
    if ragged:
        raise UserError(
            f"space.types: expected {what} to be multiples of {BLOCK}, the values that a type stores together, got "
            f"{', '.join(map(str, ragged))}. {remedy}"
        )
