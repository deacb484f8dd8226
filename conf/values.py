"""Whether values of a configuration are of the kinds that whoever takes them expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pkgutil import resolve_name
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from space.errors import UserError

_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "null"}


def checked_part(part: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The values of a part that has a `_target_`, each of the kind that the target expects, and what lies in it too.

    Args:
        part: Of a configuration.
        key: Where it stands in that; empty for the part alone.

    Raises:
        UserError: A value is of another kind, or one was given in place of the part.
    """
    if not isinstance(part, Mapping):
        raise UserError(
            f"{key}: expected its settings one by one, {key}.NAME=VALUE, got {part!r}. --help lists them, with the "
            "values that switch something off."
        )
    target = resolve_name(part["_target_"])
    hints = get_type_hints(target if is_dataclass(target) else target.__init__)
    values: dict[str, Any] = {}
    for name, value in part.items():
        place = f"{key}.{name}" if key else name
        if isinstance(value, Mapping) and "_target_" in value:
            values[name] = checked_part(value, place)
        else:
            values[name] = checked(value, hints[name], place) if name in hints else value
    return values


def checked(value: Any, hint: Any, key: str) -> Any:
    """A value of the kind that a hint says; whole numbers may be written as 2e6.

    Raises:
        UserError: It is of another kind.
    """
    if not _fits(value, hint):
        raise UserError(f"{key}: expected {_said(hint)}, got {value!r}.")
    is_whole = isinstance(value, float) and not _fits(value, hint, whole=False)
    return int(value) if is_whole else value


def _fits(value: Any, hint: Any, *, whole: bool = True) -> bool:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, each, whole=whole) for each in get_args(hint))
    if origin in (tuple, Sequence):
        kind = get_args(hint)[0]
        if isinstance(value, str):
            return kind is str  # one stands for a list of it
        return isinstance(value, Sequence) and all(_fits(each, kind) for each in value)
    if hint is int:
        is_whole = whole and isinstance(value, float) and value.is_integer()
        return is_whole or (isinstance(value, int) and not isinstance(value, bool))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) if hint in _WORDS else True  # what else there is, its taker checks


def _said(hint: Any) -> str:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return " or ".join(_said(each) for each in get_args(hint))
    if origin in (tuple, Sequence):
        return f"a list, each {_said(get_args(hint)[0])}"
    return _WORDS.get(hint, "settings")
