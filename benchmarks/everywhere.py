"""Exports of one model in all engines at hand: whether each continues text as the checkpoint does.

    python -m benchmarks.everywhere --out DIR [--model DIR] [--transformers TREE ...] [--without vllm ...]

Four designs: attention gone in the first layer, in the last one, layers gone at both ends, and equal narrower layers,
refit on a little of the default text. Each is exported in float32, continues ten prompts by 20 tokens in every engine,
and each token is compared with what the subnet says to the same text. A TREE is a directory that, first on a process's
path, gives it another version of transformers (`pip install --target TREE --no-deps transformers==...`).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import continuing
from space.candidate import Candidate
from space.errors import UserError
from space.formats.checkpoint import Subnet
from space.formats.child import answer_of
from space.formats.greedy import NEW_TOKENS, TEXTS, Tolerance, agreement
from space.formats.hf.export import export_checkpoint
from space.formats.registry import format_of
from space.formats.requirements import ENGINES
from space.formats.vllm.environment import require_vllm
from space.models.embedded import default_texts
from space.models.loading import load_model
from space.spec import ModelSpec
from space.supernet.supernet import Supernet

GONE = (0, 0, 0)
WINDOWS, LENGTH = 8, 512
EXACT = Tolerance(0.01, 0.001, 0.01)
FORMATS = ("gguf", *ENGINES)


def designs(spec: ModelSpec) -> dict[str, Candidate]:
    """What is exported."""
    heads, groups, channels = spec.query_heads, spec.kv_heads, spec.mlp_channels
    full, fewer = (heads, groups, channels), (heads - groups, groups, channels * 3 // 4)
    most = [full] * (spec.layers - 4)
    kinds = {
        "attention gone first": [(0, 0, channels), (heads, groups, 0), GONE, *most, fewer],
        "attention gone last": [fewer, (heads, groups, 0), *most, GONE, (0, 0, channels)],
        "layers gone at both ends": [GONE, fewer, *most, (heads, groups, 0), GONE],
        "equal layers": [fewer] * spec.layers,
    }
    return {name: Candidate.from_rows(rows) for name, rows in kinds.items()}


def text_windows(tokenizer: Any) -> torch.Tensor:
    """A little of the default text, shape (windows, tokens)."""
    share = WINDOWS * LENGTH // len(texts := default_texts())
    ids = [tokenizer(text, add_special_tokens=False).input_ids[:share] for text in texts.values()]
    return torch.tensor(ids).view(WINDOWS, LENGTH)


@contextmanager
def first_on_the_path(tree: Path) -> Iterator[None]:
    """Processes that are started meanwhile find the packages of a directory before all others."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(tree.resolve())
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def main() -> None:
    """Exports, asks and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="for the exports; a new directory")
    parser.add_argument("--model", help="checkpoint in place of the default model")
    parser.add_argument("--designs", type=int, nargs="*", default=range(4), help="numbers of some of them")
    parser.add_argument("--transformers", type=Path, nargs="*", default=[], help="trees of other versions")
    parser.add_argument("--without", nargs="*", default=[], choices=["vllm", *FORMATS])
    arguments = parser.parse_args()
    python = None if "vllm" in arguments.without else require_vllm(None)
    loaded = load_model(arguments.model, dtype="float32", device="cpu")
    tokenizer, config, spec = loaded.tokenizer, loaded.model.config, loaded.spec
    windows = text_windows(tokenizer)
    net = Supernet.prepare(loaded.model, spec, windows, arguments.out / "supernet", dtype=torch.float32)
    prompts = [ids for text in TEXTS if (ids := tokenizer(text).input_ids)]
    engines = [*([] if python is None else ["vllm"]), *(name for name in FORMATS if name not in arguments.without)]
    console, table = Console(width=200), Table("design", "key", *(t.name for t in arguments.transformers), *engines)
    chosen = [[*designs(spec).items()][number] for number in arguments.designs]
    for name, candidate in chosen:
        model = net.view(candidate)
        subnet = Subnet(config, tokenizer, spec, candidate)
        done = export_checkpoint(model, subnet, arguments.out / candidate.key, card={}, vllm=python)
        cells = []
        for tree in arguments.transformers:
            request = {
                "directory": str(done.directory.resolve()),
                "prompts": prompts,
                "new_tokens": NEW_TOKENS,
                "threads": torch.get_num_threads(),
            }
            with first_on_the_path(tree):
                found = answer_of(Path(continuing.__file__), request, failure=f"{tree.name} does not run {name}")
            agreed = agreement(model, prompts, found["runs"])
            agreed.require(EXACT, "checkpoint", found["version"])
            cells.append(told(agreed.steps, agreed.ties, agreed.worst))
        if done.in_vllm is not None:
            cells.append(told(done.in_vllm.steps, done.in_vllm.ties, done.in_vllm.worst_difference))
        for engine in FORMATS:
            if engine not in arguments.without:
                cells.append(in_engine(engine, model, subnet, arguments.out / f"{candidate.key}-{engine}"))
        table.add_row(name, candidate.key, *cells)
        console.print(name, candidate.key, *cells, sep=" | ", highlight=False)
    console.print(table)


def told(steps: int, ties: int, worst: float) -> str:
    """A cell: how many tokens are the subnet's own choices, and the largest difference of a log-probability."""
    return f"{steps - ties}/{steps}, {worst:.1e}"


def in_engine(engine: str, model: Any, subnet: Subnet, directory: Path) -> str:
    """The cell of a format that brings its own engine, or why it does not hold the design."""
    form = format_of(engine, "f16")
    try:
        form.check(subnet)
    except UserError as error:
        return f"refused: {error}"
    try:
        done: Any = form.export(model, subnet, directory, card={})
    except UserError as error:
        return f"failed: {error}"
    check = done.check
    return told(check.steps, check.ties, check.worst_difference)


if __name__ == "__main__":
    main()
