"""A tiny sentence embedder as a directory of sentence-transformers, with text beside it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from conftest import tiny_model
from helpers_run import CHARACTERS
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from space.models.embedded import quiet_transformers

MARKS = ("[PAD]", "[CLS]", "[SEP]")
MODULES = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")


def save_embedder(directory: Path, pooling: str = "cls_token") -> Path:
    """A random BERT with a tokenizer of characters, the files of sentence-transformers, and `text.txt`."""
    vocab = {char: index for index, char in enumerate((*MARKS, *("Ġ" if char == " " else char for char in CHARACTERS)))}
    model, _ = tiny_model("bert", vocab_size=len(vocab))
    with quiet_transformers():
        model.save_pretrained(directory)  # type: ignore[operator]
    backend = Tokenizer(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    marks = dict(zip(("pad_token", "cls_token", "sep_token"), MARKS, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=backend, **marks).save_pretrained(directory)
    modules = [{"path": path, "type": f"sentence_transformers.models.{name}"} for name, path in MODULES]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{pooling}": True}))
    tokens = torch.randint(len(CHARACTERS), (6000,), generator=torch.Generator().manual_seed(0))
    (directory / "text.txt").write_text("".join(CHARACTERS[token] for token in tokens.tolist()))
    return directory
