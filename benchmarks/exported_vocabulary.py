"""Exports with smaller vocabularies against the dense model: bytes, time of a token by turns, and bits a byte.

    python -m benchmarks.exported_vocabulary CHECKPOINT ... --unseen TEXT [--dense embedded:gemma-3-270m]
        [--documents 5] [--length 1200] [--cached 256] [--rounds 15] [--dtype bfloat16]

Checkpoints are loaded with transformers alone, in their dtype, and so is the dense model, in the first one's. A round
decodes eight tokens with each model in turn, behind so many in the cache; speeds are medians of the rounds' ratios. Of
every source of TEXT the first documents are scored, each as a context of its own and to so many characters, in the
tokens of each model. Nothing is timed with --rounds 0, and nothing scored with --documents 0.
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
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.vocabulary import unseen_texts
from evaluators.vocabulary.bits import bits_per_byte
from evaluators.vocabulary.ranked import cut
from space.checks import dtype_name
from space.models.loading import load_model

DECODED = 8


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--unseen", required=True, help="text that is scored")
    parser.add_argument("--dense", help="in place of the default model")
    parser.add_argument("--documents", type=int, default=5, help="of each source of the unseen text")
    parser.add_argument("--length", type=int, default=1200, help="characters of a document")
    parser.add_argument("--cached", type=int, default=256, help="tokens in the cache")
    parser.add_argument("--rounds", type=int, default=15, help="of timing")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of all, in place of the checkpoints' own")
    arguments = parser.parse_args()
    models, tokenizers = [], []
    for path in arguments.checkpoints:
        dtype = arguments.dtype or "auto"
        models.append(AutoModelForCausalLM.from_pretrained(path, dtype=dtype, trust_remote_code=True).eval())
        tokenizers.append(AutoTokenizer.from_pretrained(path, trust_remote_code=True))
    dense = load_model(arguments.dense, dtype=dtype_name(models[0].dtype))
    models.insert(0, dense.model.to(models[0].dtype))  # which is read as it is stored
    tokenizers.insert(0, dense.tokenizer)
    rounds = [[milliseconds(model, arguments.cached) for model in models] for _ in range(arguments.rounds)]
    texts = unseen_texts(arguments.unseen, arguments.documents, arguments.length)
    bits = [
        bits_per_byte(model, cut(tokenizer, texts), texts, start_of(tokenizer))
        for model, tokenizer in zip(models, tokenizers, strict=True)
        if texts
    ]
    size = sum(len(text.encode()) for text in texts)
    console = Console(width=140)
    console.print(
        f"{dtype_name(models[0].dtype)}, {arguments.cached} tokens cached, {len(texts)} texts of {size:,} bytes"
    )
    table = Table("model", "tokens", "bytes", "of dense", "ms a token", "speed", "bits a byte", "more")
    whole = weights_bytes(models[0])
    for place, (name, model) in enumerate(zip(("dense", *arguments.checkpoints), models, strict=True)):
        own, timed, scored = weights_bytes(model), ("", ""), ("", "")
        if rounds:
            taken = statistics.median(row[place] for row in rounds)
            speed = statistics.median(row[0] / row[place] for row in rounds)
            timed = f"{taken:.2f}", f"{speed:.3f}"
        if texts:
            scored = f"{bits[place]:.4f}", f"{bits[place] / bits[0] - 1:+.2%}"
        cells = (f"{model.config.vocab_size:,}", f"{own:,}", f"{own / whole:.3f}")
        table.add_row(getattr(name, "name", name), *cells, *timed, *scored)
    console.print(table)


def weights_bytes(model: Any) -> int:
    """Of all parameters, tied ones once."""
    return sum(parameter.nbytes for parameter in model.parameters())


def start_of(tokenizer: Any) -> int:
    """The token before a text, as `evaluators.vocabulary.ranked.Vocabulary` has it."""
    start: int = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return start


@torch.inference_mode()
def milliseconds(model: Any, cached: int) -> float:
    """Of a token that is decoded behind so many, the mean of a few."""
    prompt = torch.randint(model.config.vocab_size, (1, cached), generator=torch.Generator().manual_seed(1))
    cache = model(prompt, use_cache=True, logits_to_keep=1).past_key_values
    model(prompt[:, :1], past_key_values=cache, use_cache=True)
    start = time.perf_counter()
    for _ in range(DECODED):
        cache = model(prompt[:, :1], past_key_values=cache, use_cache=True).past_key_values
    return 1e3 * (time.perf_counter() - start) / DECODED


if __name__ == "__main__":
    main()
