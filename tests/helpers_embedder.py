"""Tiny encoders as directories: with text beside them, or with labelled rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from conftest import tiny_model
from helpers_run import CHARACTERS
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from space.models.embedded import quiet_transformers

MARKS = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")
MODULES = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")


def _saved(directory: Path, family: str, task: str, **changes: Any) -> Any:
    """A random encoder with a tokenizer of characters, written to a directory."""
    vocab = {char: index for index, char in enumerate((*MARKS, *("Ġ" if char == " " else char for char in CHARACTERS)))}
    model: Any = tiny_model(family, task, vocab_size=len(vocab), **changes)[0]
    with quiet_transformers():
        model.save_pretrained(directory)
    backend = Tokenizer(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    marks = dict(zip(("pad_token", "cls_token", "sep_token", "mask_token"), MARKS, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=backend, **marks).save_pretrained(directory)
    return model


def _written(characters: int, seed: int = 0) -> str:
    tokens = torch.randint(len(CHARACTERS), (characters,), generator=torch.Generator().manual_seed(seed))
    return "".join(CHARACTERS[token] for token in tokens.tolist())


def save_classifier(directory: Path, family: str = "distilbert", labels: int = 3) -> Path:
    """A random classifier with a tokenizer of characters, and `rows.jsonl`, whose labels are its own classes."""
    model = _saved(directory, family, "text_classification", num_labels=labels)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    rows = []
    for seed in range(240):
        text = _written(24, seed).strip()
        logits = model(torch.tensor([tokenizer(text)["input_ids"]])).logits
        rows.append({"text": text, "label": int(logits.argmax())})
    (directory / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return directory


def save_token_classifier(directory: Path, family: str = "distilbert") -> Path:
    """A random token classifier likewise, and `rows.jsonl` of words, whose labels are its own classes by name."""
    model = _saved(directory, family, "token_classification", num_labels=3)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    rows = []
    for seed in range(240):
        words = _written(24, seed).split()
        cut = tokenizer(" ".join(words), return_offsets_mapping=True)
        classes = model(torch.tensor([cut["input_ids"]])).logits[0].argmax(-1).tolist()
        starts = [sum(len(word) + 1 for word in words[:place]) for place in range(len(words))]
        begins = [begin if begin < end else -1 for begin, end in cut["offset_mapping"]]
        rows.append({"tokens": words, "ner_tags": [f"LABEL_{classes[begins.index(start)]}" for start in starts]})
    (directory / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return directory


def save_masked_lm(directory: Path, family: str = "bert") -> Path:
    """A random masked language model likewise, and `text.txt`."""
    _saved(directory, family, "masked_lm")
    (directory / "text.txt").write_text(_written(6000))
    return directory


def save_embedder(directory: Path, pooling: str = "cls_token") -> Path:
    """A random BERT with a tokenizer of characters, the files of sentence-transformers, and `text.txt`."""
    _saved(directory, "bert", "embeddings")
    modules = [{"path": path, "type": f"sentence_transformers.models.{name}"} for name, path in MODULES]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{pooling}": True}))
    (directory / "text.txt").write_text(_written(6000))
    return directory
