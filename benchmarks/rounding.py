"""Rounding a GGUF file's weights one by one, or with Gram matrices of their inputs: KL and perplexity, held-out text.

    python -m benchmarks.rotated --out ROTATED
    python -m benchmarks.rounding --model ROTATED --run-dir DIR [--types q8_0 q4_0] [--channels 1024] [--windows 64]
        [--heldout 16]

Of the dense model, and of its subnet with so many MLP channels in every layer and first refits. Weights are rounded as
a file of the type has them, and run in float32; the LM head, which is Q8_0 in all files, stays as it is. Gram matrices
are the supernet's own, of what the dense model's output projections read, or of what all projections of the subnet
itself read; both of the calibration text.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from conf.compose import composed
from conf.settings import session_settings
from evaluators.divergence import Divergence
from evaluators.paths import Paths
from evaluators.session import Session
from space.candidate import Candidate, LayerShape
from space.formats.gguf.rounded_layers import calibrated, rounded_together
from space.formats.gguf.types import FileTypes, rounded_matrices
from space.models.architectures import architecture_of
from space.rounding.rounded import Rounded
from space.size import removed_params
from space.supernet.grams import output_gram
from space.supernet.store import StoredLayers

HEAD = "lm_head.weight"
ARMS = ("nearest", "outputs", "all")


def main() -> None:
    """Prepares, rounds, scores and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--run-dir", type=Path, required=True, help="of the prepared supernet")
    parser.add_argument("--types", nargs="+", default=["q8_0", "q4_0"])
    parser.add_argument("--channels", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=64, help="of calibration")
    parser.add_argument("--heldout", type=int, default=16, help="windows to score on")
    arguments = parser.parse_args()
    console = Console(width=120)
    overrides = [f"model.path={Path(arguments.model).resolve()}", "model.dtype=float32", "model.device=cpu"]
    overrides += [f"data.calibration_windows={arguments.windows}", f"data.heldout_windows={arguments.heldout}"]
    session = Session.open(session_settings(composed(*overrides)), Paths(arguments.run_dir))
    spec, supernet, text = session.spec, session.supernet, session.windows("calibration")
    files = StoredLayers.open(session.paths.supernet, spec, torch.float32)
    divergence = Divergence(supernet, session.windows("heldout"))
    shape = LayerShape(spec.query_heads, spec.kv_heads, arguments.channels)
    table = Table("removed", "type", "Gram matrices of", "KL", "perplexity")

    def score(candidate: Candidate, model: Any, kind: str, arm: str) -> None:
        kl, nll = divergence(candidate, model)
        cells = (f"{removed_params(spec, candidate):.0%}", kind, arm, f"{kl:.4f}", f"{math.exp(nll):.2f}")
        table.add_row(*cells)
        console.print(*cells, highlight=False)

    for candidate in (session.dense, Candidate((shape,) * spec.layers)):
        model = supernet.view(candidate, own=True)
        score(candidate, model, "float32", "")
        state = {name: tensor.clone() for name, tensor in model.state_dict().items() if name != HEAD}
        rounded: dict[tuple[str, str], dict[str, Rounded]] = {}
        for kind in arguments.types:
            types = FileTypes(kind, tied=False)
            rounded[kind, "nearest"] = rounded_matrices(state, types)
            rounded[kind, "outputs"] = dict(rounded[kind, "nearest"])
            for name, gram in output_grams(files, candidate):
                rounded[kind, "outputs"] |= rounded_together({name: state[name]}, gram, types)
            rounded[kind, "all"] = dict(rounded[kind, "nearest"])
        for projections in calibrated(model, text):
            for kind in arguments.types:
                for weights, gram in projections:
                    rounded[kind, "all"] |= rounded_together(weights, gram, FileTypes(kind, tied=False))
        for kind in arguments.types:
            for arm in ARMS:
                for name, matrix in rounded[kind, arm].items():
                    model.get_parameter(name).data.copy_(matrix.values)
                score(candidate, model, kind, arm)
    console.print(table)


def output_grams(files: StoredLayers, candidate: Candidate) -> Iterator[tuple[str, Tensor]]:
    """What the supernet has of output projections, by the names of their weights."""
    for index, shape in enumerate(candidate.layers):
        for kind, layout in architecture_of(files.spec.family).blocks.items():
            name = f"model.layers.{index}.{layout.module}.{layout.output}.weight"
            yield name, output_gram(files, index, kind, shape, torch.device("cpu"))


if __name__ == "__main__":
    main()
