"""What another process evaluates with: a session of its own, opened from the run's directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from evaluators.base import Evaluation, Evaluator
from evaluators.closing import Closing
from evaluators.paths import Paths
from evaluators.session import Session
from evaluators.settings import Settings
from space.candidate import Candidate
from space.errors import UserError
from space.supernet.store import is_prepared


class EvaluatorActor:
    """Evaluates candidates of a run that another process searches; see `search.executor.Worker`.

    The run's directory has to be the same on all machines, and to hold the prepared supernet and the latency table.
    """

    def __init__(
        self, settings: Settings, run_dir: Path, home: Path, about: Callable[[], Mapping[str, Any]], threads: int
    ) -> None:
        """Opens the session.

        Args:
            settings: Of the run's session.
            run_dir: The run's directory, absolute.
            home: Where relative paths of the settings begin.
            about: What there is to know of this process besides, such as versions of packages.
            threads: CPU threads.

        Raises:
            UserError: A directory is not there, or the model or the text.
        """
        paths = Paths(run_dir)
        for place, is_there in ((home, home.is_dir()), (run_dir, is_prepared(paths.supernet))):
            if not is_there:
                raise UserError(
                    f"Expected {place} here too, with all that is in it, as a file system that all nodes share has it."
                )
        os.chdir(home)
        torch.set_num_threads(threads)
        model, latency = settings.model, settings.latency
        if model.device.startswith("cuda"):
            model = replace(model, device="cuda")  # the one that this process was given
        # the table is read, not checked against this process's own clock: nothing is timed here
        latency = replace(latency, table=latency.table or str(paths.latency))
        self._session = Session.open(replace(settings, model=model, latency=latency), paths)
        self._about = about

    def facts(self) -> dict[str, Any]:
        """What the numbers of the answers depend on, with the dense model's own answer as the proof.

        Raises:
            UserError: See `Session`.
        """
        answer = self.evaluate(self._session.ladder[0].fidelity, [self._session.dense])[0]
        return {**self._session.identity(), **self._about(), "dense": dict(answer.values) or answer.error}

    def evaluate(self, fidelity: str, candidates: Sequence[Candidate]) -> list[Evaluation]:
        """See `search.executor.Worker`."""
        evaluator = next((each for each in self._session.ladder if each.fidelity == fidelity), None)
        if evaluator is None:
            self._session.fidelities.forget()  # the search has ended
            evaluator = self._last[fidelity]
        return list(evaluator.evaluate(candidates))

    @cached_property
    def _last(self) -> dict[str, Evaluator]:
        """What is asked at the end of a run, by name."""
        session, all_ = self._session, self._session.fidelities
        asked = [all_.heldout, all_.tuned, session.healed, *Closing.of(session).evaluators, *session.task_evaluators()]
        return {each.fidelity: each for each in asked if each is not None}
