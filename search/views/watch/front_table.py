"""The front as a terminal shows it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from evaluators.base import Metric
from search.run.front import REMOVED, dense_row, in_order, landmarks

WIDE = 120  # characters of a line with all columns
LEFT_OUT = ("latency\nms, table", "params", "search\nKL")  # where there is less room


def terminal_table(
    frame: pd.DataFrame, objectives: Sequence[Metric], title: str = "Pareto front", *, width: int = WIDE
) -> Table:
    """The front for the terminal, the dense model first and then faster and faster.

    Args:
        frame: The front's table.
        objectives: The search's objectives.
        title: Heading; text, not markup.
        width: Characters of a line: 120 for all columns; with less, down to 80, those that others tell nearly as well
            are left out.
    """
    marks, dense = landmarks(frame, objectives), dense_row(frame)

    def speed_up(row: pd.Series) -> str:
        timed = "latency_ms" if math.isnan(_number(row, "latency_e2e_ms")) else "latency_e2e_ms"
        return _cell("{:.2f}×", _number(dense, timed), over=_number(row, timed))

    columns: dict[str, Callable[[pd.Series], str]] = {
        "latency\nms, table": lambda row: _cell("{:.2f}", _number(row, "latency_ms")),
        "latency\nms, timed": lambda row: _cell("{:.2f}", _number(row, "latency_e2e_ms")),
        "speed-up": speed_up,
        "params": lambda row: short_count(_number(row, "params")),
        "decoder\nremoved": lambda row: _cell("{:.1%}", _number(row, REMOVED)),
        "search\nKL": lambda row: _cell("{:.4f}", _number(row, "kl")),
        "held-out\nperplexity": lambda row: _cell("{:.2f}", _number(row, "heldout_ppl")),
        "× dense": lambda row: _cell("{:.3f}×", _number(row, "heldout_ppl"), over=_number(dense, "heldout_ppl")),
    }
    if "acc" in frame:
        columns["search\naccuracy"] = lambda row: _cell("{:.3f}", _number(row, "acc"))
    if width < WIDE:
        columns = {head: cell for head, cell in columns.items() if head not in LEFT_OUT}
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("key", no_wrap=True)
    for head in columns:
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("")
    for _, row in in_order(frame).iterrows():
        names = [mark for mark, key in marks.items() if key == row["key"]]
        is_dense_row = row["key"] == dense["key"]
        table.add_row(
            str(row["key"]),
            *(cell(row) for cell in columns.values()),
            "dense" if is_dense_row else ", ".join(names),
            style="dim" if is_dense_row else "bold green" if "knee" in names else None,
        )
    return table


def short_count(count: float) -> str:
    """A count in three or four digits, `98.3M`; a dash when it is not known."""
    if math.isnan(count):
        return "–"
    for size, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            return f"{count / size:.1f}{suffix}"
    return f"{count:.0f}"


def _number(row: pd.Series, name: str) -> float:
    """A cell's number; NaN when the column or the number is not there."""
    return float(row[name]) if name in row.index else math.nan


def _cell(form: str, value: float, over: float = 1.0) -> str:
    """A number as text, over a reference value where one is given; a dash when either is not known."""
    return form.format(value / over) if math.isfinite(value) and math.isfinite(over) and over else "–"
