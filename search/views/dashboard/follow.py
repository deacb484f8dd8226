"""An archive read while another process writes it: new lines alone, and from the start when it is another file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evaluators.base import Evaluation
from search.archive import FORMAT

LOCKS = Path("/proc/locks")  # Linux alone


class Follower:
    """Reads what was appended to an `archive.jsonl`; it opens the file for reading and takes no lock.

    Attributes:
        path: The file; it need not exist yet.
        settings: What the header says that the numbers depend on; empty before it is there.
        problem: What is wrong with the file, for a person; empty when nothing is.
    """

    def __init__(self, path: Path) -> None:
        """Reads nothing yet."""
        self.path = path
        self._forget()

    def _forget(self) -> None:
        self.settings: dict[str, Any] = {}
        self.problem = ""
        self._end = 0  # of the last whole line
        self._lines = 0
        self._last = b""

    def read(self) -> tuple[bool, list[Evaluation]]:
        """What is new.

        A last line without an end is left for later: it is being written, or a killed run left it and the next one
        cuts it off.

        Returns:
            Whether all that was read before is void, as the file is gone or another one stands there; and the
            evaluations of new whole lines, in order. A line that is none is skipped and told in `problem`.
        """
        try:
            file = self.path.open("rb")
        except OSError as error:
            void = self._end > 0
            self._forget()
            if not isinstance(error, FileNotFoundError):
                self.problem = f"{self.path} cannot be read: {error}"
            return void, []
        with file:
            void = not self._goes_on(file)
            if void:
                self._forget()
            file.seek(self._end)
            lines = file.read().splitlines(keepends=True)
        evaluations = []
        for line in lines:
            if not line.endswith(b"\n"):
                break
            self._end += len(line)
            self._lines += 1
            self._last = line
            evaluation = self._evaluation(line)
            if evaluation is not None:
                evaluations.append(evaluation)
        return void, evaluations

    def held(self) -> bool | None:
        """Whether a process of this machine has the archive locked, as a search has; None where that is not known."""
        try:
            locks, inode = LOCKS.read_text(encoding="ascii"), self.path.stat().st_ino
        except FileNotFoundError:
            return None if not LOCKS.exists() else False
        except OSError:
            return None
        return any(place.endswith(f":{inode}") for line in locks.splitlines() for place in line.split())

    def _goes_on(self, file: Any) -> bool:
        """Whether the file still has the last line that was read where it was."""
        file.seek(self._end - len(self._last))
        return bool(file.read(len(self._last)) == self._last)

    def _evaluation(self, line: bytes) -> Evaluation | None:
        try:
            record = json.loads(line)
            if self._lines > 1:
                return Evaluation.from_json(record)
            if record["format"] != FORMAT:
                raise ValueError(f"format {record['format']!r}, not {FORMAT}")
            self.settings = dict(record["settings"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            self.problem = f"{self.path}, line {self._lines} is left out: {type(error).__name__}: {error}"
        return None
