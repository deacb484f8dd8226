"""The run directory: created with its settings, and reopened only for the run that made it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from search.run.directory import open_run_directory, run_directory
from space.directory_lock import LOCK_FILE
from space.errors import UserError

CONFIG = {
    "name": "demo",
    "seed": 0,
    "model": {"path": None, "dtype": "auto"},
    "search": {"evaluations": 200, "objectives": ["kl", "latency_ms"]},
}


def stored(directory: Path) -> object:
    return yaml.safe_load((directory / "config.yaml").read_text())


def test_created_with_its_parents_and_reopened_with_the_same_configuration(tmp_path):
    directory = open_run_directory(tmp_path / "results" / "run", CONFIG)
    assert stored(directory) == CONFIG
    assert open_run_directory(directory, {**CONFIG, "search": {**CONFIG["search"], "objectives": ("kl", "latency_ms")}})


def test_a_changed_setting_is_refused_with_the_difference_and_nothing_is_written(tmp_path):
    directory = open_run_directory(tmp_path, CONFIG)
    changed = {"name": "demo", "seed": "0", "model": {"path": "other"}, "search": CONFIG["search"], "extra": None}
    with pytest.raises(UserError) as caught:
        open_run_directory(directory, changed)
    lines = [line.strip() for line in str(caught.value).splitlines()[1:-1]]
    assert lines == [
        "seed: 0 -> '0'",
        "model.path: None -> 'other'",
        "model.dtype: 'auto' -> (absent)",
        "extra: (absent) -> None",
    ]
    assert "new run_dir" in str(caught.value)
    assert stored(directory) == CONFIG


def test_free_keys_may_change_and_are_stored_anew(tmp_path):
    open_run_directory(tmp_path, CONFIG)
    changed = {**CONFIG, "name": "renamed", "model": {"path": "other"}}
    with pytest.raises(UserError, match="model"):
        open_run_directory(tmp_path, changed, free=["name", "mod"])
    open_run_directory(tmp_path, changed, free=["name", "model"])
    assert stored(tmp_path) == changed


def test_runs_of_one_second_have_directories_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "20260102-030405")
    with run_directory(None, "demo") as one, run_directory(None, "demo") as two, run_directory(None, "other") as three:
        for directory in (one, two, three):
            open_run_directory(directory, CONFIG)
    stem = "20260102-030405"
    assert [str(each) for each in (one, two, three)] == [
        f"results/demo-{stem}",
        f"results/demo-{stem}-2",
        f"results/other-{stem}",
    ]


def test_a_directory_has_one_search_at_a_time(tmp_path):
    with run_directory(tmp_path / "run", "demo") as directory:
        open_run_directory(directory, CONFIG)
        with pytest.raises(UserError, match=r"run_dir=.*run to be of this search alone.*choose another run_dir"):
            run_directory(directory, "demo").__enter__()
    with run_directory(directory, "demo") as again:
        assert stored(again) == CONFIG


@pytest.mark.parametrize("given", [True, False])
def test_what_was_made_for_nothing_is_taken_away(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    with run_directory(tmp_path / "a" / "run" if given else None, "demo") as directory:
        assert (directory / LOCK_FILE).exists()
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_a_clear_error(tmp_path):
    (tmp_path / "run").write_text("")
    for path in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(UserError, match="Choose another run_dir"):
            open_run_directory(path, CONFIG)
        with pytest.raises(UserError, match="Choose another run_dir"), run_directory(path, "demo"):
            pass


@pytest.mark.parametrize("text", ["a: [", "- a list\n", ""])
def test_an_unreadable_stored_configuration_is_a_clear_error(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml to be the configuration of a run"):
        open_run_directory(tmp_path, CONFIG)
