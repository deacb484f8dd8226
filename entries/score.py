"""Task scores of one point of a run, with the dense model's beside them."""

from __future__ import annotations

from entries.pick_settings import PickSettings
from evaluators.paths import Paths
from evaluators.session import Session
from search.archive import Archive
from search.run.picks import candidate_of
from search.views.scoring import watched_scores
from search.views.watch.run import Watch


def score(settings: PickSettings, watch: Watch) -> None:
    """Asks the dense model and a pick of a run what the run's archive does not know yet."""
    run, candidate = settings.run, candidate_of(settings.row)
    run_dir = run.run_dir
    watch.say([f"pick {settings.pick}: {candidate.key}"])
    session = Session.open(settings.session, Paths(run_dir), watch.stage)
    with watch.stage("tasks"):
        _ = session.harness
    with Archive.reopen(run_dir / "archive.jsonl") as archive:
        watched_scores(run, archive, session.task_evaluators, [candidate], watch)
    watch.say([f"also in {run_dir / 'front.csv'} and {run_dir / 'front.html'}"])
