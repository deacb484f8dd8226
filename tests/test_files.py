"""Files and directories are written whole or not at all: when the disk is full, after a kill, and by two at once."""

from __future__ import annotations

import errno
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers_run import ROOT

from space.errors import UserError
from space.files import delete_unfinished, kept, whole_directory, write_whole


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


@contextmanager
def disk_full_after(size: int) -> Iterator[None]:
    """No file grows beyond `size` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def killed(code: str, *arguments: object) -> None:
    """Runs code that kills itself in the midst of writing."""
    begin = "import os, signal, sys\nfrom pathlib import Path\nfrom space.files import *\n"
    end = "def kill(): os.kill(os.getpid(), signal.SIGKILL)\n"
    done = subprocess.run([sys.executable, "-c", begin + end + code, *map(str, arguments)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL


def test_text_bytes_and_what_a_function_writes_replace_a_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a"
    write_whole(file, "größer\n")
    assert file.read_bytes() == "größer\n".encode()
    write_whole(str(file), b"\x00")
    assert file.read_bytes() == b"\x00"
    write_whole(file, lambda path: path.write_text("by a function"))
    assert file.read_text() == "by a function"
    assert names(file.parent) == ["a"]
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)  # others may read it


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", "old")
    for content in ("new" * 1000, lambda path: path.write_bytes(b"new" * 1000)):
        with disk_full_after(100), pytest.raises(UserError, match=r"Free some space.*run again with the same run_dir"):
            write_whole(tmp_path / "a", content)
    with disk_full_after(100), pytest.raises(UserError, match=r"untouched\. Buy a disk\.$"):
        write_whole(tmp_path / "a", "new" * 1000, advice="Buy a disk.")
    with disk_full_after(100), pytest.raises(UserError, match="run again"):
        kept(tmp_path / "b", lambda: "new" * 1000)
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_other_failures_of_a_function_are_told_where_they_mean_a_full_disk(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("unexpected pos 64 vs 0")

    with pytest.raises(UserError, match="unexpected pos"):
        write_whole(tmp_path / "a", fail, failures=(RuntimeError,))
    with pytest.raises(RuntimeError):
        write_whole(tmp_path / "a", fail)
    assert names(tmp_path) == []


def test_a_kill_in_the_midst_of_writing_leaves_the_old_file_and_what_can_be_found(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", "old")
    write_whole(tmp_path / ".hidden", "mine")
    killed("write_whole(sys.argv[1], lambda path: (path.write_text('half'), kill()))", tmp_path / "a")
    killed("with whole_directory(Path(sys.argv[1])) as new: (new / 'x').write_text('half'); kill()", tmp_path / "b")
    assert (tmp_path / "a").read_text() == "old"
    assert not (tmp_path / "b").exists()
    assert len(names(tmp_path)) == 4
    delete_unfinished(tmp_path)
    assert names(tmp_path) == [".hidden", "a"]


def test_what_is_kept_is_made_once_and_the_first_maker_counts(tmp_path: Path) -> None:
    file = tmp_path / "latency.json"

    def overtaken() -> str:
        assert kept(file, lambda: "first") == "first"  # as another process would, while this one measures
        return "second"

    assert kept(file, overtaken) == "first"
    assert kept(file, lambda: pytest.fail("it is there")) == "first"
    assert names(tmp_path) == ["latency.json"]


def test_what_is_kept_needs_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*places: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", no_link)
    assert kept(tmp_path / "a", lambda: "text") == "text"
    assert names(tmp_path) == ["a"]


def test_a_directory_appears_when_it_is_complete(tmp_path: Path) -> None:
    place = tmp_path / "new" / "place"
    with whole_directory(place) as unfinished:
        (unfinished / "x").write_text("1")
        assert not place.exists()
    assert names(place) == ["x"]
    with pytest.raises(KeyboardInterrupt), whole_directory(tmp_path / "other") as unfinished:
        raise KeyboardInterrupt
    with (
        disk_full_after(2),
        pytest.raises(UserError, match="Buy a disk"),
        whole_directory(tmp_path / "other", advice="Buy a disk.") as unfinished,
    ):
        (unfinished / "x").write_text("half")
    assert names(place.parent) == ["place"]
    assert names(tmp_path) == ["new"]


def test_what_another_process_put_there_stays_and_what_is_broken_is_replaced(tmp_path: Path) -> None:
    place = tmp_path / "place"

    def is_whole(directory: Path) -> bool:
        return (directory / "last").exists()

    def made(content: str, meanwhile: str, **settings: Any) -> str:
        with whole_directory(place, **settings) as unfinished:
            (unfinished / "last").write_text(content)
            place.mkdir(exist_ok=True)
            (place / meanwhile).write_text("another's")
        assert names(tmp_path) == ["place"]
        return (place / "last").read_text()

    assert made("ours", "first", is_whole=is_whole) == "ours"
    assert names(place) == ["last"]
    assert made("again", "first", is_whole=is_whole) == "ours"
    with pytest.raises(UserError, match="Expected to write"):
        made("again", "first")
    assert names(place) == ["first", "last"]
    assert (place / "last").read_text() == "ours"


def test_a_file_in_the_way_of_a_directory_is_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("mine")
    for is_whole in (None, lambda directory: False):
        with (
            pytest.raises(UserError, match="Expected to write"),
            whole_directory(tmp_path / "thesis", is_whole=is_whole),
        ):
            pass
    assert names(tmp_path) == ["thesis"]
    assert (tmp_path / "thesis").read_text() == "mine"
