"""A transformers tokenizer in the terms of a GGUF file: kind, pre-tokenizer, tokens and their types, merges or scores.

Two kinds are known: byte-level BPE, whose pre-tokenizer must be one that llama.cpp has a name for, and SentencePiece's
BPE with byte fallback. llama.cpp does not normalise text (Qwen's NFC), so text that is not in NFC may be cut otherwise.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Any

from gguf import TokenType

from space.errors import UserError

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # what SentencePiece writes for a space
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# llama.cpp's name of a pre-tokenizer, and whether it takes whole words of the vocabulary before it merges.
_BY_PATTERN = {
    _CONTRACTIONS + r"\p{N}{1,3}" + _REST: ("llama-bpe", True),
    _CONTRACTIONS + r"\p{N}" + _REST: ("qwen2", False),
}


@dataclass(frozen=True)
class GGUFTokenizer:
    """What a GGUF file says of its tokenizer.

    Attributes:
        model: `gpt2` (byte-level BPE) or `llama` (SentencePiece).
        pre: llama.cpp's name of the pre-tokenizer.
        tokens: The text of every row of the embedding matrix.
        types: What each is, `gguf.TokenType`.
        merges: Of a byte-level BPE, as `left right`, first rule first.
        scores: Of a SentencePiece BPE: what merges first has the highest.
        ids: Special tokens by the writer's name: bos, eos, unk, pad.
        add_bos, add_eos: Whether text begins and ends with them.
        add_space_prefix: Whether text begins with a space.
        chat_template: Its Jinja text, if any.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    ids: dict[str, int]
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    chat_template: str | None


def gguf_tokenizer(tokenizer: Any, rows: int) -> GGUFTokenizer:
    """Describes a tokenizer.

    Args:
        tokenizer: A fast one of transformers.
        rows: Of the embedding matrix; those without a token are named as unused.

    Raises:
        UserError: llama.cpp has no such tokenizer.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _unsupported(f"a {type(tokenizer).__name__} without a tokenizer.json")
    parts = json.loads(backend.to_str())
    model = parts["model"]
    if model["type"] != "BPE":
        raise _unsupported(f"a {model['type']} tokenizer")
    if not model["merges"]:
        raise _unsupported("a BPE without merges")
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
    pre, prefix = _sentencepiece(parts) if model.get("byte_fallback") else (_byte_level(parts), False)

    tokens = [f"[PAD{index}]" for index in range(rows)]
    types = [int(TokenType.UNUSED)] * rows
    named = {index: (text, TokenType.NORMAL) for text, index in model["vocab"].items()}
    if model.get("byte_fallback"):
        named |= {model["vocab"][text]: (text, TokenType.BYTE) for text in _byte_tokens(model["vocab"])}
    if model.get("unk_token") is not None:
        named[model["vocab"][model["unk_token"]]] = (model["unk_token"], TokenType.UNKNOWN)
    for token in parts["added_tokens"]:
        written = named.get(token["id"], ("", None))[1]
        spaces = model.get("byte_fallback") and _SPACE in token["content"]  # which no text has as it comes in
        if written is not TokenType.UNKNOWN and not (written and spaces):
            kind = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
            named[token["id"]] = (token["content"], kind)
    if max(named) >= rows:
        raise _unsupported(f"one of {max(named) + 1} tokens for an embedding of {rows} rows")
    for index, (text, kind) in named.items():
        tokens[index], types[index] = text, int(kind)

    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk", "pad")}
    add_bos, add_eos = _added(tokenizer)
    return GGUFTokenizer(
        model="llama" if model.get("byte_fallback") else "gpt2",
        pre=pre,
        tokens=tokens,
        types=types,
        merges=[] if model.get("byte_fallback") else [" ".join(merge) for merge in merges],
        scores=_scores(tokens, merges) if model.get("byte_fallback") else [],
        ids={name: int(index) for name, index in ids.items() if index is not None},
        add_bos=add_bos,
        add_eos=add_eos,
        add_space_prefix=prefix,
        chat_template=tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
    )


def _unsupported(what: str) -> UserError:
    """The error about a tokenizer that llama.cpp cannot be told of."""
    return UserError(
        "Expected a tokenizer that llama.cpp has too, a byte-level BPE in the way of GPT-2, SmolLM, Llama 3 or "
        f"Qwen 2, or a SentencePiece BPE in the way of Llama 2 or Gemma, got {what}. Export it with format=hf."
    )


def _byte_level(parts: dict[str, Any]) -> str:
    """llama.cpp's name of a byte-level pre-tokenizer."""
    normalizer = (parts["normalizer"] or {}).get("type")
    if normalizer not in (None, "NFC"):
        raise _unsupported(f"a byte-level BPE with a normaliser {normalizer}")
    steps = parts["pre_tokenizer"] or {}
    steps = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    last, before = steps[-1], steps[:-1]
    if last.get("type") == "ByteLevel" and not last["add_prefix_space"]:
        whole_words = bool(parts["model"].get("ignore_merges"))
        if last.get("use_regex", True) and not whole_words:
            if not before:
                return "gpt-2"
            if before == [{"type": "Digits", "individual_digits": True}]:
                return "smollm"
        if not last.get("use_regex", True) and len(before) == 1 and before[0].get("type") == "Split":
            split = before[0]
            name, wants_whole_words = _BY_PATTERN.get(split["pattern"].get("Regex", ""), ("", None))
            if (split["behavior"], split["invert"], wants_whole_words) == ("Isolated", False, whole_words):
                return name
    raise _unsupported(f"a BPE with the pre-tokenizer {json.dumps(parts['pre_tokenizer'])[:300]}")


def _sentencepiece(parts: dict[str, Any]) -> tuple[str, bool]:
    """llama.cpp's name of SentencePiece's pre-tokenizer, and whether text gets a space before it."""
    normalizer, pre = parts["normalizer"], parts["pre_tokenizer"]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    prepend = {"type": "Prepend", "prepend": _SPACE}
    if pre is None and normalizer == {"type": "Sequence", "normalizers": [prepend, replace]}:
        return "default", True
    # Gemma's: spaces are replaced before it could split there
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    if pre in (None, split) and normalizer == replace:
        return "default", False
    if normalizer is None and pre and pre["type"] == "Metaspace" and pre["replacement"] == _SPACE and not pre["split"]:
        return "default", pre["prepend_scheme"] != "never"
    raise _unsupported(
        f"a BPE with byte fallback, the normaliser {json.dumps(normalizer)[:200]} and the pre-tokenizer "
        f"{json.dumps(pre)[:200]}"
    )


def _byte_tokens(vocab: dict[str, int]) -> list[str]:
    """The 256 tokens of byte fallback."""
    tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    if missing := [token for token in tokens if token not in vocab]:
        raise _unsupported(f"a BPE with byte fallback that lacks {len(missing)} of the 256 bytes")
    return tokens


def _scores(tokens: list[str], merges: list[tuple[str, ...]]) -> list[float]:
    """Scores whose order is that of the merges: SentencePiece joins the pair of neighbours whose token scores best."""
    rank: dict[str, int] = {}
    for index, merge in enumerate(merges):
        rank.setdefault("".join(merge), index)
    return [float(-rank.get(token, len(merges))) for token in tokens]


def _added(tokenizer: Any) -> tuple[bool, bool]:
    """Whether text begins with BOS and ends with EOS."""
    whole, plain = tokenizer("a").input_ids, tokenizer("a", add_special_tokens=False).input_ids
    bos, eos = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
    for add_bos, add_eos in itertools.product((False, True), repeat=2):
        if whole == bos * add_bos + plain + eos * add_eos:
            return add_bos, add_eos
    raise _unsupported("one that puts more around a text than BOS and EOS")
