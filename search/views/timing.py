"""Timing the front of a finished run as an entry script tells of it."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console

from evaluators.base import Evaluator
from search.archive import Archive
from search.run.finished import FinishedRun
from search.run.measured import error_of
from search.run.members import Show
from search.run.timing import time_run
from search.views.pages import write_pages
from search.views.text import printable
from search.views.watch.front_table import WIDE, terminal_table
from search.views.watch.run import Watch


def watched_timing(run: FinishedRun, archive: Archive, ask: Callable[[Show], Evaluator], watch: Watch) -> None:
    """Times a run's points end to end, as far as they are not on this device, and writes all files of the front anew.

    Args:
        run: The run.
        archive: The run's.
        ask: What times them, and tells of its progress.
        watch: Says the front that these times leave.

    Raises:
        UserError: See `search.run.timing.time_run`.
    """
    before = len(archive)
    with watch.stage("end-to-end timing") as show:
        timed = time_run(run, archive, ask(show))
    write_pages(timed.run_dir, archive)
    console = Console(width=WIDE)
    with console.capture() as text:
        title = printable(f"Pareto front of {timed.summary['model']['name']}")
        console.print(terminal_table(timed.front, timed.objectives, timed.marks, title=title))
    watch.say(line.rstrip() for line in text.get().splitlines())
    new = f"models timed now: {len(archive) - before}; what was timed on this device before is not timed again"
    watch.say([new, *timed.measured.remarks(error_of(timed.summary)), *timed.advice.lines])
