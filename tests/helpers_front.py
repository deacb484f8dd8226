"""A finished run in memory, of tables that a test made up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from evaluators.base import Metric
from evaluators.metrics import metrics_of
from search.run.finished import FinishedRun


def meaning(
    frames: Sequence[pd.DataFrame], objectives: Sequence[Metric], scores: Iterable[Metric] = ()
) -> dict[str, Any]:
    """What `summary.json` says of a run's objectives and of the columns of its tables."""
    columns = dict.fromkeys(str(name) for frame in frames for name in frame)
    metrics = metrics_of(columns, [*objectives, *scores])
    return {"objectives": [m.name for m in objectives], "metrics": [asdict(metric) for metric in metrics]}


def finished_run(
    run_dir: Path | str,
    front: pd.DataFrame,
    points: pd.DataFrame,
    objectives: Sequence[Metric],
    facts: Mapping[str, Any],
    *,
    scores: Iterable[Metric] = (),
    config: Mapping[str, Any] | None = None,
) -> FinishedRun:
    """A run with this front."""
    summary = {**facts, **meaning([front, points], objectives, scores)}
    return FinishedRun(Path(run_dir), dict(config or {}), summary, front, points)
