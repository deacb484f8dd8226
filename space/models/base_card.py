"""What the model card of a dense model says that holds for what is cut out of it: licence, languages, its hub id."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import metadata_load

log = logging.getLogger(__name__)

CARD_FILE = "README.md"
_INHERITED = ("license", "license_name", "license_link", "language")


def base_card(directory: Path, hub_id: str | None) -> dict[str, Any]:
    """Keys of a model card's front matter that a pruned model has from its base model.

    Args:
        directory: The checkpoint, beside whose weights a card may lie.
        hub_id: Its name on the hub, if it comes from there.
    """
    facts: dict[str, Any] = {} if hub_id is None else {"base_model": hub_id}
    if not (directory / CARD_FILE).is_file():
        return facts
    try:
        said = metadata_load(directory / CARD_FILE) or {}
    except (yaml.YAMLError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        log.warning("The front matter of %s cannot be read (%s); cards name no licence.", directory / CARD_FILE, reason)
        return facts
    return facts | {key: said[key] for key in _INHERITED if said.get(key)}
