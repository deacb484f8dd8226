"""Where a run's model and text are, which may change; and by what they are known, and its dtype, which do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from evaluators.data.places import SUFFIXES
from evaluators.settings import Settings
from space.checks import dtype_name
from space.locations import located

if TYPE_CHECKING:  # settings are read without torch
    from space.models.loading import LoadedModel

# Settings that a later command looks at again.
PLACES = ("model.path", "data.path", "recover.data.path", "vocabulary.data.path", "compare", "latency.table")


def from_the_root(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration, changed in place: its local paths hold wherever a later command runs."""
    for key in PLACES:
        *groups, name = key.split(".")
        part = config
        for group in groups:
            part = part.get(group) or {}
        if name in part:
            part[name] = located(part[name], (*SUFFIXES, ".json"))
    return config


def gone_on_with(config: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with what a run has stored of its model and text.

    That is digests, the commit of the same hub id, and the dtype that `auto` has come to, as another look at a machine
    that is busy may come to another one.
    """
    parts = {part: dict(config[part]) for part in ("model", "data")}
    for part, now in parts.items():
        before = stored.get(part)
        if not isinstance(before, Mapping):
            continue
        if now["digest"] is None:
            now["digest"] = before.get("digest")
        if part == "data":
            continue
        if now["dtype"] == "auto":
            now["dtype"] = before.get("dtype", "auto")
        if now["revision"] is None and now["path"] == before.get("path"):
            now["revision"] = before.get("revision")
    return {**config, **parts}


def known(config: Mapping[str, Any], model: LoadedModel, text: str) -> dict[str, Any]:
    """A configuration as a run stores it: model and text are known again by it, wherever they are then.

    Args:
        config: Of the run.
        model: Its model.
        text: Digest of its text.
    """
    return {
        **config,
        "model": config["model"]
        | {"revision": model.commit, "digest": model.spec.digest, "dtype": dtype_name(model.dtype)},
        "data": config["data"] | {"digest": text},
    }


def moved(settings: Settings, config: Mapping[str, Any]) -> Settings:
    """The settings of a run whose model or text is in another place now, as the configuration of an entry says."""
    model, text = settings.model, settings.text
    if config["model"]["path"] not in (None, model.path):
        model = replace(model, path=config["model"]["path"], revision=None)
    if config["data"]["path"] is not None:
        text = replace(text, path=config["data"]["path"])
    return replace(settings, model=model, text=text)
