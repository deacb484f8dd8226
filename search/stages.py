"""What a person sees of an entry script beside the search: its stages, and its end when that is not a good one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from search.progress import duration
from space.errors import UserError


@contextmanager
def stage(title: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """Shows a stage while the context is open, and how long it took after.

    Yields:
        A function to call with how many steps are done, and of how many.
    """
    start = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, of: bars.update(task, completed=done, total=of)
    console.print(f"{title}: {duration(time.monotonic() - start)}", highlight=False)


def told(console: Console, lines: Iterable[str]) -> None:
    """Prints plain lines, which a terminal may wrap but not colour or cut."""
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


@contextmanager
def mistakes_told() -> Iterator[None]:
    """Turns mistakes that the user can mend, and an interrupt, into one message and exit code 1."""
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; run again with the same run_dir= to go on")
