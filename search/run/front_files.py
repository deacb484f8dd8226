"""front.csv and points.csv of a run, with the task scores that its archive has, and what its summary says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd

from evaluators.base import Metric
from evaluators.latency.table_error import TableError
from evaluators.metrics import metrics_of
from search.archive import Archive
from search.run.directory import FRONT_FILE, POINTS_FILE
from search.run.front import dense_row, write_front_csv
from search.run.measured import Measured, error_facts
from search.run.scores import score_metrics, with_scores


def write_tables(
    run_dir: Path, archive: Archive, front: pd.DataFrame, points: pd.DataFrame, objectives: Sequence[Metric]
) -> tuple[pd.DataFrame, list[Metric]]:
    """Writes both files.

    Args:
        run_dir: Where.
        archive: The run's.
        front: The front's table.
        points: The table of all that was evaluated.
        objectives: The search's objectives.

    Returns:
        The front's table with the scores, and what the columns of both tables mean, for `summary.json`.
    """
    front, points = with_scores(front, archive), with_scores(points, archive)
    write_front_csv(run_dir / FRONT_FILE, front)
    write_front_csv(run_dir / POINTS_FILE, points)
    columns = dict.fromkeys(map(str, [*front, *points]))
    return front, metrics_of(columns, [*objectives, *score_metrics(archive)])


def front_facts(
    front: pd.DataFrame, metrics: Sequence[Metric], measured: Measured, error: TableError
) -> dict[str, Any]:
    """What `summary.json` says of a front.

    Args:
        front: Its table, the dense model's row in it.
        metrics: What the columns mean.
        measured: Where its times are from.
        error: The latency table's, over all timed points.
    """
    return {
        "metrics": [asdict(metric) for metric in metrics],
        "end_to_end": None if measured.end_to_end is None else dict(measured.end_to_end),
        "latency_table_error": error_facts(error),
        "front_points": len(front) - 1,
        "dense": {name: float(value) for name, value in dense_row(front).items() if isinstance(value, Real)},
    }
