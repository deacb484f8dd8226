"""What runs in the fresh process of `space.formats.child`: it reads a request, and writes what a script answers.

It is run by its path where this project cannot be imported, so it imports the standard library alone until it knows
that there are tensors.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

REQUEST, TENSORS, ANSWER = "request.json", "tensors.safetensors", "answer.json"


def main(work: Path) -> None:
    """Answers one request.

    Args:
        work: The directory that holds it, and gets the answer.
    """
    order = json.loads((work / REQUEST).read_text(encoding="utf-8"))
    for package in order["blocked_packages"]:
        sys.modules[package] = None  # type: ignore[assignment]  # importing it raises, installed or not
    tensors: dict[str, Any] = {}
    if (work / TENSORS).exists():
        import torch
        from safetensors.torch import load_file

        torch.set_num_threads(order["threads"])
        runpy.run_path(order["vector_math"])["settle_vector_math"]()
        tensors = load_file(work / TENSORS)
    answer = runpy.run_path(order["script"])["answer"](order["request"], tensors)
    (work / ANSWER).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
