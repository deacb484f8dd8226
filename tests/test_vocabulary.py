"""Smaller vocabularies: levels are nested, a trimmed tokenizer writes every text and cuts it as before where it can."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from helpers_formats import byte_level, sentencepiece
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from space.errors import UserError
from space.vocabulary.check import CHARACTERS, compared
from space.vocabulary.kinds import ids_of, kind_of
from space.vocabulary.levels import Levels
from space.vocabulary.trimmed import trimmed

TEXT = [
    "the cat sat on the mat, and the other cat sat there too.",
    "another mother gathers the weather; neither feathers nor leather matter.",
    "ein Käse, two 東京 trips, 12 345 numbers\n\tand a tab  with two blanks",
]
UNSEEN = ["Grüße aus 北京 \N{SNOWMAN}", "zzz qqq", "if x[0] != {1: 'a'}:\n    return None\n", CHARACTERS]


def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(TEXT * 3, trainers.WordPieceTrainer(vocab_size=160, special_tokens=special))
    tokenizer.post_processor = processors.BertProcessing(
        ("[SEP]", tokenizer.token_to_id("[SEP]")), ("[CLS]", tokenizer.token_to_id("[CLS]"))
    )
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=["<unk>", "</s>"], unk_token="<unk>")
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return tokenizer


def with_fallback() -> Tokenizer:
    tokenizer = sentencepiece().backend_tokenizer
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


TOKENIZERS = {
    "byte-level BPE": lambda: byte_level("smollm").backend_tokenizer,
    "byte-level BPE, whole words first": lambda: byte_level("llama-bpe").backend_tokenizer,
    "BPE with byte fallback": with_fallback,
    "WordPiece": wordpiece,
    "Unigram": unigram,
}


def contents_of(tokenizer: Tokenizer) -> dict[str, Any]:
    contents: dict[str, Any] = json.loads(tokenizer.to_str())
    return contents


def uses(tokenizer: Tokenizer) -> list[int]:
    counts = Counter(index for text in TEXT[:1] for index in tokenizer.encode(text).ids)
    return [counts[index] for index in range(tokenizer.get_vocab_size())]


def trimmed_by(contents: dict[str, Any], kept: tuple[int, ...]) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(trimmed(contents, kept)))


@pytest.fixture(params=TOKENIZERS)
def whole(request: pytest.FixtureRequest) -> Tokenizer:
    """A tokenizer of each kind in turn."""
    tokenizer = TOKENIZERS[request.param]()
    assert kind_of(contents_of(tokenizer)).name == request.param.partition(",")[0]
    return tokenizer


def test_each_level_writes_every_text_and_cuts_what_needs_no_dropped_token_as_before(whole: Tokenizer) -> None:
    contents = contents_of(whole)
    levels = Levels.of(contents, uses(whole))
    size = len(levels.order)
    assert sorted(levels.order) == sorted(ids_of(contents).values())
    assert levels.least < size
    recut = []
    for count in (levels.least, (levels.least + size) // 2, size - 1, size):
        kept = levels.kept(count)
        small = trimmed_by(contents, kept)
        assert small.get_vocab_size() == len(kept) == count
        assert {token: kept[place] for token, place in small.get_vocab().items()}.items() <= whole.get_vocab().items()
        recut.append(compared(whole, small, kept, [*TEXT, *UNSEEN]).recut)
    assert recut == sorted(recut, reverse=True)
    assert recut[0] > recut[-1] == 0


def test_what_text_uses_most_is_kept_first_behind_what_it_is_made_through(whole: Tokenizer) -> None:
    contents, counts = contents_of(whole), uses(whole)
    levels, parts, ids = Levels.of(contents, counts), kind_of(contents).parts(contents), ids_of(contents)
    places = {index: place for place, index in enumerate(levels.order)}
    for token, index in ids.items():
        assert all(places[ids[part]] < places[index] for part in parts(token)), token
    used = sum(count > 0 for count in counts)
    kept = levels.kept(levels.least + 2 * used)
    assert all(index in kept for index, count in enumerate(counts) if count)


def test_further_tokens_can_be_kept_always() -> None:
    whole = TOKENIZERS["byte-level BPE"]()
    contents = contents_of(whole)
    longest = max(contents["model"]["vocab"], key=len)
    index = whole.token_to_id(longest)
    assert index not in Levels.of(contents, ()).kept(Levels.of(contents, ()).least)
    levels = Levels.of(contents, (), always={index, 10**6})
    small = trimmed_by(contents, levels.kept(levels.least))
    assert small.decode([small.token_to_id(longest)]) == whole.decode([index])
    assert small.encode(whole.decode([index])).tokens == [longest]


def test_a_level_is_a_part_of_the_tokens_or_their_number() -> None:
    contents = contents_of(TOKENIZERS["byte-level BPE"]())
    levels = Levels.of(contents, ())
    assert (levels.least, len(levels.order)) == (258, 372)  # special ones, and bytes
    assert levels.count(0.7) == 264  # 260 rounded up to a multiple of 8
    assert (levels.count(300), levels.count(1), levels.count(371)) == (304, 372, 372)
    for keep in (0.6, 257, 373):
        with pytest.raises(UserError, match=r"expected from 258 to 372 tokens, or a part of at least 0\.694"):
            levels.count(keep)


def test_what_is_no_row_is_refused_by_name() -> None:
    word = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    with pytest.raises(UserError, match="got a model of the type WordLevel"):
        Levels.of(contents_of(word), ())
    plain = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    with pytest.raises(UserError, match=r"byte-level BPE: it has no step ByteLevel; BPE with .*: it has no byte_fall"):
        Levels.of(contents_of(plain), ())
    marked = Tokenizer(models.BPE({"a": 0, "b</w>": 1}, [], end_of_word_suffix="</w>"))
    marked.pre_tokenizer = pre_tokenizers.ByteLevel()
    with pytest.raises(UserError, match="byte-level BPE: it has a end_of_word_suffix"):
        Levels.of(contents_of(marked), ())


def test_the_check_sees_a_tokenizer_that_cuts_otherwise() -> None:
    whole = TOKENIZERS["byte-level BPE"]()
    contents = contents_of(whole)
    kept = tuple(range(whole.get_vocab_size()))
    broken = trimmed(contents, kept)
    broken["model"]["merges"] = broken["model"]["merges"][::-1]
    with pytest.raises(UserError, match="needs no dropped token, but is cut into"):
        compared(whole, Tokenizer.from_str(json.dumps(broken)), kept, TEXT)
    lossy = trimmed(contents, kept)
    lossy["normalizer"] = {"type": "Lowercase"}
    with pytest.raises(UserError, match="failed its check"):
        compared(whole, Tokenizer.from_str(json.dumps(lossy)), kept, ["The Cat"])
    with pytest.raises(UserError, match="has the new id 5, which is of"):
        compared(whole, whole, (*kept[:5], *kept[6:]), TEXT)
