"""A run of a classifier, as a user has it, up to an export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from helpers_forked import reloading_here
from helpers_run import ended, start

from search.run.front import is_dense, read_front_csv


def searched_and_exported(place: Path, arguments: Sequence[str], *, sure: bool = True) -> pd.Series:
    """Searches in a directory, and exports the first point that is smaller, as timings have no say in that, to `out`.

    Args:
        place: The directory.
        arguments: Of the search, but where things are.
        sure: Whether the dense model gets all labels right.

    Returns:
        The point's row.
    """
    places = {"cwd": place, "cache": place / "cache"}
    done = ended(start("run_search.py", *arguments, "run_dir=run", "progress=lines", **places))
    assert done.returncode == 0, done.stderr
    assert '"y":"heldout_class_kl"' in (place / "run" / "front.html").read_text()
    front = read_front_csv(place / "run" / "front.csv")
    dense = front[is_dense(front)].iloc[0]
    assert (dense["heldout_accuracy"] == 1, dense["heldout_agreement"], dense["kv_bytes"]) == (sure, 1, 0)
    points = read_front_csv(place / "run" / "points.csv")
    row = next(row for _, row in points.iterrows() if row["params"] < dense["params"])
    settings = "run_dir=run", f"pick={row['key']}", "recover.tokens=256", "out=out"
    done = ended(start("export_subnet.py", *settings, **places, first=reloading_here))
    assert done.returncode == 0, done.stderr
    return row
