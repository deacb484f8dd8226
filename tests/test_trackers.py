"""Trackers are told everything once, also over kills; their packages are stood in for by modules that record calls."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from test_watch import NAME, PROGRESS, found

from search.run.directory import REPORT_FILE
from search.views.watch.events import Failed, Found, Searched
from search.views.watch.trackers import TRACKERS
from search.views.watch.tracking import FILES, TRACKER_FILE, Tracking
from space.errors import UserError

CONFIG = {"seed": 0, "space": {"mlp_step": 128}}
SETTINGS = {"seed": 0, "space.mlp_step": 128}


class Store:
    """What a tracker's server would hold: settings, numbers by name as (tokens, value), files, how it was closed."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.numbers: dict[str, list[tuple[int, float]]] = {}
        self.files: list[str] = []
        self.closed: list[str] = []
        self.opened: list[str] = []
        self.away = False

    def number(self, name: str, tokens: int, value: float) -> None:
        if self.away:
            raise ConnectionError("the server is away")
        self.numbers.setdefault(name, []).append((tokens, value))


def module(name: str, **members: Any) -> dict[str, ModuleType]:
    made = ModuleType(name)
    for member, value in members.items():
        setattr(made, member, value)
    parents = {name.rsplit(".", depth)[0]: ModuleType(name) for depth in range(1, name.count(".") + 1)}
    return {**parents, name: made}


def stub_tensorboard(store: Store) -> dict[str, ModuleType]:
    def event(*, wall_time: float, step: int, summary: tuple[str, Any]) -> tuple[int, str, Any]:
        return step, *summary

    class Writer:
        def __init__(self, directory: str) -> None:
            store.opened.append(Path(directory).name)

        def add_event(self, event: tuple[int, str, Any]) -> None:
            step, name, value = event
            if name == "settings":
                lines = [line.strip().split(": ") for line in value.splitlines()]
                store.settings |= {key: int(text) for key, text in lines}
            elif isinstance(value, str):
                store.files.append(f"{name}.md")
            else:
                store.number(name, step, value)

        def flush(self) -> None:
            pass

        def close(self) -> None:
            store.closed.append("")

    return {
        **module("tensorboard.compat.proto.event_pb2", Event=event),
        **module("tensorboard.plugins.scalar.summary_v2", scalar_pb=lambda name, value: (name, value)),
        **module("tensorboard.plugins.text.summary_v2", text_pb=lambda name, value: (name, value)),
        **module("tensorboard.summary.writer.event_file_writer", EventFileWriter=Writer),
    }


def stub_mlflow(store: Store) -> dict[str, ModuleType]:
    class Client:
        def get_experiment_by_name(self, name: str) -> None:
            return None

        def create_experiment(self, name: str) -> str:
            return name

        def create_run(self, experiment: str, run_name: str) -> Any:
            store.opened.append("new")
            return SimpleNamespace(info=SimpleNamespace(run_id=f"{experiment}-1"))

        def update_run(self, run_id: str, status: str) -> None:
            store.opened.append(run_id)

        def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
            assert run_id == "paretoprune-1"
            store.settings |= {name: int(value) for name, value in params}
            for name, value, _, step in metrics:
                store.number(name, step, value)

        def log_artifact(self, run_id: str, path: str) -> None:
            store.files.append(Path(path).name)

        def set_terminated(self, run_id: str, status: str) -> None:
            store.closed.append(status)

    entities = module("mlflow.entities", Metric=lambda *values: values, Param=lambda *values: values)
    return {**entities, **module("mlflow", MlflowClient=Client)}


def stub_wandb(store: Store) -> dict[str, ModuleType]:
    def log(values: dict[str, float]) -> None:
        tokens = int(values["tokens"])
        for name, value in values.items():
            if name != "tokens":
                store.number(name, tokens, value)

    class Artifact:
        def __init__(self, name: str, type: str) -> None:
            self.files: list[str] = []

        def add_file(self, path: str) -> None:
            self.files.append(Path(path).name)

    def init(*, id: str, resume: str, dir: str, **settings: Any) -> Any:
        assert resume == "allow"
        store.opened.append(id)
        return SimpleNamespace(
            define_metric=lambda name, step_metric: None,
            config=store.settings,
            log=log,
            log_artifact=lambda artifact: store.files.extend(artifact.files),
            finish=lambda exit_code: store.closed.append(str(exit_code)),
        )

    return module("wandb", init=init, Settings=lambda **settings: settings, Artifact=Artifact)


STUBS: dict[str, Callable[[Store], dict[str, ModuleType]]] = {
    "tensorboard": stub_tensorboard,
    "mlflow": stub_mlflow,
    "wandb": stub_wandb,
}
CLOSED = {"tensorboard": ("", ""), "mlflow": ("KILLED", "FINISHED"), "wandb": ("1", "0")}
STEPS = [Searched(replace(PROGRESS, tokens=tokens), None) for tokens in (100, 200, 300)]


@pytest.fixture(params=TRACKERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(name: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store()
    for module_name, stub in STUBS[name](made).items():
        monkeypatch.setitem(sys.modules, module_name, stub)
    return made


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    for file in FILES:
        (tmp_path / file).write_text(NAME)
    return tmp_path


def begun(name: str, run_dir: Path, warnings: list[str]) -> Tracking:
    return Tracking(name, run_dir, CONFIG, warnings.append)


def ended(run_dir: Path) -> Found:
    return replace(found(), run_dir=run_dir)


def test_a_run_that_goes_on_is_the_same_run_and_every_number_is_told_once(
    name: str, store: Store, run_dir: Path
) -> None:
    warnings: list[str] = []
    first = begun(name, run_dir, warnings)
    for event in (*STEPS[:2], Failed("stopped", "by hand")):
        first(event)
    first.close()
    second = begun(name, run_dir, warnings)
    for event in (*STEPS, ended(run_dir)):  # a replay begins anew
        second(event)
    second.close()
    assert warnings == []
    assert store.settings == SETTINGS
    assert store.numbers["search/hypervolume"] == [(100, 0.75), (200, 0.75), (300, 0.75)]
    assert store.numbers["evaluations/search-128"][0] == (100, 500)
    assert store.numbers["search/knee/latency_ms"][0] == (100, 208.0)
    assert store.numbers["latency_table_error/median"] == [(300, 0.02)]
    assert "latency_table_error/rank_correlation" not in store.numbers  # it is not a number
    assert store.numbers["fastest/heldout_ppl"] == [(300, 10.0)]
    assert store.files == ([REPORT_FILE] if name == "tensorboard" else [*FILES])
    assert tuple(store.closed) == CLOSED[name]
    again = json.loads((run_dir / TRACKER_FILE).read_text())
    assert again[name]["tokens"] == 300
    assert store.opened[1] == again[name]["run_id"]


def test_a_run_killed_without_a_word_goes_on_too(name: str, store: Store, run_dir: Path) -> None:
    for events in (STEPS[:1], STEPS):
        tracking = begun(name, run_dir, [])
        for event in events:
            tracking(event)
    assert [tokens for tokens, _ in store.numbers["seconds"]] == [100, 200, 300]


def test_a_server_that_is_away_ends_no_search_and_is_told_the_rest_later(
    name: str, store: Store, run_dir: Path
) -> None:
    warnings: list[str] = []
    first = begun(name, run_dir, warnings)
    first(STEPS[0])
    store.away = True
    for event in STEPS[1:]:
        first(event)
    first.close()
    assert len(warnings) == 1
    assert warnings[0].startswith(f"WARNING: tracker={name} failed (ConnectionError: the server is away)")
    store.away = False
    second = begun(name, run_dir, warnings)
    for event in STEPS:
        second(event)
    assert sorted({tokens for tokens, _ in store.numbers["search/hypervolume"]}) == [100, 200, 300]
    assert [tokens for tokens, _ in store.numbers["search/hypervolume"]] == [100, 200, 300]


def test_surrogates_are_judged_by_what_they_had_not_seen(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    for module_name, stub in stub_wandb(store).items():
        monkeypatch.setitem(sys.modules, module_name, stub)
    tracking = begun("wandb", run_dir, [])
    for number, answer in enumerate(PROGRESS.front[1:]):
        tracking(Searched(replace(PROGRESS, latest=answer, tokens=100 * (number + 1)), None))
    taus = store.numbers["search/surrogate_tau_kl"]
    assert taus == [(200, pytest.approx(1.0)), (300, pytest.approx(1.0))]


def test_a_package_that_is_not_there_is_told_with_the_command(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    class Absent:
        def find_spec(self, wanted: str, path: object = None, target: object = None) -> None:
            if wanted.partition(".")[0] == name:
                raise ModuleNotFoundError(f"No module named {wanted!r}", name=wanted)

    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    with pytest.raises(UserError, match=rf"not installed\. Install it \(pip install {name}\) or choose tracker=none"):
        begun(name, tmp_path, [])


def test_a_part_that_a_package_lacks_is_not_taken_for_the_package(tmp_path: Path, monkeypatch: Any) -> None:
    class Broken:
        def find_spec(self, wanted: str, path: object = None, target: object = None) -> None:
            if wanted == "wandb":
                raise ModuleNotFoundError("No module named 'needed'", name="needed")

    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(UserError, match=r"not whole: No module named 'needed'\. Mend it \(pip check") as told:
        begun("wandb", tmp_path, [])
    assert "install needed" not in str(told.value)


def test_unknown_trackers_and_a_broken_file_are_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected none, tensorboard, mlflow, wandb, got neptune"):
        begun("neptune", tmp_path, [])
    (tmp_path / TRACKER_FILE).write_text('{"wandb": 3}')
    with pytest.raises(UserError, match=r"tracker\.json.* Delete it"):
        begun("wandb", tmp_path, [])
