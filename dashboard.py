"""Show a run as a live page, while it searches and after; `--help` shows the settings."""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from search.views.dashboard.serve import serve
from search.views.watch.run import watched


@hydra.main(version_base="1.3", config_path="conf", config_name="dashboard")
def main(cfg: DictConfig) -> None:
    """Serves, and tells of mistakes in one message."""
    with watched("lines") as watch:
        serve(
            Path(str(cfg.run_dir)),
            Path(__file__).parent,
            watch.say,
            host=str(cfg.host),
            port=cfg.port,
            token=None if cfg.token is None else str(cfg.token),
            include_path=cfg.include_path,
            places=[argument for argument in sys.argv[1:] if argument.startswith(("model.path=", "data.path="))],
        )


if __name__ == "__main__":
    main()
