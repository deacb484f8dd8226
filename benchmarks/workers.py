"""Evaluations a minute with workers of Ray, and what a question costs the process that searches: where that saturates.

    python -m benchmarks.workers --run-dir RUN [--workers 1 2] [--threads 1] [--fidelity search] [--candidates 24]

RUN is a run of run_search.py. Its latest candidates are evaluated at a fidelity, by so many workers, each new and with
nothing remembered; the time begins when all have joined. Then workers that answer at once are asked, which leaves
what handing out and taking back cost, and an algorithm with its surrogate is played with to the end of the run's
tokens, which leaves what asking costs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from conf.sessions import run_session
from conf.settings import instantiated, stored_config
from entries.search import task_of, work_of
from evaluators.base import Evaluation, Evaluator
from evaluators.session import Session
from evaluators.window_sizes import window_sizes
from search.archive import Archive
from search.executor import RayExecutor, Work
from search.rehearsal import asking
from space.candidate import Candidate

DISPATCHED = 500  # questions to workers that answer at once


@dataclass(frozen=True)
class AtOnce:
    """A worker that answers at once."""

    def __call__(self, threads: int) -> AtOnce:
        return self

    def facts(self) -> Mapping[str, Any]:
        return {}

    def evaluate(self, fidelity: str, candidates: Sequence[Candidate]) -> list[Evaluation]:
        return [Evaluation(candidate, fidelity) for candidate in candidates]


def minutes(
    work: Work, asked: Evaluator, dense: Candidate, candidates: Sequence[Candidate], workers: int, threads: int
) -> float:
    """That workers take for candidates, once all have joined: each has answered about the dense model."""
    with RayExecutor(workers, threads).pool(work) as pool:
        spread, joined = pool.spread(asked), set[str]()
        while len(joined) < workers:
            joined |= {answer.worker for answer in spread.evaluate([dense])}
        begun = time.perf_counter()
        list(spread.evaluate(candidates))
        return (time.perf_counter() - begun) / 60


def asking_seconds(session: Session, config: Mapping[str, Any], tokens: int) -> tuple[int, float]:
    """Questions of a search to the end of so many tokens, and the seconds that it takes to ask and be told."""
    settings, task = session.settings, task_of(session, config["constraints"], config["seed"])
    sizes = window_sizes(settings.evaluators.fidelities, settings.text.length)
    looks = [settings.text.windows["search"] * size for size in sizes]
    healing = session.healer.settings.total if session.healer else 0
    looks += [looks[-1]] * len(session.trained)
    made = instantiated(config["search"]["algorithm"])
    played = asking(
        made, replace(task, tokens=tokens), ask=config["search"]["ask"], tokens=looks, training=healing, most=10**6
    )
    return played[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fidelity", help="the full one before training, where none is named")
    parser.add_argument("--candidates", type=int, default=24)
    given = parser.parse_args()
    session, config = run_session(given.run_dir), stored_config(given.run_dir)
    name = given.fidelity or session.fidelities.search[-1].fidelity
    asked = next(evaluator for evaluator in session.ladder if evaluator.fidelity == name)
    with Archive.reopen(given.run_dir / "archive.jsonl") as archive:
        asked_for = [e for e in archive.evaluations() if e.generation]
    tokens = sum(e.tokens for e in asked_for)
    candidates = [*dict.fromkeys(e.candidate for e in asked_for if e.status == "ok")][-given.candidates :]
    work, table = work_of(session), Table("workers", "evaluations a minute", "times")
    paces = [
        len(candidates) / minutes(work, asked, session.dense, candidates, count, given.threads)
        for count in given.workers
    ]
    for count, pace in zip(given.workers, paces, strict=True):
        table.add_row(str(count), f"{pace:.1f}", f"{pace / paces[0]:.2f}")
    instant = replace(work, worker=AtOnce(), facts={})
    many = [candidates[index % len(candidates)] for index in range(DISPATCHED)]
    with RayExecutor(1, given.threads).pool(instant) as pool:
        spread = pool.spread(asked)
        list(spread.evaluate(candidates[:1]))
        begun = time.perf_counter()
        for start in range(0, len(many), len(candidates)):
            list(spread.evaluate(many[start : start + len(candidates)]))
        dispatch = (time.perf_counter() - begun) / len(many)
    questions, seconds = asking_seconds(session, config, tokens)
    console, each = Console(), seconds / max(1, questions)
    console.print(table)
    console.print(
        f"asking: {1e3 * each:.0f} ms a question ({questions} questions, {seconds:.0f} s); handing out and taking "
        f"back: {1e3 * dispatch:.1f} ms; with answers of {60 * given.workers[0] / paces[0]:.2f} s the process that "
        f"searches is as busy as its workers at {60 * given.workers[0] / paces[0] / (each + dispatch):.0f} of them"
    )


if __name__ == "__main__":
    main()
