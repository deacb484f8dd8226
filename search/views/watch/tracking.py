"""What an experiment tracker is told of a run, each number once, however often the run is killed and goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from search.agreement import Judged
from search.differences import flatten
from search.loop import SearchProgress
from search.run.directory import (
    CONFIG_FILE,
    FRONT_FILE,
    PAGE_FILE,
    POINTS_FILE,
    REPORT_FILE,
    SUMMARY_FILE,
)
from search.run.recommended import landmarks
from search.views.watch.events import Event, Failed, Searched, SearchEnded
from search.views.watch.progress import standouts
from search.views.watch.trackers import Status, Tracker, open_tracker
from space.errors import UserError
from space.files import write_whole

TRACKER_FILE = "tracker.json"
FILES = (REPORT_FILE, PAGE_FILE, FRONT_FILE, POINTS_FILE, SUMMARY_FILE, CONFIG_FILE)


class Tracking:
    """Listens, and tells a tracker: settings, numbers after each generation of the search, files at the end.

    Resuming replays a search, so that all of its events come again. `tracker.json` in the run directory keeps the
    tracker's id of the run and how many tokens it has been told of; it is told of what lies beyond. A tracker that was
    not there before is told everything.
    """

    def __init__(self, name: str, run_dir: Path, config: Mapping[str, Any], warn: Callable[[str], None]) -> None:
        """Opens the tracker, and tells it the settings when it does not know the run.

        Args:
            name: A row of `search.views.watch.trackers.TRACKERS`.
            run_dir: The run directory.
            config: The configuration, nested mappings.
            warn: Called when the tracker fails, which does not end the search.

        Raises:
            UserError: There is no such tracker, it is not installed or does not open, or `tracker.json` is broken.
        """
        self._name = name
        self._file = run_dir / TRACKER_FILE
        self._warn = warn
        stored = self._kept().get(name)
        self._tokens = -1 if stored is None else stored["tokens"]
        self._tracker: Tracker | None = open_tracker(name, run_dir, None if stored is None else stored["run_id"])
        self._status: Status = "finished"
        self._judged = Judged()
        if stored is None:
            self._try(lambda tracker: tracker.settings(flatten(config)))
            self._keep()

    def __call__(self, event: Event) -> None:
        """Tells what there is to tell of an event."""
        match event:
            case Searched(progress=progress):
                self._judged.add(progress.latest)
                if progress.generation_done and progress.tokens > self._tokens:
                    self._tell(_numbers(progress) | self._surrogate(), progress.tokens)
            case SearchEnded():
                tokens = max(self._tokens, 0)
                files = [event.run_dir / name for name in FILES]
                self._try(lambda tracker: tracker.numbers(_finite(_result(event)), tokens))
                self._try(lambda tracker: tracker.artifacts(files, tokens))
            case Failed(kind=kind):
                self._status = "stopped" if kind == "stopped" else "failed"

    def close(self) -> None:
        """The last call."""
        self._try(lambda tracker: tracker.close(self._status))

    def _tell(self, numbers: Mapping[str, float], tokens: int) -> None:
        self._try(lambda tracker: tracker.numbers(_finite(numbers), tokens))
        if self._tracker is not None:
            self._tokens = tokens
            self._keep()

    def _try(self, tell: Callable[[Tracker], None]) -> None:
        """Tells the tracker, unless it has failed: no search of hours ends because a server is away."""
        if self._tracker is None:
            return
        try:
            tell(self._tracker)
        except Exception as error:  # each package has its own ways to fail; said once, and caught up by a resumed run
            self._tracker = None
            self._warn(
                f"WARNING: tracker={self._name} failed ({type(error).__name__}: {error}); the run goes on without. "
                "Run again with the same run_dir= to tell it the rest."
            )

    def _surrogate(self) -> dict[str, float]:
        """Rank correlations of surrogates and answers, over the last designs that surrogates had not seen."""
        taus = self._judged.taus()
        return {f"{fidelity}/surrogate_tau_{metric}": tau for (fidelity, metric), tau in taus.items()}

    def _keep(self) -> None:
        if self._tracker is not None:
            kept = self._kept() | {self._name: {"run_id": self._tracker.run_id, "tokens": self._tokens}}
            write_whole(self._file, json.dumps(kept, indent=1) + "\n")

    def _kept(self) -> dict[str, Any]:
        if not self._file.exists():
            return {}
        try:
            kept = json.loads(self._file.read_text(encoding="utf-8"))
            return {str(name): {"run_id": str(e["run_id"]), "tokens": int(e["tokens"])} for name, e in kept.items()}
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise UserError(
                f"Expected {self._file} to name the trackers' runs, but it does not read as such "
                f"({type(error).__name__}: {error}). Delete it; the tracker then starts another run."
            ) from error


def _numbers(progress: SearchProgress) -> dict[str, float]:
    """What a generation has led to; what is of one fidelity stands under its name."""
    fidelity = progress.fidelity
    numbers: dict[str, float] = {f"evaluations/{name}": count for name, count in progress.counts.items()}
    numbers |= {"evaluations/failed": progress.failed, "seconds": progress.seconds}
    numbers[f"{fidelity}/front_points"] = len(progress.front)
    if progress.hypervolume is not None:
        numbers[f"{fidelity}/hypervolume"] = progress.hypervolume
    for name, best in standouts(progress).items():
        numbers |= {f"{fidelity}/best_{name}/{m.name}": best.values[m.name] for m in progress.objectives}
    return numbers


def _result(end: SearchEnded) -> dict[str, float]:
    """What the run has led to: its numbers, and those of the points that have a name."""
    front = end.result.front
    numbers = end.result.numbers()
    columns = front.select_dtypes("number").columns
    for mark, key in landmarks(front, end.result.advice).items():
        row = front[front["key"] == key].iloc[0]
        numbers |= {f"{mark}/{column}": float(row[column]) for column in columns}
    return numbers


def _finite(numbers: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}
