"""Text sources and token blocks: what is read, what is refused, and that no text is in two parts."""

import gzip
import json

import httpx2
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from evaluators import data
from evaluators.data import TokenSplits, load_texts, split_tokens
from space.errors import UserError

PARTS = ("calibration", "search", "heldout")


@pytest.fixture(scope="module")
def tokenizer():
    """One token a byte, a start token unless told otherwise, and a short maximum length."""
    vocab = {char: index for index, char in enumerate(["<s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", model_max_length=8)


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
    texts = {"one": "a sentence that is longer than eight", "two": "déjà vu"}
    splits = split_tokens(texts, tokenizer)
    assert {name: tokenizer.decode(ids) for name, ids in splits.tokens.items()} == texts
    assert splits.digest == split_tokens(texts, tokenizer).digest
    assert splits.digest != split_tokens(texts | {"two": "déjà vue"}, tokenizer).digest
    assert splits.digest != split_tokens({"one": texts["one"], "2": texts["two"]}, tokenizer).digest
    assert torch.equal(splits.blocks("search", 1, 4), split_tokens(texts, tokenizer).blocks("search", 1, 4))


def test_windows_begin_as_the_tokenizer_begins_a_text(tokenizer):
    texts = {"one": "a sentence that is longer than eight", "two": "another one that is about as long"}
    splits = split_tokens(texts, tokenizer)
    windows = splits.blocks("calibration", 6, 5)
    assert (windows[:, 0] == tokenizer.bos_token_id).all()
    assert all(tokenizer.decode(row[1:]) in texts["one"] + texts["two"] for row in windows)
    assert len({tuple(row) for row in windows.tolist()}) == 6
    assert splits.digest != TokenSplits(splits.tokens).digest
    with pytest.raises(UserError, match="at least 2 tokens"):
        splits.blocks("calibration", 1, 1)


def test_long_text_is_tokenised_without_a_complaint(tokenizer, caplog, capsys):
    split_tokens({"long": "x" * 100}, tokenizer)
    assert (caplog.text, capsys.readouterr()) == ("", ("", ""))


def test_tokenizer_of_another_model(tokenizer):
    with pytest.raises(UserError, match="token ids below 10"):
        split_tokens({"one": "zebra"}, tokenizer, vocab=10)


def write_jsonl(path, rows):
    text = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("suffix", [".txt", ".raw"])
def test_plain_files(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes("héllo\n\nworld".encode() + b"\xff")
    assert load_texts(str(tmp_path / f"a{suffix}")) == {f"a{suffix}": "héllo\n\nworld\ufffd"}


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_json_lines(tmp_path, suffix):
    file = write_jsonl(tmp_path / f"a{suffix}", [{"body": "one"}, {"body": "two", "id": 1}])
    assert load_texts(str(file), field="body") == {file.name: "one\n\ntwo"}


def test_a_directory_is_one_source_a_file(tmp_path):
    write_jsonl(tmp_path / "b.jsonl", [{"text": "two"}])
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "notes.md").write_text("not text for this")
    assert list(load_texts(str(tmp_path)).items()) == [("a.txt", "one"), ("b.jsonl", "two")]


def test_reading_stops_in_time(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 100)
    write_jsonl(tmp_path / "b.jsonl", [{"text": "yyy"}] * 100)
    texts = load_texts(str(tmp_path), max_characters=10)
    assert texts == {"a.txt": "x" * 10, "b.jsonl": "yyy\n\nyyy"}


def test_wrong_field_names_those_there_are(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}, {"title": "two", "body": "two"}])
    with pytest.raises(UserError, match=r"'text' of line 2 of .*fields body, title.*data\.field"):
        load_texts(str(file))


@pytest.mark.parametrize("line", ['{"text": "cut o', '["text"]', "3"])
def test_broken_line_is_named(tmp_path, line):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "one"}\n\n' + line)
    with pytest.raises(UserError, match=r"JSON object in line 3 of .*a\.jsonl"):
        load_texts(str(file))


@pytest.mark.parametrize("content", [b"not gzip", gzip.compress(b'{"text": "one"}', mtime=0)[:-9]])
def test_broken_gzip(tmp_path, content):
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"Expected to read text from .*a\.jsonl\.gz"):
        load_texts(str(file))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_empty_text(tmp_path, name):
    (tmp_path / name).write_text("\n \n")
    with pytest.raises(UserError, match=rf"Expected text in {name}, but it is empty"):
        load_texts(str(tmp_path / name))


def test_paths_that_are_no_text(tmp_path):
    with pytest.raises(UserError, match="but there is none at"):
        load_texts("missing.txt")
    with pytest.raises(UserError, match=r"Expected files named \.txt"):
        load_texts(str(tmp_path))
    (tmp_path / "a.pdf").touch()
    with pytest.raises(UserError, match=r"got a\.pdf"):
        load_texts(str(tmp_path / "a.pdf"))


def test_default_text(monkeypatch):
    monkeypatch.setattr(data, "default_texts", lambda: {"wiki": "some text"})
    assert load_texts() == {"wiki": "some text"}


def test_hub_not_reachable(monkeypatch):
    def unreachable(*_, **__):
        raise httpx2.ConnectTimeout("timed out")

    monkeypatch.setattr(data.HfApi, "dataset_info", unreachable)
    with pytest.raises(UserError, match=r"can not be reached \(timed out\).*leave data\.path unset"):
        load_texts("someone/some-text")


def test_hub_data_set(monkeypatch):
    import datasets

    def load(path, name, *, split, streaming):
        if split != "test":
            raise ValueError(f"Unknown split {split!r}.")
        return iter([{"text": f"{path} {name}"}, {"text": f"streaming {streaming}"}])

    monkeypatch.setattr(data.HfApi, "dataset_info", lambda *_, **__: None)
    monkeypatch.setattr(data, "is_offline_mode", lambda: False)
    monkeypatch.setattr(datasets, "load_dataset", load)
    texts = load_texts("someone/some-text", name="small", split="test")
    assert texts == {"someone/some-text": "someone/some-text small\n\nstreaming True"}
    with pytest.raises(UserError, match=r"data\.split=train, but got: Unknown split"):
        load_texts("someone/some-text")
