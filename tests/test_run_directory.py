"""The run directory: created with its settings, and reopened only for the run that made it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from search.run.directory import open_run_directory
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


def test_a_file_in_the_way_is_a_clear_error(tmp_path):
    (tmp_path / "run").write_text("")
    for path in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(UserError, match="Choose another run_dir"):
            open_run_directory(path, CONFIG)


@pytest.mark.parametrize("text", ["a: [", "- a list\n", ""])
def test_an_unreadable_stored_configuration_is_a_clear_error(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml to be the configuration of a run"):
        open_run_directory(tmp_path, CONFIG)
