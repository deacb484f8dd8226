"""Scoring points of a finished run on tasks as an entry script tells of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console

from evaluators.base import Evaluator
from search.archive import Archive
from search.run.finished import FinishedRun
from search.run.members import Show
from search.run.scoring import score_run
from search.views.pages import write_pages
from search.views.watch.run import Watch
from search.views.watch.score_table import answer_line, score_table
from space.candidate import Candidate

_WIDTH = 120  # characters of a line of the table


def watched_scores(
    run: FinishedRun,
    archive: Archive,
    ask: Callable[[Show], Sequence[Evaluator]],
    candidates: Sequence[Candidate],
    watch: Watch,
) -> None:
    """Scores the dense model and candidates, as far as they are not, and writes all files of the front anew.

    Args:
        run: The run.
        archive: The run's.
        ask: Evaluators, one a task, that tell of their progress.
        candidates: Whom to score.
        watch: Says each new answer, and then all scores.

    Raises:
        UserError: There are no tasks, or a candidate cannot be scored.
    """
    with watch.stage("task scores") as show:
        evaluators = ask(show)
        score_run(run, archive, evaluators, candidates, lambda answer: watch.say([answer_line(answer)]))
    write_pages(run.run_dir, archive)
    console = Console(width=_WIDTH)
    pruned = [candidate for candidate in candidates if candidate != run.dense]
    with console.capture() as text:
        console.print(score_table(archive, evaluators, run.dense, pruned or [run.dense]))
    watch.say(line.rstrip() for line in text.get().splitlines())
