"""Write one point of a run's front as a verified checkpoint; `--help` shows the settings."""

from __future__ import annotations

import shutil
import sys
from functools import partial
from numbers import Real
from pathlib import Path

import hydra
import pandas as pd
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from evaluators.data import text_of
from evaluators.metrics import HELDOUT_QUALITY
from evaluators.training.recovery import recover_pick
from evaluators.training.tuning import finished_model, make_tuning
from search.constraints import quoted
from search.run.finished import FinishedRun
from search.run.picks import candidate_of
from search.views.watch.run import Watch, watched
from space.formats.registry import format_of
from space.formats.reveal import require_free
from space.supernet.supernet import Supernet


def export(cfg: DictConfig, watch: Watch) -> None:
    """Loads the run's model, activates the pick, and exports it."""
    run_dir = Path(cfg.run_dir)
    run = FinishedRun.open(run_dir)
    row, config = run.row(str(cfg.pick)), run.config
    candidate = candidate_of(row)
    form = format_of(cfg.format, cfg.gguf.type)
    out = Path(cfg.out or run_dir / "exports" / f"{candidate.key}{form.suffix}")
    require_free(out)
    watch.told([f"pick {cfg.pick}: {candidate.key}, to {out}"])
    loaded = instantiate(config["model"])()
    run.require_held(candidate, partial(form.check, loaded.model.config, loaded.tokenizer, loaded.spec))
    supernet = Supernet.load(loaded.model, loaded.spec, run_dir / "supernet", dtype=loaded.dtype)
    recipe = instantiate(config["correction"]), instantiate(config["distillation"])
    text = partial(text_of, config["data"], loaded.tokenizer, loaded.spec.vocab, digest=run.summary["text"])
    tuning = make_tuning(config["search"]["distillation"], supernet, run_dir, *recipe, text, config["data"]["length"])
    if tuning and not cfg.tuning:  # the row's held-out figures are not those of this checkpoint
        row, tuning = row.drop([*HELDOUT_QUALITY], errors="ignore"), None
    with watch.stage("tuning"):
        source = finished_model(supernet, tuning, candidate)
    recovery, checkpoints = instantiate(cfg.recover), out.with_name(f"{out.name}.recovery")
    recovered: dict[str, str] = {}
    if recovery.tokens:
        given = recovery, source, supernet, candidate, text(), config["data"], checkpoints
        scores, recovered = recover_pick(*given, lambda line: watch.told([line]))
        row = pd.concat([row.drop([*scores], errors="ignore"), pd.Series(scores)])
    done = form.export(
        source,
        loaded.model.config,
        loaded.tokenizer,
        loaded.spec,
        candidate,
        out,
        card={
            "Metrics": {str(name): value for name, value in row.items() if isinstance(value, Real)},
            "Provenance": {
                "run": run_dir.resolve().name,
                "base model": loaded.spec.name,
                "base revision": loaded.spec.revision,
                "text": run.summary["text"],
                "seed": config["seed"],
                **(tuning.facts() if tuning else {}),
                **recovered,
                "dtype": run.summary["dtype"],
                "torch": torch.__version__,
            },
        },
        generation_config=loaded.model.generation_config,
        tolerance=cfg.tolerance,
    )
    shutil.rmtree(checkpoints, ignore_errors=True)
    watch.told(done.remarks())


@hydra.main(version_base="1.3", config_path="conf", config_name="export")
def main(cfg: DictConfig) -> None:
    """Exports, and tells of mistakes in one message."""
    with watched(cfg.progress) as watch:
        export(cfg, watch)


if __name__ == "__main__":
    sys.argv[1:] = quoted(sys.argv[1:], "pick")
    main()
