"""Score one point of a run on tasks of lm-eval, the dense model beside it; `--help` shows the settings."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from evaluators.data import text_of
from evaluators.tasks.harness import Harness
from evaluators.training.tuning import make_tuning
from search.archive import Archive
from search.constraints import quoted
from search.run.finished import FinishedRun
from search.run.picks import candidate_of
from search.views.scoring import watched_scores
from search.views.watch.run import Watch, watched
from space.supernet.supernet import Supernet

SETTINGS = ("num_fewshot", "limit", "include_path", "batch_size")


def score(cfg: DictConfig, watch: Watch) -> None:
    """Loads the run's model, and asks it and the pick what the run's archive does not know yet."""
    run_dir = Path(cfg.run_dir)
    run = FinishedRun.open(run_dir)
    candidate, config = candidate_of(run.row(str(cfg.pick))), run.config
    watch.told([f"pick {cfg.pick}: {candidate.key}"])
    loaded = instantiate(config["model"])()
    with watch.stage("tasks"):
        harness = Harness(loaded.tokenizer, cfg.tasks, **{name: cfg[name] for name in SETTINGS})
    supernet = Supernet.load(loaded.model, loaded.spec, run_dir / "supernet", dtype=loaded.dtype)
    recipe = instantiate(config["correction"]), instantiate(config["distillation"])
    text = partial(text_of, config["data"], loaded.tokenizer, loaded.spec.vocab, digest=run.summary["text"])
    tuning = make_tuning(config["search"]["distillation"], supernet, run_dir, *recipe, text, config["data"]["length"])
    ask = partial(harness.evaluators, supernet, tuning)
    with Archive.reopen(run_dir / "archive.jsonl") as archive:
        watched_scores(run, archive, ask, [candidate], watch)
    watch.told([f"also in {run_dir / 'front.csv'} and {run_dir / 'front.html'}"])


@hydra.main(version_base="1.3", config_path="conf", config_name="score")
def main(cfg: DictConfig) -> None:
    """Scores, and tells of mistakes in one message."""
    with watched(cfg.progress) as watch:
        score(cfg, watch)


if __name__ == "__main__":
    sys.argv[1:] = quoted(sys.argv[1:], "pick")
    main()
