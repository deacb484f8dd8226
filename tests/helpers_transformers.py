"""Other versions of transformers, each in a directory beside the environment, fetched once into the cache."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from space.files import whole_directory
from space.locations import cache_dir

# What a version wants beside itself that the environment has too new.
_BESIDE = {"4.57.6": ("tokenizers==0.22.2", "huggingface_hub==0.36.2")}


def tree_of(version: str) -> Path:
    """A directory that, put first on a process's path, gives it that version; skips where it cannot be fetched."""
    packages = (f"transformers=={version}", *_BESIDE.get(version, ()))
    directory = cache_dir() / "tests" / "_".join(packages)

    def is_whole(tree: Path) -> bool:
        return (tree / f"transformers-{version}.dist-info").is_dir()

    if not is_whole(directory):
        with whole_directory(directory, is_whole=is_whole) as unfinished:
            options = ("--no-deps", "--no-compile", "--only-binary=:all:", "--retries=2", f"--target={unfinished}")
            command = [sys.executable, "-m", "pip", "install", *options, *packages]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
            if done.returncode:
                said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip said nothing"]
                pytest.skip(f"pip cannot fetch {' '.join(packages)}: {said[-1]}")
    return directory
