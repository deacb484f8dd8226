"""What was used last, within a memory limit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ByteCache(Generic[K, V]):
    """Values within a memory limit; the least recently used are forgotten first."""

    def __init__(self, limit: int) -> None:
        """Holds nothing yet; `limit` is in bytes."""
        self._limit = limit
        self._held = 0
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The value, which counts as used now, or None when it was never put or is forgotten."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def put(self, key: K, value: V, size: int) -> None:
        """Keeps a value of `size` bytes, unless it is held already or larger than the limit."""
        if key in self._values or size > self._limit:
            return
        self._values[key] = value, size
        self._held += size
        while self._held > self._limit:
            _, (_, forgotten) = self._values.popitem(last=False)
            self._held -= forgotten
