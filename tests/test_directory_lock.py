"""Who deletes in a directory is alone in it, whatever process the others are in; who reads need not write."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers_run import ROOT

from space.directory_lock import LOCK_FILE, alone_in, held, in_use


def alone(directory: Path) -> bool:
    with alone_in(directory) as answer:
        return answer


def test_nobody_is_alone_while_another_process_is_at_work(tmp_path: Path) -> None:
    place = tmp_path / "tuned"
    code = (
        "import sys\nfrom pathlib import Path\nfrom space.directory_lock import in_use\n"
        "with in_use(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    assert alone(place)
    command = [sys.executable, "-c", code, str(place)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert not alone(place)
        with in_use(place):  # many may be at work
            pass
        process.kill()  # and with a process its lock ends
    assert alone(place)


def test_a_directory_is_held_by_one_process_until_that_ends(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom space.directory_lock import held\n"
        "with held(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError), held(tmp_path):
            pass
        process.kill()  # and with a process its lock ends
    with held(tmp_path):
        (tmp_path / LOCK_FILE).unlink()  # as who leaves nothing behind does
        with held(tmp_path), pytest.raises(BlockingIOError), held(tmp_path):  # what is made then is another lock
            pass


def test_who_comes_while_another_deletes_waits(tmp_path: Path) -> None:
    entered = threading.Event()

    def work() -> None:
        with in_use(tmp_path):
            entered.set()

    thread = threading.Thread(target=work)
    with alone_in(tmp_path) as answer:
        assert answer
        assert not alone(tmp_path)
        thread.start()
        assert not entered.wait(0.2)
    thread.join(10)
    assert entered.is_set()


def test_a_reader_needs_no_right_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert alone(tmp_path)
    (file,) = tmp_path.iterdir()
    real = os.open

    def reading_alone(path: object, flags: int, *mode: int, **others: int) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *mode, **others)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("space.directory_lock.os.open", reading_alone)
        with in_use(tmp_path):
            patch.undo()
            assert not alone(tmp_path)
    assert alone(tmp_path)
    file.unlink()
    monkeypatch.setattr("space.directory_lock.os.open", reading_alone)
    with in_use(tmp_path):  # without a lock, where nobody can have one
        assert not alone(tmp_path)


def test_where_the_file_system_has_no_locks_nobody_is_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(file: int, kind: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", none)
    assert not alone(tmp_path)
    with in_use(tmp_path):
        pass
