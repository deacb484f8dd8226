"""Score one point of a run on tasks of lm-eval, the dense model beside it; `--help` shows the settings."""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from conf.settings import ended_settings, plain
from evaluators.paths import Paths
from evaluators.session import Session
from evaluators.settings import TaskSettings
from search.archive import Archive
from search.constraints import quoted
from search.run.finished import FinishedRun
from search.run.picks import candidate_of
from search.views.scoring import watched_scores
from search.views.watch.run import Watch, watched

TASK_SETTINGS = [field.name for field in fields(TaskSettings)]


def score(config: dict[str, Any], watch: Watch) -> None:
    """Asks the dense model and a pick of a run what the run's archive does not know yet."""
    run_dir, pick = Path(config["run_dir"]), str(config["pick"])
    tasks = TaskSettings(**{name: value for name, value in config.items() if name in TASK_SETTINGS})
    run = FinishedRun.open(run_dir)
    candidate = candidate_of(run.row(pick))
    watch.say([f"pick {pick}: {candidate.key}"])
    settings = replace(ended_settings(run, config), tasks=tasks)
    session = Session.open(settings, Paths(run_dir), watch.stage)
    with watch.stage("tasks"):
        _ = session.harness
    with Archive.reopen(run_dir / "archive.jsonl") as archive:
        watched_scores(run, archive, session.task_evaluators, [candidate], watch)
    watch.say([f"also in {run_dir / 'front.csv'} and {run_dir / 'front.html'}"])


@hydra.main(version_base="1.3", config_path="conf", config_name="score")
def main(cfg: DictConfig) -> None:
    """Scores, and tells of mistakes in one message."""
    with watched(cfg.progress) as watch:
        score(plain(cfg), watch)


if __name__ == "__main__":
    sys.argv[1:] = quoted(sys.argv[1:], "pick")
    main()
