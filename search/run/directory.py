"""The run directory: created, or reopened with the same configuration."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from search.differences import differences
from space.errors import UserError
from space.files import write_whole

CONFIG_FILE = "config.yaml"
FRONT_FILE = "front.csv"
POINTS_FILE = "points.csv"  # every candidate that was evaluated at the search's full fidelity
PAGE_FILE = "front.html"
REPORT_FILE = "report.md"
SUMMARY_FILE = "summary.json"
# What a run may be gone on with, changed.
FREE_SETTINGS = (
    *("run_dir", "name", "budget", "profile_only", "compare", "progress", "tracker", "evaluate"),
    *("recommend", "samples", "data.long"),
    *("model.path", "model.revision", "data.path"),  # where model and text are, which are known by their digests
)


def new_name(name: str) -> str:
    """The directory of a run that begins now: `results/<name>-<time>`."""
    return f"results/{name}-{time.strftime('%Y%m%d-%H%M%S')}"


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
        raise UserError(
            f"Expected run_dir={directory} to be a directory that can be written, got: {error}. "
            "Choose another run_dir, or remove what is in the way."
        ) from error
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    stored = read_config(directory)
    if stored is not None:
        changed = differences(stored, yaml.safe_load(text), free=free)
        if changed:
            raise UserError(
                f"The run in {directory} was made with other settings (stored -> given):\n"
                + "\n".join(f"  {line}" for line in changed)
                + "\nGive the stored values to go on with that run, or a new run_dir to start another."
            )
    write_whole(directory / CONFIG_FILE, text)
    return directory


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
