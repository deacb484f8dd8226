"""Tiny models and tokenizers in sizes that other engines take, and subnets of them with all kinds of holes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from conftest import random_tokens, tiny_model
from gguf import GGUFReader
from helpers_forked import answer_here as answer_here  # which this file's tests want too
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from space.candidate import Candidate
from space.formats.checkpoint import Subnet
from space.formats.gguf.export import GGUFExport
from space.formats.registry import format_of
from space.supernet.supernet import Supernet

VOCAB = 400
TEXT = (
    "The cat sat on the mat, and then they're asleep. In 1969, 3 men flew 384400 km.\n\n  def mean(x):\n\treturn x\n",
    "Les élèves ont étudié à l'école. Привет, как дела? 你好，世界。 WE'LL SEE 🙂",
)
SPLITS = {
    name: r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
    for name, digits in (("llama-bpe", "{1,3}"), ("qwen2", ""))
}
# Six query heads in three groups: what other engines take as F16 and, in rows of whole blocks of 32, as Q8_0.
_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 96,
    "intermediate_size": 64,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 16,
}
DENSE = (6, 3, 64)
GONE = (0, 0, 0)
GGUF_CARD = {"Metrics": {"kl": 0.25}}


def supernet(family: str, directory: Path, *, read: bool = False, **changes: Any) -> Supernet:
    """A prepared supernet of a tiny model of a family, for types of matrices where what projections read is kept."""
    sizes = {key: value for key, value in _SIZES.items() if key != "head_dim" or family != "qwen2"}
    model, spec = tiny_model(family, **(sizes | changes))
    return Supernet.prepare(model, spec, random_tokens(12, 24), directory, dtype=torch.float32, read=read)


def gguf_export(
    net: Supernet, shapes: list[tuple[int, int, int]], out: Path, tokenizer: Any = None, kind: str = "f16"
) -> GGUFExport:
    """A file of a design in some type, whose tensors take the bytes that they are said to."""
    candidate = Candidate.from_rows(shapes)
    tokenizer = tokenizer or byte_level()
    subnet = Subnet(net.model.config, tokenizer, net.spec, candidate)
    done = format_of("gguf", kind).export(net.view(candidate), subnet, out, card=GGUF_CARD)
    assert isinstance(done, GGUFExport)
    assert done.weights_bytes == sum(tensor.n_bytes for tensor in GGUFReader(done.file).tensors)
    return done


def byte_level(kind: str = "gpt-2") -> PreTrainedTokenizerFast:
    """A byte-level BPE with the pre-tokenizer that llama.cpp calls `kind`; that of Llama 3 begins text with BOS."""
    backend = Tokenizer(models.BPE(ignore_merges=kind == "llama-bpe"))
    if kind in SPLITS:
        steps = [
            pre_tokenizers.Split(Regex(SPLITS[kind]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    else:
        steps = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
        if kind == "smollm":
            steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    if kind == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|begin|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=380, initial_alphabet=alphabet, special_tokens=special)
    backend.train_from_iterator(TEXT, trainer)
    if kind == "llama-bpe":
        backend.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", backend.token_to_id("<|begin|>"))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", bos_token="<|begin|>")


def sentencepiece(prepend: bool = True) -> PreTrainedTokenizerFast:
    """A BPE with byte fallback, spaces written as SentencePiece writes them and, as it does, all pairs as merges."""
    fixed = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    replace = normalizers.Replace(" ", "▁")
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prepend else replace
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=390, special_tokens=fixed, limit_alphabet=60, max_token_length=6)
    trained.train_from_iterator(TEXT, trainer)
    vocab = trained.get_vocab()
    pieces = sorted((index, text) for text, index in vocab.items() if index >= len(fixed))
    merges = [
        (text[:cut], text[cut:])
        for _, text in pieces
        for cut in range(1, len(text))
        if text[:cut] in vocab and text[cut:] in vocab
    ]
    backend = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizer
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
