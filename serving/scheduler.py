"""All points in turns, in one thread: continuous batching, with a key-value cache for each point.

Between two steps requests come, end, are given up and run out of time. A step is one more token for every sequence of a
point; before the points' steps, a piece of one waiting prompt is read, and one forward pass is made for whoever else
wants the models (`call`). Transformers' own continuous batching has pages of one head count for all layers, which
subnets do not have; `generate()` has batches that nobody joins.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import torch

from serving.batch import Prefill
from serving.calls import Calls
from serving.demand import Demand
from serving.groups import Group, told
from serving.jobs import Job
from serving.limits import Limits
from serving.load import Load
from serving.requests import BusyError, Listener, Outcome, Request, Served
from serving.speeds import Speeds
from serving.switching import Switching

LONGEST_RETRY_S = 600
_T = TypeVar("_T")


class Scheduler:
    """Takes requests from any thread and works on them in its own, from `start` to `close`.

    Attributes:
        speeds: What it measures as it goes.
        limits: What it takes on.
        clock: Seconds, by which it goes.
    """

    def __init__(
        self,
        models: Mapping[str, Any],
        tokenizer: Any,
        ends: Collection[int],
        limits: Limits,
        on_served: Callable[[Served], None] = lambda served: None,
        clock: Callable[[], float] = time.monotonic,
        switching: Switching | None = None,
    ) -> None:
        """Works on nothing yet.

        Args:
            models: Of each point, a causal language model.
            tokenizer: Decodes in the scheduler's thread, and nowhere else.
            ends: Tokens by which a text ends.
            limits: What it takes on.
            on_served: Told of each request at its end, in the scheduler's thread.
            clock: See above.
            switching: Who goes on with whose texts; None where each ends as it began.
        """
        self.speeds, self.limits, self.clock = Speeds(), limits, clock
        self._demand = Demand(clock)
        self._groups = {point: Group(point, model) for point, model in models.items()}
        self._tokenizer, self._ends, self._on_served = tokenizer, frozenset(ends), on_served
        self._waiting: deque[Job] = deque()
        self._reading: tuple[Job, Prefill] | None = None
        self._changed = threading.Condition()
        self._calls, self._switching = Calls(self._changed), switching
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)

    def start(self) -> None:
        """Begins to work."""
        self._thread.start()

    def close(self) -> None:
        """Gives up all requests and ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether requests are worked on."""
        return self._thread.is_alive()

    def submit(self, point: str, requests: Sequence[tuple[Request, Listener]]) -> list[Job]:
        """Takes requests on, all or none.

        Args:
            point: Who answers.
            requests: What is asked, and who is told, in the scheduler's thread, of each piece and of the end.

        Returns:
            Their jobs, to be cancelled where nobody waits for one any more.

        Raises:
            BusyError: The queue is full, or the server is about to end.
        """
        jobs = [Job(point, *each, self._tokenizer, self._ends, self.clock) for each in requests]
        with self._changed:
            self.require_room(len(jobs))
            self._waiting.extend(jobs)
            for request, _ in requests:
                self._demand.come(len(request.prompt), request.new_tokens, request.came)
            self._changed.notify()
        return jobs

    def require_room(self, count: int) -> None:
        """Raises BusyError where the queue has no room for so many requests now, or the server is about to end."""
        with self._changed:
            if self._closed or len(self._waiting) + count > self.limits.queue:
                raise BusyError(min(max(math.ceil(self.load().wait_ms() / 1e3), 1), LONGEST_RETRY_S))

    def call(self, work: Callable[[], _T], *, soon: bool = False) -> Future[_T]:
        """Has something done in the scheduler's thread, between two steps; from any thread.

        Args:
            work: Not more than a forward pass.
            soon: Before what is not soon.

        Returns:
            What it gives or raises; cancelled where the server ends before.
        """
        with self._changed:
            future = self._calls.add(work, soon=soon)
            if self._closed:
                self._calls.cancel()
            self._changed.notify()
        return future

    def load(self) -> Load:
        """What is going on now."""
        with self._changed:
            jobs = {job: len(job.request.prompt) for job in self._waiting}
            expected = self._demand.expected()
        if reading := self._reading:
            jobs = {reading[0]: reading[1].left} | jobs
        placed = dict.fromkeys(
            job for group in self._groups.values() for job in [*group.jobs]
        )  # last: nobody goes unseen
        waiting = [job.underway(left, expected) for job, left in jobs.items() if left and job not in placed]
        written = [job.underway(0, expected) for job in placed if job.outcome is None]
        limits = self.limits
        return Load(self.speeds, waiting, written, limits.active, limits.prefill_tokens, expected, self.clock())

    @torch.inference_mode()
    def _work(self) -> None:
        try:
            while self._wait():
                self.turn()
        finally:  # also where the scheduler itself is wrong: nobody is to wait for it for ever
            with self._changed:
                self._closed = True
                left = [*self._waiting]
                self._waiting.clear()
                self._calls.cancel()
            left += [self._reading[0]] if self._reading else []
            left += [job for group in self._groups.values() for job in group.jobs]
            ends: list[Served] = []
            for job in (job for job in left if job.outcome is None):
                job.end("cancelled", ends.append, "The server has ended.")
            for served in ends:  # when all are told
                self._on_served(served)

    def turn(self) -> None:
        """All once; for its own thread, or for whoever never starts that."""
        self._tidy()
        self._calls.answer()
        self._read()
        self._switch()
        for group in self._groups.values():
            if group.jobs:
                self._write(group)

    def _wait(self) -> bool:
        """Waits for work; False at the end."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self._waiting or self._calls or self._reading or self._active
            )
            return not self._closed

    @property
    def _active(self) -> int:
        """Who is being read or written."""
        return sum(len(group.jobs) for group in self._groups.values()) + (self._reading is not None)

    def _tidy(self) -> None:
        """Ends who was given up or has run out of time."""
        with self._changed:
            lost = [job for job in self._waiting if self._lost(job)]
            self._waiting = deque(job for job in self._waiting if job not in lost)
        for job in lost:
            self._give_up(job)
        if self._reading and self._lost(self._reading[0]):
            self._give_up(self._reading[0])
            self._reading = None
        for group in self._groups.values():
            for job in group.jobs:
                if self._lost(job):
                    self._give_up(job)
            group.keep()

    def _lost(self, job: Job) -> Outcome | None:
        return job.lost(self.limits.timeout_s)

    def _give_up(self, job: Job) -> None:
        outcome = self._lost(job)
        assert outcome is not None
        late = f"The answer was not there {self.limits.timeout_s:g} seconds after the request."
        self._end(job, outcome, late if outcome == "timeout" else "")

    def _read(self) -> None:
        """Reads a piece of the first prompt for which there is a place."""
        if self._reading is None:
            with self._changed:
                if not self._waiting or self._active >= self.limits.active:
                    return
                job = self._waiting[0]
                self._reading = job, Prefill(self._groups[job.point].model, job.request.prompt)
                self._waiting.popleft()  # last: whatever goes wrong, it is somewhere, and is told of the end
            job.begin()
        job, prefill = self._reading
        group, tokens, begun = self._groups[job.point], min(prefill.left, self.limits.prefill_tokens), self.clock()
        try:
            logits = prefill.step(tokens)
            if not prefill.left:
                job.take(logits)
                if job.outcome is None:
                    group.batch.join(prefill)
                    group.jobs.append(job)
            self.speeds.read(job.point, tokens, 1e3 * (self.clock() - begun))
            if prefill.left:
                return
        except Exception as error:  # of one request, or of the device: it is told, and others go on
            self._end(job, "error", told(error))
        else:
            if job.outcome is not None:
                self._end(job, job.outcome)
        self._reading = None

    def _switch(self) -> None:
        """Has a point go on with what another one writes, where that is better now."""
        if self._switching is None or not any(job.free for group in self._groups.values() for job in group.jobs):
            return
        if move := self._switching.again(self.load()):
            one, other = (self._groups[point] for point in move)
            one.hand_over(other, self._switching.sources[move], self._end)

    def _write(self, group: Group) -> None:
        """One more token for every sequence of a point."""
        count, begun = len(group.jobs), self.clock()
        if group.write(self._end):
            self.speeds.stepped(group.point, count, 1e3 * (self.clock() - begun))  # with what comes of the logits

    def _end(self, job: Job, outcome: Outcome, error: str = "") -> None:
        if outcome in ("stop", "length"):
            with self._changed:
                self._demand.wrote(len(job.tokens), job.request.new_tokens)
        job.end(outcome, self._on_served, error)
