"""Checks of settings of the model and of a search space: what each may be, said in its words; free of torch."""

from __future__ import annotations

from collections.abc import Iterable
from operator import index

from space.errors import UserError

DTYPES = ("float32", "bfloat16", "float16")


def require_dtype(name: str) -> None:
    """Raises UserError unless it is `auto` or one of `DTYPES`."""
    if name not in ("auto", *DTYPES):
        raise UserError(f"Expected dtype to be one of auto, {', '.join(DTYPES)}, got {name!r}.")


def check_flag(name: str, value: bool) -> None:
    """Raise UserError unless `value` is true or false."""
    if not isinstance(value, bool):
        raise UserError(f"space.{name}: expected true or false, got {value!r}. Set one of the two.")


def check_count(name: str, value: int, least: int, most: int) -> int:
    """`value` as an int; raises UserError unless it is a whole number from `least` to `most`."""
    try:
        count = index(value)
    except TypeError:
        count = least - 1
    if isinstance(value, bool) or not least <= count <= most:
        raise UserError(
            f"space.{name}: expected a whole number from {least} to {most}, got {value!r}. Choose one in that range."
        )
    return count


def check_fraction(name: str, value: float) -> float:
    """`value` as a float; raises UserError unless it is a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UserError(
            f"space.{name}: expected a fraction from 0 to 1 of the dense decoder-layer parameters, got {value!r}. "
            "Choose one in that range."
        )
    return float(value)


def check_layers(name: str, values: object, layers: int) -> frozenset[int]:
    """Layer indices from 0, negative ones counted from the end; raises UserError for anything else."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UserError(f"space.{name}: expected a list of layers such as [0, -1], got {values!r}. Write it as a list.")
    return frozenset(check_count(name, value, -layers, layers - 1) % layers for value in values)
