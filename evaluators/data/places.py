"""Where text is: what the settings say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from evaluators.data.rows import READERS
from space.errors import UserError
from space.locations import absolute, is_local

SUFFIXES = (".txt", ".raw", *READERS)
ARRAYS, PARQUET = ".npz", ".parquet"  # of images
FIELD = "text"  # unless told otherwise
Part = Literal["calibration", "search", "heldout"]  # of a run's text


@dataclass(frozen=True)
class Entry:
    """One place of text.

    Attributes:
        path: A file, a directory, or the hub id of a data set.
        name: Configuration of a hub data set.
        split: Split of a hub data set.
        field: Which field of a row (of JSON lines, a table, Parquet or a data set) holds the text or a chat.
    """

    path: str
    name: str | None = None
    split: str = "train"
    field: str = FIELD

    @property
    def is_local(self) -> bool:
        """Whether the path is one of this machine."""
        return is_local(self.path, (*SUFFIXES, ARRAYS))

    def files(self) -> list[Path]:
        """The text files at a path of this machine, in order of name.

        Raises:
            UserError: There are none.
        """
        path = absolute(self.path)
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES) and file.is_file())
            if not files:
                raise UserError(f"Expected files named {', '.join(SUFFIXES)} in the directory {path}, found none.")
            return files
        if not path.is_file():
            raise UserError(
                f"Expected data.path to be a file or directory, but there is none at {path}. "
                "Set it to where the text is."
            )
        if not path.name.endswith(SUFFIXES):
            raise UserError(
                f"Expected data.path to be named {', '.join(SUFFIXES)}, got {path.name}. Rename or convert it."
            )
        return [path]


@dataclass(frozen=True)
class TextPlace:
    """Where text is.

    Attributes:
        path: A file named as one of `SUFFIXES`, a directory of such, or the hub id of a data
            set; several as a list of these, or of mappings with the fields of `Entry`; None is the embedded default.
        name: Configuration of hub data sets whose entry has none of its own; so are the next two.
        split: Split of hub data sets.
        field: Field of a row with the text, or with a chat, a list of messages with role and content, which the
            tokenizer's template makes text of. Rows that have no field `text`, its default, but `messages` or
            `conversations` are chats.
        source_field: Field of a file's row that names its source. Rows without it are of their file, and so are all
            where this is None.

    Raises:
        UserError: An entry is neither a path nor such a mapping.
    """

    path: str | Sequence[str | Mapping[str, str]] | None = None
    name: str | None = None
    split: str = "train"
    field: str = FIELD
    source_field: str | None = "source"

    def __post_init__(self) -> None:
        if self.path is not None and not self.entries:
            raise UserError("data.path: expected a path or a list of them, got none. Leave it null for the default.")

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The places, in order; none for the embedded default."""
        common = Entry("", self.name, self.split, self.field)
        known = {field.name for field in fields(Entry)}
        entries = []
        for given in [self.path] if isinstance(self.path, str) else self.path or ():
            values = {"path": given} if isinstance(given, str) else given
            if not isinstance(values, Mapping) or not values.get("path") or not set(values) <= known:
                raise UserError(
                    "data.path: expected a path, the hub id of a data set, or a list of these or of mappings with "
                    f"path and perhaps {', '.join(sorted(known - {'path'}))}, got {given!r}."
                )
            entries.append(replace(common, **values))
        return tuple(entries)

    def require_images(self) -> Entry:
        """Where images are: a folder, a file of arrays or of rows, each from the root on, or a data set of the hub.

        Raises:
            UserError: Nowhere, or in several places.
        """
        (entry, *others) = self.entries or (Entry(""),)
        path = absolute(entry.path) if entry.path and entry.is_local else None
        if path is not None and (path.is_dir() or (path.is_file() and path.suffix in (ARRAYS, PARQUET))):
            entry = replace(entry, path=str(path))
        elif path is not None or not entry.path:
            others = [entry]
        if others:
            raise UserError(
                "data.path: expected a folder of images, whose sub-folders may be named as the model's classes, an "
                f"{ARRAYS} file with an array `images`, a {PARQUET} file or a data set of the hub with a column of "
                f"images, got {self.path}."
            )
        return entry

    def require_files(self) -> None:
        """Refuses paths of this machine where no text files are, without reading any.

        Raises:
            UserError: There is such a path.
        """
        for entry in self.entries:
            if entry.is_local:
                entry.files()
