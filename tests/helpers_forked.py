"""Processes that begin with all imports done: torch and its companions take ten seconds on a slow machine."""

from __future__ import annotations

import atexit
import gc
import io
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any
from unittest import mock

IMPORTED = ("entries.search", "entries.export", "entries.score", "search.surrogate.surrogate", "plotly.graph_objects")
IMPORTED_MODELS = (
    *("transformers.models.llama.modeling_llama", "transformers.models.auto.tokenization_auto"),
    "transformers.trainer",
)


@cache
def _server(*environment: tuple[str, str]) -> multiprocessing.context.ForkServerContext:
    """What is imported reads this part of the environment once and for all."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTED, *IMPORTED_MODELS])
    home = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    with mock.patch.dict(os.environ, {**dict(environment), "HF_HOME": home}):
        forkserver.ensure_running()
    return context


def answer_here(script: Path, request: Any, tensors: Mapping[str, Any] | None = None, *, failure: str) -> Any:
    """What `space.formats.child.answer_of` says, without the seconds that a process takes."""
    return json.loads(json.dumps(runpy.run_path(str(script))["answer"](request, dict(tensors or {}))))


def reloading_here() -> None:
    """Has this process reload itself what it exports, for which a fresh one imports for ten seconds."""
    import space.formats.verify
    from space.models.embedded import quiet_transformers

    def answer(*question: Any, **named: Any) -> Any:
        with quiet_transformers(), redirect_stderr(io.StringIO()):  # what a fresh one says is not shown either
            return answer_here(*question, **named)

    space.formats.verify.answer_of = answer


def _main(
    script: Path,
    arguments: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    first: Callable[[], None] | None,
    said: Sequence[str],
) -> None:
    for stream, file in enumerate(said, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), stream)
    gc.freeze()  # what is imported stays, and need not be looked through again
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = [str(script), *arguments]
    sys.path[0:0] = [str(script.parent)]
    if first is not None:
        first()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a server that forks does not listen to
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        atexit._run_exitfuncs()


def forked(target: Callable[..., None], *arguments: object) -> multiprocessing.context.ForkServerProcess:
    """A process, to be started, that calls something with arguments, all of which are pickled."""
    return _server(("HF_HUB_OFFLINE", "1"), ("OMP_NUM_THREADS", "1")).Process(target=target, args=arguments)


_reading = threading.Lock()  # to start a process reads how others ended, which can be read once


class Forked:
    """An entry script as a process, with what is used of `subprocess.Popen`."""

    def __init__(
        self,
        script: Path,
        arguments: Sequence[str],
        cwd: Path,
        environment: Mapping[str, str],
        first: Callable[[], None] | None = None,
    ) -> None:
        """Begins it.

        Args:
            script: An entry script.
            arguments: Its arguments.
            cwd: Where it runs.
            environment: All of its environment.
            first: Called in it before it begins, which is pickled.
        """
        context = _server(*((name, environment[name]) for name in ("HF_HUB_OFFLINE", "OMP_NUM_THREADS")))
        self.args = [sys.executable, str(script), *arguments]
        self._said = [tempfile.mkstemp()[1] for _ in range(2)]
        self._process = context.Process(
            target=_main, args=(script, arguments, cwd, dict(environment), first, self._said)
        )
        with _reading:
            self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        with _reading:
            return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def kill(self) -> None:
        self._process.kill()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        wait([self._process.sentinel], timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        said = [Path(file) for file in self._said]
        out, err = (file.read_text() if file.exists() else "" for file in said)
        for file in said:
            file.unlink(missing_ok=True)
        return out, err
