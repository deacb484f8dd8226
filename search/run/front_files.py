"""front.csv, points.csv and front.html of a run, with the task scores that its archive has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from evaluators.base import Metric
from search.archive import Archive
from search.run.directory import FRONT_FILE, PAGE_FILE, POINTS_FILE
from search.run.finished import FinishedRun
from search.run.front import write_front_csv
from search.run.scores import score_metrics, with_scores
from search.views.page.plot import front_figure_data, page_html
from space.files import write_whole


def write_front(
    run_dir: Path,
    archive: Archive,
    front: pd.DataFrame,
    everything: pd.DataFrame,
    objectives: Sequence[Metric],
    facts: Mapping[str, Any],
    compared: Sequence[FinishedRun] = (),
) -> pd.DataFrame:
    """Writes the three files.

    Args:
        run_dir: Where; commands on the page name it so.
        archive: The run's.
        front: The front's table.
        everything: The table of all that was evaluated.
        objectives: The search's objectives.
        facts: Model, text, dtype and device of the run, as in `summary.json`.
        compared: Other runs, whose fronts the page lays over.

    Returns:
        The front's table with the scores.
    """
    front, everything = with_scores(front, archive), with_scores(everything, archive)
    write_front_csv(run_dir / FRONT_FILE, front)
    write_front_csv(run_dir / POINTS_FILE, everything)
    scores, title = score_metrics(archive), facts["model"]["name"]
    figure = front_figure_data(front, everything, objectives, title, str(run_dir), facts, compared, scores)
    write_whole(run_dir / PAGE_FILE, page_html(figure))
    return front
