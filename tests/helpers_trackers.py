"""Trackers for tests: the real TensorBoard, read back from its event files, and doubles of MLflow and W&B as strict."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from search.views.watch.trackers import TRACKERS

RUN_STATES = ("RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED")  # MLflow's


class Store:
    """What a tracker holds: settings, numbers by name as (tokens, value), files, how it was opened and closed."""

    def __init__(self) -> None:
        self.settings: dict[str, str] = {}
        self.numbers: dict[str, list[tuple[int, float]]] = {}
        self.files: list[str] = []
        self.closed: list[str] = []
        self.opened: list[str] = []
        self.away = False

    def number(self, name: str, tokens: int, value: float) -> None:
        if self.away:
            raise ConnectionError("the server is away")
        self.numbers.setdefault(name, []).append((tokens, value))

    def read_back(self, run_dir: Path) -> Store:
        """The store, with what its tracker left on disk."""
        return self


def module(name: str, **members: Any) -> dict[str, ModuleType]:
    made = ModuleType(name)
    for member, value in members.items():
        setattr(made, member, value)
    parents = {name.rsplit(".", depth)[0]: ModuleType(name) for depth in range(1, name.count(".") + 1)}
    return {**parents, name: made}


class TensorBoardStore(Store):
    """What the real TensorBoard wrote."""

    def read_back(self, run_dir: Path) -> Store:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from tensorboard.util.tensor_util import make_ndarray

        self.settings, self.numbers, self.files = {}, {}, []
        files = (run_dir / "tensorboard").iterdir()
        events = [event for path in files for event in EventFileLoader(str(path)).Load()]
        for event in sorted(events, key=lambda event: event.wall_time):
            for value in event.summary.value:
                kind = value.metadata.plugin_data.plugin_name
                self._take(event.step, value.tag, kind, make_ndarray(value.tensor))
        return self

    def _take(self, step: int, name: str, kind: str, content: Any) -> None:
        if kind == "scalars":
            self.numbers.setdefault(name, []).append((step, float(content)))
        elif name == "settings":
            self.settings |= dict(line.strip().split(": ") for line in content.item().decode().splitlines())
        else:
            assert kind == "text"
            self.files.append(f"{name}.md")


def real_tensorboard(monkeypatch: pytest.MonkeyPatch) -> Store:
    """The package itself; its writer tells when it is opened and closed, and can be as good as away."""
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    from tensorboard.summary.writer import event_file_writer

    store = TensorBoardStore()

    class Writer(event_file_writer.EventFileWriter):
        def __init__(self, directory: str) -> None:
            super().__init__(directory)
            store.opened.append(Path(directory).name)

        def add_event(self, event: Any) -> None:
            if store.away:
                raise ConnectionError("the server is away")
            super().add_event(event)

        def close(self) -> None:
            super().close()
            store.closed.append("")

    monkeypatch.setattr(event_file_writer, "EventFileWriter", Writer)
    return store


def double_of_mlflow(monkeypatch: pytest.MonkeyPatch) -> Store:
    """MLflow's client with one server; it refuses what the real one refuses."""
    store, experiments, runs = Store(), dict[str, str](), dict[str, str]()

    def run_of(run_id: str) -> None:
        if run_id not in runs:
            raise LookupError(f"Run '{run_id}' not found")

    def state(run_id: str, status: str) -> None:
        run_of(run_id)
        if status not in RUN_STATES:
            raise ValueError(f"Could not get run status corresponding to string {status}.")
        runs[run_id] = status

    class Client:
        def get_experiment_by_name(self, name: str) -> Any:
            return SimpleNamespace(experiment_id=experiments[name]) if name in experiments else None

        def create_experiment(self, name: str) -> str:
            if name in experiments:
                raise ValueError(f"Experiment '{name}' already exists.")
            return experiments.setdefault(name, name)

        def create_run(self, experiment_id: str, run_name: str) -> Any:
            run_id = f"{experiment_id}-{len(runs) + 1}"
            runs[run_id] = "RUNNING"
            store.opened.append("new")
            return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

        def update_run(self, run_id: str, status: str) -> None:
            state(run_id, status)
            store.opened.append(run_id)

        def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
            run_of(run_id)
            if len(params) > 100:
                raise ValueError("A batch logging request can contain at most 100 params.")
            for name, value in params:
                if store.settings.setdefault(name, value) != value:
                    raise ValueError(f"Changing param values is not allowed: {name}.")
            for name, value, timestamp, step in metrics:
                if not re.fullmatch(r"[\w.\- /:]+", name):
                    raise ValueError(f"Invalid value {name!r} for parameter 'metrics[0].name'.")
                if not isinstance(value, float | int) or not isinstance(timestamp, int) or not isinstance(step, int):
                    raise ValueError(f"Invalid value of {name}.")
                store.number(name, step, value)

        def log_artifact(self, run_id: str, local_path: str) -> None:
            run_of(run_id)
            if not Path(local_path).is_file():
                raise FileNotFoundError(local_path)
            store.files.append(Path(local_path).name)

        def set_terminated(self, run_id: str, status: str) -> None:
            state(run_id, status)
            store.closed.append(status)

    def metric(key: str, value: float, timestamp: int, step: int) -> tuple[str, float, int, int]:
        return key, value, timestamp, step

    def param(key: str, value: str) -> tuple[str, str]:
        return key, value

    replace_modules(monkeypatch, module("mlflow.entities", Metric=metric, Param=param))
    replace_modules(monkeypatch, module("mlflow", MlflowClient=Client))
    return store


def double_of_wandb(monkeypatch: pytest.MonkeyPatch) -> Store:
    """W&B with one run at a time; it refuses what the real one refuses."""
    store = Store()

    class Config:
        def update(self, values: dict[str, Any]) -> None:
            for name, value in values.items():
                if store.settings.setdefault(name, str(value)) != str(value):
                    raise ValueError(f"Attempted to change value of key {name!r}.")

    class Artifact:
        def __init__(self, name: str, type: str) -> None:
            if not re.fullmatch(r"[\w.\-]+", name):
                raise ValueError(f"Invalid name: {name!r}")
            self.files: list[str] = []

        def add_file(self, local_path: str) -> None:
            if not Path(local_path).is_file():
                raise ValueError(f"Path is not a file: {local_path!r}")
            self.files.append(Path(local_path).name)

    class Run:
        def __init__(self) -> None:
            self.config = Config()
            self._over = False

        def define_metric(self, name: str, step_metric: str) -> None:
            assert (name, step_metric) == ("*", "tokens")

        def log(self, data: dict[str, Any]) -> None:
            if self._over:
                raise RuntimeError("Run is finished.")
            if not isinstance(data, dict) or not all(isinstance(name, str) for name in data):
                raise TypeError("Key values passed to `wandb.log` must be strings.")
            for name, value in data.items():
                if name != "tokens":
                    store.number(name, data["tokens"], value)

        def log_artifact(self, artifact: Artifact) -> None:
            store.files.extend(artifact.files)

        def finish(self, exit_code: int) -> None:
            self._over = True
            store.closed.append(str(exit_code))

    def settings(*, silent: bool, console: str) -> dict[str, Any]:
        return {"silent": silent, "console": console}

    def init(*, project: str, name: str, id: str, resume: str, dir: str, settings: dict[str, Any]) -> Run:
        if resume != "allow":
            raise ValueError("another value starts a run anew, or refuses one that is there")
        store.opened.append(id)
        return Run()

    replace_modules(monkeypatch, module("wandb", init=init, Settings=settings, Artifact=Artifact))
    return store


def replace_modules(monkeypatch: pytest.MonkeyPatch, modules: dict[str, ModuleType]) -> None:
    for name, made in modules.items():
        monkeypatch.setitem(sys.modules, name, made)


STORES: dict[str, Callable[[pytest.MonkeyPatch], Store]] = {
    "tensorboard": real_tensorboard,
    "mlflow": double_of_mlflow,
    "wandb": double_of_wandb,
}
assert STORES.keys() == TRACKERS.keys()
