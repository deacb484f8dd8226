"""Write one point of a run's front as a verified checkpoint; `--help` shows the settings."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig

from conf.settings import ended_settings, instantiated, plain
from evaluators.metrics import HELDOUT_QUALITY, LONG_QUALITY
from evaluators.paths import Paths
from evaluators.samples import Samples
from evaluators.session import Session
from evaluators.training.polish import polish
from evaluators.training.processes import Processes
from search.constraints import quoted
from search.run.finished import FinishedRun
from search.run.picks import candidate_of
from search.views.watch.run import Watch, watched
from space.formats.registry import format_of
from space.formats.reveal import require_free


def export(config: dict[str, Any], watch: Watch) -> None:
    """Loads the run's model, makes the pick's own, polishes it, and exports it."""
    run_dir, pick = Path(config["run_dir"]), str(config["pick"])
    run = FinishedRun.open(run_dir)
    row, settings = run.row(pick), ended_settings(run, config)
    candidate = candidate_of(row)
    form = format_of(config["format"], config["gguf"]["type"])
    out = Path(config["out"] or run_dir / "exports" / f"{candidate.key}{form.suffix}")
    require_free(out)
    watch.say([f"pick {pick}: {candidate.key}, to {out}"])
    how = instantiated(config["polish"]), instantiated(config["recover"]), out.with_name(f"{out.name}.polish")
    if settings.tunes and not config["tuning"]:  # the row's held-out figures are not those of this checkpoint
        row = row.drop([*HELDOUT_QUALITY, LONG_QUALITY], errors="ignore")
        settings = replace(settings, correction=None, training="off")
    session = Session.open(settings, Paths(run_dir), watch.stage)
    loaded = session.loaded
    run.require_held(candidate, partial(form.check, loaded.model.config, loaded.tokenizer, loaded.spec))
    _ = session.supernet
    with watch.stage("tuning"):
        front = session.finished_model(candidate)
    polished = polish(session, candidate, front, *how, lambda line: watch.say([line]), watch.stage)
    if not Processes.here().first:
        return
    done = form.export(
        polished.model,
        loaded.model.config,
        loaded.tokenizer,
        loaded.spec,
        candidate,
        out,
        card={
            **Samples(loaded.tokenizer, settings.samples).section(
                session.finished_model, session.dense, polished.model
            ),
            "Metrics": run.figures(row, polished.heldout),
            "Provenance": {
                "run": run_dir.resolve().name,
                "base model": loaded.spec.name,
                "base digest": loaded.spec.digest,
                **({"base commit": loaded.commit} if loaded.commit else {}),
                "text": run.summary["text"],
                "seed": run.config["seed"],
                **session.trained_facts(),
                **polished.facts,
                "dtype": run.summary["dtype"],
                "torch": torch.__version__,
            },
        },
        generation_config=loaded.model.generation_config,
        tolerance=config["tolerance"],
    )
    shutil.rmtree(how[-1], ignore_errors=True)
    watch.say(done.remarks())


@hydra.main(version_base="1.3", config_path="conf", config_name="export")
def main(cfg: DictConfig) -> None:
    """Exports, and tells of mistakes in one message."""
    Processes.here().take_gpu()
    with watched(cfg.progress if Processes.here().first else "quiet") as watch:
        export(plain(cfg), watch)


if __name__ == "__main__":
    sys.argv[1:] = quoted(sys.argv[1:], "pick")
    main()
