"""A directory that appears when it is complete, and not before."""

from __future__ import annotations

import errno
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from space.errors import UserError


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
    partial = out_dir.with_name(f"{out_dir.name}.partial-{secrets.token_hex(4)}")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.replace(out_dir)
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        advice = "Free some space" if full else "Check that the place exists and can be written to"
        raise UserError(f"Could not write the checkpoint {out_dir}: {error}. {advice}, and export again.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
