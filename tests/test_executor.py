"""Workers that Ray runs: equal answers in the order asked, whoever dies, and clusters that are not as they should."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from helpers_workers import FIDELITIES, Clock, Here, MadeUp, answer_of, candidate

from evaluators.base import Evaluation, Evaluator
from search.executor import LocalExecutor, Pool, RayExecutor, Work
from search.ray_pool import ENVIRONMENT
from space.errors import UserError

ASKED = [candidate(number) for number in range(12)]


@pytest.fixture(scope="module", autouse=True)
def found_by_workers() -> Iterator[None]:
    """The made-up workers are in this directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def cluster(found_by_workers: None) -> Iterator[Any]:
    """A node with six cores, as Ray simulates it, and whatever a test adds."""
    from ray.cluster_utils import Cluster

    one = Cluster(initialize_head=True, head_node_args={"num_cpus": 6, "include_dashboard": False})
    yield one
    one.shutdown()


def work(worker: MadeUp, **changes: Any) -> Work:
    return replace(Work(worker, {"device": "one"}), **changes)


def asked(pool: Pool, fidelity: str = "cheap") -> Evaluator:
    return pool.spread(Here(fidelity))


def runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def bare(answers: list[Evaluation]) -> list[Evaluation]:
    return [replace(answer, worker="", seconds=0.0) for answer in answers]


def test_this_process_evaluates_by_default(tmp_path: Path) -> None:
    here, executor = Here("cheap"), LocalExecutor()
    executor.check()
    with executor.pool(work(MadeUp(tmp_path))) as pool:
        assert pool.spread(here) is pool.alone(here) is here
    assert executor.identity == {}


@pytest.mark.parametrize(("workers", "together"), [(2, 1), (5, 4)])
def test_answers_are_equal_and_in_order_whatever_the_workers_and_whoever_dies(
    workers: int,
    together: int,
    cluster: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for number, times in ((1, 1), (6, 1), (7, 1), (11, 1)):
        (tmp_path / f"kill-{ASKED[number].key}").write_text(str(times))
    executor, here = RayExecutor(workers=workers, address=cluster.address), Here("cheap")
    with executor.pool(work(MadeUp(tmp_path), together=together)) as pool:
        cheap, dear = pool.spread(here), asked(pool, "dear")
        assert (cheap.fidelity, dear.fidelity, dear.metrics) == (*FIDELITIES, here.metrics)
        assert not list(tmp_path.glob("joined-*"))  # nothing starts before it is needed
        assert [*cheap.evaluate([])] == []
        answers = [*cheap.evaluate(ASKED)]
        half = dear.evaluate(ASKED[:6])
        first = next(half)
        half.close()  # as a search does whose budget is spent
        others = [*dear.evaluate(ASKED[3:])]
    assert bare(answers) == [answer_of("cheap", each) for each in ASKED]
    assert bare([first]) == [answer_of("dear", ASKED[0])]
    assert bare(others) == [answer_of("dear", each) for each in ASKED[3:]]
    assert all(answer.worker for answer in answers)
    assert here.prepared == ASKED
    assert len(list(tmp_path.glob("killed-*-1"))) == 4
    assert sum("died with" in record.message for record in caplog.records) >= 4
    assert capfd.readouterr().out == ""


def test_a_candidate_that_two_workers_died_of_has_failed_and_the_others_have_not(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / f"kill-{ASKED[2].key}").write_text("99")
    with RayExecutor(workers=2, address=cluster.address).pool(work(MadeUp(tmp_path), together=4)) as pool:
        answers = [*asked(pool).evaluate(ASKED)]
    assert answers[2].status == "failed"
    assert answers[2].error == "2 workers died as they evaluated it."
    others = [each for each in ASKED if each != ASKED[2]]
    assert bare(answers[:2] + answers[3:]) == [answer_of("cheap", each) for each in others]


def test_a_mistake_that_is_not_the_candidates_ends_the_search(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / f"refuse-{ASKED[3].key}").touch()
    with RayExecutor(workers=2, address=cluster.address).pool(work(MadeUp(tmp_path))) as pool:
        answers = asked(pool).evaluate(ASKED)
        with pytest.raises(UserError, match=r"^Mend me\.$"):
            list(answers)


def test_a_worker_that_would_give_other_numbers_is_not_taken(
    cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RayExecutor(workers=3, address=cluster.address).pool(work(MadeUp(tmp_path, odd=2))) as pool:
        answers = [*asked(pool).evaluate(ASKED)]
    assert bare(answers) == [answer_of("cheap", each) for each in ASKED]
    assert len({answer.worker for answer in answers}) == 1
    assert caplog.text.count("device: 'one' -> 'another'") == 2


def test_where_no_worker_can_join_it_is_said_why(cluster: Any, tmp_path: Path) -> None:
    with (
        RayExecutor(workers=2, address=cluster.address).pool(work(MadeUp(tmp_path, odd=9))) as pool,
        pytest.raises(UserError, match=r"none could join(.|\n)*device: 'one' -> 'another'(.|\n)*executor=local"),
    ):
        next(asked(pool).evaluate(ASKED))


def test_workers_agree_among_themselves(cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = work(MadeUp(tmp_path, seconds=0.5, odd=1), facts={})
    with RayExecutor(workers=2, address=cluster.address).pool(given) as pool:
        answers = [*asked(pool).evaluate(ASKED)]
    assert bare(answers) == [answer_of("cheap", each) for each in ASKED]
    assert len({answer.worker for answer in answers}) == 1
    assert "is not taken" in caplog.text


def test_what_is_timed_has_the_machine_alone_and_then_there_are_workers_again(cluster: Any, tmp_path: Path) -> None:
    wait, stick = (tmp_path / f"{name}-{each.key}" for name, each in zip(("wait", "stick"), ASKED, strict=False))
    wait.touch()
    stick.touch()
    with RayExecutor(workers=2, address=cluster.address).pool(work(MadeUp(tmp_path))) as pool:
        half = asked(pool).evaluate(ASKED)
        next(half)
        half.close()  # one worker is at work for nobody
        told = [*pool.alone(Clock("cheap")).evaluate(ASKED)]
        (stuck,) = tmp_path.glob("stuck-*")
        deadline = time.monotonic() + 60
        while runs(int(stuck.name.removeprefix("stuck-"))):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        stick.unlink()
        again = [*asked(pool).evaluate(ASKED)]
    assert told == bare(again) == [answer_of("cheap", each) for each in ASKED]


def test_workers_that_never_come_are_not_waited_for_for_ever(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.ray_pool.PATIENCE_S", 1.0)
    monkeypatch.setattr("search.ray_pool._TICK_S", 0.5)
    with (
        RayExecutor(workers=1, threads=64, address=cluster.address).pool(work(MadeUp(tmp_path))) as pool,
        pytest.raises(UserError, match=r"Each wants 64 CPU cores; the cluster has"),
    ):
        next(asked(pool).evaluate(ASKED))


def test_this_machine_alone_is_a_cluster_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with RayExecutor(workers=2).pool(work(MadeUp(tmp_path))) as pool:
        answers = [*asked(pool).evaluate(ASKED)]
    assert bare(answers) == [answer_of("cheap", each) for each in ASKED]
    assert caplog.text == ""


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_no_cluster_is_one_sentence(address: str, tmp_path: Path) -> None:
    with (
        RayExecutor(address=address).pool(work(MadeUp(tmp_path))) as pool,
        pytest.raises(UserError, match=f"expected a Ray cluster at {address}"),
    ):
        next(asked(pool).evaluate(ASKED))


@pytest.mark.parametrize("setting", ["workers", "threads"])
def test_settings_are_refused_in_their_words(setting: str) -> None:
    with pytest.raises(UserError, match=rf"executor\.{setting}: expected at least 1, got 0"):
        RayExecutor(**{setting: 0})


def test_without_ray_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("search.executor.version", version)
    with pytest.raises(UserError, match=r"pip install 'paretoprune\[ray\]'"):
        RayExecutor().check()


def test_a_search_goes_on_when_a_node_is_lost_for_good(found_by_workers: None, tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    own = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
    try:
        other = own.add_node(num_cpus=4)
        executor = RayExecutor(workers=2, threads=4, address=own.address)  # one on each node
        with executor.pool(work(MadeUp(tmp_path, seconds=0.3))) as pool:
            joined = set[str]()
            while len(joined) < 2:
                joined |= {answer.worker for answer in asked(pool).evaluate(ASKED[:1])}
            answers = asked(pool).evaluate(ASKED)
            told = [next(answers)]
            own.remove_node(other, allow_graceful=False)
            told += answers
        assert bare(told) == [answer_of("cheap", each) for each in ASKED]
    finally:
        own.shutdown()
