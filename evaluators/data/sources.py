"""The sources of a text: files, what their rows name as theirs, and hub data sets; and a run's own share of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, is_offline_mode

from evaluators.data.chats import Render, unrendered
from evaluators.data.places import Entry, TextPlace
from evaluators.data.shards import WITHOUT_HUB, HubShard, Shard, TextFile, WholeText, no_text
from space.errors import UserError
from space.models.embedded import default_texts
from space.models.hub import HUB_TIMEOUT_S, hub_errors

CHARACTERS = 10_000_000  # the most of one source that a run reads
ALL_CHARACTERS = 50_000_000  # the most that it reads of all files


@dataclass(frozen=True)
class Source:
    """One source of a text.

    Attributes:
        name: Of a file, a row's own, or a hub data set's id.
        shards: What holds its documents, perhaps among those of others.
    """

    name: str
    shards: tuple[Shard, ...]

    def documents(self, shard: int, characters: int | None = None) -> Iterator[str]:
        """Its documents in one shard, see `Shard.documents`."""
        return (text for source, text in self.shards[shard].documents(characters) if source == self.name)


def text_sources(place: TextPlace, all_characters: int = ALL_CHARACTERS, render: Render = unrendered) -> list[Source]:
    """The sources of a text, in order; of the documents no more is read than it takes to know them.

    What rows name alike is one source, whatever file they are in. Only names in the first `all_characters` divided by
    the number of files are told apart in a file; what follows under a new name counts as its first source.

    Args:
        place: Where the text is.
        all_characters: Of all files, in which sources are told apart.
        render: Makes text of chats, see `evaluators.data.chats.renderer`.

    Raises:
        UserError: The text can not be had, is broken, or is empty.
    """
    entries = place.entries
    local = {entry: entry.files() for entry in entries if entry.is_local}
    files = [file for entry in entries for file in local.get(entry, ())]
    if twice := [text for text, count in Counter([*entries, *files]).items() if count > 1]:
        raise UserError(f"Expected data.path to name every text once, but it has {twice[0]} twice.")
    shards: list[Shard] = []
    for entry in entries:
        if entry in local:
            for file in local[entry]:
                text = TextFile(file, _label(file, files), entry.field, place.source_field, render)
                shards.append(text.with_sources(all_characters // len(files)))
        else:
            shards += _hub_shards(entry, entries, render)
    if not entries:
        shards += [WholeText(name, text) for name, text in default_texts().items()]
    names = dict.fromkeys(name for shard in shards for name in shard.sources)
    return [Source(name, tuple(shard for shard in shards if name in shard.sources)) for name in names]


def read_documents(
    place: TextPlace,
    characters: int = CHARACTERS,
    all_characters: int = ALL_CHARACTERS,
    render: Render = unrendered,
) -> dict[str, list[str]]:
    """What a run reads of a text: the documents of every source, from the first on, an empty one for a row without.

    Args:
        place: Where the text is.
        characters: The most of one source, up to the end of a document.
        all_characters: The most of all sources together; where there are many, each has its part of it.
        render: See `text_sources`.

    Raises:
        UserError: See `text_sources`.
    """
    sources = text_sources(place, all_characters, render)
    room = min(characters, all_characters // len(sources))
    shared = {shard.name for source in sources for shard in source.shards if len(shard.sources) > 1}
    documents = {source.name: [*_beginning(source, room, all_characters // max(len(shared), 1))] for source in sources}
    for name, texts in documents.items():
        if not any(texts):
            raise no_text(name, len(texts))
    return documents


def _beginning(source: Source, characters: int, of_shared: int) -> Iterator[str]:
    """A source's first documents; of a shard that it shares, those in its first `of_shared` characters."""
    left = characters
    for number, shard in enumerate(source.shards):
        for text in source.documents(number, of_shared if len(shard.sources) > 1 else left):
            yield text
            left -= len(text)
            if left <= 0:
                return


def _label(file: Path, files: Sequence[Path]) -> str:
    """As much of a path's end as tells it from the others."""
    for count in range(1, len(file.parts)):
        end = file.parts[-count:]
        if sum(other.parts[-count:] == end for other in files) == 1:
            return "/".join(end)
    return str(file)


def _hub_shards(entry: Entry, entries: Sequence[Entry], render: Render) -> list[HubShard]:
    """The shards of a hub data set, streamed; where the hub client is set offline, of its cached copy."""
    alike = [other for other in entries if other.path == entry.path]
    label = entry.path if len(alike) == 1 else f"{entry.path}:{entry.name}:{entry.split}"
    with hub_errors("data set", entry.path, WITHOUT_HUB):
        rows = hub_rows(entry, streaming=not is_offline_mode())
        if is_offline_mode():
            rows = rows.to_iterable_dataset()
        count = rows.num_shards
        parts = [rows.shard(num_shards=count, index=number) for number in range(count)]
    return [HubShard(part, entry.path, label, number, entry.field, render) for number, part in enumerate(parts)]


def hub_rows(entry: Entry, *, streaming: bool = False) -> Any:
    """The rows of a data set of the hub, or of its cached copy; within `hub_errors`.

    Args:
        entry: Which.
        streaming: Whether they are read as they are asked for, and not downloaded before.

    Raises:
        UserError: It has no such configuration or split.
    """
    from datasets import load_dataset  # slow to import, and only wanted here

    if not is_offline_mode():
        # One short question first: a download retries for half a minute before it gives up.
        HfApi().dataset_info(entry.path, timeout=HUB_TIMEOUT_S)
    try:
        return load_dataset(entry.path, entry.name, split=entry.split, streaming=streaming)
    except ValueError as error:
        raise UserError(
            f"Expected the data set {entry.path} to have data.name={entry.name} and data.split={entry.split}, but "
            f"got: {error}"
        ) from error
