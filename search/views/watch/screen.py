"""A run as one live screen: the stage, the budget, how the front grows, its best points, what the search says."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from evaluators.metrics import REMOVED, metric_named
from search.loop import SearchProgress
from search.views.text import broken, clock, duration, printable, written
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
from search.views.watch.lines import Lines
from search.views.watch.progress import ASCII_BARS, BARS, counts_text, sparkline, standouts, title_of

REFRESH_S = 0.25  # no more often than this
REMARKS = 4  # lines


@contextmanager
def screen(console: Console) -> Iterator[Screen]:
    """A live screen while the context is open; what is for good stands in lines above it.

    The cursor stays visible, so that a killed process leaves the terminal as it was.
    """
    shown = Screen(console)
    with Live(get_renderable=shown.render, console=console, refresh_per_second=1, transient=True) as live:
        console.show_cursor(True)
        shown.live = live
        yield shown


class Screen:
    """Listens, and draws.

    Attributes:
        live: What to refresh; None as long as there is nothing.
    """

    def __init__(self, console: Console) -> None:
        """Draws nothing yet.

        Args:
            console: Where to.
        """
        self.live: Live | None = None
        self._console = console
        self._lines = Lines(console, search=False)
        self._model = ""
        self._stage: _Stage | None = None
        self._search: Searched | None = None
        self._curve: list[tuple[float, float]] = []  # tokens and hypervolume, of one fidelity
        self._refreshed = 0.0

    def __call__(self, event: Event) -> None:
        """Takes an event in, and draws when it is time."""
        match event:
            case Opened(model=model):
                self._model = printable(model)
            case StageBegun(title=title):
                self._stage = _Stage(title)
            case StageStep(done=done, of=of) if self._stage is not None:
                self._stage.step(done, of)
            case StageEnded():
                self._stage = None
            case Searched():
                self._take(event)
            case SearchEnded():
                self._search = None
            case Failed() if self.live is not None:
                self.live.transient = False  # how far it was
        if isinstance(event, Opened | StageEnded | Remarks | SearchEnded):
            self._lines(event)
        elif self.live is not None and time.monotonic() - self._refreshed > REFRESH_S:
            self.live.refresh()
            self._refreshed = time.monotonic()

    def render(self) -> RenderableType:
        """The screen as it is now."""
        parts: list[RenderableType] = []
        if self._search is not None:
            title = Text(self._model)
            parts.append(Panel(self._panel(self._search), title=title, title_align="left", box=box.ROUNDED))
        if self._stage is not None:
            parts += self._stage.lines(self._console.width)
        return Group(*parts)

    def _take(self, searched: Searched) -> None:
        progress = searched.progress
        if self._search is not None and self._search.progress.fidelity != progress.fidelity:
            self._curve = []  # hypervolumes of different fidelities cannot be compared
        if progress.hypervolume is not None:
            self._curve.append((progress.tokens, progress.hypervolume))
        self._search = searched

    def _panel(self, searched: Searched) -> RenderableType:
        progress, left = searched.progress, searched.seconds_left
        wide = max(10, self._console.width - 60)
        facts = Table.grid(padding=(0, 2))
        facts.add_column(style="dim", no_wrap=True)
        facts.add_column()
        for name, spent, limit in (
            ("tokens", progress.tokens, progress.budget.tokens),
            ("evaluations", progress.done, progress.budget.evaluations),
        ):
            if limit is not None:
                bar = Table.grid(padding=(0, 2))
                done = ProgressBar(total=limit, completed=min(spent, limit), width=wide)
                bar.add_row(done, f"{spent:,} of {limit:,}", f"{min(1.0, spent / limit):.0%}")
                facts.add_row(name, bar)
        if progress.fraction < 1:
            facts.add_row("time left", "not yet known" if left is None else f"about {duration(left)}")
        facts.add_row("asked", counts_text(progress))
        if progress.hypervolume is not None:
            bars = ASCII_BARS if self._console.options.ascii_only else BARS
            line = sparkline(self._curve, wide, bars=bars)
            facts.add_row("hypervolume", f"{line}  {progress.hypervolume:.5g}")
        facts.add_row("front", f"{len(progress.front)} points at fidelity {progress.fidelity}")
        parts: list[RenderableType] = [facts]
        if best := _best(progress):
            parts += ["", best]
        if remarks := [part for part in progress.remark.split("; ") if part]:
            parts += ["", *(Text(printable(part), style="dim", overflow="ellipsis") for part in remarks[-REMARKS:])]
        return Group(*parts)


def _best(progress: SearchProgress) -> Table | None:
    """The front's best points, None when there is none yet."""
    points = standouts(progress)
    if not points:
        return None
    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="dim")
    table.add_column("", no_wrap=True)
    shown = dict.fromkeys([*progress.objectives, metric_named(REMOVED)])
    for metric in shown:
        table.add_column(broken(metric.title, 12), justify="right", no_wrap=True)
    table.add_column("key", no_wrap=True)
    for name, best in points.items():
        values = [written(metric, best.values.get(metric.name, math.nan)) for metric in shown]
        table.add_row(title_of(name), *values, best.candidate.key)
    return table


class _Stage:
    """A stage that is under way, and what is known of how long it will take."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._begun = time.monotonic()
        self._counted = self._begun  # when the steps began that are counted now
        self._done = self._of = 0

    def step(self, done: int, of: int) -> None:
        if of != self._of or done < self._done:
            self._counted = time.monotonic()
        self._done, self._of = min(done, of), of

    def lines(self, width: int) -> list[RenderableType]:
        now = time.monotonic()
        title = Table.grid()
        title.add_column(no_wrap=True, overflow="ellipsis", width=max(10, width - 14))
        title.add_column(justify="right", no_wrap=True, style="dim", width=8)  # the rest is room for a ^C
        title.add_row(Text(self._title, style="bold"), clock(now - self._begun))
        if not self._of:
            return [title]
        left = (now - self._counted) * (self._of - self._done) / self._done if 0 < self._done < self._of else None
        bar = Table.grid(padding=(0, 2))
        words = f"{self._done} of {self._of}" + ("" if left is None else f", about {duration(left)} left")
        bar.add_row(ProgressBar(total=self._of, completed=self._done, width=max(10, width - 44)), words)
        return [title, bar]
