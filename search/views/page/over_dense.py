"""What people compare of pruned models: speed-up, and loss above the dense model's, as columns; and the axes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from evaluators.base import Metric
from evaluators.metrics import REMOVED, end_to_end, judged_in, metric_named
from search.run.recommended import QUALITY, is_perplexity

RISE = Metric("heldout_rise", "nats/token", "min", "quality", "Loss above dense, held-out", "fine")
_SPEED_UPS = ("measured_speed_up", "table_speed_up")


@dataclass(frozen=True)
class Axes:
    """A pair of columns to look at.

    Attributes:
        name: For people.
        x: The column across.
        y: The column up.
    """

    name: str
    x: str
    y: str


def speed_ups(objectives: Sequence[Metric], columns: Collection[str]) -> dict[str, Metric]:
    """From a column of milliseconds to what its speed-up is called: end to end, then of the latency table.

    It is of the first latency among the objectives, of the whole workload where there is none.

    Args:
        objectives: The search's.
        columns: Those that there are; a speed-up whose milliseconds are not among them is left out.
    """
    timed = next((m for m in objectives if m.role == "latency" and m.goal == "min"), metric_named("latency_ms"))
    speeds = {}
    for name, column in zip(_SPEED_UPS, (end_to_end(timed.name, columns), timed.name), strict=True):
        if column is not None and column in columns:
            what, _, how = metric_named(column).label.partition(", ")
            of = "" if what == "Latency" else f" of {what.lower()}"
            speeds[column] = Metric(name, "× dense", "max", "latency", f"Speed-up{of}, {how}")
    return speeds


def over_dense(frame: pd.DataFrame, dense: pd.Series, speeds: Mapping[str, Metric]) -> pd.DataFrame:
    """A table with the speed-ups and the rise, where it and the dense model have what these are made of.

    Args:
        frame: A table of one run.
        dense: The row of that run's dense model.
        speeds: See `speed_ups`.
    """
    known = {name for name in (QUALITY, *speeds) if name in frame and name in dense.index}
    more = {speeds[column].name: dense[column] / frame[column] for column in speeds if column in known}
    if QUALITY in known:
        more[RISE.name] = np.log(frame[QUALITY] / dense[QUALITY])
    return frame.assign(**more)


def axes(columns: Sequence[str], objectives: Sequence[Metric]) -> list[Axes]:
    """What the page offers to look at, the first of which it opens with.

    First what is promised of the front, whose members alone have it: measured speed-up, and loss on held-out text. Then
    what the search went by, which all of its points have: the table's speed-up and the search's own quality. One stands
    in for the other where it is not known, as while a search runs. Where no objective is a latency, the first cost
    stands for speed-ups, and the removed part for a number of parameters.

    Args:
        columns: Of the front, with those of `over_dense`.
        objectives: The search's.
    """
    names = [metric.name for metric in objectives]
    costs = [metric.name for metric in objectives if metric.is_cost]
    qualities = [metric.name for metric in objectives if metric.role == "quality"]
    if any(metric.role == "latency" for metric in objectives) or not costs:
        measured, table = _SPEED_UPS
    else:
        measured = table = REMOVED if costs[0] in ("params", "decoder_params") else costs[0]

    def first(*wanted: str, other: str = "") -> str:
        return next(name for name in (*wanted, *columns) if name in columns and name != other)

    x, judged = first(measured, table, *costs), judged_in(columns)
    unseen = [RISE.name] if judged is None or is_perplexity(judged) else [judged]
    promised = Axes("the front", x, first(*unseen, *qualities, *names, other=x))
    x = first(table, *costs)
    searched = Axes("all candidates", x, first(*qualities, *names, QUALITY, other=x))
    return [searched] if (promised.x, promised.y) == (searched.x, searched.y) else [promised, searched]
