"""What `time_front.py` is told, checked before its work begins; free of torch, so that mistakes are told at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from conf.compose import Config
from conf.settings import ended_settings
from conf.values import checked
from evaluators.settings import Settings
from search.run.finished import FinishedRun

# Settings of how a run's points are timed; None leaves the run's.
HOW: Mapping[str, Any] = {
    "engine": str | None,
    "gguf_type": str | None,
    "vllm_python": str | None,
    "threads": int | None,
}


@dataclass(frozen=True)
class TimingSettings:
    """What the command is told.

    Attributes:
        run: The run whose front is timed.
        session: What the session is told: as the run's, but for where and in what it is timed.
    """

    run: FinishedRun
    session: Settings


def timing_settings(config: Config, arguments: Sequence[str]) -> TimingSettings:
    """The settings of end-to-end times, checked.

    Args:
        config: Of `time_front.py`.
        arguments: Of the command line that gave it.

    Raises:
        UserError: A setting is wrong, there is no such run, its model is not where it is said to be, or the engine is
            not installed or cannot time what the run was searched for.
    """
    how = {name: checked(config["latency"][name], kind, f"latency.{name}") for name, kind in HOW.items()}
    device = checked(config["model"]["device"], str | None, "model.device")
    run = FinishedRun.open(Path(str(config["run_dir"])))
    settings = ended_settings(run, {**config, "data": {"path": None}})  # no text is read
    model = replace(settings.model, device_bytes=None, device=settings.model.device if device is None else device)
    model.require_directory()
    latency = replace(settings.latency, **{name: value for name, value in how.items() if value is not None})
    latency.require_engine()
    return TimingSettings(run, replace(settings, model=model, latency=latency))
