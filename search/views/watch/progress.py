"""What is said of a running search, in words and in small pictures."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

import numpy as np

from evaluators.base import Evaluation
from evaluators.metrics import REMOVED, SUPERLATIVES, VOCABULARY_REMOVED
from search.loop import Budget, SearchProgress
from search.pareto import minimised
from search.views.text import duration, written

BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.-~=+*#"
PACE = 50  # evaluations, the last ones, that tell how long a search will take


def standouts(progress: SearchProgress) -> dict[str, Evaluation]:
    """The front's best point by each objective, under the objective's name; never the dense model."""
    lacks = (REMOVED, VOCABULARY_REMOVED)
    points = [e for e in progress.front if e.candidate.is_rounded or any(e.values.get(name, 0.0) for name in lacks)]
    if not points:
        return {}
    values = minimised([e.values for e in points], progress.objectives)
    best = zip(progress.objectives, values.argmin(axis=0), strict=True)
    return {metric.name: points[row] for metric, row in best}


def title_of(standout: str) -> str:
    """What people call a standout: `closest`, `fastest`, `smallest` or `best <metric>`."""
    return SUPERLATIVES.get(standout, f"best {standout}")


def spent_text(budget: Budget, done: int, tokens: int) -> str:
    """What is spent of the budget: `20,992 of 100,000 tokens`, evaluations too where they are limited."""
    parts = [f"{done} of {budget.evaluations} evaluations"] * (budget.evaluations is not None)
    parts += [f"{tokens:,} of {budget.tokens:,} tokens"] * (budget.tokens is not None)
    return ", ".join(parts)


def counts_text(progress: SearchProgress) -> str:
    """How often each fidelity was asked: `search-128 528, search 115`."""
    counts = ", ".join(f"{fidelity} {count}" for fidelity, count in progress.counts.items())
    parts = [f"{progress.replayed} replayed"] * bool(progress.replayed)
    parts += [f"{progress.failed} failed"] * bool(progress.failed)
    return f"{counts} ({', '.join(parts)})" if parts else counts


def progress_line(progress: SearchProgress, seconds_left: float | None, remark: str) -> str:
    """One line of plain text: budget, time left, hypervolume, best points.

    Args:
        progress: Of what.
        seconds_left: To the end of the budget; None when not known.
        remark: What is to be said of the algorithm; empty for nothing.
    """
    left = "" if seconds_left is None else f", {duration(seconds_left)} left"
    parts = [f"{spent_text(progress.budget, progress.done, progress.tokens)}{left}"]
    parts.append(f"evaluations: {counts_text(progress)}")
    if progress.hypervolume is not None:
        parts.append(f"hypervolume {progress.hypervolume:.5g} ({progress.fidelity}, {len(progress.front)} points)")
    for name, best in standouts(progress).items():
        values = ", ".join(f"{m.name} {written(m, best.values[m.name])}" for m in progress.objectives)
        parts.append(f"{title_of(name)} {best.candidate.key} ({values})")
    return f"generation {progress.generation}: {'; '.join([*parts, *([remark] if remark else [])])}"


class Pace:
    """How long a search will take, from how fast its last evaluations spent the budget.

    The first generation says nothing of it: much of its time goes into what later ones find made, such as the dense
    model rounded to each type of `space.types`, which costs no more of the budget than other questions.
    """

    def __init__(self) -> None:
        self._points: deque[tuple[float, float]] = deque(maxlen=PACE)  # when, and the part of the budget

    def pause(self) -> None:
        """What was before says nothing of the pace: a search that stood still, or that replayed its answers."""
        self._points.clear()

    def add(self, generation: int, fraction: float) -> None:
        """The latest evaluation's generation, from 1, and the part of the budget that is spent now, 0..1."""
        if generation <= 1:
            self.pause()
        self._points.append((time.monotonic(), fraction))

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end of the budget; None as long as nothing is known of the pace."""
        if len(self._points) < 2:
            return None
        (begun, before), (now, after) = self._points[0], self._points[-1]
        return (now - begun) * (1 - after) / (after - before) if after > before else None


def sparkline(curve: Sequence[tuple[float, float]], width: int, *, bars: str = BARS) -> str:
    """A growing curve as a row of at most `width` characters; empty for one without points.

    Args:
        curve: Points `(x, y)`, x rising.
        width: Characters.
        bars: Characters from low to high.
    """
    if not curve or width < 1:
        return ""
    x, y = np.array(curve, dtype=float).T
    edges = x[0] + (x[-1] - x[0]) * np.arange(1, width + 1) / width
    last = y[np.clip(np.searchsorted(x, edges, side="right") - 1, 0, None)] if x[-1] > x[0] else y[-1:]
    low, high = float(last.min()), float(last.max())
    levels = (last - low) / (high - low) if high > low else np.full(len(last), 0.5)
    return "".join(bars[round(float(level) * (len(bars) - 1))] for level in levels)
