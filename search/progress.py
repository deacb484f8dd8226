"""What a person sees of a running search: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from evaluators.base import Evaluation, Metric
from search.loop import SearchProgress

QUIET_S = 60  # without a terminal, a generation that trains its candidates is told of in between


@contextmanager
def show_progress(
    objectives: Sequence[Metric], console: Console | None = None
) -> Iterator[Callable[[SearchProgress], None]]:
    """Show a search while the context is open.

    Args:
        objectives: What is shown of the best points.
        console: Where to; standard output when None.

    Yields:
        The `on_progress` of `search.loop.run_loop`.
    """
    console = console or Console()
    if not console.is_terminal:
        printed = time.monotonic()

        def print_now_and_then(progress: SearchProgress) -> None:
            nonlocal printed
            if progress.generation_done or time.monotonic() - printed > QUIET_S:
                print(progress_line(progress, objectives), file=console.file, flush=True)
                printed = time.monotonic()

        yield print_now_and_then
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda progress: live.update(_panel(progress, objectives), refresh=True)


def progress_line(progress: SearchProgress, objectives: Sequence[Metric]) -> str:
    """One line of plain text: counts, time left, hypervolume, best points."""
    parts = [_counts(progress), _front(progress), *_points(progress, objectives), *_remarks(progress)]
    return f"generation {progress.generation}: {'; '.join(parts)}"


def duration(seconds: float) -> str:
    """A time span for people: `45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _panel(progress: SearchProgress, objectives: Sequence[Metric]) -> Group:
    bar = Table.grid(padding=(0, 1))
    bar.add_row("search", ProgressBar(total=1.0, completed=progress.fraction, width=30), Text(_counts(progress)))
    lines = (_front(progress), *_points(progress, objectives), *_remarks(progress))
    return Group(bar, *(Text(f"  {line}") for line in lines))


def _counts(progress: SearchProgress) -> str:
    limit = "" if progress.budget.evaluations is None else f"/{progress.budget.evaluations}"
    text = f"{progress.done}{limit} evaluations"
    details = [f"{progress.cheap} cheap ones before"] if progress.cheap else []
    details += [f"{progress.replayed} replayed"] if progress.replayed else []
    details += [f"{progress.failed} failed"] if progress.failed else []
    if details:
        text += f" ({', '.join(details)})"
    if progress.budget.tokens is not None:
        text += f", {progress.tokens}/{progress.budget.tokens} tokens"
    text += f", {progress.seconds / (progress.done + progress.cheap):.2f} s each"
    left = progress.seconds_left
    return text if left is None else f"{text}, {duration(left)} left"


def _front(progress: SearchProgress) -> str:
    volume = "not yet known" if progress.hypervolume is None else f"{progress.hypervolume:.5g}"
    return f"front of {progress.front} points ({progress.fidelity}), hypervolume {volume}"


def _points(progress: SearchProgress, objectives: Sequence[Metric]) -> list[str]:
    lines = [f"best {name}: {_point(best, objectives)}" for name, best in progress.best.items()]
    if progress.knee is not None:
        lines.append(f"knee: {_point(progress.knee, objectives)}")
    return lines


def _remarks(progress: SearchProgress) -> list[str]:
    return [progress.remark] if progress.remark else []


def _point(evaluation: Evaluation, objectives: Sequence[Metric]) -> str:
    values = ", ".join(f"{metric.name} {evaluation.values[metric.name]:.4g}" for metric in objectives)
    return f"{evaluation.candidate.key} ({values})"
