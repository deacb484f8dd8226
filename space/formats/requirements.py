"""What is asked of a format before any work: its name, and the engine in which it is checked; free of torch."""

from __future__ import annotations

import subprocess
import sys

from space.errors import UserError

FORMATS = ("hf", "hf_uniform", "deci", "gguf")
TRANSFORMERS = ("4.57.6", "5.19.0", "5.24.0")  # in which the tests use exports, oldest first
CHECKED = f"transformers {', '.join(TRANSFORMERS[:-1])} and {TRANSFORMERS[-1]}"
GGUF_TYPES = ("f16", "q8_0")  # of the matrices in a GGUF file
DECI_FLAVOURS = ("vllm", "ffn_mult")  # which loaders read a `block_configs` checkpoint


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
    probe = subprocess.run(
        [sys.executable, "-P", "-c", "import xllamacpp"], capture_output=True, text=True, check=False
    )
    if probe.returncode:
        reason = (probe.stderr.strip().splitlines() or [f"exit code {probe.returncode}"])[-1]
        raise UserError(
            "Expected xllamacpp, the llama.cpp in which a GGUF file is checked before it is handed over, but it can "
            f"not be imported ({reason}). Run: pip install 'paretoprune[gguf]'"
        )
