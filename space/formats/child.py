"""Asks a script in a fresh process that cannot import this project: files carry the request there and the answer back.

The script defines `answer(request, tensors)`, which returns what JSON holds. It imports what a person has who was given
a checkpoint and not this project. `space.formats.child_process` is the other side.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from space.errors import UserError
from space.formats import child_process
from space.models import vector_math
from space.openmp import environment

PROJECT_PACKAGES = ("conf", "entries", "evaluators", "search", "serving", "space")
_SHOWN_LINES = 12  # of what a process that failed has said


def answer_of(
    script: Path,
    request: Mapping[str, Any],
    tensors: Mapping[str, Tensor] | None = None,
    *,
    failure: str,
    python: Path | None = None,
) -> dict[str, Any]:
    """What a script answers in a process of its own, without the network.

    Args:
        script: A Python file that defines `answer`.
        request: What it is asked, as JSON holds it.
        tensors: What it gets beside that. Only a script with tensors finds torch loaded, with as many threads as here
            and its vector math settled.
        failure: What has happened when it fails, for the message.
        python: That of another environment, of which nothing of this one is seen; None for this one's.

    Raises:
        UserError: The process failed; the message is `failure` with its last lines.
    """
    # -P: the scripts' directory is not on the path; -I: nor is what variables name
    interpreter = [sys.executable, "-P"] if python is None else [str(python), "-I"]
    with tempfile.TemporaryDirectory(prefix="paretoprune-child-") as name:
        work = Path(name)
        order = {
            "script": str(script),
            "request": dict(request),
            "blocked_packages": PROJECT_PACKAGES,
            "threads": torch.get_num_threads(),
            "vector_math": vector_math.__file__,
        }
        (work / child_process.REQUEST).write_text(json.dumps(order), encoding="utf-8")
        if tensors:
            contiguous = {key: tensor.detach().contiguous().cpu() for key, tensor in tensors.items()}
            save_file(contiguous, work / child_process.TENSORS)
        done = subprocess.run(
            [*interpreter, child_process.__file__, str(work)],
            cwd=work,
            env=environment() | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(work / "modules")},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            raise UserError(f"{failure} (exit code {done.returncode}):\n{last_lines(done.stderr)}")
        return dict(json.loads((work / child_process.ANSWER).read_text(encoding="utf-8")))


def last_lines(said: str) -> str:
    """The end of what a process that failed has said, as far as a message has room for it."""
    return "\n".join(said.strip().splitlines()[-_SHOWN_LINES:])
