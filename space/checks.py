"""Checks of settings, most of them of a search space: what each may be, said in its words; free of torch."""

from __future__ import annotations

from collections.abc import Iterable
from operator import index
from typing import Any

from space.deploy import require_deployment
from space.errors import UserError
from space.types import check_types

DTYPES = ("float32", "bfloat16", "float16")
_NO_WHOLE_LAYERS = ("attention_widths", "merge_groups", "mlp_widths", "expert_widths", "same_for_all_layers")


def dtype_name(dtype: object) -> str:
    """What settings and files call a dtype of torch: `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def require_dtype(name: str) -> None:
    """Raises UserError unless it is `auto` or one of `DTYPES`."""
    if name not in ("auto", *DTYPES):
        raise UserError(f"Expected dtype to be one of auto, {', '.join(DTYPES)}, got {name!r}.")


def require_least(settings: object, group: str, names: Iterable[str], least: int = 1) -> None:
    """Raises UserError unless each of these attributes is None or at least so much; `group` is before their names."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < least:
            raise UserError(f"{group}{name}: expected at least {least}, got {value}.")


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


def check_levels(levels: Any) -> None:
    """Raises UserError unless these are numbers above 0, in a list."""
    listed = isinstance(levels, list | tuple)
    if not listed or not all(isinstance(n, int | float) and not isinstance(n, bool) and n > 0 for n in levels):
        raise UserError(
            f"space.vocabulary: expected a list of parts of the vocabulary such as [0.85,0.7], or of numbers of "
            f"tokens, got {levels!r}. [] keeps all of it."
        )


def check_space(
    *,
    deploy: str,
    min_decoder_params: float,
    max_decoder_params: float,
    whole_layers: bool,
    vocabulary: Any = (),
    types: Any = (),
    **flags: bool,
) -> None:
    """What can be said of the settings of a space whatever the model; see `space.space.SearchSpace`.

    Raises:
        UserError: A setting is of another kind or out of its range, or settings contradict each other.
    """
    for name, flag in {**flags, "whole_layers": whole_layers}.items():
        check_flag(name, flag)
    require_deployment(deploy)
    check_levels(vocabulary)
    check_types(types)
    if vocabulary and types:
        raise UserError(
            f"space.types: expected [] where space.vocabulary has levels, got {list(types)}. Search one of the two; an "
            "export of a point with types can be trimmed no more, one with a vocabulary takes any gguf.type."
        )
    clashes = [name for name in _NO_WHOLE_LAYERS if flags.get(name)]
    if whole_layers and clashes:
        raise UserError(
            f"space.whole_layers: expected it alone, got it with {', '.join(clashes)}. A layer is then dense or "
            "gone, and has no width: set those to false, or whole_layers to false."
        )
    least = check_fraction("min_decoder_params", min_decoder_params)
    most = check_fraction("max_decoder_params", max_decoder_params)
    if least > most:
        raise UserError(
            f"space.min_decoder_params: expected at most max_decoder_params, which is {most:g}, got {least:g}. "
            "Lower it, or raise max_decoder_params."
        )
