"""A run directory after its search: what the entry scripts that come after need of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from rich.console import Console

from evaluators.base import Evaluator, Metric
from search.archive import Archive
from search.finish import FRONT_FILE, POINTS_FILE, SUMMARY_FILE, Show, write_front
from search.pareto import spread_subset
from search.picks import candidate_of, select
from search.report import dense_row, is_dense, landmarks, objective_values, quality_column, read_front_csv
from search.run_directory import CONFIG_FILE
from search.scores import answer_line, score, score_table
from search.stages import stage, told
from space.candidate import Candidate
from space.errors import ShapeError, UserError


@dataclass(frozen=True)
class FinishedRun:
    """A run with a front.

    Attributes:
        directory: The run directory.
        config: The configuration, nested mappings.
        summary: Facts of the run.
        front: The front's table.
        points: All candidates that the search evaluated.
    """

    directory: Path
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
        return cls(run_dir, config, summary, front, points)

    def row(self, pick: str) -> pd.Series[Any]:
        """The row of a pick: a key, of the front or of any other point, or what `search.picks.select` knows.

        Raises:
            UserError: There is no such point.
        """
        if pick in set(self.points["key"]) - set(self.front["key"]):  # the page offers points off the front too
            return self.points[self.points["key"] == pick].iloc[0]
        return select(self.front, pick, self._objectives)

    def picks(self, count: int) -> list[Candidate]:
        """The knee, and so many other points, spread along the front; all that there are when there are not so many."""
        pruned = self.front[~is_dense(self.front)]
        knee = landmarks(self.front, self._objectives).get("knee")
        others = pruned[pruned["key"] != knee]
        if len(others) > count:
            values = objective_values(others, self._objectives, quality_column(others) or "")
            others = others.iloc[sorted(spread_subset(values, count))] if count else others[:0]
        chosen = pd.concat([pruned[pruned["key"] == knee], others])
        return [candidate_of(row) for _, row in chosen.iterrows()]

    def score(
        self,
        archive: Archive,
        ask: Callable[[Show], Sequence[Evaluator]],
        candidates: Sequence[Candidate],
        console: Console,
    ) -> None:
        """Scores the dense model and candidates on tasks, as far as they are not, and adds that to the front's files.

        Args:
            archive: The run's.
            ask: Evaluators, one a task, that tell of their progress.
            candidates: Whom to score.
            console: Where new answers, and then all scores, are shown.

        Raises:
            UserError: There are no tasks, or a candidate cannot be scored.
        """
        dense = candidate_of(dense_row(self.front))
        with stage("task scores", console) as show:
            if not (evaluators := ask(show)):
                raise UserError("Task scores: expected tasks to score, got none. Name some: tasks=[piqa,arc_easy].")
            score(evaluators, archive, [dense, *candidates], lambda answer: told(console, [answer_line(answer)]))
        title = self.summary["model"]["name"]
        write_front(self.directory, archive, self.front, self.points, self._objectives, title=title)
        console.print(score_table(archive, evaluators, dense, [one for one in candidates if one != dense] or [dense]))

    @property
    def _objectives(self) -> list[Metric]:
        return [Metric(**metric) for metric in self.summary["objectives"]]

    def require_held(self, candidate: Candidate, check: Callable[[Candidate], object]) -> None:
        """Checks that a format holds a pick; where it does not, names the nearest point of the run that it holds.

        Near is by the objectives, each as a part of its range over the run's points.

        Args:
            candidate: The pick.
            check: Raises ShapeError where the format holds only other shapes of the model.

        Raises:
            ShapeError: The format does not hold the pick.
            UserError: Whatever else `check` raises.
        """
        try:
            check(candidate)
        except ShapeError as error:
            raise ShapeError(f"{error} {self._advice(candidate, check)}") from error

    def _advice(self, candidate: Candidate, check: Callable[[Candidate], object]) -> str:
        """What to pick instead."""
        names = [metric["name"] for metric in self.summary["objectives"]]
        known = pd.concat([self.front, self.points]).drop_duplicates("key")
        values = known[names].astype(float)
        spread = (values.max() - values.min()).replace(0.0, 1.0)
        here = values[(known["key"] == candidate.key).to_numpy()].iloc[0]
        distance = (((values - here) / spread) ** 2).sum(axis=1)
        pruned = known.iloc[distance.to_numpy().argsort(kind="stable")].loc[lambda rows: ~is_dense(rows)]
        for _, row in pruned.iterrows():
            try:
                check(candidate_of(row))
            except ShapeError:
                continue
            metrics = ", ".join(f"{name} {row[name]:.4g}" for name in names)
            return f"The nearest point of this run that it can hold is {row['key']} ({metrics}): pick={row['key']}."
        return (
            "No point of this run has a shape that it can hold; uniform ones are searched for with: "
            "python run_search.py space=uniform"
        )
