"""What the commands about one point of a run are told, checked before their work begins; free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from conf.compose import Config
from conf.settings import ended_settings, instantiated
from conf.values import checked
from evaluators.settings import Settings, TaskSettings
from evaluators.training.recipes import Polish, Recovery
from evaluators.vocabulary.settings import VocabularySettings
from search.run.finished import FinishedRun
from space.formats.push import Push
from space.formats.requirements import require_format
from space.formats.vllm.environment import verifying_python
from space.types import GGUF_TYPES


@dataclass(frozen=True)
class PickSettings:
    """What a command is told of one point of a run; all that `score_subnet.py` is told.

    Attributes:
        run: The run that a point is of.
        pick: The words by which the point was named.
        row: Of the point.
        session: What the session is told.
    """

    run: FinishedRun
    pick: str
    row: pd.Series[Any]
    session: Settings


@dataclass(frozen=True)
class ExportSettings(PickSettings):
    """What `export_subnet.py` is told.

    Attributes:
        format: One of `space.formats.requirements.FORMATS`.
        gguf_type: Of the matrices in a GGUF file; None for the point's own types, F16 where it has none.
        deci_flavour: Which loaders are to read a `block_configs` checkpoint.
        vllm: Python of the environment with vLLM that is to run the export too; None where none is.
        out: Where to; None for a place in the run's directory.
        push: Where to on the hub, if anywhere.
        tuning: Whether the subnet has what follows the cached refit in the run.
        polish: What the export does beside the training.
        recover: How it is trained.
        vocabulary: What of its vocabulary is kept.
        tolerance: See `space.formats.hf.export`.
    """

    format: str
    gguf_type: str | None
    deci_flavour: str
    vllm: Path | None
    out: Path | None
    push: Push | None
    tuning: bool
    polish: Polish
    recover: Recovery
    vocabulary: VocabularySettings
    tolerance: float


def export_settings(config: Config, arguments: Sequence[str]) -> ExportSettings:
    """The settings of an export, checked.

    Args:
        config: Of `export_subnet.py`.
        arguments: Of the command line that gave it.

    Raises:
        UserError: See `instantiated`; or there is no such run, point or format; or nothing can be pushed
            or verified with.
    """
    polish, recover = (instantiated(config[name] or "null", name) for name in ("polish", "recover"))
    form, flavour = config["format"], config["deci"]["flavour"]
    kind = checked(config["gguf"]["type"], str | None, "gguf.type")
    require_format(form, kind or GGUF_TYPES[0], flavour)
    push = None
    if checked(config["push"], str | None, "push") is not None:
        push = Push(config["push"], checked(config["private"], bool, "private"))
        push.require_token()
    python = checked(config["vllm"]["python"], str | None, "vllm.python")
    vllm = verifying_python(checked(config["verify"], str | None, "verify"), form, python)
    run, pick = FinishedRun.open(Path(str(config["run_dir"]))), str(config["pick"])
    return ExportSettings(
        run=run,
        pick=pick,
        row=run.row(pick),
        session=ended_settings(run, config),
        format=form,
        gguf_type=kind,
        deci_flavour=flavour,
        vllm=vllm,
        out=None if config["out"] is None else Path(str(config["out"])),
        push=push,
        tuning=checked(config["tuning"], bool, "tuning"),
        polish=polish,
        recover=recover,
        vocabulary=instantiated(config["vocabulary"], "vocabulary"),
        tolerance=checked(config["tolerance"], float, "tolerance"),
    )


def score_settings(config: Config, arguments: Sequence[str]) -> PickSettings:
    """The settings of task scores, checked.

    Args:
        config: Of `score_subnet.py`.
        arguments: Of the command line that gave it.

    Raises:
        UserError: A setting is wrong; or there is no such run or point.
    """
    part = {field.name: config[field.name] for field in fields(TaskSettings) if field.name in config}
    tasks: TaskSettings = instantiated({"_target_": "evaluators.settings.TaskSettings", **part})
    tasks.require_place()
    run, pick = FinishedRun.open(Path(str(config["run_dir"]))), str(config["pick"])
    return PickSettings(run, pick, run.row(pick), replace(ended_settings(run, config), tasks=tasks))
