"""A run is exported and goes on after its model and text have moved, from any directory, and with no others."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers_commands import EVALUATIONS, Place, contents, good
from helpers_forked import reloading_here
from helpers_run import ended, start

from search.run.directory import FRONT_FILE
from search.run.front import read_front_csv
from space.models.digest import checkpoint_digest

Moved = tuple[Path, Path, Path]


@pytest.fixture
def moved(llama: Place, tmp_path: Path) -> Moved:
    """A run whose model and text are no longer where its configuration has them, their place now, and another model."""
    run = shutil.copytree(llama.run("run"), tmp_path / "run")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(llama.model), str(tmp_path / "gone")))
    now = shutil.copytree(llama.model, tmp_path / "now" / "renamed")
    (now / "text.txt").rename(now.with_name("words.txt"))
    other = shutil.copytree(now, tmp_path / "other")
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-4] ^= 1  # the least of one weight
    (other / "model.safetensors").write_bytes(weights)
    return run, now, other


def test_a_pick_is_exported_with_the_model_and_text_where_they_are_now(llama: Place, moved: Moved) -> None:
    run, now, other = moved
    before = contents(run)

    def export(*settings: str) -> tuple[int, str]:
        pick = f"pick={read_front_csv(run / FRONT_FILE)['key'].iloc[-1]}"
        overrides = "run_dir=../run", pick, "polish.windows=2", "recover.tokens=64", *settings
        where = {"cwd": now.parent, "cache": llama.cache}
        done = ended(start("export_subnet.py", *overrides, **where, first=reloading_here))
        return done.returncode, done.stdout + done.stderr

    for path, words in (
        ([], f"there is no such directory: {run.parent / 'gone'}. Set model.path to where the model is."),
        ([f"model.path={other}"], f"digest {checkpoint_digest(now)}, but other in {other} has "),
        (["model.path=renamed"], f"there is none at {run.parent / 'gone' / 'text.txt'}. Set it to where the text is."),
    ):
        code, said = export(*path)
        assert (code, words in said) == (1, True), said
    assert contents(run) == before
    code, said = export("model.path=renamed", "data.path=words.txt")
    assert code == 0, said
    assert "exported; " in said


def test_a_search_goes_on_with_the_model_and_text_where_they_are_now(llama: Place, moved: Moved) -> None:
    run, now, other = moved
    before = contents(run)
    more = f"run_dir={run}", f"data.path={now.parent / 'words.txt'}", f"budget.evaluations={EVALUATIONS + 10}"
    refused = ended(llama.search("run", *more, f"model.path={other}"))
    assert refused.returncode == 1
    assert f"digest {checkpoint_digest(now)}, but other in {other} has {checkpoint_digest(other)}" in refused.stderr
    assert contents(run) == before
    good(ended(llama.search("run", *more, f"model.path={now}")))
    after = contents(run)
    assert after["archive.jsonl"].startswith(before["archive.jsonl"])
    assert len(after["archive.jsonl"]) > len(before["archive.jsonl"])
    assert str(now) in after["config.yaml"].decode()  # the next command need not be told
