"""End-to-end times of a run's points on the device at hand."""

from __future__ import annotations

from entries.timing_settings import TimingSettings
from evaluators.latency.end_to_end import bench_of, end_to_end_here, table_of_run
from evaluators.paths import Paths
from evaluators.session import Session
from search.archive import Archive
from search.views.timing import watched_timing
from search.views.watch.run import Watch


def time_front(settings: TimingSettings, watch: Watch) -> None:
    """Asks of the run's points and the dense model what the run's archive does not know yet of this device."""
    run, paths = settings.run, Paths(settings.run.run_dir)
    table = table_of_run(paths.latency)
    session = Session.open(settings.session, paths, watch.stage)
    with watch.stage("model"):
        bench = bench_of(session.loaded, session.settings)
    with Archive.reopen(run.run_dir / "archive.jsonl") as archive:
        watched_timing(run, archive, lambda show: end_to_end_here(bench, table, archive.evaluations, show), watch)
    watch.say([f"also in {run.run_dir / 'front.csv'} and {run.run_dir / 'front.html'}"])
