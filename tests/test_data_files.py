"""What files hold: characters, rows of any kind, rows without text, and chats; all else is refused by name."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from helpers_data import byte_tokenizer, write_jsonl

from evaluators.data.chats import renderer
from evaluators.data.places import TextPlace
from evaluators.data.sources import read_documents
from evaluators.data.splits import read_text
from evaluators.data.stream import training_stream
from space.errors import UserError

TEXT = "Ünïcode text as editors save it, 語.\n" * 10
TEMPLATE = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}<{{ message.role }}> {{ message.content }}\n{% endfor %}"
)
CHAT = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
SHARED = [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}]
RENDERED = "<user> Hi?\n<assistant> Hello.\n"


def read(path: Path, template: str | None = TEMPLATE, **settings: Any) -> dict[str, list[str]]:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return read_documents(TextPlace(str(path), **settings), render=renderer(tokenizer))


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """A file of rows, of the kind that its name says."""
    from pyarrow import Table, parquet

    rows = [*rows]
    if path.suffix == ".parquet":
        parquet.write_table(Table.from_pylist(rows), path)
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    else:
        write_jsonl(path, rows)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz", "a.csv"])
def test_byte_order_marks_say_the_encoding(tmp_path: Path, encoding: str, name: str) -> None:
    content = {"a.txt": TEXT, "a.csv": f'text\n"{TEXT}"\n'}.get(name, json.dumps({"text": TEXT}, ensure_ascii=False))
    mark = "\ufeff" if encoding.endswith("be") else ""
    data = (mark + content).encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
    assert read(tmp_path) == {name: [TEXT if name == "a.txt" else f"{TEXT}\n\n"]}


LONG = "ä".encode() + b"a" * (3 << 20)  # so that characters lie across what is read at once


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"caf\xe9 au lait", r"UTF-8 in .*a\.txt, .* at byte 3 it has 0xe9, .*iconv -f WINDOWS-1252"),
        (b"a" + LONG + b"\x93", rf"at byte {len(LONG) + 1} it has 0x93,"),
        (LONG + "ä".encode()[:1], rf"at byte {len(LONG)} it has 0xc3,"),
        (b"\xef\xbb\xbfok \xff", r"mark says UTF-8, but at byte 6 it has 0xff,"),
        ("Ünïcode".encode("utf-16-le"), r"at byte 0 it has 0xdc, .*iconv -f UTF-16LE"),
        ("Ünïcode".encode("utf-16-be"), r"at byte 1 it has 0xdc, .*iconv -f UTF-16BE"),
        (gzip.compress(b"text", mtime=0), r"text in .*a\.txt, but it begins as gzip does"),
        (b"%PDF-1.7 \xe2\xe3", r"text in .*a\.txt, but it begins as PDF does"),
        ("Ünïcode".encode("utf-16")[:-1], r"UTF-16 in .*mark says UTF-16, but at byte 14 it has 0x65, .*cut off"),
    ],
)
def test_other_encodings_are_refused_with_the_place(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(UserError, match=message):
        read(tmp_path / "a.txt")


def test_a_compressed_file_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "caf\xe9"}', mtime=0))
    with pytest.raises(UserError, match=r"at byte 13 of what it unpacks to it has 0xe9"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plain words".encode("utf-16-le").decode(), r"22 characters 11 are NUL, .*iconv -f UTF-16LE"),
        ("plain words".encode("utf-16-be").decode(), r"22 characters 11 are NUL, .*iconv -f UTF-16BE"),
        ("some words and more\n" * 500 + "\0" * 200, r"of its first 10200 characters 200 are NUL"),
        ("d\ufffdj\ufffd vu", r"7 characters 2 are U\+FFFD, .*original"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_text_full_of_what_is_none_is_refused(tmp_path: Path, text: str, message: str, name: str) -> None:
    if name == "a.txt":
        (tmp_path / name).write_text(text)
    else:
        write_jsonl(tmp_path / name, [{"text": text}])
        message = r"characters \d+ are"  # with the end of the row
    with pytest.raises(UserError, match=rf"Expected text in .*{name}, but .*{message}"):
        read(tmp_path)


def test_a_character_that_got_lost_here_and_there_is_let_pass(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("d\ufffdja vu \0" + "a" * 200)
    assert read(tmp_path)["a.txt"][0].count("\ufffd") == 1


KINDS = ["a.jsonl", "a.jsonl.gz", "a.csv", "a.tsv", "a.parquet"]


@pytest.mark.parametrize("name", KINDS)
def test_rows_of_every_kind_have_text_in_any_column(tmp_path: Path, name: str) -> None:
    texts = ['one, "two"\tthree\nfour', "NA", "", "語", "x" * 200_000]
    rows = [
        {"id": number, "body, or so": text, "source": "web" if number % 2 else ""} for number, text in enumerate(texts)
    ]
    file = write_rows(tmp_path / name, rows)
    found = read(file, field="body, or so")
    assert found["web"] == ["NA\n\n", "語\n\n"]
    assert found[name][:2] == ['one, "two"\tthree\nfour\n\n', ""]
    assert "".join(found[name][2:]) == "x" * 200_000 + "\n\n"
    with pytest.raises(UserError, match=rf"'text' of (line|row) \d of .*{name}.*fields body, or so, id, source\. "):
        read(file)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_rows_without_text_are_skipped_and_counted(tmp_path: Path, name: str) -> None:
    rows = [{"text": None if number % 10 == 0 else f"text of row {number}"} for number in range(50)]
    place = TextPlace(str(write_rows(tmp_path / name, [*rows, {"text": " \n"}])))
    tokenizer = byte_tokenizer()
    text = read_text(place, tokenizer)
    assert text.skipped == {name: 6}
    assert text.remarks({"search": 1}, 10) == [f"rows without text are skipped: {name} 6"]
    assert tokenizer.decode(text.tokens[name]) == "".join(f"{row['text']}\n\n" for row in rows if row["text"])
    stream = training_stream(place, text, 24, tokenizer)
    assert stream.skipped == {}  # nothing was read yet
    _ = [*islice(stream, 100)]
    assert stream.new_windows is not None  # more than a pass
    assert stream.skipped == {name: 6}
    stream.rewind()
    assert stream.skipped == {}


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_rows_that_all_lack_text_are_refused(tmp_path: Path, name: str) -> None:
    file = write_rows(tmp_path / name, [{"text": "", "body": "words"}] * 3)
    with pytest.raises(UserError, match=rf"text in {name}, but .* null or blank in all of its 3 rows.*data\.field"):
        read(file)
    with pytest.raises(UserError, match=rf"text in {name}, but .* null or blank in all of its 3 rows.*data\.field"):
        read(file, source_field=None)


def test_hub_rows_are_read_as_those_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    from evaluators.data import sources

    columns = {"text": [None, "words"], "messages": [CHAT, []], "nothing": [None, None]}
    rows = datasets.Dataset.from_dict(columns).to_iterable_dataset()
    monkeypatch.setattr(sources.HfApi, "dataset_info", lambda *_, **__: None)
    monkeypatch.setattr(sources, "is_offline_mode", lambda: False)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    assert read(Path("a/b")) == {"a/b": ["", "words\n\n"]}
    assert read(Path("a/b"), field="messages") == {"a/b": [RENDERED, ""]}
    with pytest.raises(UserError, match=r"a/b, but the field is null or blank in all of its 2 rows"):
        read(Path("a/b"), field="nothing")
    tokenizer, place = byte_tokenizer(), TextPlace("a/b")
    text = read_text(place, tokenizer)
    with pytest.raises(UserError, match=r"a/b, but the field is null or blank in all of its 2 rows"):
        training_stream(TextPlace("a/b", field="nothing"), text, 24, tokenizer)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
@pytest.mark.parametrize("chat", [CHAT, SHARED])
@pytest.mark.parametrize("field", ["messages", "conversations", "talk"])
def test_chats_are_rendered_by_the_tokenizers_template(
    tmp_path: Path, name: str, chat: list[dict[str, str]], field: str
) -> None:
    file = write_rows(tmp_path / name, [{field: chat, "id": 1}, {field: chat[:1], "id": 2}, {field: [], "id": 3}])
    documents = [RENDERED, RENDERED[:11], ""]
    assert read(file, field=field) == {name: documents}
    if field != "talk":  # which says nothing of what it is
        assert read(file) == {name: documents}
        names = ", ".join(sorted([field, "id"]))
        with pytest.raises(UserError, match=rf"'body' of .*{name}, but it has the fields {names}\. "):
            read(file, field="body")
    else:
        with pytest.raises(UserError, match=rf"'text' of .*{name}, but it has the fields id, talk"):
            read(file)


def test_chats_in_tables_are_json_and_parts_of_a_message_that_are_text_are_joined(tmp_path: Path) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i?"}]}, CHAT[1]]
    table = write_rows(tmp_path / "a.csv", [{"messages": json.dumps(chat)} for chat in (CHAT, [], parts)])
    assert read(table) == {"a.csv": [RENDERED, "", RENDERED]}
    assert read(write_jsonl(tmp_path / "a.jsonl", [{"messages": parts}])) == {"a.jsonl": [RENDERED]}
    with pytest.raises(UserError, match=r"or a chat, .*in a table, as JSON.* got \[\{'role': 'user'"):
        read(write_rows(tmp_path / "b.csv", [{"messages": str(CHAT)}]))


def test_text_comes_before_chats_and_both_are_streamed_as_they_are_read(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": "words", "messages": CHAT}, {"messages": CHAT}] * 30)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    text = read_text(TextPlace(str(file)), tokenizer)
    assert tokenizer.decode(text.tokens["a.jsonl"]).startswith("words\n\n" + RENDERED + "words\n\n" + RENDERED)
    other = read_text(TextPlace(str(write_jsonl(tmp_path / "b.jsonl", [{"text": "z"}]))), tokenizer)
    stream = training_stream(TextPlace(str(file)), other, 24, tokenizer)
    assert RENDERED in tokenizer.decode([token for window in islice(stream, 9) for token in window[1:].tolist()])


def test_a_template_says_the_same_on_every_day(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [{"messages": CHAT}])
    template = "{% if strftime_now is defined %}\nToday: {{ strftime_now('%d %b %Y') }}\n{% endif %}" + TEMPLATE
    assert read(file, template) == {"a.jsonl": [f"Today: 26 Jul 2024\n{RENDERED}"]}


@pytest.mark.parametrize(
    ("value", "template", "message"),
    [
        (CHAT, None, r"chat template for the chat in the field 'messages' of line 1 of .*a\.jsonl.*data\.field"),
        ([{"role": "system", "content": "x"}], TEMPLATE, r"render the chat in .*got: System role not supported"),
        ([{"role": "user", "content": [{"type": "text"}]}], TEMPLATE, r"messages with role and content, both text"),
        ([{"speaker": "x", "words": "y"}], TEMPLATE, r"or a chat, .* got \[\{'speaker': 'x'"),
        (["Hi?", "Hello."], TEMPLATE, r"or a chat, .* got \['Hi\?'"),
        (3, TEMPLATE, r"or a chat, .* got 3\."),
    ],
)
def test_chats_that_cannot_be_rendered_are_refused(
    tmp_path: Path, value: Any, template: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read(write_jsonl(tmp_path / "a.jsonl", [{"messages": value}]), template)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"id,text\n1,one\n\n2,two,too\n", r"2 cells in line 4 of .*a\.csv, .* id, text, got 3"),
        ("a.csv", b'text\none\n"two', r"line 3 of .*a\.csv.* got: unexpected end of data"),
        ("a.csv", b"text;id\none;1\n", r"a\.csv to name columns, divided by ',', got 'text;id', where ';' seems to"),
        ("a.tsv", b"text,id\none,1\n", r"a\.tsv to name columns, divided by .*, got 'text,id', where ',' seems to"),
        ("a.tsv", b"text\n", "text in a.tsv, but it is empty"),
        ("a.csv", b"", "text in a.csv, but it is empty"),
        ("a.parquet", b"PAR1 and nothing", r"Parquet file at .*a\.parquet, but got"),
        ("a.parquet", b"", r"Parquet file at .*a\.parquet, but got"),
    ],
)
def test_broken_tables_are_refused(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        read(tmp_path)
