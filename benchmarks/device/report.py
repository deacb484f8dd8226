"""What the device checks find, as nested JSON that is written whole after every finding."""

from __future__ import annotations

import json
import math
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from space.files import write_whole

_LINES = 14  # of a traceback, its last ones
_PRINTED = 700  # characters of a finding


class Report:
    """Findings by path, such as `truth`, a shape, a phase; what is known survives a time limit.

    Attributes:
        file: Where they are written.
    """

    def __init__(self, file: Path, seconds: float) -> None:
        """Writes nothing yet.

        Args:
            file: Where to write.
            seconds: That all checks together have, from now on.
        """
        self.file = file
        self._deadline = time.monotonic() + seconds
        self._limit = math.inf
        self._findings: dict[str, Any] = {}

    @property
    def left(self) -> float:
        """Seconds that the check of the moment has."""
        return min(self._deadline, self._limit) - time.monotonic()

    def limit(self, seconds: float) -> None:
        """From now on so many seconds at most, and never more than all checks together have."""
        self._limit = time.monotonic() + seconds

    def put(self, *path: str, value: Any) -> None:
        """Writes a finding, and prints it."""
        place = self._findings
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = plain(value)
        write_whole(self.file, json.dumps(self._findings, indent=1))
        print(f"[{time.strftime('%T')}] {' / '.join(path)}: {json.dumps(place[path[-1]])[:_PRINTED]}", flush=True)

    @contextmanager
    def check(self, *path: str) -> Iterator[None]:
        """What raises inside is a finding, `error`, and the next check goes on; the seconds are one too."""
        start = time.monotonic()
        try:
            yield
        except Exception as error:  # a boundary: what fails on a device is what the report is for
            where = traceback.format_exc().splitlines()[-_LINES:]
            self.put(*path, "error", value={"what": f"{type(error).__name__}: {error}"[:600], "where": where})
        finally:
            self.put(*path, "seconds", value=time.monotonic() - start)


def plain(value: Any) -> Any:
    """A value as JSON has it: six digits of a number, None for one that is not finite."""
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, (np.generic, Tensor)):
        return plain(value.item())
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
