"""Exports of a sentence embedder beside it, on sentences that no run has seen: cosine, and how fast they are encoded.

    python -m benchmarks.encoded EXPORT [EXPORT ...] --sentences ../shared/data/corpus/valid.jsonl.gz [--dense DIR]

With transformers alone, in the dtype of the first export: sentences sorted by length, in padded batches of 32, as
sentence-transformers encodes them. The cosine is the mean to the dense model's embedding of each sentence; speeds are
of all sentences, in rounds in which the models take turns, the median of the rounds' ratios to the dense model.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

from benchmarks.embedders import sentences_of
from space.models.embedded import embedded_model

BATCH, ROUNDS = 32, 7


class Encoder:
    """A checkpoint that embeds sentences by the mean of their tokens."""

    def __init__(self, directory: Path, dtype: Any) -> None:
        trusted: dict[str, Any] = {"trust_remote_code": True}
        self.tokenizer = AutoTokenizer.from_pretrained(directory, **trusted)
        self.model = AutoModel.from_pretrained(directory, dtype=dtype, **trusted).eval()

    @torch.inference_mode()
    def encode(self, sentences: list[str]) -> Tensor:
        """Embeddings of length one, (sentences, hidden), of sentences sorted by length."""
        rows = []
        for start in range(0, len(sentences), BATCH):
            batch = self.tokenizer(sentences[start : start + BATCH], padding=True, return_tensors="pt")
            states, mask = self.model(**batch).last_hidden_state.float(), batch["attention_mask"][..., None]
            rows.append(F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1))
        return torch.cat(rows)


def main() -> None:
    """Encodes, times and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exports", type=Path, nargs="+")
    parser.add_argument("--sentences", required=True, metavar="FILE")
    parser.add_argument("--dense", type=Path, help="what they were made from; the embedded one if not given")
    arguments = parser.parse_args()
    embedder = embedded_model("embedded:all-MiniLM-L6-v2")
    assert embedder is not None
    exports = {str(directory): Encoder(directory, "auto") for directory in arguments.exports}
    dtype = next(iter(exports.values())).model.dtype
    models = {"dense": Encoder(arguments.dense or embedder.directory(), dtype), **exports}
    sentences = sorted(sentences_of(arguments.sentences), key=len)
    embeddings = {name: model.encode(sentences) for name, model in models.items()}  # which warms them up, too
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(ROUNDS):
        for name, model in models.items():
            start = time.perf_counter()
            model.encode(sentences)
            seconds[name].append(time.perf_counter() - start)
    table = Table("model", "cosine to dense", "sentences a second", "speed", "lowest to highest")
    for name, times in seconds.items():
        ratios = [dense / own for dense, own in zip(seconds["dense"], times, strict=True)]
        cosine = (embeddings[name] * embeddings["dense"]).sum(-1).mean().item()
        speed, pace = statistics.median(ratios), len(sentences) / statistics.median(times)
        table.add_row(name, f"{cosine:.4f}", f"{pace:.0f}", f"{speed:.2f}", f"{min(ratios):.2f} {max(ratios):.2f}")
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
