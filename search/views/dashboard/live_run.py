"""A run directory looked at again and again: what its search does now, and the figure of its points."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import yaml

from evaluators.base import Evaluation
from evaluators.metrics import metric_named
from search.course import Course, Curve
from search.loop import Budget
from search.run.directory import BUDGET_FILE, CONFIG_FILE, FRONT_FILE, POINTS_FILE, SUMMARY_FILE
from search.run.finished import FinishedRun, finished_runs
from search.views.dashboard.curves import TauCurves, thinned
from search.views.dashboard.follow import Follower
from search.views.dashboard.live_figure import searching_figure
from search.views.page.plot import front_figure_data
from search.views.text import duration
from search.views.watch.progress import Pace, spent_text
from space.errors import UserError

AT_THE_END = (FRONT_FILE, POINTS_FILE, SUMMARY_FILE)
BUSY = 0.1  # the largest part of the time that goes into new figures, as a search may need the machine
CURVE_POINTS = 300
QUIET_S = 60.0  # without news, after which that is said


@dataclass(frozen=True)
class View:
    """What the page says of a run beside the figure.

    Attributes:
        version: Changes with the figure.
        state: What the run does now, in words.
        spent: The part of the budget that is spent, 0..1.
        counts: Evaluations at each fidelity, in words.
        problem: What a person should mend; empty when nothing.
        keys: Points that can be exported and scored: none before a run has ended.
        volumes: Hypervolume against tokens, by a name for people: of the dearest fidelity that has one alone, as those
            of two cannot be compared.
        taus: Rank correlations of surrogates against tokens, by a name for people.
    """

    version: str
    state: str
    spent: float
    counts: str
    problem: str
    keys: frozenset[str]
    volumes: dict[str, Curve]
    taus: dict[str, Curve]


class LiveRun:
    """A run, begun or ended. What has not changed on disk is not read again. Safe between threads."""

    def __init__(self, run_dir: Path) -> None:
        """Looks for the first time.

        Args:
            run_dir: As commands are to name it.

        Raises:
            UserError: There is no run with a readable configuration.
        """
        self.run_dir = run_dir
        self._lock = Lock()
        self._follower = Follower(run_dir / "archive.jsonl")
        self._stamps: dict[str, object] = {}
        self._problems: dict[str, str] = {}  # by what has them
        self._read_config()
        self._forget()
        self._finished: FinishedRun | None = None
        self._pace = Pace()
        self._news_at = time.monotonic()
        self._start = f"{time.time_ns():x}"  # a page that was open before a restart takes the new one's figure
        self._changes = 0
        self._figure = "null"
        self._drawn: tuple[int, bool] = (-1, False)  # the changes that the figure knows, and whether it is the end's
        self._draw_again_at = 0.0
        self._read(first=True)

    def view(self) -> View:
        """What there is to say now."""
        with self._lock:
            self._read()
            self._draw()
            volumes = [*self._course.curves.items()][-1:] if self._course else []
            return View(
                version=f"{self._start}-{self._drawn[0]}",
                state=self._state(),
                spent=1.0 if self._ended is not None else self._spent(),
                counts=self._counts(),
                problem=" ".join(filter(None, [self._follower.problem, *self._problems.values()])),
                keys=self._keys(),
                volumes={name: thinned(curve, CURVE_POINTS) for name, curve in volumes},
                taus={f"{m}, {name}": thinned(curve, CURVE_POINTS) for (name, m), curve in self._taus.curves.items()},
            )

    def figure(self) -> str:
        """What `search.views.page.plot.front_figure_data` makes of it, as JSON; `null` before there is a point."""
        with self._lock:
            return self._figure

    @property
    def _ended(self) -> FinishedRun | None:
        """The run with its front, unless a search goes on behind it with a larger budget."""
        run = self._finished
        if run is None:
            return None
        searched = len(self._evaluations.get("search", ()))
        return run if searched <= int(run.summary.get("evaluations", searched)) else None

    def _changed(self, *names: str) -> bool:
        """Whether some files are others than when this was asked before."""
        stamps = [_stamp(self.run_dir / name) for name in names]
        before, self._stamps[names[0]] = self._stamps.get(names[0]), stamps
        return stamps != before

    def _read_config(self) -> None:
        self._changed(CONFIG_FILE, BUDGET_FILE)
        try:
            config = yaml.safe_load((self.run_dir / CONFIG_FILE).read_text(encoding="utf-8"))
            budget = Budget(**{name: value for name, value in config["budget"].items() if name != "_target_"})
            objectives = [metric_named(str(name)) for name in config["objectives"]]
            file = self.run_dir / BUDGET_FILE
            settled = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
            budget = budget.limited(settled["amounts"]["tokens"] if settled else None)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
            raise UserError(
                f"Expected {self.run_dir} to hold a run, begun or ended, but its {CONFIG_FILE} does not read as one "
                f"({type(error).__name__}: {error}). Give a run's directory, or begin its search first."
            ) from error
        self._compare, self._budget, self._objectives = config.get("compare"), budget, objectives

    def _read(self, *, first: bool = False) -> None:
        """Takes in what is new on disk."""
        if self._changed(CONFIG_FILE, BUDGET_FILE):
            self._problems.pop(CONFIG_FILE, None)
            try:
                self._read_config()
            except UserError as error:  # what was read before still holds, and a resumed run writes it anew
                self._problems[CONFIG_FILE] = str(error)
        void, new = self._follower.read()
        if void:
            self._forget()
        for evaluation in new:
            try:
                self._take(evaluation)
            except (KeyError, TypeError, ValueError) as error:  # the archive of something else
                self._problems["archive"] = f"The search cannot be followed: {type(error).__name__}: {error}"
        if void or new:
            self._changes += 1
            self._news_at = time.monotonic()
        if void or self._follower.held() is False:
            self._pace.pause()
        if not first and (generation := max((evaluation.generation for evaluation in new), default=0)):
            self._pace.add(generation, self._spent())
        if self._changed(*AT_THE_END):
            self._changes += 1
            self._problems.pop(FRONT_FILE, None)
            self._finished = None
            if all((self.run_dir / name).exists() for name in AT_THE_END):
                try:
                    self._finished = FinishedRun.open(self.run_dir)
                except UserError as error:
                    self._problems[FRONT_FILE] = str(error)

    def _forget(self) -> None:
        """Nothing is known of the archive."""
        self._evaluations: dict[str, dict[str, Evaluation]] = {}  # by fidelity and key
        self._course: Course | None = None  # from the first evaluation on
        self._taus = TauCurves()
        self._scoring = False  # whether the last evaluation was one that comes after the search
        self._problems.pop("archive", None)

    def _take(self, evaluation: Evaluation) -> None:
        """Takes in one more evaluation of the archive."""
        if self._course is None:
            self._course = Course(self._objectives, self._follower.settings["fidelities"])
        self._evaluations.setdefault(evaluation.fidelity, {})[evaluation.candidate.key] = evaluation
        self._scoring = evaluation.generation == 0
        self._course.add(evaluation)
        self._taus.add(evaluation, self._course.tokens)

    def _draw(self) -> None:
        """Makes the figure anew when something changed, but not so often that it takes the machine from the search."""
        ended = self._ended
        state = (self._changes, ended is not None)
        if state == self._drawn or time.monotonic() < self._draw_again_at:
            return
        begun = time.monotonic()
        self._problems.pop("figure", None)
        data = None
        try:
            compared = finished_runs(self._compare)
            if ended is not None:
                data = front_figure_data(ended, compared)
            elif self._evaluations:
                settings = self._follower.settings
                data = searching_figure(self._evaluations, settings, self._objectives, self.run_dir, compared)
        except (UserError, KeyError, TypeError, ValueError) as error:  # what people changed by hand; told on the page
            self._problems["figure"] = f"The points cannot be drawn: {type(error).__name__}: {error}"
        self._figure = json.dumps(data, separators=(",", ":"), allow_nan=False)
        self._drawn = state
        self._draw_again_at = time.monotonic() + (time.monotonic() - begun) / BUSY

    def _keys(self) -> frozenset[str]:
        ended = self._ended
        return frozenset() if ended is None else frozenset(map(str, [*ended.front["key"], *ended.points["key"]]))

    def _spent(self) -> float:
        """The part of the budget, as the search itself counts it."""
        course = self._course
        return min(1.0, self._budget.fraction(course.done, course.tokens)) if course else 0.0

    def _state(self) -> str:
        course, held, ended = self._course, self._follower.held(), self._ended
        if ended is not None:
            return f"Ended: {len(ended.front) - 1} points on the front. Choose one to export or to score."
        if held is False and course:
            return "Not searching: no process here has the archive open. The same command with run_dir= goes on."
        if not course:
            return "Preparing: the order of units and the latency table come before the first evaluation."
        ago = time.monotonic() - self._news_at
        news = f"; nothing new for {duration(ago)}" if ago > QUIET_S else ""
        if self._scoring:
            return f"Scoring the front: tuning, held-out text, end-to-end timing{news}."
        spent, left = spent_text(self._budget, course.done, course.tokens), self._pace.seconds_left
        remaining = "" if left is None else f", some {duration(left)} left"
        return f"Searching: {self._spent():.0%} of the budget, {spent}{remaining}{news}."

    def _counts(self) -> str:
        parts = [f"{_title(name, answers)} {len(answers)}" for name, answers in self._evaluations.items()]
        failed = sum(e.status == "failed" for answers in self._evaluations.values() for e in answers.values())
        parts += [f"{failed} failed"] if failed else []
        return f"Evaluations: {', '.join(parts)}" if parts else "No evaluations yet"


def _title(fidelity: str, answers: Mapping[str, Evaluation]) -> str:
    """What people call a fidelity: of those that are about a task, its name says all that scores depend on."""
    return str(next((e.facts["task"] for e in answers.values() if "task" in e.facts), fidelity))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
