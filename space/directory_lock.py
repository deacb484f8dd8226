"""The lock of a directory that several processes use: who deletes in it does so while nobody else is at work there.

Files that are written whole (`space.files`) may be read and written by many at once. What is left to guard against is
that one process deletes what another has looked up and not yet read, or is just writing.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK_FILE = ".lock"
_log = logging.getLogger(__name__)


@contextmanager
def in_use(directory: Path) -> Iterator[None]:
    """Nobody deletes in the directory while this is held; it waits for who is just deleting.

    Where there can be no lock, because nobody may write there or the file system has none, this goes on without: there
    nobody is `alone_in` it either.
    """
    with _waited_for(directory, fcntl.LOCK_SH):
        yield


@contextmanager
def in_turn(directory: Path) -> Iterator[None]:
    """One process after another is at work in the directory; where there can be no lock, as `in_use`."""
    with _waited_for(directory, fcntl.LOCK_EX):
        yield


@contextmanager
def alone_in(directory: Path) -> Iterator[bool]:
    """Whether nobody uses the directory, in this process or another; who comes while this is held waits for its end."""
    file = _opened(directory)
    try:
        yield file is not None and _locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        if file is not None:
            os.close(file)


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """This process alone is at work in the directory, until the context is left or the process ends, however it does.

    Where there can be no lock, this goes on without, as `in_use` does.

    Raises:
        BlockingIOError: Another process holds it.
    """
    file = _opened(directory)
    try:
        while file is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError:
                _log.warning("%s: the file system has no locks; make sure that no second process uses it.", directory)
                break
            if _is_there(file, directory):
                break
            os.close(file)  # whoever held it before has removed it
            file = _opened(directory)
        yield
    finally:
        if file is not None:
            os.close(file)


@contextmanager
def _waited_for(directory: Path, kind: int) -> Iterator[None]:
    """A lock of a kind, once it is to be had; where there can be none, this goes on without."""
    file = _opened(directory)
    try:
        if file is not None:
            _locked(file, kind)
        yield
    finally:
        if file is not None:
            os.close(file)


def _is_there(file: int, directory: Path) -> bool:
    """Whether this file is the directory's lock still."""
    try:
        return os.path.samestat(os.fstat(file), (directory / LOCK_FILE).stat())
    except FileNotFoundError:
        return False


def _opened(directory: Path) -> int | None:
    """The lock's file, which the first to use the directory makes; None where that is impossible."""
    with suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
    for mode in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):  # reading is enough to share it
        with suppress(OSError):
            return os.open(directory / LOCK_FILE, mode | os.O_CLOEXEC, 0o666)
    return None


def _locked(file: int, kind: int) -> bool:
    """Whether the lock is held now: not where another holds it, nor where the file system has no locks."""
    try:
        fcntl.flock(file, kind)
    except OSError:
        return False
    return True
