"""What happens in a run, as values that its listeners are given one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evaluators.base import Metric
from search.loop import SearchProgress
from search.run.commands import next_commands
from search.run.finish import Finish


@dataclass(frozen=True)
class Opened:
    """The run has its directory.

    Attributes:
        run_dir: The directory.
        model: Name of the dense model.
    """

    run_dir: Path
    model: str


@dataclass(frozen=True)
class StageBegun:
    """A part of the run with a name begins."""

    title: str


@dataclass(frozen=True)
class StageStep:
    """So many steps of the stage are done, of so many."""

    title: str
    done: int
    of: int


@dataclass(frozen=True)
class StageEnded:
    """A stage ended well, after so many seconds."""

    title: str
    seconds: float


@dataclass(frozen=True)
class Remarks:
    """What a person should know, in plain lines; those that begin with `WARNING` are warnings."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Searched:
    """The search has one more answer.

    Attributes:
        progress: How far it is.
        seconds_left: To the end of the budget, as fast as it went since the first generation, and since nothing is
            replayed any more; None as long as that is not known.
    """

    progress: SearchProgress
    seconds_left: float | None


@dataclass(frozen=True)
class SearchEnded:
    """The search has ended and its front is written.

    Attributes:
        run_dir: Where.
        model: Name of the dense model.
        objectives: What the front is about.
        result: The front's table, and how far to trust it.
    """

    run_dir: Path
    model: str
    objectives: Sequence[Metric]
    result: Finish

    @property
    def commands(self) -> dict[str, str]:
        """What to do next, by what for."""
        advice = self.result.advice
        return next_commands(self.run_dir, advice.pick, untimed=self.result.measured.untimed, scored=advice.scored)


@dataclass(frozen=True)
class Failed:
    """The run ends before its time.

    Attributes:
        kind: `error`: a mistake that the user can mend; `stopped`: by Ctrl-C or SIGTERM; `crash`: anything else.
        message: What there is to say of it.
    """

    kind: Literal["error", "stopped", "crash"]
    message: str


Event = Opened | StageBegun | StageStep | StageEnded | Remarks | Searched | SearchEnded | Failed
Listener = Callable[[Event], None]
