"""Every way in which a run ends, as whoever watches it is told: mistakes, Ctrl-C on a terminal, SIGTERM."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers_watch import NAME, RUN_DIR

from search.views.watch.run import VIEWS, watched
from space.errors import UserError


@contextmanager
def seen(mode: str) -> Iterator[None]:
    with watched(mode) as watch:
        watch.opened(RUN_DIR, NAME, {}, "none")
        yield


@pytest.mark.parametrize("mode", VIEWS)
def test_mistakes_and_interrupts_are_told_to_all_who_listen(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="expected x"), seen(mode):
        raise UserError("expected x")
    with pytest.raises(SystemExit, match=r"stopped; give the same command with .*results/a run.* to go on"), seen(mode):
        raise KeyboardInterrupt
    with pytest.raises(ZeroDivisionError), seen(mode):
        _ = 1 / 0
    out = capsys.readouterr().out
    if mode == "json":
        kinds = [json.loads(line)["event"] for line in out.splitlines()]
        assert kinds == ["run", "error", "run", "stopped", "run", "crash"]


def test_an_unknown_mode_is_a_mistake() -> None:
    with (
        pytest.raises(UserError, match="progress: expected auto, live, lines, quiet, json, got loud"),
        watched("loud"),
    ):
        pass


TERMINATED = """
import signal
from search.views.watch.run import watched
before = signal.getsignal(signal.SIGTERM)
try:
    with watched("lines"):
        signal.raise_signal(signal.SIGTERM)
finally:
    print(signal.getsignal(signal.SIGTERM) is before)
"""


def test_sigterm_is_an_interrupt_while_a_run_is_watched() -> None:  # in a main thread, which a worker's may not be
    command, root = [sys.executable, "-c", TERMINATED], Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (1, "True\n")
    assert "stopped" in done.stderr


LIVE = """
import signal
from search.views.watch.run import watched
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in a shell's background, it is ignored
with watched("auto") as watch, watch.stage("sleeping") as show:
    show(1, 2)
    print("from elsewhere", flush=True)
    input()
"""


def test_ctrl_c_on_a_terminal_leaves_it_in_order() -> None:
    main, other = pty.openpty()
    root = Path(__file__).parents[1]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "30"}
    command = [sys.executable, "-c", LIVE]
    process = subprocess.Popen(command, stdin=other, stdout=other, stderr=other, cwd=root, env=environment)
    os.close(other)
    text = ""
    interrupted = False
    try:
        end = time.monotonic() + 60  # the screen is drawn again and again, so that there is always something to read
        while time.monotonic() < end and select.select([main], [], [], 60)[0]:
            try:
                text += os.read(main, 65536).decode()
            except OSError:  # Linux's word for the end of a terminal
                break
            if "1 of 2" in text and "from elsewhere" in text and not interrupted:
                process.send_signal(signal.SIGINT)
                interrupted = True
    finally:
        process.kill()
        code = process.wait()
        os.close(main)
    assert interrupted
    assert code == 1
    assert "stopped; give the same command with the same run_dir= to go on" in text.splitlines()[-1]
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")
    assert "Traceback" not in text
