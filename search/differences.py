"""What differs between two nested mappings of settings, in lines for people."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any


class _Absent:
    """Stands for a key that one of two mappings lacks; None is a value."""

    def __repr__(self) -> str:
        return "(absent)"


_ABSENT = _Absent()


def differences(stored: Mapping[str, Any], current: Mapping[str, Any], *, free: Collection[str] = ()) -> list[str]:
    """What differs between two nested mappings, one `dotted.key: stored -> given` line each.

    Args:
        stored: The older mapping.
        current: The newer mapping.
        free: Dotted keys that do not count, each with everything below it.
    """
    old, new = flatten(stored), flatten(current)
    keys = [*old, *(key for key in new if key not in old)]
    return [
        f"{key}: {old.get(key, _ABSENT)!r} -> {new.get(key, _ABSENT)!r}"
        for key in keys
        if old.get(key, _ABSENT) != new.get(key, _ABSENT)
        and not any(key == name or key.startswith(f"{name}.") for name in free)
    ]


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one flat dict with dotted keys; lists and empty mappings are leaves."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
