"""The directory that a checkpoint is exported to: a free one, which appears when the checkpoint is complete."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from space.errors import UserError
from space.files import whole_directory


def require_free(out_dir: Path) -> None:
    """Checks, before any work is done for it, that a directory can be exported to.

    Raises:
        UserError: It is a file, or has contents.
    """
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise UserError(f"Expected a new or empty directory to export to, but {out_dir} has contents. Choose another.")


@contextmanager
def revealed_when_complete(out_dir: Path) -> Iterator[Path]:
    """A directory beside `out_dir` that becomes it at the end, and is deleted after any failure.

    Raises:
        UserError: `out_dir` is taken, or writing failed.
    """
    require_free(out_dir)
    advice = "Free some space or check that the place can be written to, and export again."
    with whole_directory(out_dir, advice=advice, failures=(SafetensorError,)) as unfinished:
        yield unfinished
        require_free(out_dir)  # another export may have taken it since
