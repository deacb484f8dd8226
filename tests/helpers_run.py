"""Tiny models as checkpoint directories with text that they themselves wrote, and the entry scripts as processes."""

from __future__ import annotations

import json
import os
import string
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from conftest import tiny_model
from helpers_forked import Forked
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import DynamicCache, PreTrainedTokenizerFast

from space.models.embedded import quiet_transformers

Process = subprocess.Popen[str] | Forked
ROOT = Path(__file__).parents[1]
CHARACTERS = string.ascii_letters + string.digits + " ."
TINY_RUN = (
    *("data.length=32", "data.calibration_windows=16", "data.search_windows=8", "data.heldout_windows=24"),
    *("latency.length=32", "latency.rounds=3", "latency.fit=2", "latency.check=2", "evaluators.context=64"),
    *("space.mlp_step=16", "search.ask=10", "search.algorithm.population=10", "front_points=8"),
    *("search.algorithm.generations=6", "search.algorithm.improved=4"),
    "search.algorithm.predictor=ridge",  # to choose one takes longer than all else that is asked of a tiny model
    *("search.distillation=final", "correction.windows=16"),
    *("distillation=own", "distillation.tokens=[96]", "distillation.rank=2"),
    *("data.long=64", "samples.tokens=4", "recommend.rise=5", "recommend.most=5"),
)


def save_tiny(family: str, directory: Path, **config: Any) -> Path:
    """A random model of a family with a byte-level BPE tokenizer, and `text.txt`, which it wrote itself, and a card.

    On its own text a model is better than any that is pruned from it, as a trained one would be.
    """
    model: Any
    none = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    model, _ = tiny_model(family, vocab_size=len(CHARACTERS), **none, **config)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(0.4)  # with tied embeddings it would say one character for ever
    with quiet_transformers():
        model.save_pretrained(directory)
    vocab = {("Ġ" if char == " " else char): index for index, char in enumerate(CHARACTERS)}
    backend = Tokenizer(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=".").save_pretrained(directory)
    generator = torch.Generator().manual_seed(0)
    written, cache = [torch.randint(len(CHARACTERS), (64, 1), generator=generator)], DynamicCache(config=model.config)
    with torch.inference_mode():
        for _ in range(95):
            chances = model(written[-1], past_key_values=cache).logits[:, -1].float().softmax(-1)
            written.append(torch.multinomial(chances, 1, generator=generator))
    text = "".join(CHARACTERS[token] for token in torch.cat(written, 1).flatten().tolist())
    (directory / "text.txt").write_text(text)
    (directory / "README.md").write_text("---\nlicense: mit\n---\n")
    return directory


def add_merges(model: Path, merges: int) -> None:
    """Gives a saved tiny model's tokenizer merges of a letter with itself, in place of digits."""
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    pairs = [(letter, letter) for letter in string.ascii_lowercase[:merges]]
    for (left, right), digit in zip(pairs, "9876543210", strict=False):
        tokenizer["model"]["vocab"][left + right] = tokenizer["model"]["vocab"].pop(digit)
    tokenizer["model"]["merges"] = pairs
    tokenizer["decoder"] = tokenizer["pre_tokenizer"]  # both are of the type ByteLevel
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))


def start(
    script: str,
    *overrides: str,
    cwd: Path,
    cache: Path | None,
    first: Callable[[], None] | None = None,
    hub: Mapping[str, str] | None = None,
    read: bool = False,
) -> Process:
    """An entry script as a process of its own, with no hub.

    It begins with all imports done, but for one that is to be as a person's from its beginning: with the user's cache,
    with a hub, or with an output that is read as it comes.

    Args:
        script: `run_search.py` or `export_subnet.py`.
        overrides: Its arguments.
        cwd: Where it runs; the project need not be there.
        cache: Its cache directory; the user's when None.
        first: Called in the process before it starts, which may be pickled.
        hub: What the hub's client reads of the environment, where there is one.
        read: Whether its `stdout` is read while it runs.
    """
    # one thread: several such processes run at once, and threads that wait in turn for a core crawl
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **(hub or {})}
    if cache is not None:
        environment["PARETOPRUNE_CACHE"] = str(cache)
        environment["HF_HOME"] = str(cache / "hub")
    if cache is not None and not (hub or read):
        return Forked(ROOT / script, overrides, cwd, environment, first)
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *overrides],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=first,
    )


def ended(process: Process, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """The process's end and all that it said; a process that takes longer than `timeout` seconds is killed."""
    try:
        out, err = process.communicate(timeout=timeout)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode or 0, out, err)
