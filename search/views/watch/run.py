"""A run as its entry script tells of it: stages, remarks, the search, its end, and every way to end before that."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from search.loop import SearchProgress
from search.run.commands import override
from search.views.watch.events import (
    Event,
    Failed,
    Listener,
    Opened,
    Remarks,
    Searched,
    StageBegun,
    StageEnded,
    StageStep,
)
from search.views.watch.json_lines import JsonLines
from search.views.watch.lines import Lines
from search.views.watch.progress import Pace
from search.views.watch.screen import screen
from search.views.watch.tracking import Tracking
from space.errors import UserError

LOG_WIDTH = 120  # of lines that are no terminal's

# What `progress=` may be, and who listens then.
VIEWS: Mapping[str, Callable[[Console], AbstractContextManager[Listener]]] = {
    "live": screen,
    "lines": lambda console: nullcontext(Lines(console)),
    "quiet": lambda console: nullcontext(Lines(console, quiet=True)),
    "json": lambda console: nullcontext(JsonLines(console.file)),
}


class Watch:
    """Sends what happens to all who listen, in the order in which they came."""

    def __init__(self, view: Listener, closing: ExitStack) -> None:
        """Sends nothing yet.

        Args:
            view: Who listens from the beginning.
            closing: Closed at the run's end, while the view is there still.
        """
        self._listeners = [view]
        self._closing = closing
        self._pace, self._replayed = Pace(), 0
        self._go_on = "the same run_dir="
        self._begun = time.monotonic()

    def elapsed(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self._begun

    @property
    def stopped(self) -> str:
        """What to say when the run is stopped."""
        return f"stopped; give the same command with {self._go_on} to go on"

    def send(self, event: Event) -> None:
        """Tells all of an event."""
        for listener in self._listeners:
            listener(event)

    def say(self, lines: Iterable[str]) -> None:
        """Tells of what a person should know, in lines."""
        self.send(Remarks([*lines]))

    def opened(self, run_dir: Path, model: str, config: Mapping[str, Any], tracker: str) -> None:
        """The run has its directory; from now on an experiment tracker listens too.

        Args:
            run_dir: The directory.
            model: Name of the dense model.
            config: The configuration, nested mappings.
            tracker: A row of `search.views.watch.trackers.TRACKERS`, or `none`.

        Raises:
            UserError: The tracker cannot be used.
        """
        self._go_on = override("run_dir", str(run_dir))
        self.send(Opened(run_dir, model))
        if tracker != "none":
            tracking = Tracking(tracker, run_dir, config, lambda line: self.say([line]))
            self._closing.callback(tracking.close)
            self._listeners.append(tracking)

    def searched(self, progress: SearchProgress) -> None:
        """The search has one more answer; `on_progress` of `search.loop.run_loop`."""
        if progress.replayed != self._replayed:
            self._pace.pause()  # that was as fast as the disk
            self._replayed = progress.replayed
        self._pace.add(progress.generation, progress.fraction)
        self.send(Searched(progress, self._pace.seconds_left))

    @contextmanager
    def stage(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """A stage while the context is open.

        Yields:
            A function to call with how many steps are done, and of how many.
        """
        start = time.monotonic()
        self.send(StageBegun(title))
        yield lambda done, of: self.send(StageStep(title, done, of))
        self.send(StageEnded(title, time.monotonic() - start))


@contextmanager
def watched(progress: str) -> Iterator[Watch]:
    """What an entry script does, seen by a person or a program.

    Mistakes that the user can mend, Ctrl-C, SIGTERM and crashes are told to all listeners. Ctrl-C and SIGTERM then end
    the process with one message on standard error and exit code 1; the others go on as they are.

    Args:
        progress: A row of `VIEWS`, or `auto`: `live` on a terminal, `lines` elsewhere.

    Raises:
        UserError: There is no such row; or it was raised while the context was open.
    """
    console = Console() if sys.stdout.isatty() else Console(width=LOG_WIDTH)
    with _view(progress, console) as view, ExitStack() as closing:
        watch = Watch(view, closing)
        try:
            with _interrupted_by_sigterm():
                yield watch
        except UserError as error:
            watch.send(Failed("error", str(error)))
            raise
        except KeyboardInterrupt as interrupt:
            watch.send(Failed("stopped", watch.stopped))
            raise SystemExit(watch.stopped) from interrupt
        except Exception as error:
            watch.send(Failed("crash", f"{type(error).__name__}: {error}"))
            raise


def _view(progress: str, console: Console) -> AbstractContextManager[Listener]:
    if progress == "auto":
        return VIEWS["live" if console.is_terminal else "lines"](console)
    if progress not in VIEWS:
        raise UserError(f"progress: expected auto, {', '.join(VIEWS)}, got {progress}.")
    return VIEWS[progress](console)


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Ends as by Ctrl-C when a scheduler or `kill` asks the process to end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
