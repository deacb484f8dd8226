"""A run as plain lines, for logs and pipes; or, quietly, its warnings and its end alone."""

from __future__ import annotations

import time

from rich.console import Console

from search.run.recommended import landmarks
from search.views.text import duration, printable
from search.views.watch.events import Event, Opened, Remarks, Searched, SearchEnded, StageEnded, StageStep
from search.views.watch.front_table import terminal_table
from search.views.watch.progress import progress_line

SILENT_S = 60  # after which a generation or a stage that takes long has a line in between
WARNING = "WARNING"


class Lines:
    """Listens, and prints."""

    def __init__(self, console: Console, *, quiet: bool = False, search: bool = True) -> None:
        """Prints nothing yet.

        Args:
            console: Where to.
            quiet: Whether to print warnings and the end alone.
            search: Whether to print how stages and the search go on; else somebody else shows it.
        """
        self._console = console
        self._quiet = quiet
        self._search = search and not quiet
        self._printed = time.monotonic()
        self._remark = ""

    def __call__(self, event: Event) -> None:
        """Prints what there is to say of an event."""
        due = time.monotonic() - self._printed > SILENT_S
        match event:
            case Opened(run_dir=run_dir):
                self._print(f"run directory: {run_dir}")
            case Remarks(lines=lines):
                self._print(*(line for line in lines if not self._quiet or line.startswith(WARNING)), whole=False)
            case StageEnded(title=title, seconds=seconds) if not self._quiet:
                self._print(f"{title}: {duration(seconds)}")
            case StageStep(title=title, done=done, of=of) if self._search and due:
                self._print(f"{title}: {done} of {of}")
            case Searched(progress=progress, seconds_left=left) if self._search and (due or progress.generation_done):
                remark = progress.remark if progress.remark != self._remark else ""
                self._print(progress_line(progress, left, remark))
                self._remark = progress.remark
            case SearchEnded():
                self._end(event)

    def _end(self, end: SearchEnded) -> None:
        if not self._quiet:
            title = printable(f"Pareto front of {end.model}")
            front, width = end.result.front, self._console.width
            marks = landmarks(front, end.result.advice)
            self._console.print(terminal_table(front, end.objectives, marks, title=title, width=width))
            self._print(*end.result.remarks(), whole=False)
        width = max(map(len, end.commands), default=0) + 1
        self._print(*(f"{what + ':':<{width}} {command}" for what, command in end.commands.items()))

    def _print(self, *lines: str, whole: bool = True) -> None:
        """Prints plain lines.

        Args:
            lines: What to print.
            whole: Whether they are to be copied, as commands and paths are; others a terminal wraps between words.
        """
        whole = whole or not self._console.is_terminal
        for line in lines:
            self._console.print(printable(line), markup=False, highlight=False, emoji=False, soft_wrap=whole)
            self._printed = time.monotonic()
