"""Where images are read from: a folder, whose sub-folders may be their classes, arrays, or rows of a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from evaluators.data.places import ARRAYS, PARQUET, Entry, TextPlace
from evaluators.data.sources import hub_rows
from space.errors import UserError
from space.locations import cache_dir
from space.models.hub import hub_errors

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_LABELS = ("label", "labels")  # columns, by custom
_ENCODED = {"bytes", "path"}  # what a column of images is made of, where nothing says that it is one
_WITHOUT_HUB = "set data.path to a folder of images"


class Images(Protocol):
    """Images by their numbers.

    Attributes:
        name: What they are called.
        labels: Of each, where they have such.
    """

    name: str
    labels: list[str] | None

    def __len__(self) -> int: ...

    def raw(self, index: int) -> Any:
        """One of them, as an image processor takes it.

        Raises:
            UserError: It cannot be read.
        """

    def contents(self) -> Iterator[bytes]:
        """What tells them from others."""


class Folder:
    """Image files in a folder and in those in it."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._path = path
        self._files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        within = [file.relative_to(path).parts[:-1] for file in self._files]
        self.labels: list[str] | None = [parts[0] for parts in within] if all(within) else None

    def __len__(self) -> int:
        return len(self._files)

    def raw(self, index: int) -> Any:  # noqa: D102
        from PIL import Image  # only wanted here

        try:
            with Image.open(self._files[index]) as image:
                return image.convert("RGB")
        except OSError as error:
            raise UserError(f"Expected an image in {self._files[index]}, but got: {error}. Take it out.") from error

    def contents(self) -> Iterator[bytes]:  # noqa: D102
        for file in self._files:
            yield file.relative_to(self._path).as_posix().encode()
            yield hashlib.sha256(file.read_bytes()).digest()


class Arrays:
    """`images` (n, height, width, channels), uint8, and perhaps `labels` (n,), of an .npz file."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        try:
            with np.load(path) as stored:
                found = {name: stored[name] for name in ("images", "labels") if name in stored}
        except (OSError, ValueError) as error:
            raise UserError(f"Expected arrays in {path}, as numpy.savez writes them, but got: {error}.") from error
        images, labels = found.get("images"), found.get("labels")
        if images is None or images.ndim != 4 or images.dtype != np.uint8:
            got = "none" if images is None else f"{images.dtype} of shape {images.shape}"
            raise UserError(
                f"Expected `images` in {path} to be uint8 of shape (images, height, width, channels), got {got}."
            )
        if labels is not None and labels.shape != (len(images),):
            raise UserError(f"Expected `labels` in {path} to be one an image, got shape {labels.shape}.")
        self._images = images
        self.labels = None if labels is None else [str(label) for label in labels.tolist()]

    def __len__(self) -> int:
        return len(self._images)

    def raw(self, index: int) -> Any:  # noqa: D102
        return self._images[index]

    def contents(self) -> Iterator[bytes]:  # noqa: D102
        yield repr(self._images.shape).encode()
        yield self._images.tobytes()
        yield repr(self.labels).encode()


class Rows:
    """Rows of a data set with a column of images, and perhaps one of labels, whose names are the classes'."""

    def __init__(self, name: str, rows: Any) -> None:
        """Finds the columns of a `datasets.Dataset`."""
        from datasets import ClassLabel, Image

        self.name, features = name, rows.features
        encoded = [column for column, kind in features.items() if isinstance(kind, dict) and {*kind} == _ENCODED]
        columns = [column for column, kind in features.items() if isinstance(kind, Image)] or encoded
        if len(columns) != 1:
            raise UserError(
                f"Expected one column of images in {name}, as datasets has them, got {len(columns)} among "
                f"{', '.join(features)}. Take out what is none, or save the images in a folder."
            )
        classes = [column for column, kind in features.items() if isinstance(kind, ClassLabel)]
        said = (classes or [column for column in _LABELS if column in features])[:1]
        self.labels: list[str] | None = None
        for column in said:
            named = features[column].int2str if classes else str
            self.labels = [named(label) for label in rows[column]]
        (self._column,) = columns
        self._rows = rows.select_columns(columns).cast_column(self._column, Image())
        self._stored = self._rows.cast_column(self._column, Image(decode=False))

    def __len__(self) -> int:
        return len(self._rows)

    def raw(self, index: int) -> Any:  # noqa: D102
        try:
            return self._rows[index][self._column].convert("RGB")
        except (OSError, AttributeError) as error:  # the latter of a row without an image
            raise UserError(f"Expected an image in row {index} of {self.name}, but got: {error}.") from error

    def contents(self) -> Iterator[bytes]:  # noqa: D102
        for row in self._stored:
            image = row[self._column] or {}
            content = image["bytes"] if image.get("bytes") else Path(image.get("path") or "").read_bytes()
            yield hashlib.sha256(content).digest()
        yield repr(self.labels).encode()


def image_source(place: TextPlace) -> Images:
    """The images of a place, of which none is read yet.

    Raises:
        UserError: There is no such place, it has no images, or the hub can not be reached.
    """
    entry = place.require_images()
    if not entry.is_local:
        return Rows(entry.path, _of_hub(entry))
    path = Path(entry.path)
    if path.suffix == ARRAYS:
        return Arrays(path)
    if path.is_file():
        return Rows(path.name, _of_parquet([path]))
    if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
        return Rows(path.name, _of_disk(path, entry.split))
    folder, tables = Folder(path), sorted(path.rglob(f"*{PARQUET}"))
    return folder if len(folder) or not tables else Rows(path.name, _of_parquet(tables))


def _of_parquet(files: list[Path]) -> Any:
    """The rows of Parquet files, which `datasets` keeps a copy of in the cache."""
    from datasets import Dataset  # slow to import, and only wanted here
    from datasets.exceptions import DatasetsError

    with _quietly():
        try:
            return Dataset.from_parquet([*map(str, files)], cache_dir=str(cache_dir() / "datasets"))
        except (OSError, ValueError, DatasetsError) as error:
            raise UserError(f"Expected tables of images in {files[0]}, but got: {error}.") from error


def _of_disk(path: Path, split: str) -> Any:
    """What `save_to_disk` has written: a data set, or several by split."""
    from datasets import DatasetDict, load_from_disk

    try:
        saved = load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"Expected what datasets has saved in {path}, but got: {error}.") from error
    if isinstance(saved, DatasetDict):
        if split not in saved:
            raise UserError(f"Expected data.split to be one of {', '.join(saved)}, which {path} has, got {split}.")
        return saved[split]
    return saved


def _of_hub(entry: Entry) -> Any:
    """The rows of a data set of the hub, or of its cached copy."""
    with hub_errors("data set", entry.path, _WITHOUT_HUB), _quietly():
        return hub_rows(entry)


@contextmanager
def _quietly() -> Iterator[None]:
    """`datasets` draws no progress bars inside; restores what was set."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()
