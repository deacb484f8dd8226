"""What a person sees of a stage with a known length before the search: a bar on a terminal, one line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from search.progress import duration


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
