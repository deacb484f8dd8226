"""Where a session finds and leaves things, and whom it tells what takes long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from evaluators.latency.table import LATENCY_FILE
from space.locations import cache_dir

Show = Callable[[int, int], None]
Stage = Callable[[str], AbstractContextManager[Show]]


@contextmanager
def unseen(title: str) -> Iterator[Show]:
    """A stage that nobody watches."""
    yield lambda done, of: None


@dataclass(frozen=True)
class Paths:
    """Where a session finds and leaves things.

    Attributes:
        run_dir: The run's directory; it is there when the supernet or the table is first asked for.
        cache: What runs share: calibrations that were made and latencies that were timed before.
    """

    run_dir: Path
    cache: Path = field(default_factory=cache_dir)

    @property
    def supernet(self) -> Path:
        """What the supernet needs from disk."""
        return self.run_dir / "supernet"

    @property
    def healed(self) -> Path:
        """What healing has made of the supernet."""
        return self.run_dir / "healed"

    @property
    def budget(self) -> Path:
        """What `budget.minutes` have come to."""
        return self.run_dir / "budget.json"

    @property
    def vocabulary(self) -> Path:
        """The order in which smaller vocabularies keep tokens."""
        return self.run_dir / "vocabulary.json"

    @property
    def latency(self) -> Path:
        """The latency table."""
        return self.run_dir / LATENCY_FILE
