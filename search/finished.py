"""A run directory after its search: what the entry scripts that come after need of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from evaluators.base import Metric
from search.finish import FRONT_FILE, POINTS_FILE, SUMMARY_FILE
from search.picks import select
from search.report import read_front_csv
from search.run_directory import CONFIG_FILE
from space.errors import UserError


@dataclass(frozen=True)
class FinishedRun:
    """A run with a front.

    Attributes:
        config: The configuration, nested mappings.
        summary: Facts of the run.
        front: The front's table.
        points: All candidates that the search evaluated.
    """

    config: dict[str, Any]
    summary: dict[str, Any]
    front: pd.DataFrame
    points: pd.DataFrame

    @classmethod
    def open(cls, run_dir: Path) -> FinishedRun:
        """Reads it.

        Raises:
            UserError: The directory does not hold a finished run.
        """
        front, points = (read_front_csv(run_dir / name) for name in (FRONT_FILE, POINTS_FILE))
        try:
            config = yaml.safe_load((run_dir / CONFIG_FILE).read_text(encoding="utf-8"))
            summary = json.loads((run_dir / SUMMARY_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(
                f"Expected {run_dir} to hold a finished run, got: {error}. Run the search again."
            ) from error
        return cls(config, summary, front, points)

    def row(self, pick: str) -> pd.Series[Any]:
        """The row of a pick: a key, of the front or of any other point, or what `search.picks.select` knows.

        Raises:
            UserError: There is no such point.
        """
        if pick in set(self.points["key"]) - set(self.front["key"]):  # the page offers points off the front too
            return self.points[self.points["key"] == pick].iloc[0]
        return select(self.front, pick, [Metric(**metric) for metric in self.summary["objectives"]])
