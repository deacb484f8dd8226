"""front.html and report.md of a finished run, from what its directory and its archive hold."""

from __future__ import annotations

from pathlib import Path

from search.archive import Archive
from search.run.directory import PAGE_FILE, REPORT_FILE
from search.run.finished import FinishedRun, finished_runs
from search.views.page.plot import front_figure_data, page_html
from search.views.report.page import report_text
from space.files import write_whole


def write_pages(run_dir: Path, archive: Archive) -> None:
    """Writes both files; the fronts of the runs that its configuration compares with are laid over the page's.

    Args:
        run_dir: Of the run, as commands on the page are to name it.
        archive: The run's.

    Raises:
        UserError: The directory, or that of a run to compare with, does not hold a finished run.
    """
    run = FinishedRun.open(run_dir)
    figure = front_figure_data(run, finished_runs(run.config.get("compare")))
    write_whole(run_dir / PAGE_FILE, page_html(figure))
    write_whole(run_dir / REPORT_FILE, report_text(run, archive.evaluations()))
