"""A line of JSON for each request that has ended: what it took, and nothing of what it said."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TextIO

from serving.requests import Served

DIGITS = 4  # behind the point, of seconds


class RequestLog:
    """Writes lines; a stream that takes no more of them stops nothing."""

    def __init__(self, stream: TextIO) -> None:
        """Writes nothing yet."""
        self._stream: TextIO | None = stream

    def served(self, served: Served) -> None:
        """Writes one."""
        if self._stream is None:
            return
        facts = {name: round(v, DIGITS) if isinstance(v, float) else v for name, v in asdict(served).items()}
        line = {"event": "request", "time": round(time.time(), DIGITS), **facts}
        try:
            print(json.dumps(line), file=self._stream, flush=True)
        except (OSError, ValueError):  # whoever read it is gone
            self._stream = None
