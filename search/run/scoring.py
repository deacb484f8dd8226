"""Scores points of a finished run on tasks, and adds the answers to the tables of its front."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from evaluators.base import Evaluation, Evaluator
from search.archive import Archive
from search.run.directory import SUMMARY_FILE
from search.run.finished import FinishedRun
from search.run.front_files import write_tables
from search.run.scores import score
from space.candidate import Candidate
from space.errors import UserError
from space.files import write_whole


def score_run(
    run: FinishedRun,
    archive: Archive,
    evaluators: Sequence[Evaluator],
    candidates: Sequence[Candidate],
    on_answer: Callable[[Evaluation], None] = lambda answer: None,
) -> None:
    """Scores the dense model and candidates, as far as they are not.

    Args:
        run: Whose `front.csv` and `points.csv` get the scores, and whose `summary.json` what they mean.
        archive: The run's.
        evaluators: One a task.
        candidates: Whom to score.
        on_answer: Called with every new answer.

    Raises:
        UserError: There are no tasks, or a candidate cannot be scored.
    """
    if not evaluators:
        raise UserError("Task scores: expected tasks to score, got none. Name some: tasks=[piqa,arc_easy].")
    score(evaluators, archive, [run.dense, *candidates], on_answer)
    _, metrics = write_tables(run.run_dir, archive, run.front, run.points, run.objectives)
    summary = {**run.summary, "metrics": [asdict(metric) for metric in metrics]}
    write_whole(run.run_dir / SUMMARY_FILE, json.dumps(summary, indent=1) + "\n")
