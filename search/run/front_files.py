"""front.csv and points.csv of a run, with the task scores that its archive has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from evaluators.base import Metric
from evaluators.metrics import metrics_of
from search.archive import Archive
from search.run.directory import FRONT_FILE, POINTS_FILE
from search.run.front import write_front_csv
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
