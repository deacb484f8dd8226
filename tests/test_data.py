"""A run's share of its text: that no text is in two parts, and that windows are drawn evenly over sources."""

import pytest
import torch
from helpers_data import byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from evaluators.data.splits import PARTS, TokenSplits, digest_of, split_tokens
from space.errors import UserError


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def numbered(**lengths):
    """Splits whose tokens are all different, so that a token names its place."""
    tokens, first = {}, 0
    for name, length in lengths.items():
        tokens[name] = torch.arange(first, first + length)
        first += length
    return TokenSplits(tokens)


@given(
    lengths=st.lists(st.integers(0, 300), min_size=1, max_size=4),
    length=st.integers(1, 20),
    data=st.data(),
)
def test_no_token_is_in_two_windows_or_two_parts(lengths, length, data):
    splits = numbered(**{f"source{index}": size for index, size in enumerate(lengths)})
    seen = []
    for part in PARTS:
        room = sum(len(ids) // length for ids in splits.part(part).values())
        windows = data.draw(st.integers(0, room))
        if windows:
            blocks = splits.blocks(part, windows, length)
            assert blocks.shape == (windows, length)
            assert torch.all(blocks.diff(dim=1) == 1)  # consecutive tokens
            seen.append(blocks.flatten())
    if seen:
        tokens = torch.cat(seen)
        assert len(tokens.unique()) == len(tokens)


@given(length=st.integers(0, 1000))
def test_parts_cover_a_source_in_order(length):
    splits = numbered(only=length)
    parts = [splits.part(part)["only"] for part in PARTS]
    assert torch.equal(torch.cat(parts), torch.arange(length))
    assert abs(len(parts[0]) - 0.6 * length) <= 1
    assert abs(len(parts[1]) - 0.2 * length) <= 1


def test_windows_are_spread_over_the_part():
    blocks = numbered(only=1000).blocks("calibration", 3, 10)
    assert blocks[:, 0].tolist() == [0, 200, 400]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    ("windows", "shares"),
    [(2, [1, 1, 0]), (3, [1, 1, 1]), (9, [3, 3, 3]), (20, [8, 8, 4]), (60, [46, 10, 4])],  # which have 200, 10 and 4
)
def test_every_part_is_drawn_evenly_over_sources_as_far_as_each_has_text(part, windows, shares):
    size = 10 if part != "calibration" else 30 / 9  # of a fifth of a source, or of three
    splits = numbered(a=round(200 * 5 * size), b=round(10 * 5 * size + 0.5), c=round(4 * 5 * size + 0.5))
    assert list(splits.shares(part, windows, 10).values()) == shares
    blocks = splits.blocks(part, windows, 10)
    edges = torch.tensor([len(ids) for ids in splits.tokens.values()]).cumsum(0)
    owners = torch.searchsorted(edges, blocks[:, 0].contiguous(), right=True)
    assert owners.bincount(minlength=3).tolist() == shares
    for leading in range(1, min(windows, 12)):  # while all have text: a fair mixture
        assert owners[:leading].bincount(minlength=3).max() - leading / 3 < 1


def test_a_source_that_gives_little_is_told():
    splits = numbered(wiki=1000, c4=1000, tiny=100)
    assert splits.remarks({"calibration": 6, "search": 6, "heldout": 3}, 10) == []
    said = splits.remarks({"calibration": 24, "search": 12, "heldout": 2}, 10)
    assert said == [
        "calibration text is uneven: an even share of 24 windows is 8 a source, but there are tiny 6",
        "search text is uneven: an even share of 12 windows is 4 a source, but there are tiny 2",
        "heldout text: 2 windows are too few for 3 sources, without any of tiny",
    ]
    many = numbered(**{f"s{index}": 100 for index in range(20)})
    assert many.remarks({"search": 4}, 10)[0].endswith(
        "4 windows are too few for 20 sources, without any of s4, s5, s6, s7, s8, s9, s10, s11 and 8 more"
    )


def test_what_is_for_search_or_held_out_is_reserved(tokenizer):
    """A document that begins in the calibration part is free up to there; one that comes again is not at all."""
    documents = {"a": ["0123", "4567", "89ab", "cdef", "again"], "b": ["again", "0" * 20]}
    text = split_tokens(documents, tokenizer)
    assert {name: len(ids) for name, ids in text.tokens.items()} == {"a": 21, "b": 25}  # of which 12 and 15 are free
    expected = {"cdef": 0, "again": 0, "0" * 20: 10}
    assert text.reserved == {digest_of(document): free for document, free in expected.items()}


def test_sources_take_turns_and_a_short_one_leaves_its_turns():
    blocks = numbered(long=1000, short=100).blocks("search", 6, 10)
    of_short = blocks[:, 0] >= 1000
    assert of_short.tolist() == [False, True, False, True, False, False]


def test_too_little_text_says_what_there_is():
    splits = numbered(wiki=100, c4=50)
    message = r"Expected 10 heldout windows of 5 tokens.* has 6 \(wiki 4, c4 2\)\. Lower data\.heldout_windows"
    with pytest.raises(UserError, match=message):
        splits.blocks("heldout", 10, 5)
    assert splits.blocks("heldout", 6, 5).shape == (6, 5)


@pytest.mark.parametrize(("windows", "length"), [(0, 5), (5, 0)])
def test_counts_are_positive(windows, length):
    with pytest.raises(UserError, match="at least 1"):
        numbered(only=100).blocks("search", windows, length)


def test_tokens_are_the_texts_own_and_digest_pins_them(tokenizer):
    texts = {"one": ["a sentence that is ", "longer than eight"], "two": ["déjà vu"]}
    splits = split_tokens(texts, tokenizer)
    assert {name: tokenizer.decode(ids) for name, ids in splits.tokens.items()} == {
        name: "".join(documents) for name, documents in texts.items()
    }
    assert splits.digest == split_tokens(texts, tokenizer).digest
    assert splits.digest != split_tokens(texts | {"two": ["déjà vue"]}, tokenizer).digest
    assert splits.digest != split_tokens({"two": texts["two"], "one": texts["one"]}, tokenizer).digest
    assert splits.digest == split_tokens({"1": texts["one"], "2": texts["two"]}, tokenizer).digest  # renamed files
    assert torch.equal(splits.blocks("search", 1, 4), split_tokens(texts, tokenizer).blocks("search", 1, 4))


def test_windows_begin_as_the_tokenizer_begins_a_text(tokenizer):
    texts = {"one": ["a sentence that is longer than eight"], "two": ["another one that is about as long"]}
    splits = split_tokens(texts, tokenizer)
    windows = splits.blocks("calibration", 6, 5)
    assert (windows[:, 0] == tokenizer.bos_token_id).all()
    assert all(tokenizer.decode(row[1:]) in texts["one"][0] + texts["two"][0] for row in windows)
    assert len({tuple(row) for row in windows.tolist()}) == 6
    assert splits.digest != TokenSplits(splits.tokens).digest
    with pytest.raises(UserError, match="at least 2 tokens"):
        splits.blocks("calibration", 1, 1)


def test_long_text_is_tokenised_without_a_complaint(tokenizer, caplog, capsys):
    split_tokens({"long": ["x" * 100]}, tokenizer)
    assert (caplog.text, capsys.readouterr()) == ("", ("", ""))


def test_tokenizer_of_another_model(tokenizer):
    with pytest.raises(UserError, match="token ids below 10"):
        split_tokens({"one": ["zebra"]}, tokenizer, vocab=10)
