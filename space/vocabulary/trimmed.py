"""The contents of a tokenizer.json with some of its tokens alone, which are numbered anew in their old order."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from space.vocabulary.kinds import Contents, ids_of, kind_of


def trimmed(contents: Contents, kept: Sequence[int]) -> dict[str, Any]:
    """A tokenizer with fewer tokens.

    Args:
        contents: Of the whole tokenizer's file.
        kept: Ids of the tokens that stay, rising, see `space.vocabulary.levels.Levels.kept`.

    Returns:
        The contents of the trimmed one's file.

    Raises:
        UserError: The tokenizer is of no kind that can be trimmed.
    """
    kind, new = kind_of(contents), {old: place for place, old in enumerate(kept)}
    result = copy.deepcopy({name: part for name, part in contents.items() if name != "model"})
    ids = {token: new[old] for token, old in ids_of(contents).items() if old in new}
    result["model"] = kind.section(contents["model"], ids)
    for token in result["added_tokens"]:
        token["id"] = new[token["id"]]
    if result.get("padding"):
        result["padding"]["pad_id"] = new[result["padding"]["pad_id"]]
    if result.get("post_processor"):
        _renumber(result["post_processor"], new)
    return {name: result[name] for name in contents}  # in the order of the file


def named_ids(contents: Contents) -> set[int]:
    """The tokens that parts of a tokenizer besides its model add to a text."""
    ids = {contents["padding"]["pad_id"]} if contents.get("padding") else set()
    return ids | _added_by(contents.get("post_processor") or {})


def _added_by(processor: Contents) -> set[int]:
    ids = {processor[name][1] for name in ("sep", "cls") if name in processor}
    for token in (processor.get("special_tokens") or {}).values():
        ids.update(token["ids"])
    return ids.union(*(_added_by(step) for step in processor.get("processors", ())))


def _renumber(processor: dict[str, Any], new: Mapping[int, int]) -> None:
    """Gives the tokens that a post-processor adds their new ids."""
    for step in processor.get("processors", ()):
        _renumber(step, new)
    for name in ("sep", "cls"):  # a token and its id
        if name in processor:
            processor[name][1] = new[processor[name][1]]
    for token in (processor.get("special_tokens") or {}).values():
        token["ids"] = [new[old] for old in token["ids"]]
