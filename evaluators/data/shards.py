"""Shards of text, which are read from their beginning on, a document at a time: files, and parts of hub data sets.

Long documents are cut at ends of lines, so that one of any length fits in memory and takes its place among others. The
same text is cut alike wherever it is read, so a document is known again by its text.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any, Protocol, TextIO, TypeGuard

from evaluators.data import chats
from evaluators.data.chats import Render, messages_of, unpacked, unrendered
from evaluators.data.decoding import legible, open_text
from evaluators.data.places import FIELD, SUFFIXES
from evaluators.data.rows import rows_of
from space.errors import UserError
from space.models.hub import hub_errors

DOCUMENT = 8192  # characters from which on a document ends with the line; a line is no longer either
MOST_SOURCES = 256  # in one file
WORDS = "tokens"  # the field of a row whose text is in words, by custom
WITHOUT_HUB = (
    f"choose data=default (the embedded text), or set data.path to local files ({', '.join(SUFFIXES)}, or a directory "
    "of these)"
)


class Shard(Protocol):
    """A part of a text that is read from its beginning on."""

    @property
    def name(self) -> str:
        """Which one it is; where its text changes, so does mostly its name."""

    @property
    def sources(self) -> Sequence[str]:
        """Whose documents it has, in order of their first."""

    def documents(self, characters: int | None = None) -> Iterator[tuple[str, str]]:
        """Source and text of each document, with what separates it from the next; no text for a row that has none.

        Args:
            characters: Where reading stops; None to read all.

        Raises:
            UserError: It cannot be read, or something in it is no text, nor a chat that can be rendered.
        """


@dataclass(frozen=True)
class WholeText:
    """A text in memory."""

    label: str
    text: str

    @property
    def name(self) -> str:
        """See `Shard`."""
        return f"{self.label}, {len(self.text)} characters"

    @property
    def sources(self) -> Sequence[str]:
        """See `Shard`."""
        return (self.label,)

    def documents(self, characters: int | None = None) -> Iterator[tuple[str, str]]:
        """See `Shard`."""
        return _until(((self.label, text) for text in _cut(StringIO(self.text))), characters, self.label)


@dataclass(frozen=True)
class TextFile:
    """A local file: plain text, or rows.

    Attributes:
        file: Where it is.
        label: Its name as a source.
        field: Of a row, with the text or a chat.
        source_field: Of a row, with its source; None for none.
        render: Makes text of chats, see `evaluators.data.chats.renderer`.
        sources: See `Shard`; a row of any other counts as the first one's.
    """

    file: Path
    label: str
    field: str = FIELD
    source_field: str | None = None
    render: Render = unrendered
    sources: tuple[str, ...] = ()

    def with_sources(self, characters: int) -> TextFile:
        """The same file with the sources that it names in so many characters from its beginning on.

        Raises:
            UserError: See `Shard.documents`; or it has no text, or names more sources than `MOST_SOURCES`.
        """
        names: dict[str, None] = {}
        rows = 0
        for name, text in self.documents(characters):
            rows += 1
            if not text:
                continue
            names[name] = None
            if len(names) > MOST_SOURCES:
                raise UserError(
                    f"Expected the field {self.source_field!r} of {self.file} to name at most {MOST_SOURCES} sources, "
                    "but it names more. Set data.source_field to another field, or to null to take the file as one."
                )
            if self.source_field is None or self.is_plain:
                break
        if not names:
            raise no_text(self.label, rows)
        return replace(self, sources=tuple(names))

    @property
    def is_plain(self) -> bool:
        """Whether it is text as it stands, of one source."""
        return self.file.name.endswith((".txt", ".raw"))

    @property
    def name(self) -> str:
        """See `Shard`."""
        return f"{self.label}, {self.file.stat().st_size} bytes"

    def documents(self, characters: int | None = None) -> Iterator[tuple[str, str]]:
        """See `Shard`."""
        try:
            found = self._plain() if self.is_plain else self._rows()
            yield from _until(found, characters, str(self.file))
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"Expected to read text from {self.file}, but got: {error}.") from error

    def _plain(self) -> Iterator[tuple[str, str]]:
        with open_text(self.file) as lines:
            for text in _cut(lines):
                yield self.label, text

    def _rows(self) -> Iterator[tuple[str, str]]:
        wanted = self.field, *chats.FIELDS, WORDS, *([self.source_field] if self.source_field else [])
        for where, row in rows_of(self.file, wanted):
            source = (row.get(self.source_field) if self.source_field else None) or self.label
            if not isinstance(source, str):
                raise UserError(
                    f"Expected the name of a source in the field {self.source_field!r} of {where}, got "
                    f"{str(source)[:40]}. Set data.source_field to another field, or to null to take the file as one."
                )
            if self.sources and source not in self.sources:
                source = self.sources[0]
            for text in row_documents(row, self.field, where, self.render):
                yield source, text


@dataclass(frozen=True)
class HubShard:
    """One shard of a hub data set, which is one source.

    Attributes:
        dataset: Of `datasets`, iterable, with this shard alone.
        path: The data set's id.
        label: Its name as a source.
        number: Of the shard in it.
        field: Of a row, with the text or a chat.
        render: Makes text of chats, see `evaluators.data.chats.renderer`.
    """

    dataset: Any
    path: str
    label: str
    number: int
    field: str
    render: Render = unrendered

    @property
    def name(self) -> str:
        """See `Shard`."""
        return f"{self.label}, shard {self.number}"

    @property
    def sources(self) -> Sequence[str]:
        """See `Shard`."""
        return (self.label,)

    def documents(self, characters: int | None = None) -> Iterator[tuple[str, str]]:
        """See `Shard`."""
        with hub_errors("data set", self.path, WITHOUT_HUB):
            found = (
                (self.label, text)
                for row in self.dataset
                for text in row_documents(row, self.field, f"the data set {self.path}", self.render)
            )
            yield from _until(found, characters, f"the data set {self.path}")


def no_text(name: str, rows: int) -> UserError:
    """What to raise of a source without text, of so many rows."""
    if not rows:
        return UserError(f"Expected text in {name}, but it is empty. Give a place with text, or remove it.")
    return UserError(
        f"Expected text in {name}, but the field is null or blank in all of its {rows} rows. Name the field that holds "
        "the text with data.field, or remove it."
    )


def row_documents(row: Mapping[str, Any], field: str, where: str, render: Render) -> Iterator[str]:
    """The documents of a row, an empty one where it has no text.

    Args:
        row: Field to value.
        field: With the text, its words or a chat.
        where: For messages.
        render: Makes text of chats.

    Raises:
        UserError: There is no such field, or neither text nor a chat in it.
    """
    other = next((name for name in (*chats.FIELDS, WORDS) if name in row), None)
    if field == FIELD and field not in row and other:
        field = other
    if field not in row:
        raise UserError(
            f"Expected text in the field {field!r} of {where}, but it has the fields "
            f"{', '.join(sorted(map(str, row))) or '(none)'}. Name the field that holds the text with data.field."
        )
    value = unpacked(row[field])
    value = " ".join(value) if field not in chats.FIELDS and is_words(value) else value
    is_broken = field in chats.FIELDS and isinstance(value, str) and value.lstrip().startswith("[")
    messages = messages_of(value)
    if value is None or value == [] or (isinstance(value, str) and not value.strip()):
        return iter([""])
    if isinstance(value, str) and not is_broken:
        text = f"{value}\n\n"
    elif messages:
        text = render(messages, f"the field {field!r} of {where}")
    else:
        raise UserError(
            f"Expected text in the field {field!r} of {where}, or a chat, which is a list of messages with role and "
            f"content, both text (in a table, as JSON), got {str(value)[:80]}. Name the field that holds the text with "
            "data.field, or leave such rows out."
        )
    text = text.encode("utf-8", "replace").decode("utf-8")  # JSON may have halves of characters, tokenizers may not
    return _cut(StringIO(text))


def is_words(value: Any) -> TypeGuard[list[str]]:
    """Whether a value is a list of words."""
    return isinstance(value, list) and bool(value) and all(isinstance(word, str) for word in value)


def _cut(lines: TextIO) -> Iterator[str]:
    """Documents of a text; together they are all of it, but for blank ones."""
    taken: list[str] = []
    size = 0
    while line := lines.readline(DOCUMENT):
        taken.append(line)
        size += len(line)
        if size >= DOCUMENT:
            yield from _unless_blank(taken)
            taken, size = [], 0
    yield from _unless_blank(taken)


def _unless_blank(lines: Sequence[str]) -> Iterator[str]:
    text = "".join(lines)
    if text.strip():
        yield text


def _until(documents: Iterator[tuple[str, str]], characters: int | None, where: str) -> Iterator[tuple[str, str]]:
    return legible(_first(documents, characters), where)


def _first(documents: Iterator[tuple[str, str]], characters: int | None) -> Iterator[tuple[str, str]]:
    left = characters
    for source, text in documents:
        yield source, text
        if left is not None:
            left -= len(text)
            if left <= 0:
                return
