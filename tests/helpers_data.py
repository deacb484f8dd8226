"""A tokenizer of bytes, text files, and streams of given tokens."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from evaluators.data.shards import WholeText
from evaluators.data.sources import Source
from evaluators.data.stream import TokenStream


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, a start token unless told otherwise, and a short maximum length."""
    vocab = {char: index for index, char in enumerate(["<s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", model_max_length=8)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """JSON lines with a blank one at the end, compressed where the name says so."""
    text = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def stream_of(tokens: torch.Tensor) -> TokenStream:
    """A stream of windows `(windows, length)`, over and over; in their order where they are few."""
    text = "".join(f"{' '.join(map(str, window))}\n" for window in tokens.tolist())
    return TokenStream([Source("some", (WholeText("some", text),))], _numbers, length=tokens.shape[1])


def _numbers(text: str, source: str) -> list[int]:
    return [int(number) for number in text.split()]
