"""Text files as characters: UTF-8, or what a byte order mark says, and nothing that is not text."""

from __future__ import annotations

import codecs
import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from space.errors import UserError

# UTF-32 comes first: its mark begins with that of UTF-16.
_BY_MARK = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
    codecs.BOM_UTF8: "utf-8",
}
# How files begin that are taken for text by their names, and are something else.
_NO_TEXT = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "a zip archive, such as .docx", b"%PDF": "PDF", b"PAR1": "Parquet"}
_NUL, _LOST = "\0", "\N{REPLACEMENT CHARACTER}"
_MOST_LOST = 0.01  # of a text's characters
_JUDGED = 8192  # characters of a text, or all of a shorter one, before it is judged
_CHUNK = 1 << 20


@contextmanager
def open_text(file: Path) -> Iterator[TextIO]:
    """A file of text, gzip by its name: in the encoding of its byte order mark, which is left out; else in UTF-8.

    Raises:
        UserError: It begins as files do that are no text, or something in it is not in that encoding.
    """
    with _opened(file) as stream:
        head = stream.peek(4)
        if other := next((name for start, name in _NO_TEXT.items() if head.startswith(start)), None):
            raise UserError(
                f"Expected text in {file}, but it begins as {other} does. Unpack or convert it, or name "
                "it as what it is."
            )
        mark = next((mark for mark in _BY_MARK if head.startswith(mark)), b"")
        encoding = _BY_MARK.get(mark, "utf-8")
        stream.read(len(mark))
        try:
            yield TextIOWrapper(stream, encoding)
        except UnicodeDecodeError as error:
            raise UserError(_undecodable(file, mark, encoding)) from error


def legible(documents: Iterator[tuple[str, str]], where: str) -> Iterator[tuple[str, str]]:
    """The same documents, sources and texts, as long as hardly anything in them stands for what is no text.

    Raises:
        UserError: More than 1 % of the characters are NUL or U+FFFD.
    """
    characters = nul = lost = 0
    wide = ""
    for source, text in documents:
        if not wide and _NUL in text:
            wide = _wide(text.encode())
        characters, nul, lost = characters + len(text), nul + text.count(_NUL), lost + text.count(_LOST)
        if characters >= _JUDGED:
            _judge(characters, nul, lost, where, wide)
        yield source, text
    _judge(characters, nul, lost, where, wide)


def _judge(characters: int, nul: int, lost: int, where: str, wide: str) -> None:
    if nul + lost <= _MOST_LOST * characters:
        return
    if nul > lost:
        what, why = (
            f"{nul} are NUL",
            "as in UTF-16 without a byte order mark, or in a file that is no text. Convert it to UTF-8, for example: "
            f"iconv -f {wide} -t UTF-8 OLD > NEW",
        )
    else:
        what, why = (
            f"{lost} are U+FFFD",
            "which stands for what some program could not decode before. Make it anew from its original, as UTF-8",
        )
    raise UserError(f"Expected text in {where}, but of its first {characters} characters {what}, {why}.")


def _wide(data: bytes) -> str:
    """The encoding in two bytes a character that NULs stand for, by whether they come first; empty where none are."""
    first, second = (data[start::2].count(0) for start in (0, 1))
    return "" if not first + second else "UTF-16BE" if first > second else "UTF-16LE"


def _opened(file: Path) -> Any:
    return gzip.open(file) if file.name.endswith(".gz") else file.open("rb")


def _undecodable(file: Path, mark: bytes, encoding: str) -> str:
    """What to tell of a file that is not in its encoding."""
    offset, wrong, wide = _first_fault(file, mark, encoding)
    name = encoding.upper().removesuffix("-LE").removesuffix("-BE")
    told = f"the byte order mark says {name}" if mark else "it has no byte order mark of UTF-16 or UTF-32"
    if mark:
        advice = "Is the file cut off, or joined of two? Save it as UTF-8."
    else:
        old = wide or "WINDOWS-1252"
        advice = f"Convert it to UTF-8 from what it is in, for example: iconv -f {old} -t UTF-8 OLD > NEW."
    where = f"byte {offset}" + (" of what it unpacks to" if file.name.endswith(".gz") else "")
    return f"Expected {name} in {file}, as {told}, but at {where} it has 0x{wrong.hex()}, which is not. {advice}"


def _first_fault(file: Path, mark: bytes, encoding: str) -> tuple[int, bytes, str]:
    """Offset of the first bytes that are not in the encoding, these bytes, and see `_wide`."""
    decoder: Any = codecs.getincrementaldecoder(encoding)()
    with _opened(file) as stream:
        offset = len(stream.read(len(mark)))
        while chunk := stream.read(_CHUNK):
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                return offset - pending + error.start, error.object[error.start : error.end], _wide(chunk)
            offset += len(chunk)
        rest = decoder.getstate()[0]  # of a character that is cut off
        return offset - len(rest), rest, _wide(rest)
