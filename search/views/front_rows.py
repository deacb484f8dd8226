"""The front as rows of text, which the terminal and the report show: who a point is, and its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from evaluators.base import Metric
from evaluators.metrics import metrics_of
from search.run.front import dense_row, in_order
from search.views.text import number, written

SPEED_UP = "speedup"
OF_DENSE = "/dense"  # behind the name of a metric: its value over the dense model's
RISE = "/rise"  # behind the name of a perplexity: the loss above the dense model's


@dataclass(frozen=True)
class FrontRow:
    """A point.

    Attributes:
        key: Its key.
        names: What it is: `dense`, or its landmarks.
        cells: Heads of columns to texts; the same heads in all rows.
    """

    key: str
    names: tuple[str, ...]
    cells: dict[str, str]


def front_rows(
    frame: pd.DataFrame, objectives: Sequence[Metric], marks: Mapping[str, str], shown: Sequence[str]
) -> list[FrontRow]:
    """The points of a front, the dense model first and then faster and faster.

    Args:
        frame: The front's table.
        objectives: The search's objectives.
        marks: Names of points to their keys.
        shown: Names of columns in their order, `OF_DENSE` or `RISE` behind some, `SPEED_UP` among them; what the table
            lacks is a dash.
    """
    dense = dense_row(frame)
    metrics = {metric.name: metric for metric in metrics_of([column_of(name) for name in shown], objectives)}

    def cell(row: pd.Series, name: str) -> tuple[str, str]:
        if name == SPEED_UP:
            timed = "latency_ms" if math.isnan(_value(row, "latency_e2e_ms")) else "latency_e2e_ms"
            return name, _ratio(_value(dense, timed), _value(row, timed), "{:.2f}×")
        metric = metrics[column_of(name)]
        if name.endswith(RISE):
            risen = math.log(_value(row, metric.name) / _value(dense, metric.name))
            return f"{metric.label.replace('Perplexity', 'Rise')} (nats/token)", number(risen, "{:.3f}")
        if name.endswith(OF_DENSE):
            head = "× dense" if metric.name in shown else f"{metric.label}, × dense"
            return head, _ratio(_value(row, metric.name), _value(dense, metric.name), "{:.3f}×")
        return metric.title, written(metric, _value(row, name))

    def names(key: str) -> tuple[str, ...]:
        return ("dense",) if key == dense["key"] else tuple(name for name, marked in marks.items() if marked == key)

    return [
        FrontRow(str(row["key"]), names(row["key"]), dict(cell(row, name) for name in shown))
        for _, row in in_order(frame).iterrows()
    ]


def column_of(shown: str) -> str:
    """The column of the front's table that a shown one is made of."""
    return shown.removesuffix(OF_DENSE).removesuffix(RISE)


def _value(row: pd.Series, name: str) -> float:
    """A cell's number; NaN when the column or the number is not there."""
    return float(row[name]) if name in row.index else math.nan


def _ratio(value: float, over: float, form: str) -> str:
    return number(value / over if over else math.nan, form)
