"""A run directory after its search: what the entry scripts that come after need of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from evaluators.base import STDERR, Metric
from search.pareto import spread_subset
from search.run.directory import CONFIG_FILE, FRONT_FILE, POINTS_FILE, SUMMARY_FILE
from search.run.front import dense_row, is_dense, objective_values, quality_column, read_front_csv
from search.run.measured import Measured
from search.run.picks import candidate_of, select
from search.run.recommended import Advice, Recommend, landmarks
from search.run.samples import Samples
from space.candidate import Candidate
from space.errors import ShapeError, UserError


@dataclass(frozen=True)
class FinishedRun:
    """A run with a front.

    Attributes:
        run_dir: Its directory, as it was given.
        config: The configuration, nested mappings.
        summary: Facts of the run.
        front: The front's table.
        points: All candidates that the search evaluated.
    """

    run_dir: Path
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
        if "metrics" not in summary:
            raise UserError(
                f"Expected {run_dir / SUMMARY_FILE} to say what the front's columns mean, but it has no metrics: an "
                "older version of paretoprune wrote it. Open the run with that version, or search anew."
            )
        return cls(run_dir, config, summary, front, points)

    def row(self, pick: str) -> pd.Series[Any]:
        """The row of a pick: a key, of the front or of any other point, or what `search.run.picks.select` knows.

        Raises:
            UserError: There is no such point.
        """
        if pick in set(self.points["key"]) - set(self.front["key"]):  # the page offers points off the front too
            return self.points[self.points["key"] == pick].iloc[0]
        return select(self.front, pick, self.objectives, self.advice)

    def picks(self, count: int) -> list[Candidate]:
        """The recommended point, else the one nearest to the dense model, and so many others, spread along the front.

        All that there are when there are not so many.
        """
        pruned = self.front[~is_dense(self.front)]
        if pruned.empty:
            return []
        quality = quality_column(pruned) or ""
        first, recommended = int(pruned[quality].to_numpy().argmin()), self.advice.recommended
        key = recommended.key if recommended is not None else pruned["key"].iloc[first]
        others = pruned[pruned["key"] != key]
        if len(others) > count:
            values = objective_values(others, self.objectives, quality)
            others = others.iloc[sorted(spread_subset(values, count))] if count else others[:0]
        chosen = pd.concat([pruned[pruned["key"] == key], others])
        return [candidate_of(row) for _, row in chosen.iterrows()]

    def figures(self, row: pd.Series[Any], heldout: Mapping[str, float] | None = None) -> dict[str, float]:
        """The numbers of a point, for a model card.

        Args:
            row: Of the point.
            heldout: Held-out quality of its model, where that was trained on since: then no other quality holds.
        """
        old: set[str] = set()
        if heldout:
            old = {metric.name for metric in self.metrics if metric.role in ("quality", "score")}
            old |= {name + STDERR for name in old}
        numbers: dict[str, Any] = {str(name): value for name, value in row.items() if isinstance(value, Real)}
        return {name: value for name, value in numbers.items() if name not in old} | dict(heldout or {})

    @property
    def advice(self) -> Advice:
        """Which of its points a person is told to take."""
        return Advice.of(self.front, self.objectives, Recommend.of(self.config).rise)

    @property
    def marks(self) -> dict[str, str]:
        """Keys of its points with a name."""
        return landmarks(self.front, self.advice)

    @property
    def samples(self) -> Samples:
        """What the dense model and its points write."""
        return Samples.of(self.summary)

    @property
    def measured(self) -> Measured:
        """Where its times are from."""
        return Measured.of(self.summary)

    @property
    def dense(self) -> Candidate:
        """The dense model."""
        return candidate_of(dense_row(self.front))

    @property
    def metrics(self) -> list[Metric]:
        """What the columns of its tables mean."""
        return [Metric(**metric) for metric in self.summary["metrics"]]

    @property
    def objectives(self) -> list[Metric]:
        """What its search was for."""
        metrics = {metric.name: metric for metric in self.metrics}
        return [metrics[name] for name in self.summary["objectives"]]

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
        names = self.summary["objectives"]
        points = pd.concat([self.front, self.points]).drop_duplicates("key")
        values = points[names].astype(float)
        spread = (values.max() - values.min()).replace(0.0, 1.0)
        here = values[(points["key"] == candidate.key).to_numpy()].iloc[0]
        distance = (((values - here) / spread) ** 2).sum(axis=1)
        pruned = points.iloc[distance.to_numpy().argsort(kind="stable")].loc[lambda rows: ~is_dense(rows)]
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


def finished_runs(directories: str | Sequence[str] | None) -> list[FinishedRun]:
    """The runs of some directories, or of a single one.

    Raises:
        UserError: One of them does not hold a finished run.
    """
    paths = [directories] if isinstance(directories, str) else list(directories or ())
    return [FinishedRun.open(Path(directory)) for directory in paths]
