"""front.csv and points.csv of a run, with the task scores that its archive has."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from search.archive import Archive
from search.run.directory import FRONT_FILE, POINTS_FILE
from search.run.front import write_front_csv
from search.run.scores import with_scores


def write_tables(run_dir: Path, archive: Archive, front: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """Writes both files.

    Args:
        run_dir: Where.
        archive: The run's.
        front: The front's table.
        points: The table of all that was evaluated.

    Returns:
        The front's table with the scores.
    """
    front, points = with_scores(front, archive), with_scores(points, archive)
    write_front_csv(run_dir / FRONT_FILE, front)
    write_front_csv(run_dir / POINTS_FILE, points)
    return front
