"""Experiment trackers, each through its own package, none of which is required: TensorBoard, MLflow, W&B."""

from __future__ import annotations

import importlib
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from space.errors import UserError

Status = Literal["finished", "stopped", "failed"]
PROJECT = "paretoprune"


class Tracker(Protocol):
    """Takes what a run is and what it gives."""

    @property
    def run_id(self) -> str:
        """By which the tracker finds the run again."""
        ...

    def settings(self, values: Mapping[str, Any]) -> None:
        """The run's settings by dotted name; called once in the life of a run."""
        ...

    def numbers(self, values: Mapping[str, float], tokens: int) -> None:
        """Finite numbers by name, after so many tokens of the budget."""
        ...

    def artifacts(self, files: Sequence[Path], tokens: int) -> None:
        """The run's files at its end."""
        ...

    def close(self, status: Status) -> None:
        """The last call."""
        ...


class TensorBoard:
    """Event files in `<run_dir>/tensorboard`; a run that goes on adds another one, which is shown as the same run."""

    run_id = "tensorboard"

    def __init__(self, run_dir: Path, run_id: str | None) -> None:
        """Opens an event file. See `TRACKERS`."""
        self._event = _module("tensorboard.compat.proto.event_pb2", "tensorboard").Event
        self._scalar = _module("tensorboard.plugins.scalar.summary_v2", "tensorboard").scalar_pb
        self._text = _module("tensorboard.plugins.text.summary_v2", "tensorboard").text_pb
        writer = _module("tensorboard.summary.writer.event_file_writer", "tensorboard").EventFileWriter
        self._writer = writer(str(run_dir / self.run_id))

    def settings(self, values: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        lines = "\n".join(f"    {name}: {value}" for name, value in values.items())  # indented: code in Markdown
        self._add(self._text("settings", lines), 0)

    def numbers(self, values: Mapping[str, float], tokens: int) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._add(self._scalar(name, value), tokens)
        self._writer.flush()

    def artifacts(self, files: Sequence[Path], tokens: int) -> None:
        """The report as text: TensorBoard keeps no files, and these lie beside its own."""
        for file in files:
            if file.suffix == ".md":
                self._add(self._text(file.stem, file.read_text(encoding="utf-8")), tokens)

    def close(self, status: Status) -> None:
        """See `Tracker`."""
        self._writer.close()

    def _add(self, summary: Any, tokens: int) -> None:
        self._writer.add_event(self._event(wall_time=time.time(), step=tokens, summary=summary))


class MLflow:
    """A run of the experiment that `MLFLOW_EXPERIMENT_NAME` says, else `paretoprune`, at MLflow's own tracking URI."""

    def __init__(self, run_dir: Path, run_id: str | None) -> None:
        """Creates a run, or opens it again. See `TRACKERS`."""
        entities = _module("mlflow.entities", "mlflow")
        self._metric, self._param = entities.Metric, entities.Param
        self._client = _module("mlflow", "mlflow").MlflowClient()
        if run_id is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            existing = self._client.get_experiment_by_name(name)
            experiment = self._client.create_experiment(name) if existing is None else existing.experiment_id
            run_id = str(self._client.create_run(experiment, run_name=run_dir.resolve().name).info.run_id)
        else:
            self._client.update_run(run_id, status="RUNNING")
        self.run_id = run_id

    def settings(self, values: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        params = [self._param(name, str(value)) for name, value in values.items()]
        for start in range(0, len(params), 100):  # the most that a server takes at once
            self._client.log_batch(self.run_id, params=params[start : start + 100])

    def numbers(self, values: Mapping[str, float], tokens: int) -> None:
        """See `Tracker`."""
        now = int(time.time() * 1000)
        self._client.log_batch(self.run_id, metrics=[self._metric(name, v, now, tokens) for name, v in values.items()])

    def artifacts(self, files: Sequence[Path], tokens: int) -> None:
        """See `Tracker`."""
        for file in files:
            self._client.log_artifact(self.run_id, str(file))

    def close(self, status: Status) -> None:
        """See `Tracker`."""
        self._client.set_terminated(
            self.run_id, {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[status]
        )


class WandB:
    """A run of the project that `WANDB_PROJECT` says, else `paretoprune`; its files lie in `<run_dir>/wandb`.

    With `WANDB_MODE=offline` a run that goes on makes a second directory there with the same id; `wandb sync` joins
    them.
    """

    def __init__(self, run_dir: Path, run_id: str | None) -> None:
        """Creates a run, or opens it again. See `TRACKERS`."""
        self._wandb = _module("wandb", "wandb")
        self.run_id = run_id or uuid.uuid4().hex[:8]
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run_dir.resolve().name,
            id=self.run_id,
            resume="allow",
            dir=str(run_dir),
            settings=self._wandb.Settings(silent=True, console="off"),  # the terminal is not its own
        )
        self._run.define_metric("*", step_metric="tokens")

    def settings(self, values: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        self._run.config.update(dict(values))

    def numbers(self, values: Mapping[str, float], tokens: int) -> None:
        """See `Tracker`."""
        self._run.log({**values, "tokens": tokens})

    def artifacts(self, files: Sequence[Path], tokens: int) -> None:
        """See `Tracker`."""
        artifact = self._wandb.Artifact(f"front-{self.run_id}", type="front")
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def close(self, status: Status) -> None:
        """See `Tracker`."""
        self._run.finish(exit_code=0 if status == "finished" else 1)


# What `tracker=` may be besides `none`: made of the run directory, and of the id that it had before, if any.
TRACKERS: Mapping[str, Callable[[Path, str | None], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}


def require_tracker(name: str) -> None:
    """Checks that a tracker is there, before there is anything to tell it.

    Raises:
        UserError: It is neither `none` nor a row of `TRACKERS`, or its package is not installed.
    """
    if name == "none":
        return
    if name not in TRACKERS:
        raise UserError(f"tracker: expected none, {', '.join(TRACKERS)}, got {name}.")
    _module(name, name)


def open_tracker(name: str, run_dir: Path, run_id: str | None) -> Tracker:
    """A row of `TRACKERS`, ready to be told.

    Raises:
        UserError: See `require_tracker`; or it cannot be opened.
    """
    require_tracker(name)
    try:
        return TRACKERS[name](run_dir, run_id)
    except UserError:
        raise
    except Exception as error:  # each package has its own ways to fail, and a person who can mend it is here still
        again = f" It was to go on with its run {run_id}, which tracker.json in {run_dir} names." if run_id else ""
        raise UserError(
            f"tracker={name}: expected to open it, got {type(error).__name__}: {error}.{again} "
            "Mend what it says, or choose tracker=none."
        ) from error


def _module(name: str, package: str) -> Any:
    """A module of a package that may not be installed.

    Raises:
        UserError: The package is not installed, or something that it needs is not.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == package:
            raise UserError(
                f"tracker={package}: expected the package {package}, but it is not installed. "
                f"Install it (pip install {package}) or choose tracker=none."
            ) from error
        raise UserError(
            f"tracker={package}: {package} is there, but its installation is not whole: {error}. Mend it "
            f"(pip check says what does not fit; pip install --force-reinstall {package}) or choose tracker=none."
        ) from error
