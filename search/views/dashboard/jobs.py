"""Commands that run one after the other, each a process of its own, with what they say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from space.errors import UserError

State = Literal["queued", "running", "done", "failed", "stopped"]
LINES = 200  # of a job that are kept
LINE = 2000  # characters of a line that are kept
WAITING = 20  # jobs that may be open at once
PATIENCE_S = 10.0  # between asking a job to end and ending it


@dataclass
class Job:
    """A command and what has become of it.

    Attributes:
        number: Its place in the order of asking, from 1.
        title: What it is, for people.
        command: The arguments of the process.
        state: What has become of it.
        step: What it does now, as far as it tells.
        lines: The last ones that it said.
    """

    number: int
    title: str
    command: tuple[str, ...]
    state: State = "queued"
    step: str = ""
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=LINES))

    @property
    def open(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ("queued", "running")

    def hear(self, line: str) -> None:
        """Takes in a line of output: an event of `progress=json`, or plain text."""
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        match event:
            case {"event": "stage", "stage": stage}:
                self.step = str(stage)
            case {"event": "step", "stage": stage, "done": done, "of": of}:
                self.step = f"{stage}: {done} of {of}"
            case {"event": "message", "text": text}:
                self.lines.append(str(text)[:LINE])
            case {"event": str()}:  # an error is told as plain text too
                pass
            case _ if text := line.strip():
                self.lines.append(text[:LINE])


class Jobs:
    """A queue and the thread that works it off; a context manager, whose end ends all jobs."""

    def __init__(self) -> None:
        """Nothing is asked yet."""
        self._jobs: list[Job] = []
        self._changed = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._worker.start()

    def __enter__(self) -> Jobs:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def all(self) -> list[Job]:
        """All jobs in the order of asking."""
        with self._changed:
            return list(self._jobs)

    def add(self, title: str, command: Sequence[str]) -> Job:
        """Queues a command.

        Raises:
            UserError: The same is open already, or too many are.
        """
        with self._changed:
            waiting = [job for job in self._jobs if job.open]
            if any(job.command == tuple(command) for job in waiting):
                raise UserError(f"{title}: that is in the queue already.")
            if len(waiting) >= WAITING:
                raise UserError(f"{title}: {WAITING} jobs wait already. Ask again when some are done.")
            job = Job(len(self._jobs) + 1, title, tuple(command))
            self._jobs.append(job)
            self._changed.notify_all()
            return job

    def stop(self, number: int) -> None:
        """Takes a job out of the queue, or ends it where it runs; nothing when it is over."""
        with self._changed:
            for job in self._jobs:
                if job.number == number and job.open:
                    if job.state == "running" and self._process is not None:
                        _signal(self._process, signal.SIGTERM)
                        last = threading.Timer(PATIENCE_S, _end, [self._process])
                        last.daemon = True
                        last.start()
                    job.state = "stopped"

    def close(self) -> None:
        """Ends the job that runs and takes all others out of the queue; returns when it has ended."""
        with self._changed:
            self._closed = True
            process = self._process
            for job in self._jobs:
                if job.open:
                    job.state = "stopped"
            self._changed.notify_all()
        try:
            if process is not None:
                _signal(process, signal.SIGTERM)
            self._worker.join(PATIENCE_S)
        finally:  # also when a second Ctrl-C ends the wait
            if process is not None:
                _signal(process, signal.SIGKILL)
            self._worker.join(PATIENCE_S)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or any(job.state == "queued" for job in self._jobs))
                if self._closed:
                    return
                job = next(job for job in self._jobs if job.state == "queued")
                try:
                    process = self._process = _start(job.command)
                except OSError as error:
                    job.state = "failed"
                    job.lines.append(f"{type(error).__name__}: {error}")
                    continue
                job.state = "running"
            self._follow(job, process)

    def _follow(self, job: Job, process: subprocess.Popen[str]) -> None:
        """Hears a job until it ends."""
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                with self._changed:
                    job.hear(line)
        code = process.wait()
        with self._changed:
            self._process = None
            job.step = ""
            if job.state == "running":
                job.state = "done" if code == 0 else "failed"
                if code != 0 and not job.lines:
                    job.lines.append(f"It ended with code {code} and said nothing.")


def _start(command: Sequence[str]) -> subprocess.Popen[str]:
    """A process that leads a group of its own, so that its children end with it and no Ctrl-C reaches it first."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a process that has not ended by itself."""
    if process.poll() is None:
        _signal(process, signal.SIGKILL)


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it has ended, and so have all of its group
        os.killpg(process.pid, number)
