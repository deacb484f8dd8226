"""A tiny model with a run that was never disturbed, and the commands as a person runs them there."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers_forked import reloading_here
from helpers_run import TINY_RUN, Process, ended, save_tiny, start

from evaluators.base import Evaluation
from search.run.directory import FRONT_FILE
from search.run.front import read_front_csv, write_front_csv

Done = subprocess.CompletedProcess[str]
EVALUATIONS = 40


class Place:
    """A directory with a model, its text and a cache, in which the commands run."""

    def __init__(self, directory: Path, family: str, **config: Any) -> None:
        self.directory = directory
        self.model = save_tiny(family, directory / f"tiny-{family}", **config)
        self.cache = directory / "cache"
        self.cwd = directory / "cwd"
        self.cwd.mkdir()

    def search(self, run: str, *changes: str, cache: str = "cache", first: Callable[[], None] | None = None) -> Process:
        """A search in the run directory `run`; later settings win, so `changes` may say anything anew."""
        settings = {
            "model.path": str(self.model),
            "data.path": str(self.model / "text.txt"),
            "run_dir": str(self.run(run)),
            "budget.evaluations": str(EVALUATIONS),
        }
        settings |= dict(item.split("=", 1) for item in (*TINY_RUN, *changes))
        if settings.get("correction") == "none":
            del settings["correction.windows"]
        if settings["distillation"] == "default":
            del settings["distillation.rank"]
        overrides = [f"{name}={value}" for name, value in settings.items()]
        return start("run_search.py", *overrides, cwd=self.cwd, cache=self.directory / cache, first=first)

    def export(self, run: str, *settings: str, hub: Mapping[str, str] | None = None) -> Process:
        """An export, as the front has it unless the settings polish it; to a hub, as a person starts it."""
        polishes = any(setting.startswith(("polish.", "recover.")) for setting in settings)
        overrides = f"run_dir={self.run(run)}", *(() if polishes else ("polish.minutes=0",)), *settings
        first = None if hub else reloading_here
        return start("export_subnet.py", *overrides, cwd=self.cwd, cache=self.cache, first=first, hub=hub)

    def score(self, run: str, *settings: str) -> Process:
        return start("score_subnet.py", f"run_dir={self.run(run)}", *settings, cwd=self.cwd, cache=self.cache)

    def time(self, run: str, *settings: str) -> Process:
        return start("time_front.py", f"run_dir={self.run(run)}", *settings, cwd=self.cwd, cache=self.cache)

    def serve(self, run: str, *settings: str) -> Process:
        return start(
            "serve_subnets.py",
            f"run_dir={self.run(run)}",
            "port=0",
            *settings,
            cwd=self.cwd,
            cache=self.cache,
            read=True,
        )

    def run(self, name: str) -> Path:
        return self.directory / name

    def copy(self, run: str, name: str) -> Path:
        return shutil.copytree(self.run(run), self.run(name))


def on_another_device(run: Path) -> None:
    """As if a run's latencies had been measured on another machine."""
    table = json.loads((run / "latency.json").read_text())
    table["device"] |= {"threads": 64, "device": "Imaginary 9000"}
    (run / "latency.json").write_text(json.dumps(table))


def timed_as_tabled(run: Path) -> Path:
    """As if end-to-end timings had been the table's: those of so small a model are noise, and here all are faster."""
    front = read_front_csv(run / FRONT_FILE)
    write_front_csv(run / FRONT_FILE, front.assign(latency_e2e_ms=front["latency_ms"], latency_e2e_ms_spread=0.0))
    return run


def good(done: Done) -> Done:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done


def whole_lines(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


def archived(run: Path, fidelity: str = "search") -> list[Evaluation]:
    records = [json.loads(line) for line in whole_lines(run / "archive.jsonl")[1:]]
    return [Evaluation.from_json(record) for record in records if record["fidelity"] == fidelity]


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def two_at_a_time(jobs: dict[str, Callable[[], Process]]) -> dict[str, Done]:
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(jobs, pool.map(lambda job: ended(job()), jobs.values()), strict=True))


def wait_for(process: Process, reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 400
    while not reached():
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A Llama with a run, `run`, that was never disturbed."""
    place = Place(tmp_path_factory.mktemp("llama"), "llama")
    good(ended(place.search("run")))
    return place


@pytest.fixture(scope="session")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The same of the family that is least like a Llama."""
    place = Place(tmp_path_factory.mktemp("gemma"), "gemma3_text")
    good(ended(place.search("run", "budget.evaluations=30")))
    return place
