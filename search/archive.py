"""The append-only log of evaluations that makes resuming a replay: one JSON line each, whole after a kill."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from evaluators.base import Evaluation, Metric
from search.differences import differences
from search.pareto import minimised, non_dominated
from space.errors import UserError

FORMAT = 4
_NAMES = ("model.name",)  # which the header has for people: models are told apart by their digests
_log = logging.getLogger(__name__)


class Archive:
    """Evaluations on disk and in memory, each named by its candidate's key and its fidelity.

    The file's first line is a header with the settings that the numbers depend on; every other line is one evaluation.
    A last line that a killed process left unfinished is cut off on opening. While it is open, no other process can
    open it. A context manager; `close` gives the file free.
    """

    def __init__(self, path: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        """Open an archive, or create it.

        Args:
            path: The `.jsonl` file; its directory exists.
            settings: JSON-ready values that the numbers depend on. Two archives with equal settings hold numbers that
                can be compared.

        Raises:
            UserError: Another process has it open, it is of other settings, a line other than the last is corrupt,
                or it cannot be read and written.
        """
        self.path = Path(path)
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._evaluations: dict[tuple[str, str], Evaluation] = {}
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UserError(
                f"Expected to read and write the archive {self.path}, got: {error}. "
                "Make the run directory writable, or choose a new run_dir."
            ) from error
        try:
            self._lock()
            self._end = self._load()
            if self._end == 0:
                self._append({"format": FORMAT, "settings": self.settings})
        except BaseException:
            self.close()
            raise

    @classmethod
    def reopen(cls, path: Path) -> Self:
        """Opens an archive that exists, with the settings that it was made with.

        Raises:
            UserError: There is none, or it cannot be opened.
        """
        try:
            with path.open("rb") as file:
                header = _record(file.readline())
        except OSError as error:
            raise UserError(f"Expected the archive of a run in {path}, got: {error}.") from error
        return cls(path, (header or {}).get("settings", {}))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._evaluations)

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def add(self, evaluation: Evaluation) -> None:
        """Append an evaluation; it is on disk when this returns.

        One that was made after a search, when its front was scored, may be added once more with the generation of a
        search that goes on and asks for it too. It then stands where that search had it.

        Raises:
            UserError: The disk is full or the file cannot be written; the archive is as it was.
        """
        assert self._file >= 0, "the archive is closed"
        assert self._is_new(evaluation), f"{evaluation.candidate.key} {evaluation.fidelity} is in the archive already"
        self._append(evaluation.to_json())
        self._take(evaluation)

    def get(self, key: str, fidelity: str) -> Evaluation | None:
        """The evaluation of a candidate, or None when it has not been made."""
        return self._evaluations.get((key, fidelity))

    def evaluations(self, fidelity: str | None = None) -> list[Evaluation]:
        """All evaluations, or those of one fidelity, in the order in which they were made."""
        return [e for e in self._evaluations.values() if fidelity is None or e.fidelity == fidelity]

    def front(self, metrics: Sequence[Metric], fidelity: str) -> list[Evaluation]:
        """The evaluations that succeeded and that no other dominates; of equal points the earliest, in order."""
        return front_of(self.evaluations(fidelity), metrics)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"Expected to be the only process that uses the archive {self.path}, but another one has it open. "
                "Wait until that run ends or stop it, or choose a new run_dir."
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP):
                raise
            _log.warning("%s: the file system has no locks; make sure that no second run uses it.", self.path)

    def _load(self) -> int:
        """Read what the file holds, cut off an unfinished last line, and return the length of the rest in bytes."""
        lines = self.path.read_bytes().splitlines(keepends=True)
        end = 0
        for number, line in enumerate(lines, start=1):
            record = _record(line)
            if record is None and number == len(lines):
                _log.warning("%s: cut off line %d, which a killed run left unfinished.", self.path, number)
                os.ftruncate(self._file, end)
                break
            try:
                if record is None:
                    raise ValueError("not a JSON object")
                self._read_header(record) if number == 1 else self._read_evaluation(record)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                expected = "a header" if number == 1 else "an evaluation"
                raise UserError(
                    f"{self.path}, line {number}: expected {expected}, but the line is corrupt "
                    f"({type(error).__name__}: {error}). Restore the file from a copy or choose a new run_dir; "
                    "a corrupt evaluation's line may also be deleted, it is then evaluated again."
                ) from error
            end += len(line)
        return end

    def _read_header(self, record: Mapping[str, Any]) -> None:
        if record["format"] != FORMAT:
            raise UserError(
                f"{self.path}: expected an archive of format {FORMAT}, got format {record['format']!r}. "
                "Choose a new run_dir, or the version that wrote it."
            )
        changed = differences(record["settings"], self.settings, free=_NAMES)
        if changed:
            raise UserError(
                f"{self.path} holds numbers of other settings, which cannot be compared (stored -> given):\n"
                + "\n".join(f"  {line}" for line in changed)
                + "\nGive the stored settings to go on with that run, or a new run_dir to start another."
            )

    def _read_evaluation(self, record: Mapping[str, Any]) -> None:
        evaluation = Evaluation.from_json(record)
        key = evaluation.candidate.key
        if record["key"] != key:
            raise ValueError(f"its layers have the key {key}, but the line says {record['key']!r}")
        if not self._is_new(evaluation):
            raise ValueError(f"a second evaluation of {key} at fidelity {evaluation.fidelity!r}")
        self._take(evaluation)

    def _is_new(self, evaluation: Evaluation) -> bool:
        """Whether the archive lacks the evaluation, or the generation of one that was made after a search."""
        earlier = self.get(evaluation.candidate.key, evaluation.fidelity)
        if earlier is None:
            return True
        return earlier.generation == 0 < evaluation.generation and replace(evaluation, generation=0) == earlier

    def _take(self, evaluation: Evaluation) -> None:
        """Holds an evaluation as the latest one."""
        name = (evaluation.candidate.key, evaluation.fidelity)
        self._evaluations.pop(name, None)
        self._evaluations[name] = evaluation

    def _append(self, record: Mapping[str, Any]) -> None:
        line = memoryview(json.dumps(record, allow_nan=False).encode() + b"\n")
        left = line
        try:
            while left:
                left = left[os.write(self._file, left) :]
            os.fsync(self._file)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file, self._end)
            raise UserError(
                f"Expected to append to the archive {self.path}, got: {error}. Nothing is lost but the evaluation in "
                "flight: free some space or make the file writable, then run again with the same run_dir."
            ) from error
        self._end += len(line)


def front_of(evaluations: Iterable[Evaluation], metrics: Sequence[Metric]) -> list[Evaluation]:
    """Those that succeeded and that no other dominates; of equal points the earliest, in order."""
    succeeded = [e for e in evaluations if e.status == "ok"]
    mask = non_dominated(minimised([e.values for e in succeeded], metrics))
    return [e for e, kept in zip(succeeded, mask, strict=True) if kept]


def by_fidelity(evaluations: Iterable[Evaluation]) -> dict[str, dict[str, Evaluation]]:
    """Evaluations by fidelity and key, in the order in which they were made."""
    fidelities: dict[str, dict[str, Evaluation]] = {}
    for evaluation in evaluations:
        fidelities.setdefault(evaluation.fidelity, {})[evaluation.candidate.key] = evaluation
    return fidelities


def _record(line: bytes) -> dict[str, Any] | None:
    """The JSON object that a whole line holds, or None."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if line.endswith(b"\n") and isinstance(record, dict) else None
