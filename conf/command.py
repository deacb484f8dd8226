"""A command, from its arguments to its exit status; all that entries know of Hydra."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pkgutil import resolve_name
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.compose import plain, refusal, require_changes
from search.run.commands import quoted
from space.errors import UserError, mendable
from space.openmp import wait_shortly

_RAISES = "HYDRA_FULL_ERROR"  # with it Hydra raises its errors, which else it prints


def command(name: str, *, read: str, work: str) -> Callable[[], None]:
    """What an entry script runs, in three steps: arguments are composed, settings are read, work is done.

    Each step refuses what it can, and imports its code when it begins: most mistakes need little of it.

    Args:
        name: Of the configuration in `conf/`.
        read: `module:function` that makes settings of a configuration and of the arguments that gave it.
        work: `module:function` that is called with the settings and a `search.views.watch.run.Watch`.

    Returns:
        The entry: it ends the process with a message of one mistake and exit status 1. With `--multirun` each job is
        for itself: what one is refused is told, the others go on, and the exit status is 1 in the end.
    """
    refused: list[bool] = []  # job by job

    def job(cfg: DictConfig) -> None:
        os.environ.pop(_RAISES, None)  # from now on Hydra may print crashes; and other processes begin anew
        own = HydraConfig.get()
        refused.append(False)
        arguments: Any = OmegaConf.to_container(own.overrides.task)  # as they were given
        try:
            _work(cfg, arguments, read, work)
        except Exception as error:
            told = mendable(error)
            if told is None:
                raise
            if own.mode != RunMode.MULTIRUN:
                sys.exit(f"error: {told}")
            print(f"error: job {own.job.num} ({' '.join(arguments)}): {told}", file=sys.stderr, flush=True)
            refused[-1] = True

    composing = hydra.main(version_base="1.3", config_path="pkg://conf", config_name=name)(job)

    def entry() -> None:
        wait_shortly()  # before torch is imported
        sys.argv[1:] = quoted(sys.argv[1:], "pick")
        if os.environ.get(_RAISES) == "1":  # somebody looks for the cause in Hydra
            composing()
            return
        os.environ[_RAISES] = "1"
        try:
            require_changes(sys.argv[1:])
            composing()
        except UserError as error:
            sys.exit(f"error: {error}")
        except (HydraException, OmegaConfBaseException) as error:
            sys.exit(f"error: {refusal(error, sys.argv[1:], name)}")
        if any(refused):
            numbers = [str(number) for number, was in enumerate(refused) if was]
            told = f"refused {len(numbers)} of the sweep's {len(refused)} jobs ({', '.join(numbers)}), as said above"
            sys.exit(f"error: {told}")

    return entry


def _work(cfg: DictConfig, arguments: Sequence[str], read: str, work: str) -> None:
    """One job."""
    config = plain(cfg)
    # of the processes that torchrun starts, the first one tells
    progress = "quiet" if int(os.environ.get("RANK", 0)) else config.get("progress", "lines")
    with resolve_name("search.views.watch.run:watched")(progress) as watch:
        settings = resolve_name(read)(config, arguments)
        resolve_name(work)(settings, watch)
