"""A run as JSON, one object a line, for programs that read along."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import IO, Any

import numpy as np

from evaluators.base import Evaluation
from search.loop import SearchProgress
from search.run.recommended import landmarks
from search.views.watch.events import (
    Event,
    Failed,
    Opened,
    Remarks,
    Searched,
    SearchEnded,
    StageBegun,
    StageEnded,
    StageStep,
)
from search.views.watch.progress import standouts
from space.candidate import Candidate

BETWEEN_S = 10  # lines of one stage, or of one generation, are at least so far apart


class JsonLines:
    """Listens, and writes an object with `event`, `time` (UTC, ISO 8601) and what there is to say.

    The events: `run`, `stage` (begins), `step`, `stage_end`, `message`, `search`, `front` (the end), and `error`,
    `stopped` or `crash`.
    """

    def __init__(self, file: IO[str]) -> None:
        """Writes nothing yet.

        Args:
            file: Where to; each line is flushed.
        """
        self._file = file
        self._last = -math.inf

    def __call__(self, event: Event) -> None:
        """Writes the lines of an event."""
        due = time.monotonic() - self._last >= BETWEEN_S
        match event:
            case Opened(run_dir=run_dir, model=model):
                self._write("run", run_dir=str(run_dir), model=model)
            case StageBegun(title=title):
                self._write("stage", stage=title)
            case StageStep(title=title, done=done, of=of) if due or done >= of:
                self._write("step", stage=title, done=done, of=of)
            case StageEnded(title=title, seconds=seconds):
                self._write("stage_end", stage=title, seconds=seconds)
            case Remarks(lines=lines):
                for line in lines:
                    self._write("message", text=line)
            case Searched(progress=progress, seconds_left=left) if due or progress.generation_done:
                self._write("search", **_progress(progress), seconds_left=left)
            case SearchEnded():
                self._write("front", **_front(event))
            case Failed(kind=kind, message=message):
                self._write(kind, message=message)

    def _write(self, event: str, **values: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._file.write(json.dumps({"event": event, "time": now, **_plain(values)}, allow_nan=False) + "\n")
        self._file.flush()
        self._last = time.monotonic()


def _progress(progress: SearchProgress) -> dict[str, Any]:
    return {
        "generation": progress.generation,
        "tokens": progress.tokens,
        "budget_tokens": progress.budget.tokens,
        "budget_evaluations": progress.budget.evaluations,
        "fraction": progress.fraction,
        "evaluations": progress.counts,
        "replayed": progress.replayed,
        "failed": progress.failed,
        "seconds": progress.seconds,
        "fidelity": progress.fidelity,
        "hypervolume": progress.hypervolume,
        "front_points": len(progress.front),
        "picks": {name: _point(best, progress) for name, best in standouts(progress).items()},
        "remark": progress.remark,
    }


def _point(evaluation: Evaluation, progress: SearchProgress) -> dict[str, Any]:
    values = {metric.name: evaluation.values[metric.name] for metric in progress.objectives}
    return {"key": evaluation.candidate.key, **values}


def _front(end: SearchEnded) -> dict[str, Any]:
    return {
        "run_dir": str(end.run_dir),
        "numbers": end.result.numbers(),
        "picks": landmarks(end.result.front, end.result.advice),
        "points": end.result.front.to_dict("records"),
        "remarks": end.result.remarks(),
        "commands": end.commands,
    }


def _plain(value: Any) -> Any:
    """A value as JSON has it; numbers that are none become null."""
    match value:
        case Mapping():
            return {str(name): _plain(each) for name, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case Candidate():
            return value.to_json()
        case np.generic():
            return _plain(value.item())
        case float() if not math.isfinite(value):
            return None
    return value
