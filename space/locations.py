"""Where things are: one that a user names, at a path of this machine or on the hub; and what is fetched and kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from space.errors import UserError

SERVING_DIRECTORY = "serving"  # in a run's directory: what servers of its points keep there
LIVE_FILE = "live-{}.json"  # there, by a server's port: what it does now
CACHE_ADVICE = (
    "Free some space and make the cache directory writable, or name another one with the environment variable "
    "PARETOPRUNE_CACHE."
)


def is_local(name: str, suffixes: Sequence[str] = ()) -> bool:
    """Whether a name is a path of this machine: it is there, it is written like one, or no id of the hub is so long.

    Args:
        name: What the user gave; an id of the hub is a name, or an owner and a name with a slash between.
        suffixes: Ends of names of files.
    """
    written = name.startswith(("/", "./", "../", "~")) or name in (".", "..") or name.endswith(("/", *suffixes))
    return written or name.count("/") > 1 or Path(name).exists()


def absolute(name: str) -> Path:
    """A path from the root on, so that it holds wherever a later command runs.

    Raises:
        UserError: It is empty, or begins with the home directory of a user whom this machine does not know.
    """
    if not name:
        raise UserError("Expected a path or the id of something on the hub, got an empty text. Give one, or null.")
    try:
        return Path(name).expanduser().absolute()
    except RuntimeError as error:
        raise UserError(f"Expected a path of this machine, got {name}: {error}. Write it from the root on.") from error


def model_directory(name: str) -> Path:
    """The directory of a model that is on this machine.

    Raises:
        UserError: There is none.
    """
    directory = absolute(name)
    if not directory.is_dir():
        raise UserError(
            f"Expected model.path to be a directory, but there is no such directory: {directory}. Set model.path to "
            "where the model is."
        )
    return directory


def located(value: Any, suffixes: Sequence[str] = ()) -> Any:
    """A setting that says where something is, with every local path from the root on.

    Args:
        value: A name, a mapping with one as its `path`, or a list of such; anything else stays as it is.
        suffixes: See `is_local`.
    """
    match value:
        case str() if is_local(value, suffixes):
            return str(absolute(value))
        case list():
            return [located(each, suffixes) for each in value]
        case {"path": path, **rest}:
            return {"path": located(path, suffixes), **rest}
    return value


def cache_dir() -> Path:
    """Where fetched files are kept: `$PARETOPRUNE_CACHE`, else `paretoprune` in the user's cache directory.

    Raises:
        UserError: Nothing can be looked up there.
    """
    own, xdg = (os.environ.get(name) for name in ("PARETOPRUNE_CACHE", "XDG_CACHE_HOME"))
    place = own or (f"{xdg}/paretoprune" if xdg else "~/.cache/paretoprune")
    try:
        directory = Path(place).expanduser()
        (directory / "any").exists()
    except (OSError, RuntimeError) as error:  # the latter where the user has no home
        raise UserError(f"Expected a cache directory at {place}, got: {error}. {CACHE_ADVICE}") from error
    return directory
