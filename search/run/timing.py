"""The points of a finished run timed end to end, on whatever device this is, and its front chosen by these times."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from evaluators.base import SPREAD, Evaluation, Evaluator
from evaluators.metrics import END_TO_END, REMOVED
from search.archive import Archive
from search.run.directory import CONFIRMED_FILE, SUMMARY_FILE
from search.run.finished import FinishedRun
from search.run.front import CANDIDATE, Point, front_table, read_front_csv
from search.run.front_files import front_facts, write_tables
from search.run.measured import Measured, device_of, told_apart
from search.run.members import evaluate
from search.run.picks import candidate_of
from space.errors import UserError
from space.files import write_whole


def time_run(run: FinishedRun, archive: Archive, timed: Evaluator) -> FinishedRun:
    """Times what the run confirmed on held-out text, as far as it is not timed on this device, and chooses the front.

    Which points it has is a function of that and of the new times: no other timing of the run plays a part.

    Args:
        run: Whose `front.csv` has these times from then on, and whose `summary.json` says of which device.
        archive: The run's.
        timed: Gives `latency_e2e_ms`.

    Returns:
        The run as it is then.

    Raises:
        UserError: The dense model cannot be timed, or the run has no `confirmed.csv`.
    """
    table = read_front_csv(run.run_dir / CONFIRMED_FILE)
    answers = evaluate(timed, archive, [*table[CANDIDATE]])
    if failures := [answer.error for answer in answers if answer.candidate == run.dense and answer.status == "failed"]:
        raise UserError(
            f"Expected the dense model to be timed on this device, but it failed: {failures[0]} Nothing of the front "
            "has changed. Time it on another device, or in another engine: latency.engine=torch."
        )
    points = _with_times(table, answers)
    dense = points[run.dense.key]
    measured = front_table(points.values(), dense)
    chosen = told_apart(measured, run.objectives)
    devices = Measured(run.summary["latency"], device_of(archive, timed.fidelity))
    front = front_table([points[key] for key in chosen], dense)
    front, metrics = write_tables(run.run_dir, archive, front, run.points, run.objectives)
    facts = front_facts(front, metrics, devices, devices.error(measured))
    gone = run.summary["front_points"] - facts["front_points"]
    summary = {**run.summary, **facts, "dropped": run.summary["dropped"] + gone}
    write_whole(run.run_dir / SUMMARY_FILE, json.dumps(summary, indent=1) + "\n")
    return FinishedRun.open(run.run_dir)


def _with_times(table: pd.DataFrame, answers: Sequence[Evaluation]) -> dict[str, Point]:
    """The points of a table with these end-to-end times alone, by key."""
    times: Mapping[str, Mapping[str, float]] = {e.candidate.key: e.values for e in answers if e.status == "ok"}
    names = [str(name) for name in table if name not in ("key", CANDIDATE, REMOVED)]
    others = [name for name in names if name.removesuffix(SPREAD) not in END_TO_END]

    def values(row: pd.Series) -> dict[str, float]:
        known = {name: row[name] for name in others if np.isfinite(row[name])}
        return known | dict(times.get(str(row["key"]), {}))

    return {str(row["key"]): (candidate_of(row), values(row)) for _, row in table.iterrows()}
