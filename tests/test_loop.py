"""The loop: budgets, failures, progress, and a killed run that ends like one never killed.

Run as a script, this file is such a run: `python tests/test_loop.py <archive>`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from helpers_toy import toy_spec
from threadpoolctl import threadpool_info, threadpool_limits

from evaluators.base import Evaluation, Measure, MeasureEvaluator, Metric
from evaluators.metrics import metric_named
from search.algorithms import NSGA2
from search.archive import Archive
from search.loop import Budget, SearchProgress, run_loop
from search.protocol import Question, Task
from space.candidate import Candidate
from space.errors import UserError
from space.space import SearchSpace

SPEC = toy_spec(layers=6)
OBJECTIVES = (Metric("error", "", "min", "quality"), Metric("size", "", "min", "cost", free=True))
SETTINGS = {"model": "toy"}
TOKENS = 100
BUDGET = Budget(evaluations=90)
BATCH = 8


def toy_values(candidate: Candidate) -> dict[str, float]:
    """Raises for every ninth candidate or so, always the same ones."""
    if int(candidate.key[1:], 16) % 9 == 0:
        raise RuntimeError("does not fit")
    lost = [
        (1 - s.query_heads / 4) ** 2 / (1 + i) + (1 - s.mlp_channels / 16) ** 2 for i, s in enumerate(candidate.layers)
    ]
    return {"error": sum(lost), "size": float(sum(s.query_heads + s.mlp_channels for s in candidate.layers))}


@dataclass
class CountingEvaluator:
    """`MeasureEvaluator` on the toy values that remembers what it was asked."""

    values: Callable[[Candidate], dict[str, float]] = toy_values
    asked: list[str] = field(default_factory=list)
    fidelity: str = "search"
    metrics: tuple[Metric, ...] = OBJECTIVES

    groups: list[list[str]] = field(default_factory=list)  # who was asked about together

    def evaluate(self, candidates: Sequence[Candidate]) -> Iterator[Evaluation]:
        self.groups.append([candidate.key for candidate in candidates])
        for candidate in candidates:
            self.asked.append(candidate.key)
            yield from MeasureEvaluator(self.fidelity, [Measure(OBJECTIVES, self.values, TOKENS)]).evaluate([candidate])


def search(
    path: Path,
    evaluator: CountingEvaluator,
    budget: Budget = BUDGET,
    on_progress: Callable[[SearchProgress], None] = lambda progress: None,
) -> list[Evaluation]:
    """A run with everything made anew; the archive's evaluations without their timings."""
    space = SearchSpace(SPEC, mlp_step=4)
    algorithm = NSGA2(Task(space, OBJECTIVES, 5, starts=[Candidate.dense(SPEC)]), population=16)
    with Archive(path, SETTINGS) as archive:
        run_loop(algorithm, [evaluator], archive, OBJECTIVES, budget, ask=BATCH, on_progress=on_progress)
        return [replace(e, seconds=0.0) for e in archive.evaluations()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> list[Evaluation]:
    return search(tmp_path_factory.mktemp("undisturbed") / "archive.jsonl", CountingEvaluator())


def front(path: Path) -> list[str]:
    with Archive(path, SETTINGS) as archive:
        return [e.candidate.key for e in archive.front(OBJECTIVES, "search")]


def test_a_run_killed_for_real_ends_like_one_never_killed(tmp_path, undisturbed):
    path = tmp_path / "archive.jsonl"
    command = [sys.executable, __file__, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    for lines in (20, 50):
        process = subprocess.Popen(command, env=environment)
        deadline = time.monotonic() + 60
        while not path.exists() or path.read_bytes().count(b"\n") < lines:
            assert process.poll() is None, "the run ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
        process.wait()
        with path.open("ab") as file:
            file.write(b'{"key": "s12')  # what a kill in the middle of a write leaves
    killed = path.read_bytes().count(b"\n") - 1
    assert 49 <= killed < 90
    evaluator = CountingEvaluator()
    assert search(path, evaluator) == undisturbed
    assert len(evaluator.asked) == 90 - killed
    fresh = tmp_path / "fresh.jsonl"
    search(fresh, CountingEvaluator())
    assert front(path) == front(fresh)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 33, 89, 90])
def test_an_archive_of_any_length_is_completed_to_the_same_one(tmp_path, undisturbed, kept):
    path = tmp_path / "archive.jsonl"
    with Archive(path, SETTINGS) as archive:
        for e in undisturbed[:kept]:
            archive.add(e)
    evaluator = CountingEvaluator()
    assert search(path, evaluator) == undisturbed
    assert len(evaluator.asked) == 90 - kept


def test_an_algorithm_reckons_in_one_thread_wherever_it_runs(tmp_path, monkeypatch):
    """Sums in another order have other last bits, and a fit may make another question of them."""
    threads = set()

    def ask(self, count):
        threads.update(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")
        return original(self, count)

    original = NSGA2.ask
    monkeypatch.setattr(NSGA2, "ask", ask)
    with threadpool_limits(2, "blas"):
        search(tmp_path / "archive.jsonl", CountingEvaluator(), Budget(evaluations=10))
        assert {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"} == {2}
    assert threads == {1}


def test_an_interrupt_loses_only_the_evaluation_in_flight(tmp_path, undisturbed):
    path = tmp_path / "archive.jsonl"
    evaluator = CountingEvaluator()

    def interrupted(candidate: Candidate) -> dict[str, float]:
        if len(evaluator.asked) == 31:
            raise KeyboardInterrupt
        return toy_values(candidate)

    evaluator.values = interrupted
    with pytest.raises(KeyboardInterrupt):
        search(path, evaluator)
    with Archive(path, SETTINGS) as archive:
        assert len(archive) == 30
    assert search(path, CountingEvaluator()) == undisturbed


def test_a_larger_budget_goes_on_where_the_smaller_one_ended(tmp_path, undisturbed):
    path = tmp_path / "archive.jsonl"
    assert search(path, CountingEvaluator(), Budget(evaluations=37)) == undisturbed[:37]
    assert search(path, CountingEvaluator()) == undisturbed


def test_the_token_budget_ends_the_run_replayed_or_not(tmp_path, undisturbed):
    path = tmp_path / "archive.jsonl"
    budget = Budget(evaluations=90, tokens=25 * TOKENS - 1)
    evaluator = CountingEvaluator()
    told = search(path, evaluator, budget)
    assert sum(e.tokens for e in told) >= budget.tokens > sum(e.tokens for e in told[:-1])
    assert told == undisturbed[: len(told)]
    again = CountingEvaluator()
    assert search(path, again, budget) == told
    assert again.asked == []


def test_a_batch_is_asked_together_as_far_as_the_archive_lacks_it(tmp_path, undisturbed):
    path = tmp_path / "archive.jsonl"
    with Archive(path, SETTINGS) as archive:
        for place in (*range(BATCH), BATCH + 2):
            archive.add(undisturbed[place])
    evaluator = CountingEvaluator()
    told = search(path, evaluator, Budget(evaluations=2 * BATCH + 3))
    keys = [e.candidate.key for e in undisturbed]
    second = [key for place, key in enumerate(keys[BATCH : 2 * BATCH]) if place != 2]
    assert [group for group in evaluator.groups if group] == [second, keys[2 * BATCH : 3 * BATCH]]
    assert evaluator.asked == [*second, *keys[2 * BATCH : 2 * BATCH + 3]]  # nothing beyond the budget is computed
    assert {e.candidate.key: e.generation for e in told} == {
        key: place // BATCH + 1 for place, key in enumerate(keys[: 2 * BATCH + 3])
    }


def test_failures_are_stored_and_the_search_goes_on(undisturbed):
    failed = [e for e in undisturbed if e.status == "failed"]
    assert 0 < len(failed) < 45
    assert {e.error for e in failed} == {"RuntimeError: does not fit"}
    assert all(not e.values for e in failed)


def test_mostly_failing_evaluations_stop_the_search_with_the_last_message(tmp_path):
    def values(candidate: Candidate) -> dict[str, float]:
        raise OSError("no such device")

    evaluator = CountingEvaluator(values)
    with pytest.raises(UserError, match=r"20 of 20 failed.*OSError: no such device.*new run_dir"):
        search(tmp_path / "archive.jsonl", evaluator)
    assert len(evaluator.asked) == 20


def test_a_space_that_is_exhausted_ends_the_search(tmp_path):
    space = SearchSpace(SPEC, attention_widths=False, mlp_widths=False, whole_layers=True, freeze_layers=range(4))
    evaluator = CountingEvaluator(lambda candidate: {"error": 1.0, "size": 1.0})
    with Archive(tmp_path / "archive.jsonl", SETTINGS) as archive:
        run_loop(NSGA2(Task(space, OBJECTIVES, 0), population=4), [evaluator], archive, OBJECTIVES, BUDGET, ask=4)
        assert len(archive) == 4


def test_progress_counts_what_happened(tmp_path, undisturbed):
    path = tmp_path / "archive.jsonl"
    search(path, CountingEvaluator(), Budget(evaluations=30))
    seen: list[SearchProgress] = []
    search(path, CountingEvaluator(), on_progress=seen.append)
    assert [p.done for p in seen] == list(range(1, 91))
    assert [p.generation for p in seen] == [i // BATCH + 1 for i in range(90)]
    assert [p.done for p in seen if p.generation_done] == [*range(BATCH, 90, BATCH), 90]
    last = seen[-1]
    assert last.replayed == 30
    assert last.failed == sum(e.status == "failed" for e in undisturbed)
    assert last.tokens == sum(e.tokens for e in undisturbed)
    assert last.fraction == 1.0
    ok = [e for e in undisturbed if e.status == "ok"]
    for name in ("error", "size"):
        assert min(e.values[name] for e in last.front) == min(e.values[name] for e in ok)
    volumes = [p.hypervolume for p in seen]
    assert volumes[: BATCH - 1] == [None] * (BATCH - 1)
    assert volumes[BATCH - 1 :] == sorted(volumes[BATCH - 1 :])
    assert volumes[-1] > volumes[BATCH - 1] > 0


def test_what_cannot_work_is_refused_before_anything_is_evaluated(tmp_path):
    with pytest.raises(UserError, match="evaluations of at least 1"):
        Budget(evaluations=0)
    with pytest.raises(UserError, match="tokens of at least 1"):
        Budget(evaluations=1, tokens=0)
    space = SearchSpace(SPEC, mlp_step=4)
    evaluator = CountingEvaluator()
    objectives = (*OBJECTIVES, metric_named("latency_ms"))
    with Archive(tmp_path / "archive.jsonl", SETTINGS) as archive:
        with pytest.raises(UserError, match=r"objectives among .*latency_ms"):
            run_loop(NSGA2(Task(space, objectives, 0)), [evaluator], archive, objectives, BUDGET, ask=8)
        with pytest.raises(UserError, match=r"search\.ask: expected at least 1"):
            run_loop(NSGA2(Task(space, OBJECTIVES, 0)), [evaluator], archive, OBJECTIVES, BUDGET, ask=0)
    assert evaluator.asked == []


def slow_values(candidate: Candidate) -> dict[str, float]:
    time.sleep(0.02)
    return toy_values(candidate)


if __name__ == "__main__":
    print(json.dumps([e.candidate.key for e in search(Path(sys.argv[1]), CountingEvaluator(slow_values))]))


class Climber:
    """Asks each design cheaply, then the better half of them fully, with what it expects of them."""

    remark = "climbing"

    def __init__(self, space: SearchSpace) -> None:
        self._designs = [Candidate.dense(SPEC), *space.uniform_ladder(), *space.depth_ladder(range(6))]
        self._next: list[Question] = []

    def ask(self, n: int) -> list[Question]:
        if self._next:
            asked, self._next = self._next, []
            return asked
        taken, self._designs = self._designs[:n], self._designs[n:]
        return [Question(candidate, fidelity=0) for candidate in taken]

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        if all(e.fidelity == "cheap" for e in evaluations):
            ok = sorted((e for e in evaluations if e.status == "ok"), key=lambda e: e.values["error"])
            self._next = [Question(e.candidate, predicted=e.values) for e in ok[: len(ok) // 2]]


def climb(path: Path, budget: Budget) -> tuple[list[SearchProgress], list[Evaluation]]:
    cheap = MeasureEvaluator("cheap", [Measure(OBJECTIVES, lambda c: {**toy_values(c), "error": 0.0}, 10)])
    seen: list[SearchProgress] = []
    with Archive(path, SETTINGS) as archive:
        climber = Climber(SearchSpace(SPEC, mlp_step=4))
        run_loop(climber, [cheap, CountingEvaluator()], archive, OBJECTIVES, budget, ask=BATCH, on_progress=seen.append)
        return seen, [replace(e, seconds=0.0) for e in archive.evaluations()]


def test_fidelities_are_never_mixed_and_predictions_are_kept(tmp_path):
    seen, made = climb(tmp_path / "archive.jsonl", Budget(evaluations=5))
    cheap, full = ([e for e in made if e.fidelity == name] for name in ("cheap", "search"))
    last = seen[-1]
    assert last.counts == {"cheap": len(cheap), "search": len(full)}
    assert last.latest.candidate == made[-1].candidate
    assert last.done == 5
    assert last.tokens == sum(e.tokens for e in made)
    assert last.remark == "climbing"
    assert [e.predicted["error"] for e in full] == [0.0] * 5
    assert {e.fidelity for e in last.front} == {"search"}  # the cheap ones say that all errors are 0
    assert seen[0].hypervolume is None
    assert last.hypervolume > 0
    again, replayed = climb(tmp_path / "archive.jsonl", Budget(evaluations=5))
    assert replayed == made
    assert again[-1].hypervolume == last.hypervolume


def test_a_search_that_no_longer_gains_ends(tmp_path):
    seen, _ = climb(tmp_path / "all.jsonl", Budget(evaluations=1000, patience=1, progress=10.0))
    assert seen[-1].generation == 4  # cheap, full, cheap, full: the second full batch gained too little
    assert climb(tmp_path / "more.jsonl", Budget(evaluations=1000))[0][-1].generation > 4
    assert Budget(tokens=10, patience=2, progress=0.1).stagnant([1.0, 5.0, 5.2, 5.4])
    assert not Budget(tokens=10, patience=2, progress=0.1).stagnant([1.0, 5.0, 5.2, 5.6])
    assert not Budget(tokens=10).stagnant([5.0] * 100)
    with pytest.raises(UserError, match="expected minutes, evaluations or tokens"):
        Budget()
