"""A run as a live page."""

from __future__ import annotations

from pathlib import Path

from entries.settings import DashboardSettings
from search.views.dashboard.serve import serve
from search.views.watch.run import Watch

SCRIPTS = Path(__file__).parents[1]  # where the entry scripts lie that its buttons run


def show(settings: DashboardSettings, watch: Watch) -> None:
    """Serves until it is ended."""
    serve(
        settings.run_dir,
        SCRIPTS,
        watch.say,
        host=settings.host,
        port=settings.port,
        token=settings.token,
        include_path=settings.include_path,
        places=settings.places,
    )
