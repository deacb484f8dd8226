"""Text sources -> token blocks, split by position into parts that share no text."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TextIO

import torch
from huggingface_hub import HfApi, is_offline_mode
from transformers import PreTrainedTokenizerBase

from space.errors import UserError
from space.models.embedded import default_texts
from space.models.hub import HUB_TIMEOUT_S, hub_errors

Part = Literal["calibration", "search", "heldout"]

# First and last tenth of every source's tokens, the last one excluded.
_PARTS: Mapping[Part, tuple[int, int]] = {"calibration": (0, 6), "search": (6, 8), "heldout": (8, 10)}
_SUFFIXES = (".txt", ".raw", ".jsonl", ".jsonl.gz")
_WITHOUT_HUB = f"leave data.path unset for the embedded default, or set it to a local file ({', '.join(_SUFFIXES)})"


@dataclass(frozen=True, eq=False)
class TokenSplits:
    """The tokens of every source, of which each part owns a range.

    The first 60 % of a source are for calibration, the next 20 % for the search's fidelities, the last 20 % held out.

    Attributes:
        tokens: Source name to int64 token ids `(tokens,)`, in the order in which blocks take turns.
        start: Token that every window begins with, where the model's tokenizer begins texts with one (Gemma's and
            Llama's do, and Gemma is at a loss without); None elsewhere.
    """

    tokens: Mapping[str, torch.Tensor]
    start: int | None = None

    @cached_property
    def digest(self) -> str:
        """16 hex digits over the sources' names and all token ids, equal on every machine."""
        digest = hashlib.sha256(b"" if self.start is None else f"{self.start}\0".encode())
        for name, ids in self.tokens.items():
            digest.update(f"{name}\0{len(ids)}\0".encode())
            digest.update(ids.numpy().astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    @property
    def sources(self) -> dict[str, int]:
        """How many tokens each source has."""
        return {name: len(ids) for name, ids in self.tokens.items()}

    def part(self, part: Part) -> dict[str, torch.Tensor]:
        """The token ids `(tokens,)` of one part by source; parts do not overlap."""
        first, last = _PARTS[part]
        return {name: ids[len(ids) * first // 10 : len(ids) * last // 10] for name, ids in self.tokens.items()}

    def room(self, part: Part, length: int) -> int:
        """How many windows of so many tokens, with the `start` token, a part has."""
        own = length if self.start is None else length - 1
        return sum(len(ids) // own for ids in self.part(part).values())

    def blocks(self, part: Part, windows: int, length: int) -> torch.Tensor:
        """Windows of consecutive tokens of one part; they do not overlap.

        Sources take turns, so that any leading rows are a fair mixture; a source that is used up leaves its turns to
        the others. The windows of a source are spread evenly over its part.

        Args:
            part: Which part of the text.
            windows: How many rows.
            length: Tokens in a row, with the `start` token.

        Returns:
            int64 token ids `(windows, length)`, the same for the same text and arguments.

        Raises:
            UserError: A count is not positive, or the part has less text than asked for.
        """
        own = length if self.start is None else length - 1  # of the text
        if windows < 1 or own < 1:
            raise UserError(
                f"Expected at least 1 {part} window of at least {length - own + 1} tokens, got {windows} of {length}."
            )
        sources = list(self.part(part).values())
        room = [len(ids) // own for ids in sources]
        if windows > sum(room):
            raise UserError(
                f"Expected {windows} {part} windows of {length} tokens, but the text has {sum(room)} "
                f"({', '.join(f'{name} {count}' for name, count in zip(self.tokens, room, strict=True))}). "
                f"Lower data.{part}_windows or data.length, or give longer text with data.path."
            )
        turns = [(turn, source) for source, count in enumerate(room) for turn in range(count)]
        turns = sorted(turns)[:windows]
        taken = [sum(source == index for _, source in turns) for index in range(len(sources))]
        starts = [len(sources[source]) * turn // taken[source] for turn, source in turns]
        rows = [sources[source][start : start + own] for (_, source), start in zip(turns, starts, strict=True)]
        first = torch.full((windows, length - own), self.start or 0)  # no column without a start token
        return torch.cat([first, torch.stack(rows)], 1)


def load_texts(
    path: str | None = None,
    *,
    name: str | None = None,
    split: str = "train",
    field: str = "text",
    max_characters: int = 10_000_000,
) -> dict[str, str]:
    """Reads text, one entry a source.

    Args:
        path: A `.txt`, `.raw`, `.jsonl` or `.jsonl.gz` file, a directory of such, or the hub id of a data set; None
            is the embedded default.
        name: Configuration of a hub data set.
        split: Split of a hub data set.
        field: Which field of a JSON line or of a data set's row holds the text; documents are joined by blank lines.
        max_characters: Where reading a source stops.

    Raises:
        UserError: The text can not be had, is broken, or is empty.
    """
    if path is None:
        texts = {source: text[:max_characters] for source, text in default_texts().items()}
    elif path.startswith(("/", "./", "../", "~")) or path.endswith(_SUFFIXES) or Path(path).exists():
        files = _local_files(Path(path).expanduser())
        texts = {file.name: _read_file(file, field, max_characters) for file in files}
    else:
        texts = {path: _read_hub(path, name, split, field, max_characters)}
    for source, text in texts.items():
        if not text.strip():
            raise UserError(f"Expected text in {source}, but it is empty. Give a file with text, or remove it.")
    return texts


def split_tokens(
    texts: Mapping[str, str], tokenizer: PreTrainedTokenizerBase, *, vocab: int | None = None
) -> TokenSplits:
    """Tokenises every source once, without special tokens; notes the token that the tokenizer would begin with.

    Args:
        texts: Source name to text.
        tokenizer: The model's tokenizer.
        vocab: Rows of the model's embedding matrix, to check the tokenizer against.

    Raises:
        UserError: A source gives no tokens, or a token id that the model has no embedding for.
    """
    tokens = {}
    for name, text in texts.items():
        encoded = tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False)
        ids = torch.tensor(encoded["input_ids"], dtype=torch.int64)
        if not len(ids):
            raise UserError(f"Expected tokens from {name}, but the tokenizer made none of its {len(text)} characters.")
        if vocab is not None and int(ids.max()) >= vocab:
            raise UserError(
                f"Expected token ids below {vocab}, which is what the model embeds, but the tokenizer gave "
                f"{int(ids.max())} for {name}. Use the tokenizer that belongs to the model."
            )
        tokens[name] = ids
    special = tokenizer("").get("input_ids", [])  # what it adds to nothing
    start = tokenizer.bos_token_id if special and special[0] == tokenizer.bos_token_id else None
    return TokenSplits(tokens, start)


def _local_files(path: Path) -> list[Path]:
    """The text files at a path, in order of name."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.name.endswith(_SUFFIXES) and file.is_file())
        if not files:
            raise UserError(f"Expected files named {', '.join(_SUFFIXES)} in the directory {path}, found none.")
        return files
    if not path.is_file():
        raise UserError(f"Expected data.path to be a file or directory, but there is none at {path}")
    if not path.name.endswith(_SUFFIXES):
        raise UserError(
            f"Expected data.path to be named {', '.join(_SUFFIXES)}, got {path.name}. Rename or convert it."
        )
    return [path]


def _read_file(file: Path, field: str, max_characters: int) -> str:
    opened = gzip.open if file.name.endswith(".gz") else open
    try:
        with opened(file, "rt", encoding="utf-8", errors="replace") as lines:
            if file.name.endswith((".txt", ".raw")):
                return lines.read(max_characters)
            return _join(_json_documents(lines, file, field), max_characters)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"Expected to read text from {file}, but got: {error}.") from error


def _json_documents(lines: TextIO, file: Path, field: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"Expected a JSON object in line {number} of {file}, but got: {error}.") from error
        if not isinstance(row, dict):
            raise UserError(f"Expected a JSON object in line {number} of {file}, got {line.strip()[:40]}.")
        yield _document(row, field, f"line {number} of {file}")


def _document(row: Mapping[str, Any], field: str, where: str) -> str:
    text = row.get(field)
    if not isinstance(text, str):
        raise UserError(
            f"Expected text in the field {field!r} of {where}, but it has the fields "
            f"{', '.join(sorted(row)) or '(none)'}. Name the field that holds the text with data.field."
        )
    return text


def _join(documents: Iterable[str], max_characters: int) -> str:
    """Documents with a blank line between them, as many as fit."""
    taken: list[str] = []
    room = max_characters
    for document in documents:
        taken.append(document[:room])
        room -= len(taken[-1]) + 2
        if room <= 0:
            break
    return "\n\n".join(taken)


def _read_hub(path: str, name: str | None, split: str, field: str, max_characters: int) -> str:
    """Text of a hub data set, streamed; where the hub client is set offline, of its cached copy."""
    from datasets import load_dataset  # slow to import, and only wanted here

    with hub_errors("data set", path, _WITHOUT_HUB):
        if not is_offline_mode():
            # One short question first: a download retries for half a minute before it gives up.
            HfApi().dataset_info(path, timeout=HUB_TIMEOUT_S)
        try:
            rows = load_dataset(path, name, split=split, streaming=not is_offline_mode())
        except ValueError as error:
            raise UserError(
                f"Expected the data set {path} to have data.name={name} and data.split={split}, but got: {error}"
            ) from error
        return _join((_document(row, field, f"the data set {path}") for row in rows), max_characters)
