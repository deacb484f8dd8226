"""What all views of one model remember of narrower or rounded blocks, under one limit of bytes."""

from __future__ import annotations

from threading import RLock
from typing import Generic, TypeVar

from cachetools import LRUCache

from space.candidate import Option

_Key = tuple[object, int, str, Option]  # whose, and layer, kind of block and what it keeps
_Block = TypeVar("_Block")


class BlockMemory(Generic[_Block]):
    """Blocks by whose they are, layer and option; those that were not asked for the longest go first.

    Supernets made of one another have one, so that their blocks together stay below the limit. Safe between threads.
    """

    def __init__(self, limit: int) -> None:
        """Holds nothing yet.

        Args:
            limit: Bytes.
        """
        self._blocks: LRUCache[_Key, tuple[_Block, int]] = LRUCache(limit, getsizeof=lambda block: block[1])
        self._lock = RLock()  # what an owner held may be given back at any time

    def get(self, key: _Key) -> _Block | None:
        """A block, if it is remembered."""
        with self._lock:
            held = self._blocks.get(key)
        return None if held is None else held[0]

    def put(self, key: _Key, block: _Block, size: int) -> None:
        """Remembers a block with the bytes that it holds beside the supernet's, unless it alone is above the limit."""
        with self._lock:
            if size <= self._blocks.maxsize:
                self._blocks[key] = block, size

    @property
    def bytes(self) -> int:
        """That the blocks hold beside the supernet's."""
        with self._lock:
            return int(self._blocks.currsize)

    def of(self, owner: object) -> list[_Block]:
        """The blocks that are remembered for one owner."""
        with self._lock:
            return [block for key, (block, _) in self._blocks.items() if key[0] is owner]

    def forget(self, owner: object) -> None:
        """Gives back the memory of one owner's blocks."""
        with self._lock:
            for key in [key for key in self._blocks if key[0] is owner]:
                del self._blocks[key]
