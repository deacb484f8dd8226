"""Scores points of a finished run on tasks, and adds the answers to its front's files."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console

from evaluators.base import Evaluator
from search.archive import Archive
from search.run.finish import Show
from search.run.finished import FinishedRun, finished_runs
from search.run.front import dense_row
from search.run.front_files import write_front
from search.run.picks import candidate_of
from search.run.scores import answer_line, score, score_table
from search.views.watch.run import Watch
from space.candidate import Candidate
from space.errors import UserError

_WIDTH = 120  # characters of a line of the table


def score_run(
    run: FinishedRun,
    archive: Archive,
    ask: Callable[[Show], Sequence[Evaluator]],
    candidates: Sequence[Candidate],
    watch: Watch,
) -> None:
    """Scores the dense model and candidates, as far as they are not.

    Args:
        run: Whose front's files get the scores.
        archive: The run's.
        ask: Evaluators, one a task, that tell of their progress.
        candidates: Whom to score.
        watch: Told of new answers, and then of all scores.

    Raises:
        UserError: There are no tasks, or a candidate cannot be scored.
    """
    dense = candidate_of(dense_row(run.front))
    with watch.stage("task scores") as show:
        if not (evaluators := ask(show)):
            raise UserError("Task scores: expected tasks to score, got none. Name some: tasks=[piqa,arc_easy].")
        score(evaluators, archive, [dense, *candidates], lambda answer: watch.told([answer_line(answer)]))
    compared = finished_runs(run.config.get("compare"))
    write_front(run.run_dir, archive, run.front, run.points, run.objectives, run.summary, compared)
    console = Console(width=_WIDTH)
    with console.capture() as text:
        console.print(score_table(archive, evaluators, dense, [one for one in candidates if one != dense] or [dense]))
    watch.told(line.rstrip() for line in text.get().splitlines())
