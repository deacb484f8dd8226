"""What a worker opens of a run: equal answers, what it says of itself, and machines that lack something."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_commands import Place, archived, good
from helpers_run import ended

from conf.settings import session_settings, stored_config
from evaluators.actor import EvaluatorActor
from evaluators.closing import Closing
from evaluators.paths import Paths
from evaluators.session import Session
from search.archive import Archive
from search.run.directory import REPORT_FILE
from space.errors import UserError

SHORT = ("budget.evaluations=6", "search.algorithm.starts=4")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("workers"), "llama")


@pytest.fixture(scope="module")
def run(place: Place) -> Path:
    """A run that has searched."""
    good(ended(place.search("run", *SHORT)))
    return place.run("run")


@pytest.fixture(autouse=True)
def put_back(monkeypatch: pytest.MonkeyPatch, run: Path) -> Iterator[None]:
    """The working directory and the threads, which are a worker's own."""
    monkeypatch.chdir(Path.cwd())
    monkeypatch.setenv("PARETOPRUNE_CACHE", str(run.parent / "cache"))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def actor(run: Path, **changes: Any) -> EvaluatorActor:
    settings = session_settings(stored_config(run))
    given: dict[str, Any] = {"settings": settings, "run_dir": run, "home": run.parent} | changes
    return EvaluatorActor(**given, about=lambda: {"package": "1"}, threads=1)


def test_it_answers_as_the_run_has_it(run: Path) -> None:
    worker, session = actor(run), Session.open(session_settings(stored_config(run)), Paths(run))
    assert Path.cwd() == run.parent
    assert torch.get_num_threads() == 1
    facts = worker.facts()
    assert {key: facts[key] for key in session.identity()} == session.identity()
    assert facts["package"] == "1"
    assert facts["dense"]["kl"] == pytest.approx(0, abs=1e-6)
    with Archive.reopen(run / "archive.jsonl") as archive:
        fidelities = session.fidelities
        assert fidelities.tuned is not None
        for evaluator in (*session.ladder, fidelities.heldout, fidelities.tuned, *Closing.of(session).evaluators):
            expected = [e for e in archive.evaluations(evaluator.fidelity) if e.status == "ok"]
            assert expected
            found = worker.evaluate(evaluator.fidelity, [e.candidate for e in expected])
            assert [e.candidate for e in found] == [e.candidate for e in expected]
            assert [e.values for e in found] == [e.values for e in expected]


def test_it_needs_no_clock_like_the_tables(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*given: Any) -> None:
        raise AssertionError("nothing is timed here")

    monkeypatch.setattr("evaluators.session.LatencyBench", refused)
    assert actor(run).facts()["latency"]


@pytest.mark.parametrize("lacking", ["run_dir", "home"])
def test_a_node_without_the_directory_says_so(lacking: str, run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Expected .*elsewhere here too, with all that is in it"):
        actor(run, **{lacking: tmp_path / "elsewhere"})


def test_a_node_without_the_model_says_so(run: Path, tmp_path: Path) -> None:
    settings = session_settings(stored_config(run))
    settings = replace(settings, model=replace(settings.model, path=str(tmp_path / "no-model")))
    with pytest.raises(UserError, match="no-model"):
        actor(run, settings=settings).facts()


def test_a_run_whose_supernet_is_not_here_is_not_calibrated_anew(run: Path, tmp_path: Path) -> None:
    half = shutil.copytree(run, tmp_path / "half", ignore=shutil.ignore_patterns("supernet"))
    with pytest.raises(UserError, match=r"Expected .*half here too, with all that is in it"):
        actor(half)


def test_a_run_with_workers_has_the_archive_of_one_without(place: Place, run: Path) -> None:
    other = place.run("by workers")
    other.mkdir()
    shutil.copy(run / "latency.json", other)
    good(ended(place.search("by workers", *SHORT, "executor=ray", "executor.workers=2")))
    for fidelity in ("search-8", "search", "heldout", "tuned"):
        found, expected = archived(other, fidelity), archived(run, fidelity)
        assert found
        assert [replace(e, seconds=0.0, worker="") for e in found] == [replace(e, seconds=0.0) for e in expected]
    names = {e.worker for fidelity in ("search", "heldout", "tuned") for e in archived(other, fidelity)}
    assert names
    assert "" not in names
    assert {e.worker for e in archived(other, "timed")} == {""}
    report = (other / REPORT_FILE).read_text(encoding="utf-8")
    assert all(name in report for name in names)
    refused = ended(place.search("by workers", *SHORT))
    assert refused.returncode == 1
    assert "executor._target_: 'search.executor.RayExecutor' -> 'search.executor.LocalExecutor'" in refused.stderr
