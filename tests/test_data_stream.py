"""Streams of training text: all of it and nothing held out, evenly over sources, and the same after a stop."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from helpers_data import byte_tokenizer, write_jsonl

from evaluators.data import stream as stream_module
from evaluators.data.places import TextPlace
from evaluators.data.shards import WholeText
from evaluators.data.sources import Source, text_sources
from evaluators.data.splits import PARTS, TokenSplits, encoder, read_text
from evaluators.data.stream import PASSES, TokenStream, training_stream
from space.errors import UserError

TOKENIZER = byte_tokenizer()
ENCODE = encoder(TOKENIZER)
LENGTH = 24


def windows(stream: TokenStream, count: int) -> torch.Tensor:
    return torch.stack([*islice(stream, count)])


def text_of(window: torch.Tensor) -> str:
    return TOKENIZER.decode(window)


@pytest.fixture
def place(tmp_path: Path) -> TextPlace:
    """Three sources in three files: two shards that both have two sources, and a plain text."""
    for shard in "ab":
        rows = [
            {"text": " ".join(f"{source}-{shard}-{number:03d}-{word}" for word in range(6)), "source": source}
            for number in range(60)
            for source in (("web",) if number % 3 else ("web", "books"))
        ]
        write_jsonl(tmp_path / f"{shard}.jsonl.gz", rows)
    (tmp_path / "plain.txt").write_text("".join(f"line {number:05d}\n" for number in range(3000)))
    return TextPlace(str(tmp_path))


@pytest.fixture
def text(place: TextPlace) -> TokenSplits:
    return read_text(place, TOKENIZER)


def test_sources_take_turns_with_windows_of_their_own(place: TextPlace, text: TokenSplits) -> None:
    stream = training_stream(place, text, LENGTH, TOKENIZER)
    assert stream.names == ["web", "books", "plain.txt"]
    found = windows(stream, 30)
    assert found.shape == (30, LENGTH)
    assert (found[:, 0] == TOKENIZER.bos_token_id).all()
    for turn, window in enumerate(found):
        words = text_of(window)
        assert ("web-" in words, "books-" in words, "line " in words) == tuple(turn % 3 == own for own in range(3))


@pytest.mark.parametrize("shuffled", [2, 7, stream_module.SHUFFLED])
def test_a_pass_is_all_of_the_text_once_in_a_drawn_order(
    shuffled: int, place: TextPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "SHUFFLED", shuffled)
    (source,) = (source for source in text_sources(place) if source.name == "web")
    whole = [text for shard in range(2) for text in source.documents(shard)]
    size = sum(map(len, whole))
    orders = []
    for seed in (0, 0, 1):
        stream = TokenStream([source], ENCODE, length=LENGTH, seed=seed)
        ids = windows(stream, -(-size // LENGTH)).flatten()[:size]
        documents = [f"{document}\n\n" for document in text_of(ids).split("\n\n")[:-1]]
        assert Counter(documents) == Counter(whole)
        assert (stream.new_windows is not None) == bool(size % LENGTH)  # the last window has text again
        second = [f"{text}\n\n" for text in text_of(windows(stream, 50).flatten()).split("\n\n")[1:5]]
        orders.append((documents, second))
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][0] != whole  # the shards at least, or the documents, are in another order
    assert orders[0][1] != orders[0][0][:4]  # and in the next pass in yet another


def test_the_runs_own_text_is_streamed_without_what_it_searches_with_or_holds_out(
    place: TextPlace, text: TokenSplits, tmp_path: Path
) -> None:
    """A pass is the calibration part and nothing else, also where the documents come in other files and sources too."""
    other = tmp_path / "other"
    other.mkdir()
    copied = [{"text": document.removesuffix("\n\n"), "source": "copy"} for document in read_all(place, "web")]
    new = {"text": "never seen before", "source": "new"}
    write_jsonl(other / "c.jsonl", [*copied, new])
    free = {name: text_of(ids) for name, ids in text.part("calibration").items()}
    free |= {"copy": free["web"], "new": "never seen before\n\n"}
    held = [text_of(window[1:]) for part in PARTS[1:] for window in text.blocks(part, 12, LENGTH)]
    for source in text_sources(TextPlace([str(tmp_path), str(other)])):
        stream = TokenStream([source], ENCODE, length=LENGTH, reserved=text.reserved)
        ids = windows(stream, len(free[source.name]) // LENGTH + 1).flatten()
        found = text_of(ids[: len(free[source.name])])
        assert Counter(found) == Counter(free[source.name])
        assert all(
            document in found for document in free[source.name].split("\n\n" if "." not in source.name else "\n")
        )
        assert not any(window in found for window in held)


def read_all(place: TextPlace, name: str) -> list[str]:
    return [
        document
        for source in text_sources(place)
        if source.name == name
        for shard in range(len(source.shards))
        for document in source.documents(shard)
    ]


def test_a_source_waits_when_it_is_some_passes_ahead() -> None:
    sources = [Source(name, (WholeText(name, name * size),)) for name, size in (("a", 1000), ("b", 100))]
    stream = TokenStream(sources, ENCODE, length=10)
    found = "".join(text_of(window)[0] for window in islice(stream, 160))
    ahead = 10 * PASSES + 1  # windows of `b`: a pass has ended when the next one begins
    assert found == ("ab" * ahead + "a" * (100 - ahead) + "ab" * 10)[:160]
    assert stream.new_windows == 21  # before the first one of which some came again


@pytest.mark.parametrize("shuffled", [5, stream_module.SHUFFLED])
@pytest.mark.parametrize("stop", [0, 1, 50, 333, 1200])
def test_after_a_stop_it_goes_on_with_the_same_windows(
    shuffled: int, stop: int, place: TextPlace, text: TokenSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "SHUFFLED", shuffled)
    stream = training_stream(place, text, LENGTH, TOKENIZER, seed=3)
    _ = [*islice(stream, stop)]
    state = json.loads(json.dumps(stream.state()))
    assert state["windows"] == stop
    assert len(json.dumps(state)) < 1000
    expected = windows(stream, 400)
    again = training_stream(place, text, LENGTH, TOKENIZER, seed=3)
    _ = windows(again, 7)
    again.restore(state)
    assert torch.equal(windows(again, 400), expected)
    assert again.state() == stream.state()
    again.rewind()
    first = training_stream(place, text, LENGTH, TOKENIZER, seed=3)
    assert torch.equal(windows(again, 9), windows(first, 9))


def test_a_place_in_other_text_is_refused(place: TextPlace, text: TokenSplits, tmp_path: Path) -> None:
    state = training_stream(place, text, LENGTH, TOKENIZER).state()
    only = training_stream(TextPlace(str(tmp_path / "plain.txt")), text, LENGTH, TOKENIZER)
    with pytest.raises(UserError, match=r"go on with text of web, books, plain\.txt, but it is of plain\.txt now"):
        only.restore(state)


def test_its_digest_is_of_all_that_windows_depend_on(place: TextPlace, text: TokenSplits, tmp_path: Path) -> None:
    def digest(place: TextPlace = place, length: int = LENGTH, seed: int = 0) -> str:
        return training_stream(place, text, length, TOKENIZER, seed=seed).digest

    first = digest()
    assert digest() == first
    others = [digest(length=9), digest(seed=1), digest(TextPlace(place.path, source_field=None))]
    with (tmp_path / "plain.txt").open("a") as file:
        file.write("more")
    assert len({first, *others, digest()}) == 5


def test_text_that_is_all_reserved_is_told_or_refused(place: TextPlace, tmp_path: Path) -> None:
    file = tmp_path / "plain.txt"
    own = read_text(TextPlace(str(file)), TOKENIZER)
    held = tmp_path / "held.jsonl"
    write_jsonl(held, [{"text": "some words"}])
    reserved = dict(read_text(TextPlace(str(held)), TOKENIZER).reserved)
    assert reserved  # its one document is free at its beginning
    nothing = dict.fromkeys(reserved, 0)
    sources = text_sources(TextPlace([str(held), str(file)]))
    stream = TokenStream(sources, ENCODE, length=LENGTH, reserved=own.reserved | nothing)
    assert (stream.names, stream.without) == (["plain.txt"], ["held.jsonl"])
    with pytest.raises(UserError, match=r"text to train on in held\.jsonl, but all of it .*recover\.data\.path"):
        TokenStream(sources[:1], ENCODE, length=LENGTH, reserved=nothing)


def test_text_without_tokens_and_windows_without_room_are_refused() -> None:
    source = Source("a", (WholeText("a", "some text"),))
    with pytest.raises(UserError, match="train on in a, but it has no tokens"):
        windows(TokenStream([source], lambda text, name: [], length=LENGTH), 1)
    with pytest.raises(UserError, match="windows of at least 2 tokens, got 1"):
        TokenStream([source], ENCODE, length=1, start=0)


def test_a_long_text_is_never_whole_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a source without an end, a window takes a block of documents and no more."""
    read = 0

    class Endless(WholeText):
        def documents(self, characters: int | None = None):  # type: ignore[no-untyped-def]
            nonlocal read
            for number in range(10**9):
                read += 1
                yield "a", f"document {number} of an endless text\n\n"

    monkeypatch.setattr(stream_module, "SHUFFLED", 50)
    stream = TokenStream([Source("a", (Endless("a", ""),))], ENCODE, length=LENGTH)
    windows(stream, 20)
    assert read <= 52  # one to see that there is text
    windows(stream, 100)
    assert 100 <= read <= 152
