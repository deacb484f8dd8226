"""Files and directories written whole or not at all: a name holds the old content or all of the new, never a part.

Everything is written beside its place under a name of its own, and takes its place in one step at the end. So a killed
process leaves nothing half written, and two that write at once do each other no harm. What a killed process does leave
is that file or directory beside the place, which `delete_unfinished` finds.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from space.errors import UserError

_RUN_ADVICE = "Free some space or make the directory writable, then run again with the same run_dir."
_UNFINISHED = ".unfinished"

Writer = Callable[[Path], object]


def write_whole(
    path: str | os.PathLike[str],
    content: str | bytes | Writer,
    *,
    advice: str = _RUN_ADVICE,
    failures: tuple[type[Exception], ...] = (),
) -> None:
    """Writes a file whose name then holds the old content or all of the new, also after a loss of power.

    Args:
        path: The file; its directory is created where there is none.
        content: Text, which is written as UTF-8; or bytes; or a function that writes the file that it is given, such
            as `lambda file: torch.save(state, file)`.
        advice: What the user can do when the file cannot be written, whole sentences.
        failures: What else than `OSError` the function raises when the disk is full.

    Raises:
        UserError: The disk is full or the directory cannot be written; the old file is untouched.
    """
    target = Path(path)
    with _one_error(target, advice, failures), _beside(target) as unfinished:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write(unfinished, content)
        unfinished.replace(target)


def kept(path: Path, make: Callable[[], str]) -> str:
    """The text of a file, which is made and written where there is none.

    Where several processes make it at once, the first one's text is everyone's.

    Raises:
        UserError: See `write_whole`.
    """
    if not path.exists():
        text = make()
        with _one_error(path, _RUN_ADVICE), _beside(path) as unfinished:
            _write(unfinished, text)
            try:
                os.link(unfinished, path)  # unlike a renaming, this replaces nothing
            except OSError:
                if not path.exists():  # a file system without links
                    unfinished.replace(path)
    return path.read_text(encoding="utf-8")


@contextmanager
def whole_directory(
    directory: Path,
    *,
    is_whole: Callable[[Path], bool] | None = None,
    advice: str = _RUN_ADVICE,
    failures: tuple[type[Exception], ...] = (),
) -> Iterator[Path]:
    """A new directory beside `directory` that becomes it at the end, and is deleted after any failure.

    Args:
        directory: The place; its parents are created.
        is_whole: Whether a directory that stands there by the end, of another process perhaps, will do: then it stays,
            and what was written is deleted; one that will not do is replaced. None: a directory with contents is an
            error, and stays.
        advice: What the user can do when it cannot be written, whole sentences.
        failures: What else than `OSError` is raised inside when the disk is full.

    Raises:
        UserError: It cannot be written; what stood there before is untouched.
    """
    with _one_error(directory, advice, failures), _beside(directory) as unfinished:
        unfinished.mkdir(parents=True)
        yield unfinished
        try:
            unfinished.replace(directory)
        except OSError:
            if is_whole is None or not directory.is_dir():
                raise
            if not is_whole(directory):
                with _beside(directory) as broken:
                    directory.replace(broken)
                    unfinished.replace(directory)


def delete_unfinished(directory: Path) -> None:
    """Deletes what killed processes left unfinished in a directory; the caller knows that nobody writes there now."""
    for path in directory.glob(f".*{_UNFINISHED}"):
        _delete(path)


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A name of its own beside a place; what has it at the end is deleted."""
    path = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}{_UNFINISHED}")
    try:
        yield path
    finally:
        _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _write(file: Path, content: str | bytes | Writer) -> None:
    """Writes a file down to the disk."""
    if callable(content):
        content(file)
    else:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    with file.open("rb") as written:
        os.fsync(written.fileno())


@contextmanager
def _one_error(target: Path, advice: str, failures: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turns what a full or forbidden disk raises into one `UserError`."""
    kinds: tuple[type[Exception], ...] = (OSError, *failures)
    try:
        yield
    except kinds as error:
        raise UserError(
            f"Expected to write {target}, got: {error}. What stood there before, if anything, is untouched. {advice}"
        ) from error


def existing(place: Path) -> Path:
    """A directory that is there: this one, or the nearest above it."""
    return next(each for each in (place.absolute(), *place.absolute().parents) if each.is_dir())


def free_disk_bytes(place: Path) -> int:
    """Of the file system on which a directory is, or is to be."""
    return shutil.disk_usage(existing(place)).free
