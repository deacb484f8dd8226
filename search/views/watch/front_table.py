"""The front as a terminal shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from evaluators.base import Metric
from evaluators.metrics import (
    ACCURACY,
    DIVERGENCES,
    HELDOUT_QUALITY,
    REMOVED,
    SEARCH_QUALITY,
    VOCABULARY_REMOVED,
    judged_in,
)
from search.run.recommended import RECOMMENDED, is_perplexity
from search.views.front_rows import OF_DENSE, SPEED_UP, front_rows
from search.views.text import broken

WIDE = 120  # characters of a line with all columns
SHOWN = ("latency_ms", "latency_e2e_ms", SPEED_UP, "params", REMOVED)
PERPLEXITIES = ("kl", "heldout_ppl", f"heldout_ppl{OF_DENSE}")  # of a task that is judged by one
LEFT_OUT = ("latency_ms", "params", *DIVERGENCES)  # where there is less room


def terminal_table(
    frame: pd.DataFrame,
    objectives: Sequence[Metric],
    marks: Mapping[str, str],
    title: str = "Pareto front",
    *,
    width: int = WIDE,
) -> Table:
    """The front for the terminal.

    Args:
        frame: The front's table.
        objectives: The search's objectives.
        marks: Names of points to their keys.
        title: Heading; text, not markup.
        width: Characters of a line: 120 for all columns; with less, down to 80, those that others tell nearly as well
            are left out.
    """
    left_out = {*(() if width >= WIDE else LEFT_OUT)}
    if "latency_e2e_ms" not in frame:  # the table's latencies stand for it
        left_out = (left_out | {"latency_e2e_ms"}) - {"latency_ms"}
    if "bpb" in frame:  # designs have vocabularies of their own, and no divergence
        left_out = left_out | {"kl"}
    judged = judged_in(frame.columns)
    qualities: tuple[str, ...] = PERPLEXITIES
    if judged is not None and not is_perplexity(judged):
        qualities = tuple(name for name in (*SEARCH_QUALITY, *HELDOUT_QUALITY, ACCURACY) if name in frame)
    extra = [name for name in ("acc", VOCABULARY_REMOVED) if name in frame]
    shown = [*(name for name in (*SHOWN, *qualities) if name not in left_out), *extra]
    rows = front_rows(frame, objectives, marks, shown)
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.collapse_padding = True
    table.add_column("key", no_wrap=True)
    for head in rows[0].cells:
        table.add_column(broken(head), justify="right", no_wrap=True)
    table.add_column("")
    for row in rows:
        style = "dim" if "dense" in row.names else "bold green" if RECOMMENDED in row.names else None
        table.add_row(row.key, *row.cells.values(), ", ".join(row.names), style=style)
    return table
