"""The kinds of tokenizers whose vocabulary can be trimmed, a row each, by the contents of their tokenizer.json.

A row says which tokens every level keeps, so that all text can still be written, and which tokens another one is made
through, so that a level without these would never come to it. With both, a trimmed tokenizer cuts text that needs none
of the dropped tokens as the whole one does:

- BPE merges the pair of neighbours whose rule comes first. No rule is applied across the bounds of the tokens that it
  ends with, so each of these comes about as it does from its own text, through the same tokens; where these are all
  kept, the rule that comes first is among those that are left, at every step (Sennrich et al. 2016).
- WordPiece takes the longest token that fits (Schuster and Nakajima 2012), Unigram the segmentation with the highest
  sum of scores (Kudo 2018). What was the longest, or the best, is so among fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from space.errors import UserError

Contents = Mapping[str, Any]  # of a tokenizer.json
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # what SentencePiece writes for a space
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))  # tokens of byte fallback
Parts = Callable[[str], list[str]]


@dataclass(frozen=True)
class Kind:
    """One kind of tokenizer.

    Attributes:
        name: For people.
        type: Of the model's section.
        fits: Whether a model's section of that type is of this kind, and what it lacks where it is not; None for yes.
        basic: The tokens, besides special and added ones, that every level keeps.
        parts: What gives the tokens that a token is made through, itself not among them.
        section: The model's section with some tokens alone: called with it and the new ids by token.
    """

    name: str
    type: str
    fits: Callable[[Contents], str | None]
    basic: Callable[[Contents], set[str]]
    parts: Callable[[Contents], Parts]
    section: Callable[[Contents, Mapping[str, int]], dict[str, Any]]


def kind_of(contents: Contents) -> Kind:
    """The row of a tokenizer.

    Raises:
        UserError: It is of no row.
    """
    model = contents["model"]
    reasons = []
    for kind in KINDS:
        if kind.type == model.get("type"):
            reason = kind.fits(contents)
            if reason is None:
                return kind
            reasons.append(f"{kind.name}: {reason}")
    raise UserError(
        f"Expected a tokenizer whose vocabulary can be trimmed ({', '.join(kind.name for kind in KINDS)}), got a model "
        f"of the type {model.get('type')}{' that is none of these: ' * bool(reasons)}{'; '.join(reasons)}. Keep its "
        "whole vocabulary."
    )


def ids_of(contents: Contents) -> dict[str, int]:
    """All tokens of a tokenizer and their ids, added ones too."""
    vocab = contents["model"]["vocab"]
    ids = dict(vocab) if isinstance(vocab, Mapping) else {token: index for index, (token, _) in enumerate(vocab)}
    return ids | {token["content"]: token["id"] for token in contents["added_tokens"]}


def rules_of(model: Contents) -> list[tuple[str, str]]:
    """The merges of a BPE, in their order; old files have a text for each, with a space between the two."""
    return [tuple(rule) if isinstance(rule, list | tuple) else tuple(rule.split(" ", 1)) for rule in model["merges"]]


def _is_byte_level(contents: Contents) -> str | None:
    """Whether a BPE is of bytes, each written as a character."""
    steps = [step["type"] for part in ("normalizer", "pre_tokenizer") for step in _steps(contents[part])]
    return _plain_merges(contents["model"]) or (None if "ByteLevel" in steps else "it has no step ByteLevel")


def _has_fallback(contents: Contents) -> str | None:
    """Whether a BPE writes characters that it does not know as bytes."""
    model = contents["model"]
    if not model.get("byte_fallback"):
        return "it has no byte_fallback"
    missing = sum(token not in model["vocab"] for token in BYTES)
    return _plain_merges(model) or (f"it lacks {missing} of the 256 bytes" if missing else None)


def _plain_merges(model: Contents) -> str | None:
    marks = [name for name in ("continuing_subword_prefix", "end_of_word_suffix", "dropout") if model.get(name)]
    return f"it has a {marks[0]}" if marks else None


def _steps(part: Contents | None) -> Iterable[Contents]:
    """The steps of a normaliser, pre-tokenizer or decoder."""
    if part is None:
        return []
    return part.get("normalizers") or part.get("pretokenizers") or part.get("decoders") or [part]


def _characters(contents: Contents) -> set[str]:
    return {token for token in contents["model"]["vocab"] if len(token) == 1}


def _bytes(contents: Contents) -> set[str]:
    """The tokens of byte fallback, and the space, which text does not have as it is written here."""
    model = contents["model"]
    return {token for token in (*BYTES, SPACE, model.get("unk_token")) if token in model["vocab"]}


def _of_wordpiece(contents: Contents) -> set[str]:
    """Characters at the beginning of a word and further on, and what cannot be written with these."""
    model = contents["model"]
    prefix, vocab = model["continuing_subword_prefix"], model["vocab"]
    basic = {token for token in vocab if len(token.removeprefix(prefix)) <= 1} | {model["unk_token"]}
    for token in vocab:
        first = "" if token.startswith(prefix) else token[:1]
        rest = token.removeprefix(prefix)[len(first) :]
        if (first and first not in vocab) or any(prefix + character not in vocab for character in rest):
            basic.add(token)
    return basic


def _of_unigram(contents: Contents) -> set[str]:
    """Bytes or else characters and what cannot be written with these; and the token of the lowest score.

    The score of a character without a token depends on the lowest one.
    """
    model = contents["model"]
    vocab = dict(model["vocab"])
    lowest = min(vocab, key=lambda token: vocab[token])
    unknown = [] if model["unk_id"] is None else [model["vocab"][model["unk_id"]][0]]
    if model.get("byte_fallback") and all(token in vocab for token in BYTES):
        return {lowest, *unknown, *BYTES, *([SPACE] if SPACE in vocab else [])}
    unwritable = {token for token in vocab if any(character not in vocab for character in token)}
    return {lowest, *unknown, *unwritable, *(token for token in vocab if len(token) == 1)}


def _merged(contents: Contents) -> Parts:
    """What merging passes through on the way to a token, in order; nothing for a token that it never comes to."""
    rank: dict[tuple[str, str], int] = {}
    for place, rule in enumerate(rules_of(contents["model"])):
        rank[rule] = place  # the last one of equal rules counts
    none = len(rank)

    def parts(token: str) -> list[str]:
        pieces = list(token)
        passed = dict.fromkeys(pieces)
        while len(pieces) > 1:
            ranks = [rank.get(pair, none) for pair in pairwise(pieces)]
            first = min(ranks)
            if first == none:
                return []
            place = ranks.index(first)
            pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
            passed[pieces[place]] = None
        return [piece for piece in passed if piece != token]

    return parts


def _nothing(contents: Contents) -> Parts:
    return lambda token: []


def _bpe_section(model: Contents, ids: Mapping[str, int]) -> dict[str, Any]:
    vocab = {token: ids[token] for token in model["vocab"] if token in ids}
    rules = [
        given
        for given, (left, right) in zip(model["merges"], rules_of(model), strict=True)
        if left in vocab and right in vocab and left + right in vocab
    ]
    return {**model, "vocab": vocab, "merges": rules}


def _wordpiece_section(model: Contents, ids: Mapping[str, int]) -> dict[str, Any]:
    return {**model, "vocab": {token: ids[token] for token in model["vocab"] if token in ids}}


def _unigram_section(model: Contents, ids: Mapping[str, int]) -> dict[str, Any]:
    kept = sorted((piece for piece in model["vocab"] if piece[0] in ids), key=lambda piece: ids[piece[0]])
    unknown = None if model["unk_id"] is None else ids[model["vocab"][model["unk_id"]][0]]
    return {**model, "vocab": kept, "unk_id": unknown}


KINDS = (
    Kind("byte-level BPE", "BPE", _is_byte_level, _characters, _merged, _bpe_section),
    Kind("BPE with byte fallback", "BPE", _has_fallback, _bytes, _merged, _bpe_section),
    Kind("WordPiece", "WordPiece", lambda contents: None, _of_wordpiece, _nothing, _wordpiece_section),
    Kind("Unigram", "Unigram", lambda contents: None, _of_unigram, _nothing, _unigram_section),
)
