"""What is asked of a format before any work: its name, and the engine in which it is checked; free of torch."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

from space.errors import UserError
from space.models.architectures import architecture_of
from space.spec import ModelSpec
from space.task import Task
from space.types import GGUF_TYPES

FORMATS = ("hf", "hf_uniform", "deci", "gguf", "onnx", "openvino")
TRANSFORMERS = ("4.57.6", "5.19.0", "5.24.0")  # in which the tests use exports, oldest first
CHECKED = f"transformers {', '.join(TRANSFORMERS[:-1])} and {TRANSFORMERS[-1]}"
DECI_FLAVOURS = ("vllm", "ffn_mult")  # which loaders read a `block_configs` checkpoint
# Formats that are traced graphs, to the packages that write and run them.
ENGINES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}


def checked_in(spec: ModelSpec, *, whole: bool = True) -> str:
    """Versions of transformers in which exports of a model hold; older ones know image models and experts otherwise.

    Args:
        spec: The dense model.
        whole: Whether that is all; older ones know otherwise what it may be a part of.
    """
    least = architecture_of(spec.family).transformers
    known = [each for each in TRANSFORMERS if tuple(int(part) for part in each.split(".")[:2]) >= least]
    if spec.use.reads != "text" or spec.routed or not whole:
        known = [version("transformers")]
    return f"transformers {' and '.join(filter(None, (', '.join(known[:-1]), known[-1])))}"


def require_format(name: str, gguf_type: str, deci_flavour: str = "vllm") -> None:
    """Checks that a format is there.

    Args:
        name: One of `FORMATS`.
        gguf_type: Type of the matrices of a GGUF file.
        deci_flavour: Which loaders are to read a `block_configs` checkpoint.

    Raises:
        UserError: There is no such format, or what it is checked with is not installed.
    """
    if name not in FORMATS:
        raise UserError(f"Expected format to be one of {', '.join(FORMATS)}, got {name!r}.")
    if deci_flavour not in DECI_FLAVOURS:
        raise UserError(f"Expected deci.flavour to be one of {', '.join(DECI_FLAVOURS)}, got {deci_flavour!r}.")
    if name == "gguf":
        require_gguf_kind(gguf_type)
    elif name in ENGINES:
        require_engine(name)


def require_format_of_task(name: str, task: Task) -> None:
    """Checks that a format holds models of a task.

    Raises:
        UserError: It does not.
    """
    if task.formats is not None and name not in task.formats:
        raise UserError(f"format: expected {' or '.join(task.formats)} for {task.title}, got {name}.")


def require_gguf_kind(kind: str) -> None:
    """Checks, before any work is done, that a file of this type can be written and run.

    Raises:
        UserError: There is no such type, or llama.cpp is not installed.
    """
    if kind not in GGUF_TYPES:
        raise UserError(f"Expected gguf.type to be one of {', '.join(GGUF_TYPES)}, got {kind!r}.")
    require_llamacpp()


def require_llamacpp() -> None:
    """Checks, before any work is done, that llama.cpp can be run.

    Raises:
        UserError: It is not installed, or does not load.
    """
    _require_import(("xllamacpp",), "the llama.cpp in which a GGUF file is checked before it is handed over", "gguf")


def require_engine(name: str) -> None:
    """Checks, before any work is done, that a traced graph can be written and run.

    Args:
        name: One of `ENGINES`.

    Raises:
        UserError: What does that is not installed, or does not load.
    """
    packages = ENGINES[name]
    _require_import(packages, f"which write a format={name} graph and run it before it is handed over", name)


def _require_import(packages: tuple[str, ...], what: str, extra: str) -> None:
    """Raises UserError where a fresh process cannot import some packages, with the extra that installs them."""
    probe = subprocess.run(
        [sys.executable, "-P", "-c", f"import {', '.join(packages)}"], capture_output=True, text=True, check=False
    )
    if probe.returncode:
        reason = (probe.stderr.strip().splitlines() or [f"exit code {probe.returncode}"])[-1]
        raise UserError(
            f"Expected {', '.join(packages)}, {what}, but it cannot be imported ({reason}). "
            f"Run: pip install 'paretoprune[{extra}]'"
        )
