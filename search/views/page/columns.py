"""The columns of front.csv as the page shows them: each metric with its unit, group and digits for these numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from evaluators.base import Metric
from evaluators.metrics import (
    BEFORE_TUNING,
    HELDOUT_BEFORE_TUNING,
    WHOLE,
    WIDE_RANGING,
    metrics_of,
    spread_column,
)
from search.views.text import scale_of

GROUPS = {"quality": "Quality", "score": "Tasks", "cost": "Cost", "latency": "Cost"}
UNTUNED = (*BEFORE_TUNING.values(), *HELDOUT_BEFORE_TUNING.values())


@dataclass(frozen=True)
class Column:
    """A column as the page shows it.

    Attributes:
        name: In front.csv.
        label: What people call it.
        unit: Of the numbers shown.
        group: Among what it stands in lists.
        goal: "min" or "max".
        log: Whether an axis of it is logarithmic.
        digits: Behind the point.
        before: The column with the same of untuned designs, which an axis shows where a design has no tuned value.
        spread: The column with what stands behind its ±.
        scale: The size of one unit, by which the page's numbers are divided.
        relative: Whether its numbers are over the dense model's already.
    """

    name: str
    label: str
    unit: str
    group: str
    goal: str
    log: bool
    digits: int
    before: str | None
    spread: str | None
    scale: float
    relative: bool


def page_columns(
    frames: Sequence[pd.DataFrame], others: Iterable[Metric], relative: Sequence[Metric] = ()
) -> list[Column]:
    """The columns of some tables that a metric describes: those over the dense model, then the metrics' order.

    A column that says the same as another in all rows is left out, as the prefill of a run whose latency that is.

    Args:
        frames: The tables; the largest number of all chooses the unit of counts.
        others: Metrics without a row of their own.
        relative: Metrics over the dense model's, see `search.views.page.over_dense`.
    """
    names = dict.fromkeys(str(name) for frame in frames for name in frame)
    columns = [metric for metric in metrics_of(names, others) if not _says_the_same(frames, metric.name)]
    shown = {metric.name for metric in columns}
    over = [metric for metric in relative if metric.name in names]
    return [_column(metric, shown, frames, metric in over) for metric in (*over, *columns)]


def _column(metric: Metric, columns: set[str], frames: Sequence[pd.DataFrame], relative: bool) -> Column:
    name, before = metric.name, BEFORE_TUNING.get(metric.name)
    values = np.concatenate([frame[name].to_numpy(dtype=float) for frame in frames if name in frame])
    largest = float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
    scale, unit, digits = scale_of(metric.format, largest)
    return Column(
        name=name,
        label=metric.label,
        unit=unit or metric.unit,
        group="Over the dense model" if relative else "Before tuning" if name in UNTUNED else GROUPS[metric.role],
        goal=metric.goal,
        log=name in WIDE_RANGING,
        digits=digits,
        before=before if before in columns else None,
        spread=spread_column(name, columns),
        scale=scale,
        relative=relative,
    )


def _says_the_same(frames: Sequence[pd.DataFrame], name: str) -> bool:
    """Whether a phase's column says what that of the whole workload does wherever it is."""
    other = WHOLE.get(name)
    having = [frame for frame in frames if name in frame]
    return other is not None and all(
        other in frame and frame[name].equals(frame[other].rename(name)) for frame in having
    )
