"""Rows of files: JSON lines, tables whose first line has the names of the columns, and Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from evaluators.data.decoding import open_text
from space.errors import UserError

Row = tuple[str, Mapping[str, Any]]  # where it is, for messages; field to value

_LONGEST_CELL = 1 << 30  # characters; a document may be long
_BATCH = 1024  # rows of a Parquet file in memory


def rows_of(file: Path, fields: Collection[str]) -> Iterator[Row]:
    """The rows of a file whose name ends as one of `READERS`; where it has columns, perhaps without those not wanted.

    Args:
        file: Where it is.
        fields: What is wanted, the first one above all.

    Raises:
        UserError: The file is broken.
        OSError: It cannot be read.
    """
    reader = next(reader for suffix, reader in READERS.items() if file.name.endswith(suffix))
    return reader(file, fields)


def _json_rows(file: Path, fields: Collection[str]) -> Iterator[Row]:
    with open_text(file) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"line {number} of {file}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"Expected a JSON object in {where}, one a line, but got: {error}.") from error
            if not isinstance(row, dict):
                raise UserError(f"Expected a JSON object in {where}, one a line, got {line.strip()[:40]}.")
            yield where, row


def _table_rows(file: Path, fields: Collection[str], delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST_CELL)  # of all of the process: the module knows no other way
    with open_text(file) as lines:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            names = next(reader, [])
            if len(names) == 1 and (
                other := next((each for each in ";|\t," if each in names[0] and each != delimiter), None)
            ):
                raise UserError(
                    f"Expected the first line of {file} to name columns, divided by {delimiter!r}, got "
                    f"{names[0][:80]!r}, where {other!r} seems to. Write the table anew; cells of .csv are "
                    "divided by ',', of .tsv by tabs."
                )
            for cells in reader:
                if not cells:  # a blank line
                    continue
                if len(cells) != len(names):
                    raise UserError(
                        f"Expected {len(names)} cells in line {reader.line_num} of {file}, as its first line names "
                        f"{', '.join(names)[:200]}, got {len(cells)}. Cells with {delimiter!r} in them are quoted."
                    )
                yield f"line {reader.line_num} of {file}", dict(zip(names, cells, strict=True))
        except csv.Error as error:
            raise UserError(
                f"Expected line {reader.line_num} of {file} to be of a table whose cells are divided by {delimiter!r} "
                f'and quoted by ", but got: {error}. Write the table anew, or give JSON lines.'
            ) from error


def _parquet_rows(file: Path, fields: Collection[str]) -> Iterator[Row]:
    from pyarrow import ArrowException, parquet  # slow to import, and only wanted here

    number = 0
    try:
        with parquet.ParquetFile(file) as stored:
            names = stored.schema_arrow.names
            columns = [name for name in names if name in fields] if next(iter(fields)) in names else None
            for batch in stored.iter_batches(batch_size=_BATCH, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number} of {file}", row
    except ArrowException as error:
        raise UserError(f"Expected a Parquet file at {file}, but got: {error}.") from error


READERS: Mapping[str, Callable[[Path, Collection[str]], Iterator[Row]]] = {
    ".jsonl": _json_rows,
    ".jsonl.gz": _json_rows,
    ".csv": partial(_table_rows, delimiter=","),
    ".tsv": partial(_table_rows, delimiter="\t"),
    ".parquet": _parquet_rows,
}
