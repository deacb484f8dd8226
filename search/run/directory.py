"""The run directory: created, or reopened with the same configuration."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from search.differences import differences
from space.directory_lock import LOCK_FILE, held
from space.errors import UserError
from space.files import write_whole

CONFIG_FILE = "config.yaml"
FRONT_FILE = "front.csv"
CONFIRMED_FILE = "confirmed.csv"  # what held-out text confirmed, of which end-to-end times choose the front
POINTS_FILE = "points.csv"  # every candidate that was evaluated at the search's full fidelity
PAGE_FILE = "front.html"
REPORT_FILE = "report.md"
BUDGET_FILE = "budget.json"  # what `budget.minutes` have come to, where they decide
SUMMARY_FILE = "summary.json"
# What a run may be gone on with, changed.
FREE_SETTINGS = (
    *("run_dir", "name", "budget", "profile_only", "plan", "compare", "progress", "tracker", "evaluate"),
    *("recommend", "samples", "data.long", "executor.workers", "executor.address"),
    *("model.path", "model.revision", "data.path"),  # where model and text are, which are known by their digests
)


@contextmanager
def run_directory(path: Path | None, name: str) -> Iterator[Path]:
    """The directory of a run, made where there is none, which no other search uses until the context is left.

    What was made for nothing is taken away again.

    Args:
        path: The directory; None for a new one, `results/<name>-<time>`, whose like no other run has.
        name: Of the run.

    Raises:
        UserError: It cannot be made, or another search is at work in it.
    """
    with ExitStack() as stack:
        try:
            directory, made = _new_directory(name) if path is None else (path, _make(path))
            stack.enter_context(held(directory))
        except BlockingIOError as error:
            raise UserError(
                f"Expected run_dir={path} to be of this search alone, but another process searches there. "
                "Wait until that ends or stop it, or choose another run_dir."
            ) from error
        except OSError as error:
            raise _unusable(path or Path("results"), error) from error
        stack.callback(_tidy, directory, made)
        yield directory


def _new_directory(name: str) -> tuple[Path, list[Path]]:
    """A directory that this process has made, and what else it has made for that."""
    home = Path("results")
    made = _make(home)
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in count(1):
        directory = home / (stem if number == 1 else f"{stem}-{number}")
        try:
            directory.mkdir(parents=True)
        except FileExistsError:  # another run of the same second has it
            continue
        break
    return directory, [directory, *made]


def _make(directory: Path) -> list[Path]:
    """Makes a directory; what there was not before, the innermost first."""
    missing = [each for each in (directory, *directory.parents) if not each.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    return missing


def _tidy(directory: Path, made: Sequence[Path]) -> None:
    """Removes the lock of a directory, which is held, and what was made of directories and is empty still."""
    (directory / LOCK_FILE).unlink(missing_ok=True)
    with suppress(OSError):  # something is in it
        for each in made:
            each.rmdir()


def _unusable(directory: Path, error: OSError) -> UserError:
    return UserError(
        f"Expected run_dir={directory} to be a directory that can be written, got: {error}. "
        "Choose another run_dir, or remove what is in the way."
    )


def open_run_directory(path: str | os.PathLike[str], config: Mapping[str, Any], *, free: Collection[str] = ()) -> Path:
    """Create a run directory, or reopen one that the same configuration made, and store the configuration in it.

    Args:
        path: The directory; its parents are created too.
        config: Plain nested mappings, lists and scalars.
        free: Dotted keys that may differ from the stored ones, each with everything below it. Their new values are
            stored.

    Returns:
        The directory.

    Raises:
        UserError: It cannot be written, its `config.yaml` cannot be read, or another key differs.
    """
    directory = Path(path)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(directory, error) from error
    require_same_run(directory, config, free=free)
    write_whole(directory / CONFIG_FILE, _written(config))
    return directory


def require_same_run(directory: Path, config: Mapping[str, Any], *, free: Collection[str] = ()) -> None:
    """Checks that a directory holds no run of another configuration.

    Args:
        directory: Of a run; it may hold none.
        config: See `open_run_directory`, as the next one.
        free: Keys that may differ.

    Raises:
        UserError: Its `config.yaml` cannot be read, or a key differs.
    """
    stored = read_config(directory)
    changed = [] if stored is None else differences(stored, yaml.safe_load(_written(config)), free=free)
    if changed:
        raise UserError(
            f"The run in {directory} was made with other settings (stored -> given):\n"
            + "\n".join(f"  {line}" for line in changed)
            + "\nGive the stored values to go on with that run, or a new run_dir to start another."
        )


def _written(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)


def read_config(directory: Path) -> Mapping[str, Any] | None:
    """The configuration that a run directory holds; None where it holds none, or is none.

    Raises:
        UserError: It cannot be read.
    """
    path = directory / CONFIG_FILE
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"Expected {path} to be the configuration of a run, but it cannot be read: {error}. Choose a new run_dir."
        ) from error
    if not isinstance(stored, Mapping):
        raise UserError(
            f"Expected {path} to be the configuration of a run, got {type(stored).__name__}. Choose a new run_dir."
        )
    return stored
