"""Trackers are told everything once, also over kills: the real TensorBoard, and doubles of the others as strict."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers_trackers import STORES, Store, double_of_mlflow, double_of_wandb
from helpers_watch import NAME, PROGRESS, search_ended

from search.run.directory import REPORT_FILE
from search.views.watch.events import Failed, Searched, SearchEnded
from search.views.watch.trackers import TRACKERS, Tracker, open_tracker
from search.views.watch.tracking import FILES, TRACKER_FILE, Tracking
from space.errors import UserError

CONFIG = {"seed": 0, "space": {"mlp_step": 128}}
SETTINGS = {"seed": "0", "space.mlp_step": "128"}


CLOSED = {"tensorboard": ("", ""), "mlflow": ("KILLED", "FINISHED"), "wandb": ("1", "0")}
STEPS = [Searched(replace(PROGRESS, tokens=tokens), None) for tokens in (100, 200, 300)]


@pytest.fixture(params=TRACKERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(name: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    return STORES[name](monkeypatch)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    for file in FILES:
        (tmp_path / file).write_text(NAME)
    return tmp_path


def begun(name: str, run_dir: Path, warnings: list[str]) -> Tracking:
    return Tracking(name, run_dir, CONFIG, warnings.append)


def ended(run_dir: Path) -> SearchEnded:
    return replace(search_ended(), run_dir=run_dir)


REFUSED: dict[str, Callable[[Tracker, Path], None]] = {
    "a name that is no text": lambda tracker, run_dir: tracker.numbers({1: 2.0}, 1),  # type: ignore[dict-item]
    "a file that is not there": lambda tracker, run_dir: tracker.artifacts([run_dir / "none.md"], 1),
}


def told_after_the_end(tracker: Any) -> None:
    tracker.close("finished")
    tracker.numbers({"x": 1.0}, 1)


# What the packages themselves refuse, each in its own way; the doubles as MLflow and W&B do.
REFUSED_BY = {
    ("tensorboard", "text for a number"): lambda tracker: tracker.numbers({"x": "much"}, 1),
    ("tensorboard", "text for tokens"): lambda tracker: tracker.numbers({"x": 1.0}, "many"),
    ("tensorboard", "a number after the end"): told_after_the_end,
    ("mlflow", "text for a number"): lambda tracker: tracker.numbers({"x": "much"}, 1),
    ("mlflow", "text for tokens"): lambda tracker: tracker.numbers({"x": 1.0}, "many"),
    ("mlflow", "a name with a sign"): lambda tracker: tracker.numbers({"x=y": 1.0}, 1),
    ("mlflow", "changed settings"): lambda tracker: (tracker.settings({"a": 1}), tracker.settings({"a": 2})),
    ("wandb", "changed settings"): lambda tracker: (tracker.settings({"a": 1}), tracker.settings({"a": 2})),
    ("wandb", "a number after the end"): told_after_the_end,
}


def test_all_take_the_same_calls_and_hold_what_they_were_told(name: str, store: Store, run_dir: Path) -> None:
    tracker = open_tracker(name, run_dir, None)
    many = {f"group.key-{number}": number for number in range(250)}
    tracker.settings({**many, "none": None, "flag": True, "list": [1, 2], "text": "a b"})
    tracker.numbers({"search/front points": 3.0, "search-128/best_kl/kl": 0.25}, 100)
    tracker.numbers({"search/front points": 4}, 200)
    tracker.artifacts([run_dir / file for file in FILES], 200)
    tracker.close("finished")
    store.read_back(run_dir)
    told = {**many, "none": None, "flag": True, "list": [1, 2], "text": "a b"}
    assert store.settings == {key: str(value) for key, value in told.items()}
    assert store.numbers == {
        "search/front points": [(100, 3.0), (200, 4.0)],
        "search-128/best_kl/kl": [(100, 0.25)],
    }
    assert store.files == ([REPORT_FILE] if name == "tensorboard" else [*FILES])
    again = open_tracker(name, run_dir, tracker.run_id)
    assert again.run_id == tracker.run_id
    again.numbers({"search/front points": 5.0}, 300)
    again.close("stopped")
    assert store.read_back(run_dir).numbers["search/front points"][-1] == (300, 5.0)


@pytest.mark.parametrize("what", REFUSED)
def test_all_refuse_what_no_tracker_can_take(name: str, store: Store, run_dir: Path, what: str) -> None:
    tracker = open_tracker(name, run_dir, None)
    with pytest.raises((TypeError, ValueError, OSError)):
        REFUSED[what](tracker, run_dir)


@pytest.mark.parametrize(("name", "what"), REFUSED_BY)
def test_each_refuses_what_its_package_does(name: str, what: str, store: Store, run_dir: Path) -> None:
    tracker = open_tracker(name, run_dir, None)
    with pytest.raises((TypeError, ValueError, OSError, RuntimeError)):
        REFUSED_BY[name, what](tracker)


def test_a_run_that_the_server_does_not_know_is_a_mistake_that_can_be_mended(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double_of_mlflow(monkeypatch)
    with pytest.raises(UserError, match=r"Run 'gone' not found.*which tracker\.json in .* names"):
        open_tracker("mlflow", run_dir, "gone")


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
    store.read_back(run_dir)
    assert store.settings == SETTINGS
    assert store.numbers["search/hypervolume"] == [(100, 0.75), (200, 0.75), (300, 0.75)]
    assert store.numbers["evaluations/search-128"][0] == (100, 500)
    assert store.numbers["search/best_kl/latency_ms"][0] == (100, 214.0)
    assert store.numbers["recommended/latency_e2e_ms"] == [(300, 154.0)]
    assert store.numbers["latency_table_error/median"] == [(300, pytest.approx(0.02))]  # TensorBoard has float32
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
    assert [tokens for tokens, _ in store.read_back(run_dir).numbers["seconds"]] == [100, 200, 300]


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
    assert [tokens for tokens, _ in store.read_back(run_dir).numbers["search/hypervolume"]] == [100, 200, 300]


def test_surrogates_are_judged_by_what_they_had_not_seen(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = double_of_wandb(monkeypatch)
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
    for loaded in [module for module in sys.modules if module.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, loaded)
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
