"""Write one point of a run's front as a verified checkpoint; `--help` shows the settings."""

from __future__ import annotations

import copy
import json
import sys
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from evaluators.base import Metric
from evaluators.data import text_of
from evaluators.tuning import make_tuning
from search.constraints import quoted
from search.finish import FRONT_FILE, POINTS_FILE, SUMMARY_FILE
from search.picks import candidate_of, select
from search.report import HELDOUT_QUALITY, read_front_csv
from search.run_directory import CONFIG_FILE
from search.stages import mistakes_told, stage
from space.errors import UserError
from space.export import export_checkpoint, require_free
from space.supernet import Supernet


def export(cfg: DictConfig, console: Console) -> None:
    """Loads the run's model, activates the pick, and exports it."""
    run_dir = Path(cfg.run_dir)
    front, points = (read_front_csv(run_dir / name) for name in (FRONT_FILE, POINTS_FILE))
    try:
        run_config: Any = OmegaConf.load(run_dir / CONFIG_FILE)
        summary = json.loads((run_dir / SUMMARY_FILE).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"Expected {run_dir} to hold a finished run, got: {error}. Run the search again.") from error
    if cfg.pick in set(points["key"]) - set(front["key"]):  # the page offers points off the front too
        row = points.set_index("key", drop=False).loc[cfg.pick]
    else:
        row = select(front, str(cfg.pick), [Metric(**metric) for metric in summary["objectives"]])
    candidate = candidate_of(row)
    out = Path(cfg.out or run_dir / "exports" / candidate.key)
    require_free(out)
    console.print(f"pick {cfg.pick}: {candidate.key}, to {out}", highlight=False)
    loaded = instantiate(run_config.model)()
    supernet = Supernet.load(loaded.model, loaded.spec, run_dir / "supernet", dtype=loaded.dtype)
    recipe = instantiate(run_config.correction), instantiate(run_config.distillation)
    text = partial(text_of, run_config.data, loaded.tokenizer, loaded.spec.vocab, digest=summary["text"])
    tuning = make_tuning(run_config.search.distillation, supernet, run_dir, *recipe, text, run_config.data.length)
    if tuning and not cfg.tuning:  # the row's held-out figures are not those of this checkpoint
        row, tuning = row.drop([*HELDOUT_QUALITY], errors="ignore"), None
    with stage("tuning", console):
        source = tuning.model(candidate, len(tuning.rungs)) if tuning else supernet.materialise(candidate)
    tokens = torch.randint(loaded.spec.vocab, (2, 48), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = copy.deepcopy(source).float().cpu()(tokens, use_cache=False).logits
    done = export_checkpoint(
        source,
        loaded.tokenizer,
        loaded.spec,
        candidate,
        out,
        input_ids=tokens,
        expected_logits=logits,
        card={
            "Metrics": {name: value for name, value in row.items() if isinstance(value, Real)},
            "Provenance": {
                "run": run_dir.resolve().name,
                "base model": loaded.spec.name,
                "base revision": loaded.spec.revision,
                "text": summary["text"],
                "seed": run_config.seed,
                **(tuning.facts() if tuning else {}),
                "dtype": summary["dtype"],
                "torch": torch.__version__,
            },
        },
        generation_config=loaded.model.generation_config,
        tolerance=cfg.tolerance,
    )
    for line in done.remarks():
        console.print(line, highlight=False, soft_wrap=True)


@hydra.main(version_base="1.3", config_path="conf", config_name="export")
def main(cfg: DictConfig) -> None:
    """Exports, and tells of mistakes in one message."""
    with mistakes_told():
        export(cfg, Console())


if __name__ == "__main__":
    sys.argv[1:] = quoted(sys.argv[1:], "pick")
    main()
