"""Workers that Ray runs: they join, are handed candidates, die and are replaced; answers come in the order asked.

All that is known of Ray is here. A worker joins when it has shown that it would answer as the others do: it says what
its numbers depend on, and what the dense model scores with it. What a worker had when it died is asked again, of
another one; a candidate that was alone with two workers as they died has failed.
"""

from __future__ import annotations

import logging
import os
import platform
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluators.base import Evaluation
from search.differences import differences
from search.executor import Worker
from search.round import Part, Round
from space.candidate import Candidate
from space.errors import UserError

PATIENCE_S = 600.0  # without any worker, after which a search gives up
LOST_IN_A_ROW = 3  # times the workers: so many that died or were refused without an answer in between end a search
ENVIRONMENT = {  # of Ray, which reads it when it is imported
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anyone
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a worker without a GPU sees none
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # what became of workers is said here, and by nobody else on standard output
}
_TICK_S = 5.0
_SHOWN_LINES = 3  # of what a worker that was refused said
_log = logging.getLogger(__name__)


class _Host:
    """What runs in a process of Ray's: a worker, and what it cannot do in a sentence, as errors do not travel well."""

    def __init__(self, make: Callable[[int], Worker], threads: int) -> None:
        self._make, self._threads = make, threads

    def join(self) -> tuple[str, Mapping[str, Any], str]:
        """Where this is, and the facts, or why there are none."""
        where = f"{platform.node()}, process {os.getpid()}"
        try:
            self._worker = self._make(self._threads)
            return where, self._worker.facts(), ""
        except UserError as error:
            return where, {}, str(error)

    def evaluate(self, fidelity: str, candidates: Sequence[Candidate]) -> tuple[list[Evaluation], str]:
        """The answers, or why there are none."""
        try:
            return self._worker.evaluate(fidelity, candidates), ""
        except UserError as error:
            return [], str(error)


@dataclass
class _Member:
    """A process, from when it was asked for until it is gone."""

    number: int
    actor: Any
    where: str = "not started yet"

    @property
    def name(self) -> str:
        return f"{self.number} ({self.where})"


@dataclass(frozen=True)
class _Handed:
    """What a process has at the moment: its join, without a part, or a part of one round."""

    member: _Member
    part: Part = ()
    round: Round | None = None


class RayPool:
    """Workers, from the first question on."""

    def __init__(
        self,
        worker: Callable[[int], Worker],
        facts: Mapping[str, Any],
        workers: int | None,
        threads: int,
        address: str | None,
        *,
        gpu: bool,
    ) -> None:
        """Starts nothing yet; the arguments are those of `search.executor.Work` and `search.executor.RayExecutor`."""
        self._make, self._expected = worker, dict(facts)
        self._workers, self._threads, self._address, self._gpu = workers, threads, address, gpu
        self._ray: Any = None
        self._members = 0  # that were ever asked for
        self._idle: deque[_Member] = deque()
        self._at_work: dict[Any, _Handed] = {}
        self._reference: Mapping[str, Any] | None = None
        self._round: Round | None = None
        self._lost = self._refused = 0
        self._waits_since = 0.0

    def ask(self, fidelity: str, parts: Sequence[Sequence[Candidate]]) -> Iterator[Evaluation]:
        """Evaluations of all candidates of all parts, in order, each as it is there.

        Args:
            fidelity: The evaluator's name.
            parts: Candidates that are evaluated together.

        Raises:
            UserError: There is no cluster, or no worker joins, or one is told of a mistake that is not a candidate's.
        """
        if self._ray is None:
            self._start()
        for _ in range(self._count() - self._refused - len(self._idle) - len(self._at_work)):
            self._add()
        asked = self._round = Round(fidelity, parts)
        self._waits_since = time.monotonic()
        for candidate in [candidate for part in parts for candidate in part]:
            while candidate not in asked.answers:
                while asked.waiting and self._idle:
                    self._hand(self._idle.popleft(), asked.waiting.popleft(), asked)
                self._take()
            yield asked.answers.pop(candidate)

    def rest(self) -> None:
        """Leaves no worker at work: one that joins, or has what nobody waits for any more, is ended.

        The next question starts as many again.
        """
        for handed in self._at_work.values():
            self._ray.kill(handed.member.actor)
        self._at_work = {}

    def close(self) -> None:
        """Ends the workers, and Ray where it was started here."""
        if self._ray is None:
            return
        self.rest()
        for member in self._idle:
            self._ray.kill(member.actor)
        self._idle.clear()
        self._ray.shutdown()
        self._ray = None

    def _start(self) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import ray

        self._require_cluster()
        own = {} if self._address else {"num_cpus": max(os.cpu_count() or 1, self._threads * (self._workers or 1))}
        try:
            ray.init(
                address=self._address or "local",
                include_dashboard=None if self._address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **own,
            )
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise self._no_cluster(error) from error
        self._ray = ray

    def _require_cluster(self) -> None:
        """Refuses an address where nobody answers, for which Ray waits for minutes."""
        host, _, port = (self._address or "").removeprefix("ray://").rpartition(":")
        if host and port.isdigit():
            try:
                socket.create_connection((host, int(port)), timeout=_TICK_S).close()
            except OSError as error:
                raise self._no_cluster(error) from error

    def _no_cluster(self, error: Exception) -> UserError:
        return UserError(
            f"executor.address: expected a Ray cluster at {self._address or 'this machine'}, got: {error}. Start one "
            "with ray start --head, set RAY_AUTH_MODE=token where it wants one, or set executor.address=null for this "
            "machine alone."
        )

    def _count(self) -> int:
        if self._workers is not None:
            return self._workers
        has = self._ray.cluster_resources()
        count = has.get("GPU", 0) if self._gpu else has.get("CPU", 0) // self._threads
        self._workers = max(1, int(count))
        return self._workers

    def _add(self) -> None:
        """Asks for one more process."""
        self._members += 1
        host = self._ray.remote(num_cpus=self._threads, num_gpus=int(self._gpu), max_restarts=0)(_Host)
        member = _Member(self._members, host.remote(self._make, self._threads))
        self._at_work[member.actor.join.remote()] = _Handed(member)

    def _hand(self, member: _Member, part: Part, asked: Round) -> None:
        self._at_work[member.actor.evaluate.remote(asked.fidelity, part)] = _Handed(member, part, asked)

    def _take(self) -> None:
        """Waits until something has happened, or for a while, and takes it in."""
        done, _ = self._ray.wait([*self._at_work], num_returns=1, timeout=_TICK_S)
        for each in done:
            handed = self._at_work.pop(each)
            asked = handed.round
            try:
                result = self._ray.get(each)
            except self._ray.exceptions.RayTaskError as error:
                raise error.as_instanceof_cause() from None  # a mistake in this program
            except self._ray.exceptions.RayError as error:
                self._lose(handed, error)
                if asked is not None:
                    asked.lose(handed.part, handed.member.name)
                continue
            if asked is None:
                self._join(handed.member, *result)
                continue
            self._idle.append(handed.member)
            self._lost = 0
            found, mistake = result
            if mistake and asked is self._round:  # else nobody waits for it any more
                raise UserError(mistake)
            asked.answer(found, handed.member.name)
        self._look_around()

    def _join(self, member: _Member, where: str, facts: Mapping[str, Any], refusal: str) -> None:
        """Takes a process in, or says why not."""
        member.where = where
        if not refusal:
            wrong = differences(self._expected, {key: facts.get(key) for key in self._expected})
            if not wrong and self._reference is not None:
                wrong = differences(self._reference, facts)
            refusal = "\n".join(["It would give other numbers (here -> there):", *wrong]) if wrong else ""
        if not refusal:
            self._reference = self._reference or facts
            self._idle.append(member)
            return
        self._ray.kill(member.actor)
        self._lost, self._refused = self._lost + 1, self._refused + 1
        text = "\n  ".join(refusal.splitlines()[: 1 + _SHOWN_LINES])
        _log.warning("worker %s is not taken: %s", member.name, text)
        if not self._idle and not self._at_work:
            raise UserError(
                f"executor=ray: expected workers that answer as this process does, but none could join. The last one, "
                f"{member.name}: {text}\nMend the nodes and run again with the same run_dir, or set executor=local."
            )

    def _lose(self, handed: _Handed, error: Exception) -> None:
        """Takes note of a process that has died, and asks for another."""
        self._lost += 1
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        had = f" with {', '.join(candidate.key for candidate in handed.part)}" if handed.part else ""
        _log.warning("worker %s died%s: %s", handed.member.name, had, reason)
        if self._lost >= LOST_IN_A_ROW * (self._workers or 1):
            raise UserError(
                f"executor=ray: {self._lost} workers died or were refused one after the other without an answer; the "
                f"last one: {reason}\nGive them the packages that this process has, or more memory by fewer "
                "executor.workers, and run again with the same run_dir."
            )
        self._ray.kill(handed.member.actor)  # nothing, where it is dead; else it lives on a node that is not heard of
        self._add()

    def _look_around(self) -> None:
        """Gives up where there has been no worker for too long."""
        if self._idle or any(handed.part for handed in self._at_work.values()):
            self._waits_since = time.monotonic()
        elif time.monotonic() - self._waits_since > PATIENCE_S:
            has, free = self._ray.cluster_resources(), self._ray.available_resources()
            raise UserError(
                f"executor=ray: expected a worker within {PATIENCE_S / 60:g} minutes, but none came. Each wants "
                f"{self._threads} CPU cores{' and a GPU' * self._gpu}; the cluster has {has.get('CPU', 0):g} cores "
                f"({free.get('CPU', 0):g} free) and {has.get('GPU', 0):g} GPUs ({free.get('GPU', 0):g} free). Add "
                "nodes, or lower executor.threads, then run again with the same run_dir."
            )
