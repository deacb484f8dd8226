"""Made-up workers for Ray: what they do is in a directory, where they also leave notes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.base import Evaluation
from evaluators.metrics import metrics_named
from space.candidate import Candidate
from space.errors import UserError

FIDELITIES = ("cheap", "dear")
METRICS = tuple(metrics_named("kl", "params"))


def candidate(number: int) -> Candidate:
    return Candidate.from_rows([(2, 1, 16 * (number + 1)), (2, 1, 16)])


def answer_of(fidelity: str, candidate: Candidate) -> Evaluation:
    channels = candidate.layers[0].mlp_channels
    values = {"kl": (1 + FIDELITIES.index(fidelity)) / channels, "params": float(channels)}
    return Evaluation(candidate, fidelity, values=values, tokens=8)


@dataclass(frozen=True)
class MadeUp:
    """A worker, and what makes it.

    In its directory `kill-KEY` has so many workers die of that candidate, `stick-KEY` has one never come to an end with
    it, who leaves `stuck-PROCESS`, and `wait-KEY` has one wait for that.
    """

    directory: Path
    seconds: float = 0.0
    facts_of: tuple[tuple[str, str], ...] = (("device", "one"),)
    odd: int = 0  # so many, the first ones, are of another kind

    def __call__(self, threads: int) -> MadeUp:
        return self

    def facts(self) -> Mapping[str, Any]:
        taken = self._count("joined")
        return dict(self.facts_of) | ({"device": "another"} if taken <= self.odd else {})

    def evaluate(self, fidelity: str, candidates: Sequence[Candidate]) -> list[Evaluation]:
        answers = []
        for each in candidates:
            time.sleep(self.seconds)
            mark = self.directory / f"kill-{each.key}"
            if mark.exists() and self._count(f"killed-{each.key}") <= int(mark.read_text()):
                os._exit(1)
            if (self.directory / f"stick-{each.key}").exists():
                (self.directory / f"stuck-{os.getpid()}").touch()
                time.sleep(3600)
            while (self.directory / f"wait-{each.key}").exists() and not any(self.directory.glob("stuck-*")):
                time.sleep(0.05)
            if (self.directory / f"refuse-{each.key}").exists():
                raise UserError("Mend me.")
            answers.append(answer_of(fidelity, each))
            self._count("answered")
        return answers

    def _count(self, name: str) -> int:
        """How many times this was called with a name, over all processes."""
        number = 1
        while True:
            try:
                (self.directory / f"{name}-{number}").touch(exist_ok=False)
                return number
            except FileExistsError:
                number += 1


class Here:
    """One of this process's evaluators, which is for workers to ask."""

    metrics = METRICS

    def __init__(self, fidelity: str) -> None:
        self.fidelity = fidelity
        self.prepared: list[Candidate] = []

    def prepare(self, candidates: Sequence[Candidate]) -> None:
        self.prepared += candidates

    def evaluate(self, candidates: Sequence[Candidate]) -> Any:
        raise AssertionError("it is for workers to evaluate")


class Clock(Here):
    """One of this process's evaluators, which no worker is asked for."""

    def evaluate(self, candidates: Sequence[Candidate]) -> Any:
        return (answer_of(self.fidelity, each) for each in candidates)
