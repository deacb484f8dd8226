"""The session of a run, by its directory: what benchmarks open."""

from __future__ import annotations

from pathlib import Path

from conf.settings import session_settings, stored_config
from evaluators.paths import Paths, Stage, unseen
from evaluators.session import Session


def run_session(run_dir: Path, stage: Stage = unseen) -> Session:
    """A session with the settings that a run has stored.

    Raises:
        UserError: See `stored_config` and `session_settings`.
    """
    return Session.open(session_settings(stored_config(run_dir)), Paths(run_dir), stage)
