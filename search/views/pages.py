"""What a run leaves for people to read: front.html and report.md, made anew from its other files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evaluators.base import Evaluation
from search.run.directory import PAGE_FILE, REPORT_FILE, atomic_write
from search.run.finished import FinishedRun
from search.views.page.plot import front_figure_data, page_html
from search.views.report.page import report_text


def write_pages(run_dir: Path, evaluations: Sequence[Evaluation], compared: Sequence[FinishedRun] = ()) -> None:
    """Writes both files.

    Args:
        run_dir: A finished run's; commands on the pages name it so.
        evaluations: All of its archive, in order.
        compared: Other runs, whose fronts the page lays over this one's.

    Raises:
        UserError: The directory does not hold a finished run, or cannot be written.
    """
    run = FinishedRun.open(run_dir)
    atomic_write(run_dir / PAGE_FILE, page_html(front_figure_data(run, compared)))
    atomic_write(run_dir / REPORT_FILE, report_text(run, evaluations))
