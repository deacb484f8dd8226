"""Mistakes and full disks: told once and clearly, and nothing is lost by them."""

from __future__ import annotations

import resource
import shlex
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from helpers_commands import (
    EVALUATIONS,
    Done,
    Place,
    Process,
    archived,
    contents,
    good,
    on_another_device,
    two_at_a_time,
    whole_lines,
)
from helpers_run import TINY_RUN, ended, start
from transformers import BloomConfig

from search.run.directory import FRONT_FILE, run_directory
from search.run.finish import REFERENCE_POINTS


def full_after(size: int) -> Callable[[], None]:
    """A disk on which no file grows beyond `size` bytes."""
    return partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))


ERRORS: dict[str, tuple[str, ...]] = {
    "garbage path": ("no-such-model",),
    "empty text": ("is empty",),
    "wrong family": ("bloom", "llama", "gemma3_text"),
    "impossible bounds": ("min_decoder_params", "0.9", "0.1"),
    "run directory in the way": ("run_dir=", "Choose another run_dir"),
    "run directory in use": ("run_dir=", "another process searches there", "choose another run_dir"),
    "changed setting": ("seed: 0 -> 1", "search.algorithm.population: 10 -> 12", "new run_dir"),
    "changed text": ("text of the run, with the digest ", "other.txt has ", "data.path"),
    "changed device": ("threads: 64 -> 1", "device: Imaginary 9000 -> ", "another run_dir"),
    "full disk in calibration": ("File too large", "Free"),
    "full disk in the search": ("File too large", "free some space", "run again"),
}
# Those that start from a finished run.
KEPT = ("changed setting", "changed text", "changed device", "full disk in the search")


@pytest.fixture(scope="module")
def failed(llama: Place) -> dict[str, Done]:
    """What each mistake is told."""
    directory = llama.directory
    (directory / "empty.txt").write_text("\n\n")
    (directory / "other.txt").write_text((llama.model / "text.txt").read_text()[::-1])
    bloom = shutil.copytree(llama.model, directory / "bloom")
    BloomConfig(n_layer=2, hidden_size=32, n_head=2, vocab_size=64).save_pretrained(bloom)
    (directory / "in-the-way").write_text("thesis")
    for name in KEPT:
        llama.copy("run", name)
    on_another_device(llama.run("changed device"))
    more = f"budget.evaluations={EVALUATIONS + 20}"
    limit = (llama.run("run") / "archive.jsonl").stat().st_size + 2000
    jobs: dict[str, Callable[[], Process]] = {
        "garbage path": lambda: llama.search("garbage", "model.path=no-such-model"),
        "empty text": lambda: llama.search("empty", f"data.path={directory / 'empty.txt'}"),
        "wrong family": lambda: llama.search("bloom run", f"model.path={bloom}"),
        "impossible bounds": lambda: llama.search(
            "impossible", "space.min_decoder_params=0.9", "space.max_decoder_params=0.1"
        ),
        "run directory in the way": lambda: llama.search("in-the-way"),
        "run directory in use": lambda: llama.search("in use", "model.path=no-such-model"),
        "changed setting": lambda: llama.search("changed setting", "seed=1", "search.algorithm.population=12"),
        "changed text": lambda: llama.search("changed text", f"data.path={directory / 'other.txt'}"),
        "changed device": lambda: llama.search("changed device", more),
        "full disk in calibration": lambda: llama.search("calibrated", cache="full cache", first=full_after(6000)),
        "full disk in the search": lambda: llama.search("full disk in the search", more, first=full_after(limit)),
    }
    with run_directory(llama.run("in use"), "search"):  # as another search does
        return two_at_a_time(jobs)


@pytest.mark.parametrize("mistake", ERRORS)
def test_a_mistake_is_told_once_and_clearly(failed: dict[str, Done], mistake: str) -> None:
    done = failed[mistake]
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr + done.stdout
    assert [line.startswith("error: ") for line in done.stderr.splitlines()].count(True) == 1
    assert [words for words in ERRORS[mistake] if words not in done.stderr] == []


def test_a_mistake_loses_nothing(llama: Place, failed: dict[str, Done]) -> None:
    assert (llama.directory / "in-the-way").read_text() == "thesis"
    finished = contents(llama.run("run"))
    assert contents(llama.run("changed setting")) == finished
    assert contents(llama.run("changed text")) == finished
    device = contents(llama.run("changed device"))
    assert device["archive.jsonl"] == finished["archive.jsonl"]  # nothing was asked
    assert device[FRONT_FILE] == finished[FRONT_FILE]
    calibrations = llama.directory / "full cache" / "supernets"
    assert not calibrations.exists() or list(calibrations.iterdir()) == []


def test_a_full_disk_ends_the_search_where_the_next_run_goes_on(llama: Place, failed: dict[str, Done]) -> None:
    run = llama.run("full disk in the search")
    before = whole_lines(run / "archive.jsonl")
    assert len(before) > len(whole_lines(llama.run("run") / "archive.jsonl"))
    assert len(archived(run)) < EVALUATIONS + 20
    assert (run / FRONT_FILE).read_bytes() == (llama.run("run") / FRONT_FILE).read_bytes()
    good(ended(llama.search(run.name, f"budget.evaluations={EVALUATIONS + 20}")))
    assert whole_lines(run / "archive.jsonl")[: len(before)] == before
    assert EVALUATIONS + 20 <= len(archived(run)) <= EVALUATIONS + 20 + REFERENCE_POINTS  # uniform designs at its end


def test_mistakes_left_nothing_behind(llama: Place, failed: dict[str, Done]) -> None:
    assert list(llama.cwd.iterdir()) == []
    assert not any(llama.run(run).exists() for run in ("garbage", "empty", "bloom run", "impossible", "in use"))


def test_a_sweep_goes_on_after_a_refused_job_and_each_report_has_its_own_command(llama: Place, tmp_path: Path) -> None:
    model = f"model.path={llama.model}", f"data.path={llama.model / 'text.txt'}"
    few = "search=random", "search.distillation=off", "distillation=default", "budget.evaluations=6", "tracker=none"
    tiny = [setting for setting in TINY_RUN if not setting.startswith(("distillation", "search."))]
    process = start(
        "run_search.py", "--multirun", *model, *tiny, *few, "data.length=5000,32", "name='a b'", "seed=3",
        cwd=tmp_path, cache=llama.cache,
    )  # fmt: skip
    done = ended(process)
    assert done.returncode == 1
    first, last = done.stderr.splitlines()
    assert first.startswith("error: job 0 (")
    assert "data.length=5000" in first
    assert last == "error: refused 1 of the sweep's 2 jobs (0), as said above"
    (run,) = (path for path in (tmp_path / "results").iterdir() if path.is_dir())
    assert run.name.startswith("a b-")
    (command,) = {
        line
        for line in (run / "report.md").read_text().splitlines()
        if line.startswith("python run_search.py") and "run_dir" not in line and "profile_only" not in line
    }
    assert "--multirun" not in command
    assert {"data.length=32", "name='a b'", "seed=3"} <= set(shlex.split(command))
