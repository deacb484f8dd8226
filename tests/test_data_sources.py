"""Sources of text: what is read, whose it is, and what is refused."""

import gzip
import json

import httpx2
import pytest
from helpers_data import write_jsonl

from evaluators.data import sources
from evaluators.data.places import Entry, TextPlace
from evaluators.data.shards import DOCUMENT, MOST_SOURCES
from evaluators.data.sources import read_documents, text_sources
from space.errors import UserError


def read(path=None, **settings):
    return read_documents(TextPlace(None if path is None else str(path), **settings))


@pytest.mark.parametrize("suffix", [".txt", ".raw"])
def test_plain_files(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes("héllo\n\nworld".encode())
    assert read(tmp_path / f"a{suffix}") == {f"a{suffix}": ["héllo\n\nworld"]}


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_json_lines(tmp_path, suffix):
    file = write_jsonl(tmp_path / f"a{suffix}", [{"body": "one"}, {"body": " "}, {"body": "two", "id": 1}])
    assert read(file, field="body") == {file.name: ["one\n\n", "", "two\n\n"]}


def test_half_a_character_is_text_that_a_tokenizer_takes(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "half \\ud83d"}')
    assert read(tmp_path / "a.jsonl") == {"a.jsonl": ["half ?\n\n"]}


def test_a_directory_is_one_source_a_file(tmp_path):
    write_jsonl(tmp_path / "b.jsonl", [{"text": "two"}])
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "notes.md").write_text("not text for this")
    assert list(read(tmp_path).items()) == [("a.txt", ["one"]), ("b.jsonl", ["two\n\n"])]


def test_lines_may_name_their_source_which_is_one_in_all_files(tmp_path):
    rows = [
        {"text": "1", "source": "web"},
        {"text": "2", "source": "books"},
        {"text": "3"},
        {"text": "4", "source": ""},
    ]
    write_jsonl(tmp_path / "a.jsonl", rows)
    write_jsonl(tmp_path / "b.jsonl.gz", [{"text": "5", "source": "web", "kind": "x"}])
    assert read(tmp_path) == {
        "web": ["1\n\n", "5\n\n"],
        "books": ["2\n\n"],
        "a.jsonl": ["3\n\n", "4\n\n"],
    }
    by_file = {"a.jsonl": ["1\n\n", "2\n\n", "3\n\n", "4\n\n"], "b.jsonl.gz": ["5\n\n"]}
    assert read(tmp_path, source_field=None) == by_file
    assert [*read(tmp_path, source_field="kind")] == ["a.jsonl", "x"]


def test_files_of_one_name_are_told_apart(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(folder)
    (tmp_path / "y" / "b.txt").write_text("b")
    place = TextPlace([str(tmp_path / "x" / "a.txt"), {"path": str(tmp_path / "y")}])
    assert read_documents(place) == {"x/a.txt": ["x"], "y/a.txt": ["y"], "b.txt": ["b"]}
    with pytest.raises(UserError, match=r"every text once, but it has .*a\.txt twice"):
        read_documents(TextPlace([str(tmp_path / "y"), str(tmp_path / "y" / "a.txt")]))


def test_too_many_or_unnamed_sources_are_refused(tmp_path):
    rows = [{"text": "one", "source": f"page {number}"} for number in range(MOST_SOURCES + 1)]
    with pytest.raises(UserError, match=r"'source' of .*a\.jsonl to name at most 256 sources.*data\.source_field"):
        read(write_jsonl(tmp_path / "a.jsonl", rows))
    with pytest.raises(UserError, match=r"name of a source in the field 'source' of line 1 of .*got \{'id': 1\}"):
        read(write_jsonl(tmp_path / "a.jsonl", [{"text": "one", "source": {"id": 1}}]))


def test_a_name_that_comes_late_counts_as_the_first(tmp_path):
    rows = [{"text": "x" * 50, "source": "a"}, {"text": "y" * 50, "source": "b"}, {"text": "z", "source": "c"}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    found = text_sources(TextPlace(str(tmp_path)), all_characters=100)
    assert {source.name: [*source.documents(0)] for source in found} == {
        "a": ["x" * 50 + "\n\n", "z\n\n"],
        "b": ["y" * 50 + "\n\n"],
    }


def test_a_run_reads_no_more_than_it_is_to(tmp_path):
    (tmp_path / "a.txt").write_text("line\n" * 10_000)
    write_jsonl(tmp_path / "b.jsonl", [{"text": "yyy"}] * 100)
    place = TextPlace(str(tmp_path))
    read_of = {name: sum(map(len, texts)) for name, texts in read_documents(place, 10).items()}
    assert read_of == {"a.txt": DOCUMENT + 3, "b.jsonl": 10}  # up to the end of a document
    shared = read_documents(place, 10_000, 400)  # half of it for each
    assert sum(map(len, shared["b.jsonl"])) == 200


@pytest.mark.parametrize("text", ["line\n" * 10_000, "no line ends here " * 5_000, "\n" * 20_000 + "end"])
def test_long_documents_are_cut_alike_wherever_they_are(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    write_jsonl(tmp_path / "b.jsonl", [{"text": text}])
    plain, row = read(tmp_path).values()
    assert max(map(len, plain)) < 2 * DOCUMENT
    assert "".join(plain).strip() == "".join(row).strip() == text.strip()
    assert plain[:-1] == row[: len(plain) - 1]


def test_wrong_field_names_those_there_are(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}, {"title": "two", "body": "two"}])
    with pytest.raises(UserError, match=r"'text' of line 2 of .*fields body, title.*data\.field"):
        read(file)


@pytest.mark.parametrize("line", ['{"text": "cut o', '["text"]', "3"])
def test_broken_line_is_named(tmp_path, line):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "one"}\n\n' + line)
    with pytest.raises(UserError, match=r"JSON object in line 3 of .*a\.jsonl"):
        read(file)


@pytest.mark.parametrize("content", [b"not gzip", gzip.compress(b'{"text": "one"}', mtime=0)[:-9]])
def test_broken_gzip(tmp_path, content):
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"Expected to read text from .*a\.jsonl\.gz"):
        read(file)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_empty_text(tmp_path, name):
    (tmp_path / name).write_text("\n \n")
    with pytest.raises(UserError, match=rf"Expected text in {name}, but it is empty"):
        read(tmp_path / name)


def test_paths_that_are_no_text(tmp_path):
    with pytest.raises(UserError, match="but there is none at"):
        read("missing.txt")
    with pytest.raises(UserError, match=r"Expected files named \.txt"):
        read(tmp_path)
    (tmp_path / "a.pdf").touch()
    with pytest.raises(UserError, match=r"got a\.pdf"):
        read(tmp_path / "a.pdf")


def test_places_are_paths_or_mappings_whose_fields_have_common_defaults():
    place = TextPlace(["a.txt", {"path": "b/c", "name": "d"}, {"path": "e/f", "field": "body"}], split="test")
    assert place.entries == (
        Entry("a.txt", None, "test", "text"),
        Entry("b/c", "d", "test", "text"),
        Entry("e/f", None, "test", "body"),
    )


@pytest.mark.parametrize("path", [[], "", [3], [{"name": "x"}], [{"path": "x", "fild": "y"}], [["a.txt"]]])
def test_places_that_are_neither_are_refused(path):
    with pytest.raises(UserError, match=r"data\.path: expected a path"):
        TextPlace(path)


def test_default_text(monkeypatch):
    monkeypatch.setattr(sources, "default_texts", lambda: {"wiki": "some text"})
    assert read() == {"wiki": ["some text"]}


def test_hub_not_reachable(monkeypatch):
    def unreachable(*_, **__):
        raise httpx2.ConnectTimeout("timed out")

    monkeypatch.setattr(sources.HfApi, "dataset_info", unreachable)
    with pytest.raises(UserError, match=r"can not be reached \(timed out\).*data=default .*data\.path to local files"):
        read("someone/some-text")


@pytest.mark.parametrize("offline", [False, True])
def test_hub_data_sets(monkeypatch, offline):
    import datasets

    def load(path, name, *, split, streaming):
        if split != "test":
            raise ValueError(f"Unknown split {split!r}.")
        assert streaming != offline
        rows = datasets.Dataset.from_dict({"text": [f"{path} {name} {row}" for row in range(4)], "source": ["x"] * 4})
        return rows.to_iterable_dataset(num_shards=2) if streaming else rows

    monkeypatch.setattr(sources.HfApi, "dataset_info", lambda *_, **__: None)
    monkeypatch.setattr(sources, "is_offline_mode", lambda: offline)
    monkeypatch.setattr(datasets, "load_dataset", load)
    place = TextPlace([{"path": "a/b", "name": "one"}, {"path": "a/b", "name": "two"}, "c/d"], split="test")
    assert [(source.name, len(source.shards)) for source in text_sources(place)] == [
        (name, 1 if offline else 2) for name in ("a/b:one:test", "a/b:two:test", "c/d")
    ]
    assert read_documents(place)["a/b:two:test"] == [f"a/b two {row}\n\n" for row in range(4)]
    with pytest.raises(UserError, match=r"data\.split=train, but got: Unknown split"):
        read("a/b")


def test_json_that_is_read_is_the_text_that_was_written(tmp_path):
    rows = [{"text": text} for text in ("a\r\nb", "tab\tand “quotes”", "line\u2028separator")]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    assert read(tmp_path / "a.jsonl")["a.jsonl"] == [row["text"] + "\n\n" for row in rows]
